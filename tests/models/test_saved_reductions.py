"""Reductions that learn are saved beside the projector, named by the config, and opened again with the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from learning import QUERIES, Queries
from safetensors import safe_open
from safetensors.torch import save_file
from test_saving import logits

from vita_core import VitaError, build_model, load_config
from vita_core.plugins.installed import Owner
from vita_core.plugins.registry import Registered, registry
from vita_core.weights.files import sha256

pytestmark = pytest.mark.usefixtures("queries_registered")


def trained(folder: Path, width: int) -> str:
    torch.manual_seed(3)
    file = folder / "trained.safetensors"
    save_file(Queries((width,), {"queries": 4, "width": 16}).state_dict(), file)
    return str(file)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("listed", [True, False])
def test_reopened_logits_are_bit_equal(
    tiny_config: Path, golden: Path, tmp_path: Path, dtype: str, listed: bool
) -> None:
    step = f"{{type: queries, width: 16, weights: {trained(tmp_path, 32)}}}"
    changes = [f"tower.reduce={f'[{{type: pool, window: 2}}, {step}]' if listed else step}", f"tower.dtype={dtype}"]
    model = build_model(load_config(tiny_config, changes))
    out, place = tmp_path / "saved", int(listed)
    assert not any(p.requires_grad for p in model.tower.reductions.parameters())
    model.save(out)
    model.save(out)  # replaces what it wrote
    file = out / f"reduce-{place}.safetensors"
    assert {path.name for path in out.iterdir()} == {
        "config.yaml", "provenance.json", "tower", "projector.safetensors", "llm", file.name
    }  # fmt: skip
    again = build_model(out)
    pixels = model.prepare(golden / "pictures" / "wide.png").pixels
    with torch.inference_mode():
        assert torch.equal(again.tower(pixels), model.tower(pixels))
    assert torch.equal(logits(again, golden), logits(model, golden))
    reduce = yaml.safe_load((out / "config.yaml").read_text())["tower"]["reduce"]
    assert (reduce[1] if listed else reduce)["weights"] == f"./{file.name}"
    with safe_open(file, "pt") as handle:
        assert handle.metadata() == {"type": "queries", "in_features": "32", "out_features": "16"}
    record = json.loads((out / "provenance.json").read_text())
    key, source = f"reduce[{place}]", tmp_path / "trained.safetensors"
    assert (
        record["made_by"]["reduce"][key]["distribution"] == registry().find(type(QUERIES), "queries").owner.distribution
    )
    assert record["sources"]["reduce"][key] == {
        "weights": str(source), "revision": None, "files": {source.name: sha256(source)}
    }  # fmt: skip
    assert record["files"][file.name] == sha256(file)


def test_a_plugins_reduction_is_saved_with_its_distribution(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Owner("queries", "vita-queries", "2.0")
    others = [found for found in registry()._specs if found.spec is not QUERIES]
    monkeypatch.setattr(registry(), "_specs", [*others, Registered(QUERIES, owner)])
    step = f"{{type: queries, weights: {trained(tmp_path, 32)}}}"
    model = build_model(load_config(tiny_config, [f"tower.reduce={step}"]))
    model.save(tmp_path / "saved")
    record = json.loads((tmp_path / "saved" / "provenance.json").read_text())
    assert record["made_by"]["reduce"]["reduce[0]"] == {"distribution": "vita-queries", "version": "2.0"}
    monkeypatch.setattr(registry(), "_specs", others)
    with pytest.raises(VitaError, match=r"unknown reduction: 'vita-queries/queries'.*`pip install vita-queries`"):
        build_model(tmp_path / "saved")


def test_an_export_has_no_place_for_them(vita15: Path, tmp_path: Path) -> None:
    step: dict[str, Any] = {"type": "pool", "window": 1}
    model = build_model(checkpoint=vita15, overrides=["device=cpu", f"tower.reduce={json.dumps(step)}"])
    with pytest.raises(VitaError, match=r"tower\.reduce is \{'type': 'pool', 'window': 1\} instead of None"):
        model.export(tmp_path / "out")

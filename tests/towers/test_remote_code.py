"""Encoders whose code is beside the weights (``auto_map``). Only the user can allow it to run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import close
from families import saved
from remote_encoder import TinyChat, TinyConfig, TinyEncoder, TinyPacked

from vita_core import VitaError, build_tower, make_plan


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers copies the code to a cache before it imports it."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")


def remote(folder: Path, kind: type[TinyEncoder] = TinyEncoder) -> TinyEncoder:
    TinyConfig.register_for_auto_class()
    kind.register_for_auto_class("AutoModel")
    model: TinyEncoder = saved(kind(TinyConfig()), folder)
    assert (folder / "remote_encoder.py").is_file()
    return model


def rewritten(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_it_opens_if_the_user_allows_its_code(tmp_path: Path) -> None:
    model = remote(tmp_path / "model")
    settings = {"weights": str(tmp_path / "model"), "trust_remote_code": True}
    plan = make_plan({"tower": settings})
    assert (plan.tower, plan.grid, plan.tokens) == ("transformers", (4, 4), 16)
    tower = build_tower({**settings, "select_layer": [1, 3]})
    pixels = torch.randn(2, 3, 56, 56)
    states: list[torch.Tensor] = []
    for block in model.trunk:
        block.register_forward_hook(lambda _, args, output: states.append(output))
    with torch.no_grad():
        expected = model(pixels)[1]
    close(tower(pixels), torch.cat([states[0], states[2]], dim=-1)[:, 1:])
    close(build_tower({**settings, "norm": True})(pixels), expected)
    assert tower.encoder.config.model_type == "tiny_remote"


def test_without_permission_it_says_so(tmp_path: Path) -> None:
    remote(tmp_path)
    with pytest.raises(
        VitaError,
        match=r"model_type 'tiny_remote' needs code of its own, which does not run unless you allow it: "
        r"remote_encoder.TinyConfig, remote_encoder.TinyEncoder \(auto_map\)\. Try: read that code, then `tower\.trust_remote",
    ):
        make_plan({"tower": {"weights": str(tmp_path)}})
    # a stranger's config cannot give the permission
    rewritten(tmp_path, trusted_code={"place": str(tmp_path), "revision": None})
    with pytest.raises(VitaError, match="needs code of its own"):
        make_plan({"tower": {"weights": str(tmp_path)}})


def test_code_from_a_hub_needs_a_revision() -> None:
    with pytest.raises(
        VitaError, match=r"trust_remote_code: true needs a fixed revision\. Try: `tower\.revision: COMMIT`"
    ):
        make_plan(
            {
                "tower": {
                    "type": "transformers",
                    "weights": "google/siglip-so400m-patch14-384",
                    "trust_remote_code": True,
                }
            }
        )


def test_the_code_must_be_beside_the_weights(tmp_path: Path) -> None:
    """A local directory never asks a hub, even if its config names another repository."""
    remote(tmp_path)
    rewritten(
        tmp_path, auto_map={"AutoConfig": "some/one--remote_encoder.TinyConfig", "AutoModel": "some/one--other.Tiny"}
    )
    settings = {"weights": str(tmp_path), "trust_remote_code": True}
    with pytest.raises(
        VitaError, match=r"its code is not beside it: some/one--other\.Tiny \(auto_map\)\. Try: copy other\.py"
    ):
        make_plan({"tower": settings})
    rewritten(tmp_path, auto_map={"AutoModel": "remote_encoder.TinyEncoder"})
    with pytest.raises(VitaError, match=r"its auto_map has no AutoConfig, but AutoModel\. Try: "):
        make_plan({"tower": settings})


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (TinyChat, "has no vision encoder: it takes no pixels alone"),
        (TinyPacked, "TinyPacked needs more than pixels: sizes"),
    ],
)
def test_code_of_another_kind_is_refused(tmp_path: Path, kind: type[TinyEncoder], wrong: str) -> None:
    remote(tmp_path, kind)
    with pytest.raises(VitaError, match=wrong):
        make_plan({"tower": {"weights": str(tmp_path), "trust_remote_code": True}})
    shutil.rmtree(tmp_path)

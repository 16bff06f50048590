"""What a comparison shows of the towers themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import GOLDEN
from natives import SIZES, picture, saved_timm, saved_transformers
from PIL import Image
from small import write_config, write_data

from vita_core import build_tower
from vita_core.comparing.memory import peak_bytes, reset_peak
from vita_core.comparing.planned import Asked, plan_configs
from vita_core.comparing.towers import _opened, look, time_towers
from vita_core.probing.measures import linear_cka
from vita_core.training.data import read_samples
from vita_plugins.clip.tower import ClipTower


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data", 18)


def test_towers_of_every_kind_are_looked_at(data: Path, tmp_path: Path, tiny_llm: Path) -> None:
    """One encoder, two of them as one, and tokens without a grid."""
    config = write_config(tmp_path / "clip.yaml", tiny_llm)
    parts = f"[{{weights: {GOLDEN / 'clip'}}}, {{weights: {GOLDEN / 'siglip'}}}]"
    fused = tmp_path / "fused.yaml"
    fused.write_text(
        Path(config).read_text().replace(f"tower:\n  weights: {GOLDEN / 'clip'}\n", f"tower: {{towers: {parts}}}\n")
    )
    asked = [Asked("clip", config), Asked("fused", str(fused)), Asked("cls", config, ("tower.select_feature=cls",))]
    samples = read_samples(data)
    with torch.random.fork_rng():
        planned = plan_configs(asked, unequal=True)
        found, drawn, failed = look(planned, samples, samples[:2], tmp_path / "page")
    assert not failed
    assert (found["towers"], found["pictures"], [*found["layers"]]) == (["clip", "fused", "cls"], 18, ["clip", "cls"])
    one = build_tower({"weights": str(GOLDEN / "clip")})
    both = build_tower({"towers": [{"weights": str(GOLDEN / name)} for name in ("clip", "siglip")]})
    with torch.no_grad():
        pictures = [Image.open(sample.image).convert("RGB") for sample in samples]
        means = [
            tower(tower.image_processor.preprocess(pictures, return_tensors="pt")["pixel_values"]).mean(1)
            for tower in (one, both)
        ]
    assert found["matrix"][0][1] == pytest.approx(linear_cka(*means), abs=1e-4)
    layers = found["layers"]["clip"]["matrix"]
    assert [layers[place][place] for place in range(5)] == pytest.approx([1] * 5)
    assert layers[0][4] < 0.9999
    assert [sorted(row["maps"]) for row in drawn] == [["clip", "fused"]] * 2
    with Image.open(tmp_path / "page" / drawn[0]["maps"]["clip"]) as shown:
        assert shown.size == (256, 256)
        assert len(shown.getcolors()) <= 16  # the grid is 4 x 4, whatever the comparison pools it to
    times = time_towers(planned[:2], samples[:2])
    assert all(0 < times[name]["low"] <= times[name]["median"] <= times[name]["high"] for name in ("clip", "fused"))


def test_towers_of_native_resolution_are_looked_at(tmp_path: Path, tiny_llm: Path) -> None:
    """Their pictures have grids of their own; the mean tokens are those of the library's model on one picture at a time."""
    for number, size in enumerate([*SIZES, (60, 64), (120, 64)]):
        picture(*size).save(tmp_path / f"{number}.png")
    rows = [{"image": f"{number}.png", "caption": "a cat ."} for number in range(6)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    library = saved_transformers("pixtral", tmp_path / "pixtral")
    saved_timm(tmp_path / "naflex")
    config = write_config(tmp_path / "clip.yaml", tiny_llm)
    places = {"clip": GOLDEN / "clip", "pixtral": tmp_path / "pixtral", "naflex": tmp_path / "naflex"}
    asked = [Asked(name, config, (f"tower.weights={place}",)) for name, place in places.items()]
    samples = read_samples(tmp_path / "d.jsonl")
    planned = plan_configs(asked, unequal=True)
    found, drawn, failed = look(planned, samples, samples, tmp_path / "page")
    assert not failed
    assert found["towers"] == [*places]
    assert [*found["layers"]] == ["clip"]
    assert all(sorted(row["maps"]) == sorted(places) for row in drawn)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "pixtral")
    means = []
    with torch.no_grad():
        for sample in samples:
            made = processor(Image.open(sample.image).convert("RGB"), return_tensors="pt")
            states = library(made["pixel_values"], image_sizes=made["image_sizes"], output_hidden_states=True)
            means.append(states.hidden_states[planned[1].resolved.tower.geometry.layers[0]].flatten(0, -2).mean(0))
    one = build_tower({"weights": str(GOLDEN / "clip")})
    with torch.no_grad():
        pictures = [Image.open(sample.image).convert("RGB") for sample in samples]
        others = one(one.image_processor.preprocess(pictures, return_tensors="pt")["pixel_values"]).mean(1)
    assert found["matrix"][0][1] == pytest.approx(linear_cka(others, torch.stack(means)), abs=1e-3)
    with Image.open(tmp_path / "page" / drawn[1]["maps"]["naflex"]) as wide:
        rows_and_columns = [len(set(map(tuple, np.asarray(wide)[:, 0]))), len(set(map(tuple, np.asarray(wide)[0])))]
    assert rows_and_columns[0] < rows_and_columns[1]  # a wide picture has more columns than rows
    times = time_towers(planned, samples[:2])
    assert all(found["low"] > 0 for found in times.values())


def test_a_tower_that_cannot_be_looked_at_loses_nothing_of_the_others(
    data: Path, tmp_path: Path, tiny_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [Asked(name, write_config(tmp_path / f"{name}.yaml", tiny_llm, tower=name)) for name in ("clip", "siglip")]
    samples = read_samples(data)

    def broken(*_: Any) -> Any:
        raise RuntimeError("the plugin is broken")

    monkeypatch.setattr(ClipTower, "encode", broken)
    found, drawn, failed = look(plan_configs(asked), samples, samples[:2], tmp_path / "page")
    assert failed == {"clip": "RuntimeError: the plugin is broken"}
    assert (found["towers"], found["matrix"]) == (["siglip"], [[pytest.approx(1)]])
    assert [sorted(row["maps"]) for row in drawn] == [["siglip"]] * 2


def test_the_time_is_that_of_the_own_layers_and_reductions(tmp_path: Path, tiny_llm: Path) -> None:
    config = write_config(tmp_path / "clip.yaml", tiny_llm)
    asked = [
        Asked(name, config, (f"tower.select_layer={layer}", "tower.pool=2")) for name, layer in (("a", 1), ("b", 3))
    ]
    short, long = (_opened(one) for one in plan_configs(asked, unequal=True))
    counts = [sum(parameter.numel() for parameter in one.tower.parameters()) for one in (short, long)]
    assert counts[0] < counts[1]
    assert short.tower.ends_before is None


def test_the_peak_is_that_of_the_part_that_is_measured() -> None:
    reset_peak()
    before = peak_bytes()
    big = torch.ones(60_000_000)
    during = peak_bytes()
    del big
    reset_peak()
    after = peak_bytes()
    assert before is not None
    assert during is not None
    assert after is not None
    assert during - before > 100e6
    assert after < during

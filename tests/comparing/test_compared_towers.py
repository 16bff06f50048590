"""What a comparison shows of the towers themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import GOLDEN
from PIL import Image
from small import write_config, write_data

from vita_core import build_tower
from vita_core.comparing.memory import peak_bytes, reset_peak
from vita_core.comparing.planned import Asked, plan_configs
from vita_core.comparing.towers import likeness, open_towers, time_towers, write_pictures
from vita_core.probing.measures import linear_cka
from vita_core.training.data import read_samples


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
        towers = open_towers(plan_configs(asked, unequal=True))
        found = likeness(towers, samples)
        drawn = write_pictures(towers, samples[:2], tmp_path / "page")
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
    times = time_towers(towers[:2], samples[:2])
    assert all(0 < times[name]["low"] <= times[name]["median"] <= times[name]["high"] for name in ("clip", "fused"))


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

"""How long a comparison takes: measured on a little of it, and nothing of it is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import GOLDEN
from natives import saved_transformers
from small import write_config, write_data

from vita_core.comparing.estimating import estimated
from vita_core.comparing.planned import Options, named


def test_the_command_says_how_long_it_will_take(tiny_llm: Path, tmp_path: Path) -> None:
    configs = [write_config(tmp_path / f"{tower}.yaml", tiny_llm, tower=tower) for tower in ("clip", "siglip")]
    options, out = Options(seeds=(0, 1), tokens=4, rates=(1e-3, 1e-2)), tmp_path / "out"
    found = estimated(named(configs), write_data(tmp_path / "data"), out, options)
    assert [(one.name, one.runs) for one in found] == [("clip", 3), ("siglip", 3)]
    for one in found:
        assert one.seconds > 2 * 3 * one.step_seconds > 0
        assert min(one.encode_seconds, one.score_seconds) > 0
    assert not out.exists()


@pytest.mark.parametrize("native", [False, True])
def test_the_hours_of_stages_are_those_of_all_their_steps(native: bool, tiny_llm: Path, tmp_path: Path) -> None:
    """Stages that count steps or epochs, also of a tower whose pictures have different numbers of tokens."""
    tower = str(GOLDEN / "clip")
    if native:
        saved_transformers("pixtral", tmp_path / "pixtral")
        tower = str(tmp_path / "pixtral")
    common = {"train": {"projector": "full"}, "learning_rate": 1e-2, "batch_size": 4}
    stages = {"stages": [{"name": "one", "steps": 30, **common}, {"name": "two", "epochs": 2, **common}]}
    configs = [write_config(tmp_path / name / "a.yaml", tiny_llm, tower=tower, training=stages) for name in "xy"]
    options = Options(seeds=(0, 1), unequal=native)
    for one in estimated(named(configs), write_data(tmp_path / "data"), tmp_path / "out", options):
        assert one.runs == 2
        assert one.seconds > 2 * 11 * one.step_seconds > 0  # of the second stage: two epochs of 21 pictures

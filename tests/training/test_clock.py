"""A clock that jumps, forwards or back: no file of a training is chosen by its time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from vita_core.training.cache.store import FeatureStore
from vita_core.training.checkpoints import drop_old, last_checkpoint, seal

JUMPS = [-(10**9), 2 * 10**9]
"""Seconds: to the year 1995, and to 2090."""


def jumped(path: Path, seconds: int) -> None:
    """Give a file or directory the time that a clock shows which has jumped."""
    shown = path.stat().st_mtime + seconds
    os.utime(path, (shown, shown))


@pytest.mark.parametrize("seconds", JUMPS)
@pytest.mark.reliability(
    door="checkpoints of a training",
    fault="a clock that jumps between two of them",
    expected="the one with the most steps is the last one",
)
def test_the_last_checkpoint_is_that_of_the_most_steps(seconds: int, tmp_path: Path) -> None:
    for step in (9, 10):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "state").write_text(str(step))
        seal(checkpoint)
    jumped(tmp_path / "checkpoint-10", seconds)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    drop_old(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]


@pytest.mark.parametrize("seconds", JUMPS)
@pytest.mark.reliability(
    door="feature cache",
    fault="a clock that jumps between two shards",
    expected="what was written last is kept, within the bound of the cache",
)
def test_features_that_were_written_last_are_kept(seconds: int, tmp_path: Path) -> None:
    store, large = FeatureStore(tmp_path, 25_000), torch.zeros(1, 50, 50)  # two shards of 10 kB fit
    for number in range(6):
        store.add(str(number), large, (1, 1, 1, 1))
        store.flush()
        assert store.get(str(number)) is not None
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 25_000
        if number == 2:
            for shard in tmp_path.iterdir():
                jumped(shard, seconds)
    assert FeatureStore(tmp_path, 25_000).get("5") is not None

"""The feature cache and the checkpoints of a training, in any order of writing, killing, damaging and going on."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from inputs import FEW, STRESSED
from torch import Tensor, nn

from vita_core.training.cache.store import SHARDS, FeatureStore
from vita_core.training.checkpoints import last_checkpoint
from vita_core.training.resumable import ResumableTrainer

pytestmark = pytest.mark.slow
STEPS = 5


def killed_at(change: int, folder: Path, action: Callable[[], object]) -> None:
    """Do something in a process that is killed at its n-th change to a folder (as it opens, renames or deletes a file)."""
    pid = os.fork()
    if not pid:
        left = [change]

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(arguments[0]).startswith(str(folder)):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(watch)
            action()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def damage(file: Path, kind: str, place: float) -> None:
    """Cut a file, or change or empty a part of it."""
    content = bytearray(file.read_bytes())
    at = int(place * len(content))
    if kind == "cut":
        del content[at:]
    elif kind == "zeros":
        content[at : at + 64] = bytes(len(content[at : at + 64]))
    elif content:
        content[min(at, len(content) - 1)] ^= 1
    file.write_bytes(content)


DAMAGE = {"kind": st.sampled_from(["cut", "zeros", "bit"]), "place": st.floats(0, 1, exclude_max=True)}


def features(number: int) -> Tensor:
    return torch.full((3, 4), float(number), dtype=[torch.float32, torch.float16, torch.bfloat16][number % 3])


class Cache(RuleBasedStateMachine):
    """Two processes' stores of one folder: a tensor is the one that was kept, or it is missing; never another one."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="vita-cache-"))
        self.own = self.folder / "my features.safetensors"  # the user's, with the suffix of a shard
        self.own.write_text("mine")
        self.stores = [FeatureStore(self.folder, 1 << 20) for _ in range(2)]
        self.flushed: set[int] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(number=st.integers(0, 9), which=st.integers(0, 1))
    def keep(self, number: int, which: int) -> None:
        self.stores[which].add(str(number), features(number), (number, 7))

    @rule(which=st.integers(0, 1))
    def flush(self, which: int) -> None:
        store = self.stores[which]
        self.flushed |= {int(key) for key in store.pending}
        store.flush()
        assert not store.pending

    @rule(which=st.integers(0, 1))
    def open_again(self, which: int) -> None:
        self.stores[which] = FeatureStore(self.folder, 1 << 20)

    @rule(which=st.integers(0, 1), change=st.integers(1, 4))
    def killed_while_it_flushes(self, which: int, change: int) -> None:
        killed_at(change, self.folder, self.stores[which].flush)
        self.open_again(which)

    @rule(which=st.integers(0, 9), **DAMAGE)
    def damage_a_shard(self, which: int, kind: str, place: float) -> None:
        shards = sorted(self.folder.glob(SHARDS))
        if shards:
            damage(shards[which % len(shards)], kind, place)
            self.flushed.clear()  # any of them may be lost

    @invariant()
    def what_is_found_is_what_was_kept(self) -> None:
        for store in self.stores:
            for number in range(10):
                found = store.get(str(number))
                assert found is not None or number not in self.flushed, f"{number} was written and is lost"
                if found is not None:
                    assert torch.equal(found[0], features(number))
                    assert found[0].dtype == features(number).dtype
                    assert found[1] == (number, 7)
        assert self.own.read_text() == "mine"


class Line(nn.Module):
    """y = a x + b with dropout, so that a training that goes on needs the random numbers too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line, self.drop = nn.Linear(4, 1), nn.Dropout(0.5)

    def forward(self, x: Tensor, y: Tensor, **_: Any) -> dict[str, Tensor]:
        return {"loss": (self.line(self.drop(x)) - y).square().mean()}


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 2 * STEPS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": torch.arange(4.0) + index, "y": torch.tensor([float(index)])}


class Trainer(ResumableTrainer):
    def pictures(self, inputs: Any) -> int:
        return len(inputs["x"])


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def fit(folder: Path) -> dict[str, Tensor]:
    """Train to the end, from the last checkpoint on, and return what is trained."""
    options = {"per_device_train_batch_size": 2, "max_steps": STEPS, "save_steps": 1, "learning_rate": 0.05, "seed": 3}
    trainer = Trainer(Line(), collate, Rows(), None, folder, keep=2, use_cpu=True, **options)
    trainer.fit()
    return trainer.trained()


class Training(RuleBasedStateMachine):
    """Whatever happens to its checkpoints, a training ends with the same bits."""

    whole: dict[str, Tensor] | None = None

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vita-training-"))
        if Training.whole is None:
            Training.whole = fit(self.folder / "whole")
        self.work = self.folder / "work"
        self.work.mkdir()

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @rule(change=st.integers(1, 60))
    def killed_while_it_trains(self, change: int) -> None:
        killed_at(change, self.work, lambda: fit(self.work))

    @precondition(lambda self: any(self.work.iterdir()))
    @rule(which=st.integers(0, 20), **DAMAGE)
    def damage_a_checkpoint(self, which: int, kind: str, place: float) -> None:
        files = sorted(file for file in self.work.rglob("*") if file.is_file())
        if files:
            damage(files[which % len(files)], kind, place)

    @precondition(lambda self: any(self.work.iterdir()))
    @rule()
    def delete_the_last_checkpoint(self) -> None:
        if (last := last_checkpoint(self.work)) is not None:
            shutil.rmtree(last)

    @rule()
    def train_to_the_end(self) -> None:
        assert self.whole is not None
        assert all(torch.equal(value, self.whole[name]) for name, value in fit(self.work).items())
        assert len([*self.work.glob("checkpoint-*")]) <= 2


def machine(kind: type[RuleBasedStateMachine], examples: int, steps: int) -> None:
    many = 20 * examples if STRESSED else examples
    run_state_machine_as_test(kind, settings=settings(FEW, max_examples=many, stateful_step_count=steps))


@pytest.mark.reliability(
    door="feature cache",
    fault="written, killed, damaged and opened again in any order, by two processes",
    expected="the tensors that were kept, or none; no other file is touched",
)
def test_the_feature_cache() -> None:
    machine(Cache, 15, 12)


@pytest.mark.reliability(
    door="checkpoints of a training",
    fault="killed, damaged and gone on with in any order",
    expected="the same bits at the end",
)
def test_checkpoints_of_a_training() -> None:
    machine(Training, 4, 5)

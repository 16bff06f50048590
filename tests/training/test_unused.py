"""Parameters that no loss depends on are found without a backward pass, and frozen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_stage_settings import gradients, prepared
from test_stages import FINETUNE, config, samples
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from vita_core.training.joint import Joint, collate
from vita_core.training.parts import freeze_unused


@pytest.mark.parametrize("name", ["siglip", "timm", "torchvision", "internvit"])
def test_they_are_those_without_a_gradient(
    name: str, tiny_llm: Path, tower_examples: dict[str, dict[str, Any]]
) -> None:
    train = {"projector": "full", "tower": "full", "llm": {"lora": {"rank": 2}}}
    model, _ = prepared(config(tiny_llm, {**FINETUNE, "train": train}, tower=tower_examples[name]))
    model.train()
    model.tower.encoder.register_parameter("apart", nn.Parameter(torch.ones(1)))
    batch = collate(samples(model, 1))
    with_gradient = gradients(model, batch).keys()
    model.zero_grad()
    asked = {key for key, value in model.named_parameters() if value.requires_grad}
    statistics = {key: value.clone() for key, value in model.named_buffers()}
    unused = freeze_unused(Joint(model), [batch])
    assert {key.removeprefix("model.") for key in unused} == asked - with_gradient >= {"tower.encoder.apart"}
    assert {key for key, value in model.named_parameters() if value.requires_grad} == with_gradient
    assert all(value.grad is None for value in model.parameters())
    assert model.training
    assert all(torch.equal(value, statistics[key]) for key, value in model.named_buffers())


class Branches(nn.Module):
    """Each batch names the layer that runs. One layer never does, and one is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("first", "second", "never", "frozen")})
        self.layers["frozen"].requires_grad_(False)

    def forward(self, batch: Any) -> Tensor:
        loss: Tensor = self.layers[batch["layer"]](torch.ones(2)).sum()
        return loss


def test_one_of_several_samples_suffices() -> None:
    asked: list[str] = []

    def batches(*names: str) -> Iterator[dict[str, str]]:
        for name in names:
            asked.append(name)
            yield {"layer": name}

    never = ["layers.never.weight", "layers.never.bias"]
    assert freeze_unused(Branches(), batches("first", "frozen", "second")) == never
    assert freeze_unused(Branches(), batches("first", "first")) == [
        "layers.second.weight",
        "layers.second.bias",
        *never,
    ]
    asked.clear()
    assert freeze_unused(Branches(), batches("first", "never", "second", "first")) == []
    assert asked == ["first", "never", "second"]  # all was reached


def test_activations_are_not_kept() -> None:
    """They would take as much memory as a step of the whole model, before it is shared."""
    kept: list[bool] = []

    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, _: Any) -> Tensor:
            middle = self.weight * 3
            storage, loss = StorageWeakRef(middle.untyped_storage()), (middle * middle).sum()
            del middle
            kept.append(not storage.expired())
            return loss

    assert Square()({}).requires_grad
    assert freeze_unused(Square(), [{}]) == []
    assert kept == [True, False]

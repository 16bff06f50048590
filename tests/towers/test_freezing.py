"""What `freeze` trains, and that what it freezes stays as it was."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from vita_core import Shape, VitaError, build_tower
from vita_core.config.schema import FreezeConfig
from vita_core.towers.freezing import freeze

Examples = dict[str, dict[str, Any]]

# tower, from_layer, layers selected, parameters trained, the first block's
TRAINED = [
    ("clip", 3, -2, r"^(encoder\.layers\.2|post_layernorm)\.", "encoder.layers.0."),
    ("siglip", 2, -2, r"^(encoder\.layers\.[12]|post_layernorm)\.", "encoder.layers.0."),
    ("internvit", 4, -1, r"^encoder\.layer\.3\.", "encoder.layer.0."),
    ("eva_clip", 3, -2, r"^(blocks\.2|norm)\.", "blocks.0."),
    ("open_clip", 3, -1, r"^(transformer\.resblocks\.2|ln_post)\.", "transformer.resblocks.0."),
    ("timm", 11, -1, r"^(blocks\.1[01]|norm)\.", "blocks.0."),
    ("torchvision", 4, -1, r"^features\.1[4-8]\.", "features.0."),
]


def pixels(tower: Any) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(2, 3, *tower.shape.image_size)


def with_gradient(tower: Any) -> set[str]:
    tower(pixels(tower)).square().sum().backward()
    return {name for name, p in tower.encoder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


@pytest.mark.parametrize(("name", "layer", "select", "trained"), [row[:4] for row in TRAINED])
def test_from_layer_trains_that_block_and_what_stands_behind(
    tower_examples: Examples, name: str, layer: int, select: int, trained: str
) -> None:
    tower = build_tower({**tower_examples[name], "select_layer": select, "freeze": {"from_layer": layer}})
    expected = {key for key, _ in tower.encoder.named_parameters() if re.search(trained, key)}
    assert {key for key, p in tower.encoder.named_parameters() if p.requires_grad} == expected
    behind = {key for key in expected if re.search(r"^(\w*norm|ln_post)\.", key)}  # the final norm is not applied
    assert with_gradient(tower) >= {key for key in expected - behind if not key.endswith("k_proj.bias")}
    assert all(p.grad is None for key, p in tower.encoder.named_parameters() if key not in expected)


@pytest.mark.parametrize(("name", "first"), [(row[0], row[4]) for row in TRAINED])
def test_freeze_false_reaches_the_first_block_and_freeze_true_nothing(
    tower_examples: Examples, name: str, first: str
) -> None:
    free = build_tower({**tower_examples[name], "freeze": False})
    found = with_gradient(free)
    assert any(key.startswith(first) for key in found)
    assert next(iter(free.encoder.named_parameters()))[0] in found  # the embeddings, or the stem
    frozen = build_tower(tower_examples[name])
    given = pixels(frozen)
    assert frozen(given).grad_fn is None
    given.requires_grad_(True)
    frozen(given).square().sum().backward()
    assert given.grad is not None
    assert given.grad.abs().sum() > 0
    assert all(p.grad is None for p in frozen.parameters())


def moved(tower: Any) -> set[str]:
    """Batch statistics that a forward pass in train mode changes."""
    before = {name: buffer.clone() for name, buffer in tower.encoder.named_buffers()}
    tower.train()
    tower(pixels(tower))
    tower.eval()
    return {name for name, buffer in tower.encoder.named_buffers() if not torch.equal(buffer, before[name])}


def test_what_is_frozen_stays_in_eval_mode(tower_examples: Examples) -> None:
    settings = tower_examples["torchvision"]
    assert moved(build_tower(settings)) == set()
    last = moved(build_tower({**settings, "freeze": {"from_layer": 4}}))
    assert {name.split(".")[1] for name in last} == {"14", "15", "16", "17", "18"}
    assert "features.0.1.running_mean" in moved(build_tower({**settings, "freeze": False}))


def test_dropout_follows_its_block(tower_examples: Examples) -> None:
    tower = build_tower({**tower_examples["timm"], "freeze": {"from_layer": 12}}).train()
    assert [block.mlp.drop1.training for block in tower.encoder.blocks] == [False] * 11 + [True]
    assert not any(module.training for module in tower.eval().modules())
    assert not any(module.training for module in build_tower(tower_examples["timm"]).train().encoder.modules())


def test_a_shape_that_does_not_count_its_parameters_is_told() -> None:
    encoder = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    wrong = Shape.from_stages((4, 4), [(2, (2, 2), 5, 0), (2, (2, 2), 6, 0)])
    with pytest.raises(VitaError, match=r"layer 1 begins inside 0\.bias"):
        freeze(encoder, FreezeConfig(from_layer=1), wrong)

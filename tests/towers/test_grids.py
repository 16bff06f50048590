"""Tokens, grids and widths: what is planned, what is stated before loading and what comes out are one thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import close
from torch import Tensor

from vita_core import VitaError, build_tower, make_plan
from vita_core.plugins.registry import registry
from vita_core.plugins.specs import TowerSpec

Examples = dict[str, dict[str, Any]]
BUILT_IN = [r.spec.name for r in registry().all(TowerSpec) if r.owner.distribution == "vita-core" and r.spec.example]
TRANSFORMERS = ["clip", "eva_clip", "internvit", "siglip", "timm"]
PLAIN = {"pixel_shuffle": False, "feature_scale": 1.0}  # internvit has both by default

# a list of layers needs layers of one grid: a CNN has but its last map and the class scores made of it
LISTS = {"torchvision": {"options": {"architecture": "mobilenet_v2", "class_scores": True}, "image_size": 64}}
VARIANTS: dict[str, dict[str, Any]] = {
    "family defaults": {},
    "plain": PLAIN,
    "s2": {**PLAIN, "s2": ...},
    "shuffle": {**PLAIN, "pixel_shuffle": 0.5},
    "pool": {**PLAIN, "pool": [1, 2]},
    "layers": {**PLAIN, "select_layer": [-2, -1]},
    "s2, layers, shuffle and pool": {"s2": ..., "select_layer": [-2, -1], "pixel_shuffle": 0.5, "pool": 1},
    "all layers": {**PLAIN, "layers": "all", "select_layer": -2},
}


def varied(examples: Examples, name: str, variant: str) -> dict[str, Any]:
    change = dict(VARIANTS[variant])
    side = 64 if name in ("timm", "torchvision") else 56
    if "s2" in change:
        change["s2"] = {"scales": [side, 2 * side]}
    return examples[name] | (LISTS.get(name, {}) if isinstance(change.get("select_layer"), list) else {}) | change


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", BUILT_IN)
def test_plan_metadata_and_output_agree(tower_examples: Examples, tiny_llm: Path, name: str, variant: str) -> None:
    settings = varied(tower_examples, name, variant)
    plan = make_plan({"tower": settings, "llm": {"weights": str(tiny_llm)}})
    tower = build_tower({**settings, "delay_load": True})
    stated = (tower.grid, tower.num_tokens, tower.hidden_size)
    assert (plan.grid, *plan.stages[1].shape[1:]) == stated
    tower.load_model()
    assert (tower.grid, tower.num_tokens, tower.hidden_size) == stated
    assert plan.stages[1].parameters == sum(parameter.numel() for parameter in tower.parameters())
    _, *pixels = plan.stages[0].shape
    output = tower(torch.rand(2, *pixels))
    assert output.shape == (2, tower.num_tokens, tower.hidden_size)
    assert tower.num_tokens == tower.grid[0] * tower.grid[1]
    assert tower(torch.rand(0, *pixels)).shape == (0, tower.num_tokens, tower.hidden_size)


@pytest.mark.slow
@pytest.mark.parametrize("feature", ["patch", "cls_patch", "cls"])
@pytest.mark.parametrize("name", ["clip", "eva_clip", "internvit", "timm"])
def test_prefix_tokens_are_counted(tower_examples: Examples, tiny_llm: Path, name: str, feature: str) -> None:
    settings = tower_examples[name] | PLAIN | {"select_feature": feature}
    plan = make_plan({"tower": settings, "llm": {"weights": str(tiny_llm)}})
    output = build_tower(settings)(torch.rand(1, *plan.stages[0].shape[1:]))
    assert plan.stages[1].shape == tuple(output.shape)
    both = build_tower(settings | {"select_feature": "cls_patch"})(torch.zeros(1, *plan.stages[0].shape[1:]))
    part = build_tower(settings)(torch.zeros(1, *plan.stages[0].shape[1:]))
    close(part, {"patch": both[:, 1:], "cls_patch": both, "cls": both[:, :1]}[feature])


@pytest.mark.parametrize("name", ["clip", "eva_clip", "siglip", "timm"])
def test_norm_is_the_encoders_own_and_builds_no_block_too_many(tower_examples: Examples, name: str) -> None:
    tower = build_tower(tower_examples[name] | {"select_layer": -2, "norm": True})
    plain = build_tower(tower_examples[name] | {"select_layer": -2, "layers": "all"})
    assert tower.blocks == plain.blocks - 1
    pixels = torch.rand(1, 3, *tower.shape.image_size)
    norm = getattr(plain.encoder, "norm", None) or plain.encoder.post_layernorm
    close(tower(pixels), norm(plain(pixels)))


def plain_s2(tower: Any, pixels: Tensor, scales: list[int]) -> Tensor:
    """Scaling on Scales written out, crop by crop: (1, 3, H, W) -> (1, N, C * scales)."""
    base, maps = scales[0], []
    for scale in scales:
        picture = F.interpolate(pixels, size=(scale, scale), mode="bicubic", antialias=False)
        strips = []
        for top in range(0, scale, base):
            crops = [picture[:, :, top : top + base, left : left + base] for left in range(0, scale, base)]
            strips.append(torch.cat([tower(crop).unflatten(1, tower.grid) for crop in crops], dim=2))
        whole = torch.cat(strips, dim=1).permute(0, 3, 1, 2)
        step = scale // base
        maps.append(F.avg_pool2d(whole, step).flatten(2).transpose(1, 2))
    return torch.cat(maps, dim=-1)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT_IN)
def test_s2_on_every_tower_is_s2_written_out(tower_examples: Examples, name: str) -> None:
    settings = tower_examples[name] | PLAIN
    one = build_tower(settings)
    scales = [one.shape.image_size[0] * times for times in (1, 2, 3)]
    wide = build_tower(settings | {"s2": {"scales": scales}})
    torch.manual_seed(0)
    for size in [(scales[-1], scales[-1]), (50, 90)]:
        pixels = torch.randn(1, 3, *size)
        torch.testing.assert_close(wide(pixels), plain_s2(one, pixels, scales), atol=1e-5, rtol=1e-5)


def library_states(name: str, encoder: Any, pixels: Tensor) -> list[Tensor]:
    """Every hidden state without its prefix tokens, by the library's own forward and interpolation; timm gives none at 0."""
    if name in ("eva_clip", "timm"):
        blocks: list[Tensor] = encoder.forward_intermediates(
            pixels, intermediates_only=True, output_fmt="NLC", norm=False, return_prefix_tokens=False
        )
        return [torch.empty(0), *blocks]
    interpolate = {} if name == "internvit" else {"interpolate_pos_encoding": True}
    output = encoder(pixels, output_hidden_states=True, **interpolate)
    return [state[:, 0 if name == "siglip" else 1 :] for state in output.hidden_states]


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_layer_is_the_librarys_hidden_state(tower_examples: Examples, name: str) -> None:
    settings = tower_examples[name] | PLAIN
    whole = build_tower(settings | {"layers": "all"})
    pixels = torch.rand(1, 3, *whole.shape.image_size)
    with torch.no_grad():
        states = library_states(name, whole.vision_tower, pixels)
    count = whole.shape.layers
    first = 1 if name in ("eva_clip", "timm") else 0
    for index in (first, 2, count, -1, -2, first - count - 1):
        tower = build_tower(settings | {"select_layer": index})
        assert tower.blocks == index % (count + 1)
        torch.testing.assert_close(tower(pixels), states[index], atol=1e-5, rtol=1e-5)
    several = [count, -3, count - 1, count]  # in the order asked for, even twice
    found = build_tower(settings | {"select_layer": several})(pixels)
    expected = torch.cat([states[count], states[count - 2], states[count - 1], states[count]], dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(56, 56), (112, 112), (56, 84), (140, 28)])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_other_sizes_are_interpolated_as_the_library_does(
    tower_examples: Examples, name: str, size: tuple[int, int]
) -> None:
    tower = build_tower(tower_examples[name] | PLAIN | {"select_layer": -1, "layers": "all"})
    patch = tower.shape.image_size[0] // tower.shape.stages[0].grid[0]
    height, width = (side // 14 * patch for side in size)
    pixels = torch.randn(1, 3, height, width)
    with torch.no_grad():
        expected = library_states(name, tower.vision_tower, pixels)[-1]
    found = tower([pixels[0], torch.randn(3, *tower.shape.image_size)])
    assert found[0].shape[1] == height // patch * (width // patch)
    assert found[1].shape[1] == tower.num_tokens
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_sizes_of_no_whole_patches_are_refused_with_those_allowed(tower_examples: Examples, name: str) -> None:
    tower = build_tower(tower_examples[name])
    own = tower.shape.image_size[0]
    patch = own // tower.shape.stages[0].grid[0]
    with pytest.raises(VitaError, match=rf"takes pictures of {own} x {own} pixels, or any height of {patch} x n"):
        tower(torch.rand(1, 3, own, own + 1))
    with pytest.raises(
        VitaError, match=r"wrong shape: \(1, 4, 56, 56\). Try: pixels \(B, 3, H, W\), or a list of \(3, H, W\)"
    ):
        tower(torch.rand(1, 4, 56, 56))


def test_a_grid_that_does_not_divide_is_told(tower_examples: Examples) -> None:
    tower = build_tower(tower_examples["internvit"])  # shuffles by 2
    with pytest.raises(VitaError, match=r"0\.5 needs a grid that is divisible by 2, not 5 x 4"):
        tower(torch.rand(1, 3, 70, 56))


def test_an_encoder_that_cannot_interpolate_takes_its_own_size_alone(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    model = timm.create_model("cait_xxs24_224", img_size=64)
    save_file(model.state_dict(), tmp_path / "cait.safetensors")
    options = {"architecture": "cait_xxs24_224", "image_size": 64}
    tower = build_tower({"type": "timm", "weights": str(tmp_path / "cait.safetensors"), "options": options})
    assert tower(torch.rand(1, 3, 64, 64)).shape == (1, 16, 192)
    with pytest.raises(VitaError, match=r"takes pictures of 64 x 64 pixels, not 96 x 64"):
        tower(torch.rand(1, 3, 96, 64))

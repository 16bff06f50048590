"""Several towers as one: each combination equals the parts run apart and joined by hand."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from natives import SIZES, picture, saved_timm
from PIL import Image
from torch import Tensor

from vita_core import VisionTower, build_tower
from vita_core.errors import CheckpointError, ConfigError, VitaError
from vita_core.pixels.fused import FusedPixels
from vita_core.planning.stages import tower_stages
from vita_core.towers.fused import FusedTower
from vita_core.towers.tower import BaseVisionTower

Examples = dict[str, dict[str, Any]]
FAMILIES = ("clip", "siglip", "internvit", "eva_clip", "timm", "torchvision", "transformers", "open_clip")


def fused(*parts: dict[str, Any], **whole: Any) -> FusedTower:
    tower = build_tower({"towers": [*parts], **whole})
    assert isinstance(tower, FusedTower)
    return tower


@pytest.fixture(scope="module")
def pictures(golden: Path) -> list[Image.Image]:
    return [Image.open(golden / "pictures" / name).convert("RGB") for name in ("wide.png", "tall.png")]


@pytest.fixture(scope="module")
def alone(tower_examples: Examples) -> dict[str, BaseVisionTower]:
    return {name: build_tower(tower_examples[name]) for name in FAMILIES}


def pixels_of(tower: BaseVisionTower, pictures: list[Image.Image]) -> Any:
    return tower.image_processor.preprocess(pictures, return_tensors="pt")["pixel_values"]


def resized(tokens: Tensor, grid: Any, wanted: Any, **options: Any) -> Tensor:
    rows = tokens.unflatten(1, tuple(grid)).permute(0, 3, 1, 2)
    return F.interpolate(rows, tuple(wanted), mode="bilinear", **options).flatten(2).transpose(1, 2)


@pytest.mark.parametrize(("first", "second"), [*itertools.combinations(FAMILIES, 2)])
def test_channel_is_the_parts_apart_and_concatenated(
    first: str, second: str, tower_examples: Examples, alone: dict[str, BaseVisionTower], pictures: list[Image.Image]
) -> None:
    """Bit for bit where the grids are equal, else up to the one resizing of the second part."""
    tower = fused(tower_examples[first], tower_examples[second])
    with torch.no_grad():
        apart = [alone[name](pixels_of(alone[name], pictures)) for name in (first, second)]
        found = tower(pixels_of(tower, pictures))
    grids = [alone[name].grid for name in (first, second)]
    if grids[0] != grids[1]:
        apart[1] = resized(apart[1], grids[1], grids[0])
    assert torch.equal(found, torch.cat(apart, dim=-1))
    assert (tower.grid, tower.num_tokens, tower.hidden_size) == (grids[0], found.shape[1], found.shape[2])
    assert tower_stages(tower.resolved, 1)[0].shape == (1, *found.shape[1:])


@pytest.mark.parametrize("combine", ["sum", "sequence", "interleave"])
def test_other_combinations_by_hand(
    combine: str, tower_examples: Examples, alone: dict[str, BaseVisionTower], pictures: list[Image.Image]
) -> None:
    """CLIP, SigLIP and DINOv2 have 4 x 4 tokens of width 32."""
    names = ("clip", "siglip", "transformers")
    tower = fused(*(tower_examples[name] for name in names), combine=combine)
    with torch.no_grad():
        one, two, three = (alone[name](pixels_of(alone[name], pictures)) for name in names)
        found = tower(pixels_of(tower, pictures))
    if combine == "sum":
        assert torch.equal(found, one + two + three)
    elif combine == "sequence":
        assert torch.equal(found, torch.cat([one, two, three], dim=1))
    else:
        for place in range(16):
            assert torch.equal(found[:, 3 * place], one[:, place])
            assert torch.equal(found[:, 3 * place + 1], two[:, place])
            assert torch.equal(found[:, 3 * place + 2], three[:, place])
    assert tower.grid == ((4, 4) if combine == "sum" else None)
    assert (tower.num_tokens, tower.hidden_size) == found.shape[1:]


def test_reductions_of_a_part_and_of_the_whole(tower_examples: Examples, pictures: list[Image.Image]) -> None:
    """A part is reduced before it is resized to the grid; the whole after the parts are joined."""
    clip, siglip = tower_examples["clip"], tower_examples["siglip"]
    pooled = siglip | {"reduce": {"type": "pool", "window": 2}}
    part, whole = fused(clip, pooled), fused(clip, siglip, reduce={"type": "pool", "window": 2}, pixel_shuffle=0.5)
    with torch.no_grad():
        pixels = pixels_of(part, pictures)
        first, small = build_tower(clip)(pixels.parts[0]), build_tower(pooled)(pixels.parts[1])
        assert torch.equal(part(pixels), torch.cat([first, resized(small, (2, 2), (4, 4))], dim=-1))
        joined = fused(clip, siglip)(pixels)
        shuffled = whole.pixel_shuffle(joined, 0.5, grid=(4, 4))
        assert torch.equal(whole(pixels), shuffled.mean(1, keepdim=True))
    assert (whole.grid, whole.num_tokens, whole.hidden_size) == ((1, 1), 1, 4 * 64)
    assert (part.grid, part.num_patches, whole.num_patches) == ((4, 4), 16, 16)


def test_a_stated_grid(
    tower_examples: Examples, alone: dict[str, BaseVisionTower], pictures: list[Image.Image]
) -> None:
    tower = fused(tower_examples["clip"], tower_examples["torchvision"], grid=[3, 5])
    pixels = pixels_of(tower, pictures)
    with torch.no_grad():
        apart = [alone[name](given) for name, given in zip(("clip", "torchvision"), pixels.parts, strict=True)]
        wanted = [resized(apart[0], (4, 4), (3, 5)), resized(apart[1], alone["torchvision"].grid, (3, 5))]
        assert torch.equal(tower(pixels), torch.cat(wanted, dim=-1))
    assert (tower.grid, tower.num_tokens) == ((3, 5), 15)


def test_s2_is_a_key_of_a_part(tower_examples: Examples, pictures: list[Image.Image]) -> None:
    larger = tower_examples["clip"] | {"s2": {"scales": [56, 112]}}
    tower, part = fused(tower_examples["siglip"], larger), build_tower(larger)
    pixels = pixels_of(tower, pictures)
    assert [each.shape[-1] for each in pixels.parts] == [56, 112]
    with torch.no_grad():
        assert torch.equal(tower(pixels)[..., 32:], part(pixels_of(part, pictures)))
    assert tower.resolved.geometry.crops == 1 + 5


def test_other_sizes_than_the_planned_one(tower_examples: Examples) -> None:
    """The grids of the pixels at hand count, not those of the configured size."""
    tower = fused(tower_examples["clip"], tower_examples["siglip"])
    pixels = FusedPixels([torch.randn(2, 3, 84, 56), torch.randn(2, 3, 56, 28)])
    with torch.no_grad():
        apart = [part(given) for part, given in zip(tower.parts, pixels.parts, strict=True)]
        assert torch.equal(tower(pixels), torch.cat([apart[0], resized(apart[1], (4, 2), (6, 4))], dim=-1))


def test_a_tensor_is_for_parts_that_need_the_same_pixels(tower_examples: Examples) -> None:
    clip, siglip = tower_examples["clip"], tower_examples["siglip"]
    deep = clip | {"select_layer": -1}
    tower, pixels = fused(clip, deep), torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        expected = torch.cat([build_tower(clip)(pixels), build_tower(deep)(pixels)], dim=-1)
        assert torch.equal(tower(pixels), expected)
        assert torch.equal(torch.cat(tower(list(pixels))), expected)
    other = fused(clip, siglip)
    message = (
        r"does not suit all parts: part 0 takes 56 x 56 pixels with mean .* and part 1 takes 56 x 56 .* Try: pixels = "
    )
    with pytest.raises(VitaError, match=message):
        other(pixels)
    with pytest.raises(VitaError, match=r"one tensor of pixels does not suit all parts"):
        other([*pixels])
    with pytest.raises(VitaError, match=r"pixels are for 3 parts, but the tower has 2"):
        other(FusedPixels([pixels] * 3))


def test_lists_empty_batches_and_dtypes(tower_examples: Examples, pictures: list[Image.Image]) -> None:
    tower = fused(tower_examples["clip"], tower_examples["torchvision"])
    pixels = pixels_of(tower, pictures)
    with torch.no_grad():
        batch = tower(pixels)
        each = tower([*pixels])
        assert [tuple(one.shape) for one in each] == [(1, *batch.shape[1:])] * 2
        torch.testing.assert_close(torch.cat(each), batch)
        assert tower(pixels[:0]).shape == (0, *batch.shape[1:])
        assert tower([]) == []
        assert tower(pixels.to(torch.bfloat16)).dtype == torch.bfloat16


def test_no_pictures_and_pictures_of_several_sizes(tower_examples: Examples, tmp_path: Path) -> None:
    """As one tower does: an empty batch has no features, and a list of sizes has those of each."""
    saved_timm(tmp_path)
    native, clip = {"weights": str(tmp_path)}, tower_examples["clip"]
    pooled = {"reduce": [{"type": "pool", "window": 2}, {"type": "token_merging", "ratio": 0.5}]}
    for parts, whole in (((clip, clip), pooled), ((native, clip), {}), ((clip, native), {})):
        tower = fused(*parts, **whole)
        pixels = pixels_of(tower, [picture(*size) for size in SIZES])
        assert len(tower(pixels[:0])) == len(tower([])) == 0
    assert tower(pixels[:0]).shape == (0, 16, 64)
    same = fused(clip, clip | {"select_layer": 1})
    mixed = [torch.randn(3, 56, 56), torch.randn(3, 56, 112), torch.randn(3, 56, 56)]
    with torch.no_grad():
        for found, one in zip(same(mixed), mixed, strict=True):
            torch.testing.assert_close(found, same(one[None]))
    for wrong, kind in ((["a.png"], "str"), ([Image.new("RGB", (8, 8))], "Image")):
        with pytest.raises(
            VitaError, match=rf"^pixels are a tensor or FusedPixels, not {kind}\. Try: pixels = tower\.image"
        ):
            tower(wrong)
    with pytest.raises(TypeError):
        tower(None)


def test_each_part_has_its_own_dtype_and_device(tower_examples: Examples, pictures: list[Image.Image]) -> None:
    clip, siglip = tower_examples["clip"], tower_examples["siglip"] | {"dtype": "bfloat16", "device": "cpu"}
    tower = fused(clip, siglip)
    assert [part.dtype for part in tower.parts] == [torch.float32, torch.bfloat16]
    assert (tower.dtype, tower.device, tower.dummy_feature.shape) == (torch.float32, torch.device("cpu"), (1, 64))
    pixels = pixels_of(tower, pictures)
    alone = build_tower({key: value for key, value in siglip.items() if key != "device"})
    with torch.no_grad():
        assert torch.equal(tower(pixels)[..., 32:], alone(pixels.parts[1]))
    with pytest.raises(ConfigError, match=r"towers.1.device: wrong value: 'nothing'"):
        fused(clip, siglip | {"device": "nothing"})
    with pytest.raises(ConfigError, match=r"^tower.towers.1: device: 'cuda:77' cannot be used here"):
        fused(clip, siglip | {"device": "cuda:77"})
    with pytest.raises(ConfigError, match=r"tower.device: only one of several `towers` has a device of its own: 'cpu'"):
        build_tower(clip | {"device": "cpu"})


def test_each_part_is_frozen_by_its_own_key(tower_examples: Examples, pictures: list[Image.Image]) -> None:
    tower = fused(tower_examples["clip"], tower_examples["torchvision"] | {"freeze": False})
    frozen, free = tower.parts
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in free.parameters())
    tower.train()
    assert free.encoder is not None
    assert free.encoder.training
    assert frozen.encoder is not None
    assert not any(module.training for module in frozen.encoder.modules())
    tower(pixels_of(tower, pictures)).sum().backward()
    assert all(p.grad is not None for p in free.parameters())
    tower.eval()
    assert not any(module.training for module in tower.modules())


def test_a_fused_tower_is_a_vision_tower(tower_examples: Examples, pictures: list[Image.Image]) -> None:
    settings = {"towers": [tower_examples["clip"], tower_examples["siglip"]], "delay_load": True}
    tower = build_tower(settings)
    assert isinstance(tower, VisionTower)
    known = {
        name: getattr(tower, name) for name in ("hidden_size", "num_tokens", "num_patches", "grid", "dtype", "device")
    }
    assert (tower.is_loaded, tower.vision_tower, [*tower.parameters()]) == (False, None, [])
    with pytest.raises(VitaError, match="tower 'fused' is not loaded"):
        tower(torch.zeros(1, 3, 56, 56))
    tower.load_model()
    encoder = tower.vision_tower
    tower.load_model()
    assert tower.vision_tower is encoder
    assert {name: getattr(tower, name) for name in known} == known
    assert tower.config.towers[0]["model_type"] == "clip_vision_model"
    assert isinstance(tower, FusedTower)
    assert tower.load_report is not None
    reports = [part.load_report for part in tower.parts]
    assert tower.load_report.loaded == sum(report.loaded for report in reports if report is not None)
    assert any(key.startswith("towers.0: ") for keys in tower.load_report.skipped.values() for key in keys)
    parameters = sum(p.numel() for p in tower.parameters())
    assert tower_stages(tower.resolved, 1)[0].parameters == pytest.approx(
        parameters, rel=0.01
    )  # norms that are not used
    with pytest.raises(VitaError, match=r"feature_select: hidden states are those of one part"):
        tower.feature_select([])


def test_it_is_copied_and_its_state_loads_again(tower_examples: Examples, pictures: list[Image.Image]) -> None:
    tower = fused(tower_examples["clip"], tower_examples["siglip"])
    pixels = pixels_of(tower, pictures)
    with torch.no_grad():
        expected = tower(pixels)
        copied = copy.deepcopy(tower)
        for parameter in tower.parameters():
            parameter.zero_()
        assert torch.equal(copied(pixels), expected)
        tower.load_state_dict(copied.state_dict())
        assert torch.equal(tower(pixels), expected)
    settings = pickle.loads(pickle.dumps((tower.settings, tower.config, tower.image_processor.to_dict())))
    assert settings[0] == tower.settings
    half = copied.to(torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half.dtype == torch.bfloat16


def test_a_part_that_does_not_load_is_named(tower_examples: Examples, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source = Path(tower_examples["transformers"]["weights"])
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("layernorm.weight")
    save_file({**tensors, "stray": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"^tower\.towers\.1: .*stray") as error:
        fused(tower_examples["clip"], {"type": "transformers", "weights": str(tmp_path)})
    assert str(error.value).count("Try: ") == 1


def test_check_finite_of_the_whole(tower_examples: Examples, pictures: list[Image.Image]) -> None:
    tower = fused(tower_examples["clip"], tower_examples["siglip"], check_finite=True)
    pixels = pixels_of(tower, pictures)
    with pytest.raises(VitaError, match=r"tower 'fused' in float32 gave 2048 of 2048 features that are not finite"):
        tower(pixels.map(lambda part: part * torch.nan))

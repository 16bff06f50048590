"""Fused towers against the arithmetic of two projects that join encoders, recomputed here with the library's own models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from torch import Tensor, nn

from vita_core import build_tower
from vita_core.pixels.fused import FusedPixels

SMALL = {"embed_dim": 32, "depth": 4, "num_heads": 2, "img_size": 56, "num_classes": 0}


def saved(name: str, folder: Path, **arguments: Any) -> Any:
    torch.manual_seed(len(name))
    model = timm.create_model(name, **arguments).eval()
    timm.models.save_for_hf(model, folder, model_args=arguments)
    return model


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """timm's DINOv2 with registers and timm's SigLIP, both with patches of 14 pixels, as prismatic-vlms names them."""
    names = {"dino": "vit_large_patch14_reg4_dinov2", "siglip": "vit_so400m_patch14_siglip_224"}
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in names}
    return {kind: (folders[kind], saved(name, folders[kind], **SMALL)) for kind, name in names.items()}


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((120, 90), Image.Resampling.BICUBIC)


def test_prismatic_vlms(pair: dict[str, tuple[Path, Any]], picture: Image.Image) -> None:
    """DinoSigLIPViTBackbone: each encoder's own pixels, the second-to-last layer, and ``torch.cat(dim=2)``. DINOv2 is first."""
    parts = [{"weights": str(folder), "select_layer": -2} for folder, _ in pair.values()]
    tower = build_tower({"towers": parts, "combine": "channel"})
    pixels = tower.image_processor.preprocess(picture, return_tensors="pt")["pixel_values"]
    patches = []
    with torch.no_grad():
        for (_, model), given in zip(pair.values(), pixels.parts, strict=True):
            (second_to_last,) = model.get_intermediate_layers(given, n={len(model.blocks) - 2})
            patches.append(second_to_last)
        assert torch.equal(tower(pixels), torch.cat(patches, dim=2))
    assert tower.hidden_size == sum(model.embed_dim for _, model in pair.values())


def test_the_pixels_of_prismatic_vlms(pair: dict[str, tuple[Path, Any]], picture: Image.Image) -> None:
    """``resize-naive`` squeezes the picture to a square; each encoder has its own mean and deviation."""
    from torchvision.transforms import Compose, Resize

    parts: list[dict[str, Any]] = []
    for folder, model in pair.values():
        own = timm.data.resolve_model_data_config(model)
        config = {"image_processor_type": "BitImageProcessor", "resample": 3, "size": {"height": 56, "width": 56}}
        config |= {"do_center_crop": False, "image_mean": own["mean"], "image_std": own["std"]}
        (folder / "preprocessor_config.json").write_text(json.dumps(config))
        parts.append({"weights": str(folder)})
    tower = build_tower({"towers": parts})
    found = tower.image_processor.preprocess(picture, return_tensors="pt")["pixel_values"]
    for (_, model), given in zip(pair.values(), found.parts, strict=True):
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
        naive = Compose(
            [Resize((56, 56), interpolation=transform.transforms[0].interpolation), *transform.transforms[2:]]
        )
        torch.testing.assert_close(given[0], naive(picture), atol=1e-5, rtol=0)


EAGLE_GRID = 4


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], Any]]:
    """A CLIP of 56 pixels and a ConvNeXt of 128, which have 4 x 4 features each."""
    torch.manual_seed(0)
    clip, convnext = tmp_path_factory.mktemp("clip"), tmp_path_factory.mktemp("convnext")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**sizes, image_size=56, patch_size=14)).eval()
    model.save_pretrained(clip)
    arguments = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "num_classes": 0}
    stages = saved("convnext_atto", convnext, **arguments)
    return {
        "convnext": ({"weights": str(convnext), "image_size": 128, "select_layer": -1}, stages),
        "clip": ({"weights": str(clip), "select_layer": -2}, model),
    }


def eagle(pixels: Tensor, encoders: Sequence[tuple[int, Any]], *, align_corners: bool) -> Tensor:
    """MultiBackboneChannelConcatenationVisionTower: one normalised picture for all, and one grid. It sets align_corners."""
    features = []
    for side, encoder in encoders:
        resized = pixels
        if side != pixels.shape[-1]:
            resized = F.interpolate(pixels.float(), size=(side, side), mode="bilinear", align_corners=True)
        if isinstance(encoder, transformers.CLIPVisionModel):
            tokens = encoder(resized, output_hidden_states=True).hidden_states[-2][:, 1:]
            grid = round(tokens.shape[1] ** 0.5)
            feature = tokens.transpose(1, 2).unflatten(2, (grid, grid))
        else:
            feature = nn.Sequential(encoder.stem, *encoder.stages)(resized)
        if feature.shape[-1] != EAGLE_GRID:
            size = (EAGLE_GRID, EAGLE_GRID)
            feature = F.interpolate(feature.float(), size=size, mode="bilinear", align_corners=align_corners)
        features.append(feature.flatten(2, 3).transpose(1, 2))
    return torch.cat(features, dim=-1)


def as_eagle_resizes(pixels: Tensor, sides: Sequence[int]) -> FusedPixels:
    resize = {"mode": "bilinear", "align_corners": True}
    return FusedPixels(
        pixels if side == pixels.shape[-1] else F.interpolate(pixels, size=(side, side), **resize) for side in sides
    )


def test_eagle_where_no_features_are_resized(mixture: dict[str, tuple[dict[str, Any], Any]]) -> None:
    """The same features, bit for bit, for the pixels that Eagle makes."""
    tower = build_tower({"towers": [settings for settings, _ in mixture.values()]})
    pixels = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    encoders = [(side, model) for side, (_, model) in zip((128, 56), mixture.values(), strict=True)]
    with torch.no_grad():
        found, expected = tower(as_eagle_resizes(pixels, (128, 56))), eagle(pixels, encoders, align_corners=True)
    assert torch.equal(found, expected)


def test_eagle_resizes_features_with_aligned_corners(mixture: dict[str, tuple[dict[str, Any], Any]]) -> None:
    """`grid` resizes with align_corners false. With that, the features are equal; else only in the corners."""
    (stages, convnext), (settings, clip) = mixture.values()
    tower = build_tower({"towers": [stages | {"image_size": 64}, settings], "grid": [EAGLE_GRID, EAGLE_GRID]})
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    encoders = [(64, convnext), (56, clip)]
    with torch.no_grad():
        found = tower(as_eagle_resizes(pixels, (64, 56)))
        assert torch.equal(found, eagle(pixels, encoders, align_corners=False))
        original = eagle(pixels, encoders, align_corners=True)
    assert torch.equal(found[..., 32:], original[..., 32:])  # CLIP already has this grid
    maps = [one[..., :32].unflatten(1, (EAGLE_GRID, EAGLE_GRID)) for one in (found, original)]
    torch.testing.assert_close(*(one[:, [0, 0, -1, -1], [0, -1, 0, -1]] for one in maps))  # the corners
    assert not torch.allclose(*(one[:, 1, 1] for one in maps), atol=1e-3)

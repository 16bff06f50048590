"""One config, fifteen encoders of three libraries: only `weights` changes, and plan, encode and check all work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import timm
import torch
import transformers
from conftest import vita
from open_clip.push_to_hf_hub import save_for_hf
from open_clip.transform import PreprocessCfg
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

CONFIG = "tower: {{weights: {weights}}}\n"
VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 56,
    "patch_size": 14,
}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}


def of_transformers(name: str, **config: Any) -> Callable[[Path], None]:
    """Return a function that saves a model of transformers, and a processor for pictures of 56 pixels."""

    def save(folder: Path) -> None:
        settings = getattr(transformers, f"{name}Config")(**config)
        getattr(transformers, f"{name}Model")(settings).save_pretrained(folder)
        size = {"height": 56, "width": 56}
        transformers.CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size=size).save_pretrained(folder)

    return save


def of_timm(name: str, **arguments: Any) -> Callable[[Path], None]:
    """Return a function that saves a model of timm."""
    return lambda folder: timm.models.save_for_hf(timm.create_model(name, **arguments), folder, model_args=arguments)


def of_open_clip(**vision: Any) -> Callable[[Path], None]:
    """Return a function that saves a model of open_clip."""

    def save(folder: Path) -> None:
        config = {"embed_dim": 32, "vision_cfg": {"image_size": 56, "patch_size": 14, **vision}, "text_cfg": TEXT}
        model = open_clip.CLIP(**config)
        open_clip.set_model_preprocess_cfg(model, {**vars(PreprocessCfg()), "size": (model.visual.image_size,) * 2})
        tokenizer: Any = SimpleNamespace(save_pretrained=lambda _: None)  # those of open_clip come from a hub
        save_for_hf(model, tokenizer, config, folder, safe_serialization=True)

    return save


ENCODERS = {
    "transformers/dinov2": of_transformers("Dinov2", **VIT),
    "transformers/dinov3": of_transformers("DINOv3ViT", **VIT),
    "transformers/vit": of_transformers("ViT", **VIT),
    "transformers/beit": of_transformers("Beit", **VIT),
    "transformers/aimv2": of_transformers("Aimv2Vision", **VIT),
    "transformers/siglip": of_transformers("SiglipVision", **VIT),
    "transformers/convnextv2": of_transformers("ConvNextV2", **STAGES),
    "timm/vit": of_timm("vit_tiny_patch16_224", img_size=32, depth=3),
    "timm/eva02": of_timm("eva02_tiny_patch14_224", img_size=28, depth=2),
    "timm/resnet": of_timm("test_resnet"),
    "timm/efficientnet": of_timm("test_efficientnet"),
    "open_clip/vit": of_open_clip(width=32, layers=3, head_width=8),
    "open_clip/resnet": of_open_clip(width=8, layers=[1, 1, 1, 1], image_size=64),
    "open_clip/timm": of_open_clip(
        timm_model_name="vit_tiny_patch16_224", timm_pool="avg", timm_proj="linear", image_size=32
    ),
    "open_clip/convnext": of_open_clip(timm_model_name="test_convnext", timm_pool="", timm_proj="", image_size=64),
}


LATER = {"transformers/dinov3", "transformers/beit", "transformers/aimv2", "transformers/convnextv2", "timm/eva02",
         "timm/efficientnet", "open_clip/resnet", "open_clip/convnext"}  # fmt: skip
"""What differs little from the others: `make test-extras` tests it."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.extras] if name in LATER else []) for name in ENCODERS]
)
def test_only_the_weights_change(name: str, golden: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights, config, out = tmp_path / "weights", tmp_path / "tower.yaml", tmp_path / "features.safetensors"
    weights.mkdir()
    ENCODERS[name](weights)
    config.write_text(CONFIG.format(weights=weights))

    planned = vita("plan", config, "--json")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert plan["tower"] == {"transformers/siglip": "siglip"}.get(name, name.partition("/")[0])

    encoded = vita("encode", config, golden / "pictures" / "square.png", "--out", out)
    assert encoded.returncode == 0, encoded.stderr
    (features,) = load_file(out).values()
    tower = next(stage for stage in plan["stages"] if stage["stage"] == "tower")
    assert list(features.shape) == tower["shape"]
    assert features.isfinite().all()

    checked = vita("check", config, "--json")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert {row["outcome"] for row in json.loads(checked.stdout)["checks"]} <= {"ok", "skipped"}

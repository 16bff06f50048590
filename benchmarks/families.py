"""The encoders that the benchmarks compare: full width, random weights, saved by the library's own class.

Each function takes the number of layers, which may be fewer than published, and returns a `Family`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

transformers.logging.set_verbosity_error()  # otherwise it logs a line for each tensor of a left-out block
transformers.logging.disable_progress_bar()

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Family:
    """One encoder, and the ways to build it.

    `side` is the size of its pictures in pixels. `tower` is the config of our tower. `save` writes the weights to a folder.
    `best` builds the library's model with the needed layers only. `original` builds the whole model as LLaVA and VITA run it,
    with every hidden state kept. Both return functions from pixels to the patch tokens (B, N, C) of the selected layer.
    """

    name: str
    side: int
    tower: dict[str, Any]
    save: Callable[[Path], None]
    best: Callable[[Path, torch.dtype], Forward]
    original: Callable[[Path, torch.dtype], Forward]


def opened_on(device: str, build: Callable[[Path, torch.dtype], Forward], folder: Path, dtype: torch.dtype) -> Forward:
    """Return a family's `best` or `original`, with its modules on `device`."""
    with torch.device(device):
        return build(folder, dtype)


def assert_alike(found: Tensor, expected: Tensor) -> None:
    """Check that features are equal within float32's rounding, or in bfloat16 within 3% of the values' root mean square."""
    if expected.dtype == torch.float32:
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
        return
    error = (found - expected).float().square().mean().sqrt() / expected.float().square().mean().sqrt()
    assert error < 0.03, f"features are {error:.1%} off"


def _transformers(model: Any, config: Any, layer: int, prefix: int, last: str = "num_hidden_layers") -> dict[str, Any]:
    """Return `save`, `best` and `original` of a transformers vision model. `layer` is negative, as in ``hidden_states``."""

    def save(folder: Path) -> None:
        torch.manual_seed(0)
        model(config).save_pretrained(folder)

    def opened(folder: Path, dtype: torch.dtype, **changes: Any) -> nn.Module:
        return model.from_pretrained(folder, dtype=dtype, local_files_only=True, **changes).eval()  # type: ignore[no-any-return]  # transformers is untyped

    def best(folder: Path, dtype: torch.dtype = torch.float32) -> Forward:
        truncated = {last: getattr(config, last) + 1 + layer}
        encoder = opened(folder, dtype, attn_implementation="sdpa", **truncated)
        return lambda pixels: encoder(pixels, output_hidden_states=True).hidden_states[-1][:, prefix:]

    def original(folder: Path, dtype: torch.dtype = torch.float32) -> Forward:
        encoder = opened(folder, dtype)
        return lambda pixels: encoder(pixels, output_hidden_states=True).hidden_states[layer][:, prefix:]

    return {"save": save, "best": best, "original": original}


def clip(layers: int = 24) -> Family:
    """CLIP-L/14-336."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=16,
        intermediate_size=4096,
        image_size=336,
        patch_size=14,
    )
    return Family("CLIP-L/14-336", 336, {"type": "clip"}, **_transformers(CLIPVisionModel, config, -2, 1))


def siglip(layers: int = 27) -> Family:
    """SigLIP-so400m-384."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=1152,
        num_hidden_layers=layers,
        num_attention_heads=16,
        intermediate_size=4304,
        image_size=384,
        patch_size=14,
    )
    return Family("SigLIP-so400m-384", 384, {"type": "siglip"}, **_transformers(SiglipVisionModel, config, -2, 0))


def internvit(layers: int = 24) -> Family:
    """InternViT-300M-448, without the scale of 0.5 and without the pixel shuffle."""
    from transformers import InternVLVisionConfig, InternVLVisionModel

    from vita_plugins.internvit import published

    config = InternVLVisionConfig(
        hidden_size=1024, num_hidden_layers=layers, num_attention_heads=16, intermediate_size=4096, image_size=[448, 448],
        patch_size=[14, 14], norm_type="layer_norm", attention_bias=True,
    )  # fmt: skip
    sides = _transformers(InternVLVisionModel, config, -1, 1)

    def save(folder: Path) -> None:
        torch.manual_seed(0)
        save_file(InternVLVisionModel(config).state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(published(1024, layers, 16, 4096, rms=False)))

    def opened(folder: Path, dtype: torch.dtype, attention: str) -> nn.Module:
        from safetensors.torch import load_file

        own = copy.deepcopy(config)  # a model reads the attention from its config at every run
        own._attn_implementation = attention
        model = InternVLVisionModel(own).eval()
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.to(dtype)

    def best(folder: Path, dtype: torch.dtype = torch.float32) -> Forward:
        encoder = opened(folder, dtype, "sdpa")
        return lambda pixels: encoder(pixels).last_hidden_state[:, 1:]

    def original(folder: Path, dtype: torch.dtype = torch.float32) -> Forward:
        encoder = opened(folder, dtype, "eager")  # its published code multiplies queries and keys itself
        return lambda pixels: encoder(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]

    plain = {"type": "internvit", "feature_scale": 1.0, "pixel_shuffle": False}
    return Family("InternViT-300M-448", 448, plain, **{**sides, "save": save, "best": best, "original": original})


def eva(layers: int = 24) -> Family:
    """EVA02-CLIP-L-336, as open_clip saves it."""
    import timm

    name = "eva02_large_patch14_clip_336"

    def save(folder: Path) -> None:
        torch.manual_seed(0)
        state = timm.create_model(name, pretrained=False, num_classes=0, depth=layers).state_dict()
        save_file(
            {f"visual.trunk.{key}": value for key, value in state.items()}, folder / "open_clip_model.safetensors"
        )
        (folder / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": {"vision_cfg": {"timm_model_name": name, "layers": layers}}})
        )

    def opened(folder: Path, dtype: torch.dtype) -> nn.Module:
        from safetensors.torch import load_file

        model = timm.create_model(name, pretrained=False, num_classes=0, depth=layers).eval()
        state = load_file(folder / "open_clip_model.safetensors")
        model.load_state_dict({key.removeprefix("visual.trunk."): value for key, value in state.items()})
        return model.to(dtype)

    def forward(folder: Path, dtype: torch.dtype = torch.float32, *, stop_early: bool) -> Forward:
        encoder, last = opened(folder, dtype), layers - 2
        if stop_early:
            encoder.prune_intermediate_layers([last], prune_norm=True, prune_head=True)
        every = {"indices": [last] if stop_early else None, "stop_early": stop_early}
        at = 0 if stop_early else last
        return lambda pixels: encoder.forward_intermediates(pixels, intermediates_only=True, output_fmt="NLC", **every)[
            at
        ]

    return Family(
        "EVA02-CLIP-L-336", 336, {"type": "eva_clip"}, save,
        partial(forward, stop_early=True), partial(forward, stop_early=False),
    )  # fmt: skip


FAMILIES: dict[str, Callable[..., Family]] = {"clip": clip, "siglip": siglip, "eva_clip": eva, "internvit": internvit}

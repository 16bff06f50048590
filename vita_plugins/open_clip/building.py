"""Build the vision encoder of an open_clip model without its text tower, and measure its shape on the meta device."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import open_clip
import timm
import torch
from open_clip.model import CLIPVisionCfg, _build_vision_tower, resize_pos_embed
from torch import Tensor, nn

from vita_core import Shape, VitaError, measure
from vita_plugins.open_clip.models import model_config
from vita_plugins.timm import geometry as timm_geometry


def vision_config(model: Mapping[str, Any]) -> CLIPVisionCfg:
    """Return the vision config of a model, as open_clip reads it. Raises VitaError for keys and models of newer versions."""
    given, known = model["vision_cfg"], {field.name for field in fields(CLIPVisionCfg)}
    unknown, name = ", ".join(repr(key) for key in given if key not in known), given.get("timm_model_name")
    if unknown:
        raise VitaError(
            f"open_clip_config.json: open_clip {open_clip.__version__} does not know these keys of vision_cfg: {unknown}. Try: "
            "correct them, or `pip install --upgrade open_clip_torch` if the model is newer"
        )
    if name is not None and not timm.is_model(name):
        raise VitaError(
            f"open_clip_config.json: timm {timm.__version__} has no model {name!r}. Try: correct the name, or "
            "`pip install --upgrade timm` if the model is newer"
        )
    return CLIPVisionCfg(**given)


def own_size(vision: CLIPVisionCfg) -> tuple[int, int]:
    """Return the (height, width) of the pictures that a model takes."""
    size = vision.image_size
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def as_timm(model: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return timm's config of an encoder that open_clip builds with timm, or None if it builds the encoder itself.

    The arguments are those of ``open_clip.timm_model.TimmModel``. Its projection head is not built.
    """
    vision = vision_config(model)
    if vision.timm_model_name is None:
        return None
    arguments: dict[str, Any] = {}
    if vision.timm_drop_path is not None:
        arguments["drop_path_rate"] = vision.timm_drop_path
    if vision.patch_dropout > 0:
        arguments["patch_drop_rate"] = vision.patch_dropout
    if vision.timm_proj not in ("linear", "mlp") and vision.timm_pool not in ("abs_attn", "rot_attn"):
        arguments["num_classes"] = 0 if vision.timm_proj == "none" else model["embed_dim"]
        arguments["global_pool"] = vision.timm_pool
    size = {"input_size": [3, *own_size(vision)]}
    return {"architecture": vision.timm_model_name, "model_args": arguments, "pretrained_cfg": size}


def build(model: Mapping[str, Any], layers: int | None = None) -> tuple[nn.Module, list[nn.Module], nn.Module | None]:
    """Return an encoder of open_clip without its head, its blocks (of a ResNet: its stages), and its final norm or None.

    Of a ViT, only the first `layers` blocks are built, of a ResNet the first `layers` stages.
    """
    vision = vision_config(model)
    resnet = isinstance(vision.layers, list | tuple)
    if layers is not None and not resnet:
        vision = replace(vision, layers=layers)
    encoder = _build_vision_tower(model["embed_dim"], vision, model.get("quick_gelu", False))
    if resnet:
        encoder.attnpool = nn.Identity()
        names = [f"layer{number}" for number in range(1, 5)]
        for name in names[layers:] if layers is not None else ():
            setattr(encoder, name, nn.Identity())
        return encoder, [getattr(encoder, name) for name in names[:layers]], None
    norm = None if encoder.attn_pool is not None else encoder.ln_post  # of CoCa, it norms the pooled tokens
    encoder.attn_pool = encoder.proj = None
    if norm is None:
        encoder.ln_post = nn.Identity()
    return encoder, [*encoder.transformer.resblocks], norm


def shape(config: Mapping[str, Any], options: Mapping[str, Any], image_size: tuple[int, int] | None = None) -> Shape:
    """Return the shape of the encoder. Layer 0 of a ResNet is its stem; those that timm builds have no layer 0.

    For another `image_size`, it is that of open_clip's ``force_image_size``, but with the own table of positions.
    """
    model = model_config(config, options)
    wrapped = as_timm(model)
    if wrapped is not None:
        return timm_geometry.shape(wrapped, {}, image_size=image_size)
    own = measured(json.dumps(model))
    if image_size is None:
        return own
    forced = {**model, "vision_cfg": {**model["vision_cfg"], "image_size": list(image_size)}}
    found = measured(json.dumps(forced))
    first = replace(found.stages[0], parameters=own.stages[0].parameters)
    return replace(found, stages=(first, *found.stages[1:]))


@functools.lru_cache(maxsize=32)
def measured(model: str) -> Shape:
    """Return the shape of an encoder that open_clip builds itself, for the model's config in JSON."""
    config = json.loads(model)
    size = own_size(vision_config(config))
    with torch.device("meta"):
        encoder, blocks, norm = build(config)
        pixels = torch.empty(1, 3, *size)
    return measure(encoder.eval(), blocks, lambda: encoder(pixels), size, norm=norm)


def embedded(model: nn.Module, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Return the embeddings (B, 1 + rows * cols, C) of a ViT, after its first norm, and the grid.

    For pictures of another size, open_clip's own function resizes the table of positions, as it does when it loads one.
    """
    rows, cols = pixels.shape[-2] // model.patch_size[0], pixels.shape[-1] // model.patch_size[1]
    if (rows, cols) == tuple(model.grid_size):
        return model._embeds(pixels), (rows, cols)
    table = {"visual.positional_embedding": model.positional_embedding}
    resize_pos_embed(table, SimpleNamespace(visual=SimpleNamespace(grid_size=(rows, cols))))
    parts = {name: getattr(model, name) for name in ("conv1", "class_embedding", "patch_dropout", "ln_pre")}
    own = SimpleNamespace(**parts, positional_embedding=table["visual.positional_embedding"])
    return type(model)._embeds(own, pixels), (rows, cols)

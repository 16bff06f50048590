"""Build a timm encoder as its checkpoint was saved, and remove the layers that are not needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import timm
import torch
from torch import nn

from vita_core import VitaError

STAGES = ("features_only", "out_indices")
"""Arguments of timm with which transformers takes the outputs of stages, as the tower does without them."""


def build(config: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
    """Return the whole encoder without weights, with the head that its checkpoint has.

    Raises VitaError for a name that timm does not know, and for an encoder that gives no intermediate features of RGB
    pictures.
    """
    name = options.get("architecture") or config.get("architecture")
    if not name or not timm.is_model(name):
        raise VitaError(
            f"tower.options.architecture: timm {timm.__version__} has no model {name!r}. Try: one of timm.list_models()"
        )
    saved = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in (config.get("model_args") or {}).items()
        if key not in STAGES
    }
    if saved.get("in_chans") not in (None, 3):
        raise VitaError(
            f"tower.weights: timm's {name} takes pictures of {saved['in_chans']} channels here, not 3. "
            "Try: an encoder of RGB pictures"
        )
    sized = {"img_size": options["image_size"]} if options.get("image_size") else {}
    # most ViTs can interpolate their positions; a CNN takes pictures of any size, but neither argument
    for extra in ({**sized, "dynamic_img_size": True}, sized, {}):
        try:
            model: nn.Module = timm.create_model(name, pretrained=False, **{**saved, **extra})
        except TypeError:
            if not extra:
                raise
            continue
        if "dynamic_img_size" not in extra or whole_patches(model, image_size(config, options, model)):
            break
    if getattr(model, "feature_info", None) == []:
        raise VitaError(
            f"tower.weights: the model_args of its config make timm's {name} without layers. Try: a depth from 1 on there"
        )
    if not hasattr(model, "forward_intermediates") or not getattr(model, "feature_info", None):
        raise VitaError(
            f"tower.options.architecture: {name} of timm {timm.__version__} has no forward_intermediates. Try: a newer timm "
            "(`pip install --upgrade timm`), or another of its encoders"
        )
    return model


def whole_patches(model: nn.Module, size: tuple[int, int]) -> bool:
    """Return whether `size` is a whole number of patches. If it is not, only models that take one size drop the rest."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", 1)
    rows, cols = (patch, patch) if isinstance(patch, int) else patch
    return bool(size[0] % rows == 0 == size[1] % cols)


def written_instead(name: str) -> str | None:
    """Return what to write in ``weights`` instead of a model's name, or None if timm knows no such model."""
    if not timm.is_model(name):
        return None
    known = timm.models.get_pretrained_cfg(name)
    hub = f"`weights: {known.hf_hub_id}` from the hub, or " if known is not None and known.hf_hub_id else ""
    save = f"`timm.models.save_for_hf(timm.create_model({name!r}), 'DIR')`"
    return (
        f"{hub}`weights: ./DIR` with a directory that you have downloaded or saved ({save}), or "
        "`tower.options: {pretrained: false}` for random weights"
    )


def described_by_name(name: str) -> dict[str, Any] | None:
    """Return timm's config of a model, as ``save_for_hf`` would write it, or None if timm knows no such model."""
    if not timm.is_model(name):
        return None
    known = timm.models.get_pretrained_cfg(name)
    return {"architecture": name, "pretrained_cfg": {} if known is None else known.to_dict()}


def build_on_meta(config: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
    """Return the encoder of `build` on the meta device, frozen and in eval mode."""
    with torch.device("meta"):
        return build(config, options).eval().requires_grad_(False)  # FlopCounterMode stops at PiT's learned CLS token


def input_sizes(model: nn.Module) -> Literal["any", "patches", "fixed"]:
    """Return which picture sizes the encoder takes.

    A ViT that interpolates takes whole patches, a transformer that does not takes one size, a CNN takes any size.
    """
    if getattr(model, "dynamic_img_size", False):
        return "patches"
    fixed = model.pretrained_cfg.get("fixed_input_size", False)
    return "fixed" if getattr(getattr(model, "patch_embed", None), "strict_img_size", fixed) else "any"


def image_size(config: Mapping[str, Any], options: Mapping[str, Any], model: nn.Module) -> tuple[int, int]:
    """Return the (height, width) of the pictures: the option, the checkpoint's, or timm's default for the architecture."""
    size = options.get("image_size") or (config.get("model_args") or {}).get("img_size")
    size = size or config.get("pretrained_cfg", {}).get("input_size") or model.pretrained_cfg["input_size"]
    return (size, size) if isinstance(size, int) else (int(size[-2]), int(size[-1]))

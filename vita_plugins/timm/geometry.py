"""The shape of a timm encoder, measured by building and running it on the meta device."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vita_core import Shape, VitaError, count_macs
from vita_plugins.timm import own_config
from vita_plugins.timm.building import build_on_meta, image_size, input_sizes
from vita_plugins.timm.naflex import native_size
from vita_plugins.timm.pruning import layers_of
from vita_plugins.timm.scoring import stage
from vita_plugins.timm.special import GRID_FROM_VALUES


def prefix_tokens(model: nn.Module) -> int:
    """Return the number of prefix tokens that timm gives beside the features (CaiT adds its CLS token after them)."""
    given = "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters
    return getattr(model, "num_prefix_tokens", 0) if given else 0


def run(model: nn.Module, pixels: Tensor, indices: Sequence[int] | None = None, *, norm: bool = False) -> list[Tensor]:
    """Return the features (B, C, rows, cols) at timm's `indices`, or all of them."""
    counted = type(model).__name__ in GRID_FROM_VALUES
    layout = "NLC" if counted else "NCHW"
    maps: list[Tensor] = model.forward_intermediates(
        pixels, indices=indices, norm=norm, stop_early=True, intermediates_only=True, output_fmt=layout
    )
    if counted:
        rows, cols = getattr(model, "encoder", model).patch_size
        grid = (pixels.shape[2] // rows, pixels.shape[3] // cols)
        maps = [tokens.transpose(1, 2).unflatten(2, grid) for tokens in maps]
    return maps


def features(model: nn.Module, pixels: Tensor) -> tuple[list[Tensor], list[int]]:
    """Return all features, and the multiply-accumulates up to each of them.

    One run is enough if the features are the outputs of modules, one after the other, as in most encoders. Otherwise the
    encoder runs once for each feature.
    """
    modules = dict(model.named_modules())
    tapped = [modules[info["module"]] for info in model.feature_info if info["module"] in modules]
    maps, macs = count_macs(lambda: run(model, pixels), tapped)
    *sums, whole = macs
    if len(sums) == len(maps) and sums[-1] == whole:
        return maps, sums
    return maps, [count_macs(lambda index=index: run(model, pixels, [index]))[1][0] for index in range(len(maps))]


def norms(model: nn.Module, pixels: Tensor, indices: Sequence[int]) -> bool:
    """Return whether timm applies the final norm of `model` to each of the features at `indices`."""
    final = getattr(model, "norm", None)
    if not isinstance(final, nn.Module) or isinstance(final, nn.Identity | nn.ModuleList):
        return False
    calls: list[nn.Module] = []
    hook = final.register_forward_hook(lambda module, *_: calls.append(module))
    run(model, pixels, indices, norm=True)
    hook.remove()
    return len(calls) == len(indices)


def check_norm(config: Mapping[str, Any], options: Mapping[str, Any], shape: Shape, layers: Collection[int]) -> None:
    """Raise VitaError if timm's final norm does not fit each of the `layers`, for ``norm: true``."""
    if {*layers} == {shape.layers}:
        return
    pixels = torch.empty(1, 3, *shape.image_size, device="meta")
    if not norms(build_on_meta(config, options), pixels, [layer - 1 for layer in sorted(layers)]):
        raise VitaError(
            f"tower.norm: the final norm of this encoder fits only its last layer, {shape.layers}, not {sorted(layers)}. "
            f"Try: `tower.select_layer: {shape.layers}` or `tower.norm: false`"
        )


def normed(norm: nn.Module, tokens: Tensor) -> Tensor:
    """Return tokens (B, N, C) after a norm of timm, which takes tokens or maps (B, C, H, W)."""
    if "2d" not in type(norm).__name__ and not isinstance(norm, nn.GroupNorm):
        return norm(tokens)  # type: ignore[no-any-return]  # timm has no types
    return norm(tokens.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)  # type: ignore[no-any-return]  # as above


def shape(
    config: Mapping[str, Any],
    options: Mapping[str, Any],
    size: tuple[int, int] | None = None,
    image_size: tuple[int, int] | None = None,
) -> Shape:
    """Return a shape with one stage per feature of timm's ``forward_intermediates``. `size` is for NaFlex ViTs.

    timm's index k is layer k + 1. timm gives no features for layer 0. The option `class_scores` adds a layer behind the others.
    """
    return measured(json.dumps([own_config(config), options], sort_keys=True), size or image_size)


@functools.lru_cache(maxsize=32)
def measured(settings: str, asked: tuple[int, int] | None) -> Shape:
    """Return the shape for a checkpoint config and options, in JSON."""
    config, options = json.loads(settings)
    model = build_on_meta(config, options)
    own = image_size(config, options, model)
    native = native_size(model, own)
    if asked not in (None, own) and native is None and input_sizes(model) == "fixed":
        raise VitaError(
            f"tower.image_size: timm's {type(model).__name__} does not interpolate its positions. "
            f"Try: `tower.image_size: null`, for {own[0]} x {own[1]}"
        )
    size = asked or (own if native is None else native.square)
    with torch.no_grad():
        pixels = torch.empty(1, 3, *size, device="meta")
        maps, macs = features(model, pixels)
        has_norm = norms(model, pixels, [len(maps) - 1])
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    layers = layers_of(model, len(maps), norm=has_norm)
    parameters = [0] * (len(maps) + 1)
    for name, layer in layers.items():
        parameters[layer] += sizes[name]
    stages = [(maps[0].shape[1], tuple(maps[0].shape[2:]), parameters[0], 0)]
    before = 0
    for tapped, own, total in zip(maps, parameters[1:], macs, strict=True):
        stages.append((tapped.shape[1], tuple(tapped.shape[2:]), own, max(total - before, 0)))
        before = max(before, total)
    final = sum(sizes[name] for name in sizes if name.startswith("norm.") and name not in layers) if has_norm else None
    if options.get("class_scores"):
        channels, grid, all_parameters, total = stage(config, options, pixels)
        stages.append((channels, grid, all_parameters - sum(parameters), total - before))
    return replace(Shape.from_stages(size, stages, final, prefix_tokens(model), first_layer=1), native=native)

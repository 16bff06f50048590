"""Everything that the tokens of a frozen tower depend on, apart from the picture, as one hash."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from vita_core.config.images import ImagesConfig
from vita_core.planning.towers import ResolvedTower
from vita_core.towers.tower import BaseVisionTower

__all__ = ["identity"]

FREE = {"weights", "revision", "adapter", "freeze", "delay_load", "device"}
"""Keys of a tower that its tokens do not depend on: the values of the weights are hashed, wherever they come from."""
LIBRARIES = ("vita-core", "torch", "torchvision", "transformers", "timm", "open_clip_torch", "pillow")


def identity(tower: BaseVisionTower, front: ResolvedTower, images: ImagesConfig, precision: str) -> str:
    """Return the hash of what the tokens of `tower` depend on, up to where `front` ends.

    `precision` is that of the computation. The weights are those in memory, so that an earlier stage may have trained them.
    """
    told = {
        "towers": [_described(one) for one in (front, *front.parts)],
        "images": images.model_dump(mode="json", exclude={"anyres": {"newline"}}),
        "precision": precision,
        "device": tower.device.type,
        "libraries": {name: found for name in LIBRARIES if (found := _version(name)) is not None},
    }
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    encoder = tower.vision_tower
    assert encoder is not None  # a tower that is not loaded cannot encode either
    for module in (encoder, *tower.reductions[: len(front.geometry.reductions)]):
        digest.update(weights_digest(module))
    return digest.hexdigest()


def weights_digest(module: nn.Module) -> bytes:
    """Return the SHA-256 of the names, dtypes, shapes and bytes of all parameters and buffers of a module."""
    digest = hashlib.sha256()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


def _described(tower: ResolvedTower) -> dict[str, Any]:
    """Return what a tower is: its plugin, its config, the config of its checkpoint and its processor."""
    settings, native = tower.settings.model_dump(mode="json", exclude=FREE | {"towers"}), tower.shape.native
    return {
        "spec": [tower.spec.name, tower.owner.distribution, tower.owner.version],
        "settings": settings,
        "checkpoint": dict(tower.source.config),
        "processor": dict(tower.processor),
        "native": native and [native.patch, native.merge, native.min_tokens, native.max_tokens, native.max_side],
        "reductions": [
            [step.spec.name, step.owner.distribution, step.owner.version, dict(step.options)]
            for step in (*tower.geometry.inside, *tower.geometry.reductions)
        ],
    }


def _version(distribution: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(distribution)
    return None

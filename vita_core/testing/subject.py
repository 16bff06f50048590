"""The tower under test: a config's, or a registered name with random weights in a temporary directory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vita_core.config.schema import TowerConfig
from vita_core.config.validation import validate
from vita_core.loading import without_weights
from vita_core.planning.resolution import resolve
from vita_core.planning.towers import ResolvedTower, named_tower, resolve_tower
from vita_core.plugins.registry import import_object
from vita_core.testing.kit import BrokenContractError, SkippedCheckError
from vita_core.towers.tower import BaseVisionTower, build_resolved

__all__ = ["Subject", "open_subject"]

PLAIN: Mapping[str, Any] = {"dtype": "float32", "freeze": True, "delay_load": False}
"""Tower keys that every check starts from, whatever the config says; each is a check's own subject."""


@dataclass(frozen=True)
class Subject:
    """A tower that the checks build again and again, each with its own changes to the config.

    `scratch` is a directory to write in; `origin` is the config's tower as it was resolved. Without one the weights are
    random: `settings.weights` is a directory that holds a ``config.json`` and nothing else, and `weights` is the file of
    random weights that is made on first use.
    """

    name: str
    settings: TowerConfig
    scratch: Path
    origin: ResolvedTower | None = None

    @property
    def random_weights(self) -> bool:
        """Whether the tower is a registered name's, without weights of its own."""
        return self.origin is None

    def configured(self, **changes: Any) -> TowerConfig:
        """The tower's config with float32, frozen, and `changes`."""
        return validate(TowerConfig, {**self.settings.model_dump(exclude_unset=True), **PLAIN, **changes})

    def resolved(self, **changes: Any) -> ResolvedTower:
        """Everything known of the changed config before weights are read."""
        changed = self.configured(**changes)
        if self.origin is None or "weights" in changes:
            return resolve_tower(changed)
        return resolve_tower(changed, source=self.origin.source, part=self.origin.part)

    def build(self, *, device: torch.device | str = "cpu", **changes: Any) -> BaseVisionTower:
        """A tower of its own, from the changed config."""
        if self.random_weights:
            changes = {"weights": self.weights, **changes}
        return build_resolved(self.resolved(**changes), device)

    def pixels(self, count: int = 2, **changes: Any) -> Tensor:
        """The same random pixels (count, 3, H, W) every time, of the size that the changed config takes."""
        size = self.resolved(**changes).geometry.input_size
        return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))

    @cached_property
    def weights(self) -> str:
        """The checkpoint that the checks load."""
        if not self.random_weights:
            return self.settings.weights
        return self._write("random", self._random_state())

    @cached_property
    def tower(self) -> BaseVisionTower:
        """A loaded float32 tower, shared by the checks that change nothing of it."""
        try:
            return self.build()
        except Exception as error:
            raise SkippedCheckError("the tower cannot be built and loaded; mend the check `loads` first") from error

    @cached_property
    def features(self) -> Tensor:
        """What `tower` makes of `pixels()`: (2, N, C)."""
        features: Tensor = self.tower(self.pixels())
        return features.detach()

    @property
    def encoder(self) -> nn.Module:
        """The shared tower's encoder."""
        encoder = self.tower.vision_tower
        if encoder is None:
            raise BrokenContractError("tower.vision_tower is None after load_model()")
        return encoder

    def reloaded(self, state: Mapping[str, Tensor] | None = None) -> BaseVisionTower:
        """A second tower, loaded from a file of the shared encoder's state dict, or of `state` in its stead."""
        weights = self._write("copy", self.encoder.state_dict() if state is None else state)
        named = self.settings.type or self.tower.resolved.spec.name
        return self.build(type=named, weights=weights, revision=None)

    def _write(self, directory: str, state: Mapping[str, Tensor]) -> str:
        """The file of a checkpoint in `scratch` with these tensors and the tower's own config."""
        folder = self.scratch / directory
        folder.mkdir(exist_ok=True)
        config = dict(self.resolved().source.config)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        # clones: safetensors refuses views and tensors that share memory
        save_file({key: value.detach().clone() for key, value in state.items()}, folder / "tensors.safetensors")
        return str(folder / "tensors.safetensors")

    def _random_state(self) -> dict[str, Tensor]:
        """Every tensor of the whole encoder, filled by its shape and name, under the encoder's own keys."""
        whole: dict[str, Any] = {"layers": "all"}
        if self.resolved().shape.norm_parameters is not None:
            whole["norm"] = True
        resolved = self.resolved(**whole)
        factory = import_object(resolved.spec.factory, requires=resolved.spec.requires, owner=resolved.owner)
        tower: BaseVisionTower = factory(resolved)
        with without_weights():  # as load_model builds it
            encoder = tower.build_encoder()
        generator = torch.Generator().manual_seed(0)
        return {key: _random(key, tensor, generator) for key, tensor in encoder.state_dict().items()}


def _random(key: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Values under which activations neither die nor explode: 1 / sqrt(fan in) for matrices, about 1 for scales."""
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    if tensor.ndim > 1:
        return torch.randn(tensor.shape, generator=generator) / math.sqrt(tensor[0].numel())
    if key.endswith("bias"):
        return torch.randn(tensor.shape, generator=generator) * 0.02
    return torch.rand(tensor.shape, generator=generator) + 0.5  # norms, layer scales, batch variances


@contextmanager
def open_subject(name: str, overrides: Sequence[str] = ()) -> Iterator[Subject]:
    """The tower of a registered name (random weights) or of a config (its own weights), for as long as the block lasts.

    `overrides` are ``"tower.pool=2"`` strings. Raises VitaError for a name, config or checkpoint that is not there.
    """
    found = named_tower(name)
    with TemporaryDirectory(prefix="vita-check-") as directory:
        scratch = Path(directory)
        if found is None:
            resolved = resolve(name, overrides, tower_only=True)
            settings, origin = resolved.config.tower, resolved.tower
            if origin.part is None:
                origin.source.files(origin.spec.weight_files)
        else:
            (scratch / "config.json").write_text(json.dumps(dict(found.spec.example or {})), encoding="utf-8")
            settings = resolve(
                {"tower": {"type": name, "weights": str(scratch)}}, overrides, tower_only=True
            ).config.tower
            origin = None
        yield Subject(name, settings, scratch, origin)

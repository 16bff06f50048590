"""The tower under test: the tower of a config, or a registered name with random weights in a temporary directory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vita_core.config.fused import FUSED, WHOLE
from vita_core.config.schema import TowerConfig
from vita_core.config.validation import validate
from vita_core.interrupts import temporary_directory
from vita_core.pixels.fused import FusedPixels
from vita_core.planning.described import named_tower
from vita_core.planning.reduction_weights import stated_step
from vita_core.planning.resolution import resolve
from vita_core.planning.towers import ResolvedTower, resolve_tower
from vita_core.plugins.registry import import_object
from vita_core.testing.outcomes import BrokenContractError, SkippedCheckError
from vita_core.towers.deriving import build_encoder
from vita_core.towers.reducing import build_reduction, freeze_reductions, save_reduction
from vita_core.towers.tower import BaseVisionTower, build_resolved

__all__ = ["Subject", "open_subject", "random_values"]

PLAIN: Mapping[str, Any] = {"dtype": "float32", "freeze": True, "delay_load": False}
"""Tower keys that every check starts with, whatever the config says. Some checks change them."""


@dataclass(frozen=True)
class Subject:
    """The tower under test. Every check builds it from the config with its own changes.

    `scratch` is a directory for temporary files. `origin` is the resolved tower of a config. For a registered name it is
    None and the weights are random: `settings.weights` is a directory with only a ``config.json``, and `weights` is a file
    of random weights, which is made on first use.
    """

    name: str
    settings: TowerConfig
    scratch: Path
    origin: ResolvedTower | None = None

    @property
    def random_weights(self) -> bool:
        """Whether the tower is a registered name, which gets random weights."""
        return self.origin is None

    def one_encoder(self) -> None:
        """Skip a check that is about one encoder if the tower has several."""
        if self.settings.towers is not None:
            raise SkippedCheckError("it is a contract of one encoder; check each part of `towers` alone")

    def configured(self, **changes: Any) -> TowerConfig:
        """Return the tower's config in float32 and frozen, with `changes`. Of several encoders, each part is changed."""
        own, changed = self.settings.model_dump(exclude_unset=True), {**PLAIN, **changes}
        if own.get("towers") is None:
            return validate(TowerConfig, {**own, **changed})
        whole = {key: value for key, value in changed.items() if key in WHOLE}
        each = {key: value for key, value in changed.items() if key not in WHOLE}
        return validate(TowerConfig, {**own, **whole, "towers": [{**part, **each} for part in own["towers"]]})

    def resolved(self, **changes: Any) -> ResolvedTower:
        """Resolve the changed config. No weights are read."""
        changed = self.configured(**changes)
        if self.origin is None or "weights" in changes or changed.towers is not None:
            return resolve_tower(changed)
        return resolve_tower(changed, source=self.origin.source, part=self.origin.part)

    def build(self, *, device: torch.device | str = "cpu", **changes: Any) -> BaseVisionTower:
        """Build a new tower from the changed config."""
        if self.random_weights:
            changes = {"weights": self.weights, **changes}
        tower = build_resolved(self.resolved(**changes), device)
        if changes.get("freeze") is not False:  # the key is about the encoder only
            freeze_reductions(tower)
        return tower.train(tower.training)

    def pixels(self, count: int = 2, **changes: Any) -> Any:
        """Return random pixels (count, 3, H, W) of the size that the changed config takes, the same in every call.

        For a tower of videos they are (count, frames, 3, H, W). For several encoders, it is a `FusedPixels`.
        """
        resolved, generator = self.resolved(**changes), torch.Generator().manual_seed(0)
        parts = resolved.parts or (resolved,)
        sizes = [(*part.shape.pixels[:-2], *part.geometry.input_size) for part in parts]
        made = [torch.randn(count, *size, generator=generator) for size in sizes]
        return FusedPixels(made) if resolved.parts else made[0]

    @cached_property
    def weights(self) -> str:
        """The checkpoint that the checks load."""
        if not self.random_weights:
            return str(self.settings.weights)
        return self._write("random", self._random_state())

    @cached_property
    def tower(self) -> BaseVisionTower:
        """A loaded float32 tower that all checks share. They must not change it."""
        try:
            return self.build()
        except Exception as error:
            raise SkippedCheckError("the tower cannot be built and loaded; fix the check `loads` first") from error

    @cached_property
    def features(self) -> Tensor:
        """The features (2, N, C) of `pixels()`."""
        features: Tensor = self.tower(self.pixels())
        return features.detach()

    @property
    def encoder(self) -> nn.Module:
        """The encoder of the shared tower."""
        encoder = self.tower.vision_tower
        if encoder is None:
            raise BrokenContractError("tower.vision_tower is None after load_model()")
        return encoder

    def reloaded(self, state: Mapping[str, Tensor] | None = None) -> BaseVisionTower:
        """Build a second tower that loads `state`, by default the state dict of the shared encoder, from a file."""
        weights = self._write("copy", self.encoder.state_dict() if state is None else state)
        named = self.settings.type or self.tower.resolved.spec.name
        return self.build(type=named, weights=weights, revision=None)

    def _write(self, directory: str, state: Mapping[str, Tensor]) -> str:
        """Write a checkpoint with these tensors and the tower's own config to `scratch`, and return its tensor file."""
        folder = self.scratch / directory
        folder.mkdir(exist_ok=True)
        config = dict(self.resolved().source.config)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        # clone, because safetensors refuses views and tensors that share memory
        save_file({key: value.detach().clone() for key, value in state.items()}, folder / "tensors.safetensors")
        return str(folder / "tensors.safetensors")

    def _random_state(self) -> dict[str, Tensor]:
        """Return random tensors for the whole encoder, under the encoder's own keys."""
        whole: dict[str, Any] = {"layers": "all"}
        if self.resolved().shape.norm_parameters is not None:
            whole["norm"] = True
        resolved = self.resolved(**whole)
        factory = import_object(resolved.spec.factory, requires=resolved.spec.requires, owner=resolved.owner)
        tower: BaseVisionTower = factory(resolved)
        encoder = build_encoder(tower)
        generator = torch.Generator().manual_seed(0)
        return {key: random_values(key, tensor, generator) for key, tensor in encoder.state_dict().items()}


def random_values(key: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return values that keep activations in range: about 1 / sqrt(fan in) for matrices, about 1 for scales."""
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    if tensor.ndim > 1:
        return torch.randn(tensor.shape, generator=generator) / math.sqrt(tensor[0].numel())
    if key.endswith("bias"):
        return torch.randn(tensor.shape, generator=generator) * 0.02
    return torch.rand(tensor.shape, generator=generator) + 0.5  # norms, layer scales, batch variances


@contextmanager
def open_subject(name: str | Mapping[str, Any], overrides: Sequence[str] = ()) -> Iterator[Subject]:
    """Open the tower of a registered name (with random weights) or of a config (with its own weights) for a `with` block.

    A config is a name as everywhere, or a mapping of its sections. `overrides` are strings such as ``"tower.pool=2"``.
    Raises VitaError for an unknown name, or a missing config or checkpoint.
    """
    found = named_tower(name) if isinstance(name, str) else None
    with temporary_directory("vita-check-") as scratch:
        if found is None:
            resolved = resolve(name, overrides, tower_only=True)
            settings, origin = resolved.config.tower, resolved.tower
            for part in origin.parts or (origin,):
                if part.part is None and not part.random:
                    part.source.files(part.spec.weight_files)
        else:
            (scratch / "config.json").write_text(json.dumps(dict(found.spec.example or {})), encoding="utf-8")
            settings = resolve(
                {"tower": {"type": name, "weights": str(scratch)}}, overrides, tower_only=True
            ).config.tower
            origin = None
        if settings.reduce is not None or settings.towers is not None:
            section = settings.model_dump(exclude_unset=True)
            _give_weights(section, origin or resolve_tower(settings), scratch)
            settings = validate(TowerConfig, section)
        shown = name if isinstance(name, str) else (settings.type or settings.weights or FUSED)
        yield Subject(shown, settings, scratch, origin)


def _give_weights(section: dict[str, Any], resolved: ResolvedTower, scratch: Path) -> None:
    """Let reductions that learn, but have no weights, name a file of random ones in a section ``tower:``."""
    for place, part in enumerate(resolved.parts):
        _give_weights(section["towers"][place], part, scratch / str(place))
    for place, step in enumerate(resolved.geometry.reductions):
        if step.spec.trainable and step.settings.weights is None:
            file = scratch / f"reduce-{place}.safetensors"
            save_reduction(file, step, build_reduction(step))
            stated_step(section, step.key)["weights"] = str(file)

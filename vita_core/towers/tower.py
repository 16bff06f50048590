"""The tower: pixels in, tokens out. `BaseVisionTower` is what authors subclass, `build_tower` what callers call."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, overload

import torch
from torch import Tensor, nn

from vita_core.config.schema import TowerConfig
from vita_core.errors import VitaError
from vita_core.loading import KeyRules, LoadReport, fill, part_tensors, read_tensors, without_weights
from vita_core.planning.geometry import Grid, shuffled_grid
from vita_core.planning.towers import ResolvedTower, resolve_tower
from vita_core.plugins.registry import import_object
from vita_core.towers import features
from vita_core.towers.devices import check_usable, compile_blocks, compile_errors, compiled, pictures_at_once
from vita_core.towers.encoders import build_checked
from vita_core.towers.freezing import freeze, train_unfrozen
from vita_core.towers.metadata import TowerMetadata

__all__ = ["BaseVisionTower", "build_tower"]


class BaseVisionTower(TowerMetadata, abc.ABC):
    """A tower but for its encoder. A subclass says how to build one (`build_encoder`) and run it (`encode`).

    Class attributes say how checkpoint keys become the encoder's, all optional (see `vita_core.loading.KeyRules`):
    `renames` (regular expression, replacement); `splits` (expression, replacements): a fused tensor cut on dim 0;
    `skips` (expression, reason): tensors of no use here; `block_key`, an expression whose group 1 is a block's index,
    lets blocks behind the last selected layer stay unread. `input_sizes` says which pictures the encoder takes beside
    those of its configured size: ``any``, ``patches`` (sides of whole patches: it interpolates its positions) or
    ``fixed`` (none). For subclasses to read: `settings` (the tower's config, defaults filled in), `checkpoint_config`
    (the checkpoint's own config file), `shape`, `blocks` (how many to build). Parameters must be registered in the order
    they run, for ``freeze: {from_layer: k}`` counts them.

    Against float32, the built-in towers keep within 0.5% of the largest feature in float16 and 3% in bfloat16.
    """

    renames: ClassVar[Sequence[tuple[str, str]]] = ()
    splits: ClassVar[Sequence[tuple[str, tuple[str, ...]]]] = ()
    skips: ClassVar[Sequence[tuple[str, str]]] = ()
    block_key: ClassVar[str | None] = None
    input_sizes: Literal["any", "patches", "fixed"] = "any"

    def __init__(self, resolved: ResolvedTower, device: torch.device | str = "cpu") -> None:
        super().__init__(resolved, device)
        self.load_report: LoadReport | None = None
        self._compiled_whole = False

    # what an author writes -------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def build_encoder(self) -> nn.Module:
        """The encoder with `self.blocks` blocks, without weights. Parameters are on the meta device while this runs.

        Buffers that no checkpoint holds keep their dtype: ``.to(self.dtype)`` the encoder if its library casts them too.
        """

    @abc.abstractmethod
    def encode(self, pixels: Tensor, layers: Sequence[int]) -> tuple[Mapping[int, Tensor], Grid]:
        """Pixels (B, 3, H, W) -> layer index -> hidden state (B, prefix + rows * cols, C), and the grid (rows, cols).

        `layers` are ascending, each once. They count as Hugging Face's ``hidden_states``: 0 = embeddings, k = output of
        block k, before the final norm.
        """

    def final_norm(self, tokens: Tensor) -> Tensor:
        """The encoder's final norm on (B, T, C), for ``norm: true``. Needed only where `Shape.norm_parameters` is set."""
        raise VitaError(f"{type(self).__name__} states norm_parameters but defines no final_norm(tokens)")

    @staticmethod
    def run_blocks(
        tokens: Tensor, blocks: Iterable[nn.Module], layers: Sequence[int], **kwargs: Any
    ) -> dict[int, Tensor]:
        """Run `blocks` one by one on (B, T, C), keeping only the hidden states that are asked for."""
        kept = {0: tokens} if 0 in layers else {}
        for index, block in enumerate(blocks, 1):
            if index > max(layers):
                break
            tokens = block(tokens, **kwargs)
            if index in layers:
                kept[index] = tokens
        return kept

    # the contract ----------------------------------------------------------------------------------------------------

    def load_model(self) -> None:
        """Build the encoder and fill it from the checkpoint, strictly; a second call does nothing.

        Raises CheckpointError (with counts and examples) when the weights do not fit.
        """
        if self.is_loaded:
            return
        check_usable(self.attention, self.settings.compile, self._device)
        source, part = self.resolved.source, self.resolved.part
        found = part_tensors(part) if part is not None else read_tensors(source.files(self.resolved.spec.weight_files))
        with torch.device("cpu"):  # also where the caller builds on the meta device
            with without_weights():
                encoder = build_checked(self.resolved, self.build_encoder)
            device = torch.device("cpu") if self._device.type == "meta" else self._device
            where = f"tower {source.weights}"
            report = fill(encoder, found, self.key_rules(), dtype=self.dtype, device=device, where=where)
        freeze(encoder, self.settings.freeze, self.shape)
        self._compiled_whole = self.settings.compile and not compile_blocks(encoder)
        self.encoder, self.load_report = encoder, report
        self.train(self.training)

    def key_rules(self) -> KeyRules:
        """How the checkpoint's keys become the encoder's: the class's rules, and one that skips the blocks not built."""
        skips = list(self.skips)
        behind = "|".join(str(index) for index in range(self.blocks, self.shape.layers))
        if self.block_key is not None and behind:
            skips.append((self.block_key.replace(r"(\d+)", f"(?:{behind})"), "blocks behind the last selected layer"))
        return KeyRules(self.renames, self.splits, skips)

    def train(self, mode: bool = True) -> BaseVisionTower:
        """Train or eval mode; what is frozen stays in eval mode (its dropout and batch statistics must not move)."""
        super().train(mode)
        if self.encoder is not None and mode:
            train_unfrozen(self.encoder)
        return self

    @overload
    def forward(self, images: Tensor) -> Tensor: ...
    @overload
    def forward(self, images: Sequence[Tensor]) -> list[Tensor]: ...
    def forward(self, images: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """(B, 3, H, W) -> (B, N, C) in the input's dtype; a list of (3, H, W) -> a list of (1, N, C).

        Raises VitaError when the tower is not loaded or a shape is wrong.
        """
        if self.encoder is None:
            raise VitaError(
                f"tower {self.resolved.spec.name!r} is not loaded: call tower.load_model() first (delay_load is set)"
            )
        if isinstance(images, Tensor):
            return self._batch(images)
        output: list[Tensor | None] = [None] * len(images)
        for size in dict.fromkeys(image.shape for image in images):  # pictures of one size share a batch
            where = [index for index, image in enumerate(images) if image.shape == size]
            batch = self._batch(torch.stack([images[index] for index in where]))
            for index, tokens in zip(where, batch.split(1), strict=True):
                output[index] = tokens
        return [tokens for tokens in output if tokens is not None]

    def _batch(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise VitaError(
                f"a tower takes pixels (B, 3, H, W) or a list of (3, H, W), not shape {tuple(images.shape)}"
            )
        if len(images) == 0:  # one blank picture says the shape; encoders choke on empty batches
            return self._batch(images.new_zeros(1, *images.shape[1:]))[:0]
        pixels = images.to(device=self.device, dtype=self.dtype)
        if self.settings.s2 is not None:
            tokens, grid = features.s2_features(pixels, self.settings.s2.scales, self._selected)
        else:
            tokens, grid = self._selected(pixels)
        if self.settings.pixel_shuffle:
            tokens = self.pixel_shuffle(tokens, self.settings.pixel_shuffle, grid=grid)
            grid = shuffled_grid(grid, self.settings.pixel_shuffle)
        if self.settings.pool is not None:
            tokens = features.pool(tokens, grid, self.grid)
        output = tokens.to(images.dtype)
        if self.settings.check_finite and not output.isfinite().all():
            raise VitaError(self._not_finite(images, output))
        return output

    def _not_finite(self, images: Tensor, output: Tensor) -> str:
        dtype, wrong = str(self.dtype).removeprefix("torch."), int((~output.isfinite()).sum())
        found = f"tower {self.resolved.spec.name!r} in {dtype} gave {wrong} of {output.numel()} features that are not finite"
        if not images.isfinite().all():
            return f"{found}, but neither are the pixels: mend what made them"
        if torch.float16 in (self.dtype, output.dtype):
            return f"{found}: use `dtype: bfloat16` or float32, and such pixels too (the output has their dtype)"
        return f"{found}: try `dtype: float32`; if it is that already, the weights are damaged"

    def _check_size(self, pixels: Tensor) -> None:
        size, own = tuple(pixels.shape[-2:]), self.shape.image_size
        rows, cols = own[0] // self.shape.stages[0].grid[0], own[1] // self.shape.stages[0].grid[1]
        whole = size[0] % rows == 0 == size[1] % cols and min(size) > 0
        if size == own or self.input_sizes == "any" or (self.input_sizes == "patches" and whole):
            return
        step = "" if self.input_sizes == "fixed" else f", or any height of {rows} x n and width of {cols} x n"
        raise VitaError(
            f"tower {self.resolved.spec.name!r} takes pictures of {own[0]} x {own[1]} pixels{step}, not {size[0]} x {size[1]}; "
            "its image_processor makes them so"
        )

    def _selected(self, pixels: Tensor) -> tuple[Tensor, Grid]:
        """Pixels (M, 3, H, W), as many at once as may be -> the selected tokens (M, N, C) and their grid."""
        self._check_size(pixels)
        encode = compiled(type(self).encode) if self._compiled_whole else type(self).encode
        layers, scale = sorted(set(self.resolved.geometry.layers)), self.settings.feature_scale
        parts: list[Tensor] = []
        with compile_errors(self.resolved.spec.name, self.settings.compile):
            for part in pixels.split(self._at_once(pixels)):
                states, grid = encode(self, part, layers)
                tokens = self.feature_select(states)
                parts.append(tokens if scale is None else tokens * scale)
        return parts[0] if len(parts) == 1 else torch.cat(parts), grid

    def _at_once(self, pixels: Tensor) -> int:
        if torch.is_grad_enabled() and (pixels.requires_grad or any(p.requires_grad for p in self.parameters())):
            return len(pixels)  # the graph keeps every activation: in parts they would take as much
        run = self.shape.stages[: max(self.resolved.geometry.layers) + 1]
        return self.settings.max_batch or pictures_at_once(pixels, self.shape.image_size, run)

    def feature_select(self, hidden_states: Any) -> Tensor:
        """The selected layer(s) of all hidden states (a sequence, a mapping, or an object with ``.hidden_states``),
        concatenated on channels, normed if so configured, without the prefix tokens: (B, N, C)."""
        states = getattr(hidden_states, "hidden_states", hidden_states)
        chosen = [states[layer] for layer in self.resolved.geometry.layers]
        if self.settings.norm:
            chosen = [self.final_norm(tokens) for tokens in chosen]
        tokens = chosen[0] if len(chosen) == 1 else torch.cat(chosen, dim=-1)
        return features.select_feature(tokens, self.settings.select_feature or "patch", self.shape.prefix_tokens)

    def pixel_shuffle(self, x: Tensor, scale_factor: float = 0.5, *, grid: Grid | None = None) -> Tensor:
        """Trade grid for channels; see `vita_core.towers.features.pixel_shuffle`."""
        return features.pixel_shuffle(x, scale_factor, grid=grid)


def build_tower(config: TowerConfig | Mapping[str, Any], *, device: torch.device | str = "cpu") -> BaseVisionTower:
    """The tower a config (the ``tower:`` section as a dict) names, loaded unless it says ``delay_load: true``.

    Raises ConfigError, PluginError or CheckpointError, all VitaError.
    """
    return build_resolved(resolve_tower(config), device)


def build_resolved(resolved: ResolvedTower, device: torch.device | str) -> BaseVisionTower:
    """The tower that was resolved, loaded unless its config says ``delay_load: true``."""
    factory = import_object(resolved.spec.factory, requires=resolved.spec.requires, owner=resolved.owner)
    tower: BaseVisionTower = factory(resolved, device)
    if not resolved.settings.delay_load:
        tower.load_model()
    return tower

"""The vision tower: pixels in, tokens out. Plugin authors subclass `BaseVisionTower`; users call `build_tower`."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from vita_core.adapters import load_adapter
from vita_core.config.schema import TowerConfig
from vita_core.loading import KeyRules, LoadReport, Tensors, fill, part_tensors, read_tensors
from vita_core.planning.reduction_weights import check_trained, check_weights
from vita_core.planning.towers import ResolvedTower, resolve_tower
from vita_core.plugins.registry import import_object
from vita_core.towers.batches import BatchRunner
from vita_core.towers.deriving import build_encoder
from vita_core.towers.devices import check_usable, compile_blocks
from vita_core.towers.encoders import random_tensors
from vita_core.towers.freezing import freeze, train_unfrozen
from vita_core.towers.nesting import nested_rules

__all__ = ["BaseVisionTower", "build_tower"]


class BaseVisionTower(BatchRunner):
    """The base class of all towers. A subclass defines how to build its encoder (`build_encoder`).

    By default the encoder's own ``forward`` runs, and hooks take the hidden states from its blocks: the list at
    `block_path`, or the largest list of modules. `norm_path` names the final norm, if there is one. `encode` and
    `final_norm` can be defined instead. If the spec has no shape function, `build_encoder` builds all blocks, and those
    that are not needed are removed.

    Class attributes, all optional, map checkpoint keys to the encoder's keys (see `vita_core.loading.KeyRules`):
    `renames` (regular expression, replacement); `splits` (expression, replacements) for a fused tensor cut on dim 0;
    `skips` (expression, reason) for tensors that the encoder does not need. `block_key` is an expression whose group 1 is
    the index of a block: blocks after the last selected layer are then not read. With `nested`, checkpoints may hold a
    larger model: the encoder is taken from below the prefix where most of its keys are found, and the rules are for the
    keys below it; `outer_renames` are tried on the larger model's keys before. `input_sizes` says which other picture sizes
    the encoder accepts: ``any``, ``patches`` (multiples of the patch size; it interpolates positions) or ``fixed``.

    `block_parts` says where the parts of the encoder's blocks are, if its spec has `opens_blocks`; see `BlockParts`.

    Subclasses may read `settings` (the tower's config with defaults), `checkpoint_config` (the checkpoint's own config),
    `shape`, and `blocks` (how many to build). They must register parameters in the order they run, or define
    `in_run_order`, because ``freeze: {from_layer: k}`` counts them. The features of the built-in towers differ from float32
    by at most 0.5% of the largest feature in float16, and 3% in bfloat16.
    """

    renames: ClassVar[Sequence[tuple[str, str]]] = ()
    splits: ClassVar[Sequence[tuple[str, tuple[str, ...]]]] = ()
    skips: ClassVar[Sequence[tuple[str, str]]] = ()
    block_key: ClassVar[str | None] = None
    nested: ClassVar[bool] = False
    outer_renames: ClassVar[Sequence[tuple[str, str]]] = ()

    def __init__(self, resolved: ResolvedTower, device: torch.device | str = "cpu") -> None:
        super().__init__(resolved, device)
        self.load_report: LoadReport | None = None

    # what a subclass defines -----------------------------------------------------------------------------------------

    @abc.abstractmethod
    def build_encoder(self) -> nn.Module:
        """Return the encoder with `self.blocks` blocks (or all, without a shape function). It is built on the meta device.

        Buffers that no checkpoint holds keep their dtype. Call ``.to(self.dtype)`` on the encoder if its library casts
        them too.
        """

    def in_run_order(self, encoder: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
        """Return the named parameters in the order they run. Define it if they are registered in another order."""
        return encoder.named_parameters()

    # the contract ----------------------------------------------------------------------------------------------------

    def load_model(self) -> None:
        """Build the encoder and load its weights strictly. A second call does nothing.

        Raises CheckpointError, with counts and examples, if the weights do not fit.
        """
        if self.is_loaded:
            return
        check_usable(self.attention, self.settings.compile, self._device)
        self.load_reductions()
        with torch.device("cpu"):  # even if the caller builds on the meta device
            encoder = build_encoder(self)
            device = torch.device("cpu") if self._device.type == "meta" else self._device
            stated = {key: value for key, value in self.settings.options.items() if value is not None}
            where = f"tower {self.resolved.source.weights}" + (f" with options {stated}" if stated else "")
            rules = self.key_rules()
            if self.nested and not self.resolved.random:
                rules = nested_rules(rules, encoder.state_dict().keys(), self._stored_keys(), self.outer_renames)
            report = fill(encoder, self._tensors(rules), rules, dtype=self.dtype, device=device, where=where)
        if self.settings.adapter is not None:
            load_adapter(encoder, Path(self.settings.adapter))
        freeze(encoder, self.settings.freeze, self.shape, self.in_run_order)
        self._compiled_whole = self.settings.compile and not compile_blocks(encoder)
        self.encoder, self.load_report = encoder, report
        self.open_blocks()
        self.train(self.training)

    def _stored_keys(self) -> list[str]:
        """Return the key of every tensor in the checkpoint. No tensor is read."""
        if self.resolved.part is not None:
            return [key for key, _ in part_tensors(self.resolved.part)]
        return self.resolved.source.keys(self.resolved.spec.weight_files)

    def _tensors(self, rules: KeyRules) -> Tensors:
        """Return the tensors of the checkpoint. Shards whose tensors are all skipped need not exist."""
        if self.resolved.part is not None:
            return part_tensors(self.resolved.part)
        if self.resolved.random:
            return random_tensors(self.resolved, self.build_encoder)
        patterns = self.resolved.spec.weight_files
        needed = self.resolved.source.files(patterns, lambda key: rules.skipped(rules.renamed(key)) is None)
        return read_tensors(needed)

    def key_rules(self) -> KeyRules:
        """Return the class's rules for checkpoint keys, with a rule that skips the blocks that are not built."""
        skips = list(self.skips)
        behind = "|".join(str(index) for index in range(self.blocks, self.shape.layers))
        if self.block_key is not None and behind:
            skips.append((self.block_key.replace(r"(\d+)", f"(?:{behind})"), "blocks after the last selected layer"))
        return KeyRules(self.renames, self.splits, skips)

    def train(self, mode: bool = True) -> BaseVisionTower:
        """Set train or eval mode. Frozen modules stay in eval mode, so that dropout and batch statistics do not change."""
        super().train(mode)
        if self.encoder is not None and mode:
            train_unfrozen(self.encoder)
            train_unfrozen(self.reductions)
        return self


def build_tower(config: TowerConfig | Mapping[str, Any], *, device: torch.device | str = "cpu") -> BaseVisionTower:
    """Build a tower from its config (the ``tower:`` section as a dict), and load it unless ``delay_load: true`` is set.

    Raises ConfigError, PluginError or CheckpointError, which are all VitaErrors. One of them is that a reduction learns but
    has no weights.
    """
    return build_resolved(resolve_tower(config), device)


def build_resolved(resolved: ResolvedTower, device: torch.device | str, *, untrained: bool = False) -> BaseVisionTower:
    """Build a tower from its resolved config, and load it unless ``delay_load: true`` is set.

    Raises ConfigError for a reduction that learns and has no weights, unless `untrained` ones are wanted.
    """
    check_weights(resolved)
    if not untrained:
        check_trained(resolved)
    tower = unloaded(resolved, device)
    if not resolved.settings.delay_load:
        tower.load_model()
    return tower


def unloaded(resolved: ResolvedTower, device: torch.device | str) -> BaseVisionTower:
    """Build a tower from its resolved config without its encoder."""
    factory = import_object(resolved.spec.factory, requires=resolved.spec.requires, owner=resolved.owner)
    tower: BaseVisionTower = factory(resolved, device)
    return tower

"""A vision model of transformers, run by its own ``forward``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from vita_core import BaseVisionTower, VitaError, hidden_states
from vita_plugins.transformers.families import Family
from vita_plugins.transformers.finding import vision_config
from vita_plugins.transformers.geometry import as_key, build, family_of, input_sizes, measured, remove
from vita_plugins.transformers.keys import checkpoint_keys
from vita_plugins.transformers.ordering import unwindowed
from vita_plugins.transformers.running import inputs, watch
from vita_plugins.transformers.tracing import Trace, inside
from vita_plugins.transformers.video import step_by_step


class TransformersTower(BaseVisionTower):
    """Runs any still-picture vision model that transformers can build, up to the last selected layer."""

    nested = True
    family: Family
    trace: Trace

    def build_encoder(self) -> nn.Module:
        if self.settings.compile:
            raise VitaError("tower.compile: tower 'transformers' does not support it yet. Try: `tower.compile: false`")
        attention = None if self.settings.attention == "auto" else self.attention
        part = vision_config(self.checkpoint_config)
        self.trace = traced = measured(as_key(self.checkpoint_config), self.shape.image_size)[1]
        self.family = replace(family_of(part), blocks=traced.blocks)
        self.check_norm()
        model = build(part, attention)
        count = len(traced.layers) - 1
        after = remove(
            model, traced, count, lambda path: traced.steps[path] > count and not inside(path, traced.norm or "-")
        )
        parent = self.checkpoint_config.get("model_type")
        keys = checkpoint_keys(model, self.family, None if parent == type(part).model_type else parent)
        self.renames, self.splits, self.skips, self.outer_renames = keys.renames, keys.splits, keys.skips, keys.outer
        self.input_sizes = input_sizes(part)
        behind = remove(model, traced, self.blocks, lambda path: count >= traced.steps[path] > self.blocks)
        for paths, reason in ((behind, "blocks after the last selected layer"), (after, "head")):
            if paths:
                self.skips = [*self.skips, (rf"^(?:{'|'.join(map(re.escape, paths))})\.", reason)]
        return model

    def check_norm(self) -> None:
        """Raise VitaError if the final norm does not fit each of the selected layers, for ``norm: true``."""
        layers, stages = self.resolved.geometry.layers, self.shape.stages
        if self.settings.norm and any(stages[layer].channels != stages[-1].channels for layer in layers):
            raise VitaError(
                f"tower.norm: the encoder's final norm fits only layer {self.shape.layers}, the last, not {sorted(layers)}. "
                f"Try: `tower.select_layer: {self.shape.layers}` or `tower.norm: false`"
            )

    def in_run_order(self, encoder: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
        own = dict(encoder.named_parameters())
        for path in self.trace.order:
            for name in [name for name in own if name.rpartition(".")[0] == path]:
                yield name, own.pop(name)

    def encode(self, pixels: Tensor, layers: Sequence[int]) -> tuple[dict[int, Tensor], tuple[int, ...]]:
        assert self.encoder is not None
        encoder, given = self.encoder, inputs(self.family, self.encoder, pixels)
        kept = hidden_states(
            lambda layer, keep: watch(self.family, encoder, self.trace.layers[layer], keep),
            lambda: encoder(**given),
            layers,
        )
        grid = self.grid_of(pixels, layers[-1])
        if self.shape.frames is not None:
            steps = self.shape.steps
            return {layer: step_by_step(kept[layer], encoder.config, steps) for layer in kept}, (steps, *grid)
        for layer, state in kept.items():
            found, extra = self.trace.layers[layer], self.trace.layers[layer].prefix - self.shape.prefix_tokens
            if state.ndim == 4:
                grid = (state.shape[1], state.shape[2]) if found.channels_last else (state.shape[2], state.shape[3])
                kept[layer] = state.flatten(1, 2) if found.channels_last else state.flatten(2).transpose(1, 2)
            elif self.family.rows is not None:
                kept[layer] = self.family.rows(self.encoder, layer, state).flatten(1, 2)
            elif self.family.windows is not None:
                kept[layer] = unwindowed(state, int(getattr(encoder.config, self.family.windows)), grid)
            elif extra > 0:  # PVT has a CLS token in its last stage alone
                kept[layer] = state[:, extra:]
        return kept, grid

    def grid_of(self, pixels: Tensor, layer: int) -> tuple[int, int]:
        """Return the grid (rows, cols) of a layer for pixels of any size that the encoder takes."""
        size, own = (pixels.shape[-2], pixels.shape[-1]), self.shape.image_size
        stages = self.shape.stages
        if size != own and stages[0].grid != stages[-1].grid:  # a stage's grid may be rounded up
            return measured(as_key(self.checkpoint_config), size)[0].stages[layer].grid
        rows, cols = stages[layer].grid
        return size[0] * rows // own[0], size[1] * cols // own[1]

    def final_norm(self, tokens: Tensor) -> Tensor:
        normed: Tensor = self.encoder.get_submodule(self.trace.norm)(tokens)
        return normed

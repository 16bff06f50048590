"""A vision model of transformers, run by its own ``forward``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from vita_core import hidden_states
from vita_plugins.transformers.base import LibraryTower
from vita_plugins.transformers.families import Family
from vita_plugins.transformers.geometry import as_key, check_norm, family_of, grid_of, input_sizes, measured, remove
from vita_plugins.transformers.keys import saved_beside
from vita_plugins.transformers.ordering import in_rows
from vita_plugins.transformers.running import inputs, watch
from vita_plugins.transformers.tracing import Trace, inside
from vita_plugins.transformers.video import step_by_step


class TransformersTower(LibraryTower):
    """Runs any vision model of one picture size, or of videos, that transformers can build, up to the last selected layer."""

    family: Family
    trace: Trace

    def build_encoder(self) -> nn.Module:
        part, model = self.built()
        self.trace = traced = measured(as_key(self.checkpoint_config), self.shape.image_size)[1]
        self.family = replace(family_of(part), blocks=traced.blocks)
        self.norm_path, self.input_sizes = traced.norm, input_sizes(part)
        if self.settings.norm:
            check_norm(self.shape, self.resolved.geometry.layers)
        steps, end, norm = traced.steps, self.shape.layers, traced.norm or "-"
        heads = remove(model, traced, end, lambda path: steps[path] > end and not inside(path, norm), "head")
        keys = self.map_keys(part, model, self.family)
        beside = saved_beside(model, part, self.checkpoint_config)
        unused = "blocks after the last selected layer"
        behind = remove(model, traced, self.blocks, lambda path: end >= steps[path] > self.blocks, unused)
        self.skips = [*keys.skips, *beside, *behind, *heads]
        return model

    def in_run_order(self, encoder: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
        own = dict(encoder.named_parameters())
        for path in self.trace.order:
            for name in [name for name in own if name.rpartition(".")[0] == path]:
                yield name, own.pop(name)

    def encode(self, pixels: Tensor, layers: Sequence[int]) -> tuple[dict[int, Tensor], tuple[int, ...]]:
        encoder, family, trace = self.encoder, self.family, self.trace
        given = inputs(family, encoder, pixels)
        kept = hidden_states(
            lambda layer, keep: watch(family, encoder, trace.layers[layer], keep), lambda: encoder(**given), layers
        )
        grid = grid_of(self.checkpoint_config, self.shape, (pixels.shape[-2], pixels.shape[-1]), layers[-1])
        if self.shape.frames is not None:
            steps = self.shape.steps
            return {layer: step_by_step(kept[layer], encoder.config, steps) for layer in kept}, (steps, *grid)
        for layer, state in kept.items():
            kept[layer], grid = in_rows(family, encoder, trace, layer, state, grid, prefix=self.shape.prefix_tokens)
        return kept, grid

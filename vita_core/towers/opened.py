"""Run an encoder block by block, with the reductions that need its blocks opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from vita_core.errors import PluginError
from vita_core.plugins.registry import import_object
from vita_core.towers.reducing import Reducing
from vita_core.towers.reductions.blocks import BlockParts, BlockRunner, States

__all__ = ["OpenedBlocks"]


class OpenedBlocks(Reducing):
    """Runs the blocks of an encoder. `opened` is set if reductions run in them, or need the attention of the last one."""

    block_parts: BlockParts | None = None
    opened: BlockRunner | None = None

    def open_blocks(self) -> None:
        """Build the reductions inside the encoder, and what runs its blocks with them. Raises PluginError."""
        geometry, operations = self.resolved.geometry, {}
        scored = any(step.spec.scores for step in geometry.reductions)
        if not geometry.inside and not scored:
            return
        if self.block_parts is None:
            raise PluginError(
                f"tower {self.resolved.spec.name!r}: its TowerSpec says opens_blocks, but {type(self).__name__} has no "
                "block_parts. Try: set it, or report this to the author of the plugin"
            )
        for step in geometry.inside:
            made = import_object(step.spec.inside or "", requires=step.spec.requires, owner=step.owner)
            for block in step.settings.blocks or ():
                sizes = (geometry.patches[block - 1], self.shape.stages[block].channels)
                operations[block] = made(sizes, step.options)
        self.opened = BlockRunner(self.block_parts, self.shape.prefix_tokens, operations, scored)

    def run_blocks(
        self, tokens: Tensor, blocks: Iterable[nn.Module], layers: Sequence[int], **kwargs: Any
    ) -> dict[int, Tensor]:
        """Run `blocks` one by one on (B, T, C), and return only the hidden states of `layers`."""
        if self.opened is not None:
            return self.opened.run(tokens, blocks, layers, **kwargs)
        kept = {0: tokens} if 0 in layers else {}
        for index, block in enumerate(blocks, 1):
            if index > max(layers):
                break
            tokens = block(tokens, **kwargs)
            if index in layers:
                kept[index] = tokens
        return kept

    def pruned(self, tokens: Tensor, states: Mapping[int, Tensor]) -> Tensor:
        """Return the selected tokens (B, N, C) of `states` after the step that needs the scores of the last block, if any."""
        if self.opened is None:
            return tokens
        if not isinstance(states, States):
            raise PluginError(
                f"tower {self.resolved.spec.name!r}: {type(self).__name__}.encode does not run its blocks by run_blocks, so "
                "nothing is reduced in them. Try: return what run_blocks returns, or report this to the author of the plugin"
            )
        for step, module in zip(self.resolved.geometry.reductions, self.reductions, strict=True):
            if step.spec.scores:
                tokens = module(tokens, None, scores=states.scores)
        return tokens

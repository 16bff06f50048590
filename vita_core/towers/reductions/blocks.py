"""Take an encoder's blocks apart: reduce the tokens between attention and MLP, and find what the CLS token attends to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vita_core.towers.tapping import hidden_states

__all__ = ["Attention", "BlockParts", "BlockRunner", "Kept", "Operation", "States"]


@dataclass(frozen=True)
class BlockParts:
    """Where the parts of an encoder's blocks are, for reductions inside the encoder. Each is a path below the block.

    A block computes ``x = x + attention(norm(x))`` and then ``x + mlp(mlp_norm(x))``. What these two outputs go through
    before they are added, such as a layer scale, is in `after_attention` and `after_mlp`: modules, parameters to multiply
    with, or None. `queries` and `keys` are modules that give these: (B, T, C), or (B, heads, T, C / heads). `bias` is the
    keyword of the attention for a bias (B, 1, 1, T) on its logits, and `heads` its attribute with the number of heads.

    With rotary positions, `positions` is the keyword of the block that holds a row (N, D) for each patch, and after a
    reduction (B, 1, N, D). `rotate` is a function of the keys (B, heads, T, C / heads) and these rows.
    """

    norm: str
    attention: str
    mlp_norm: str
    mlp: str
    queries: str
    keys: str
    bias: str
    heads: str = "num_heads"
    after_attention: tuple[str, ...] = ()
    after_mlp: tuple[str, ...] = ()
    positions: str | None = None
    rotate: Callable[[Tensor, Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Attention:
    """What the attention of a block computed with.

    queries, keys: (B, heads, T, d), the keys before a rotation. rotated: the keys as they were multiplied. sizes: the number
    of patches that each token stands for, (B, T), or None before the first merge. prefix: the number of tokens before the
    patches.
    """

    queries: Tensor
    keys: Tensor
    rotated: Tensor
    sizes: Tensor | None
    prefix: int

    def cls_scores(self) -> Tensor:
        """Return the attention of the CLS token to each patch, (B, T - prefix): softmax in float32, mean over the heads."""
        logits = (self.queries[:, :, :1] @ self.rotated.transpose(-2, -1)).float() * self.queries.shape[-1] ** -0.5
        if self.sizes is not None:
            logits = logits + _bias(self.sizes, logits.dtype)
        scores: Tensor = logits.softmax(-1)[:, :, 0, self.prefix :].mean(1)
        return scores


class Kept(NamedTuple):
    """The tokens (B, T', C) after a reduction inside the encoder, in the order of the picture.

    places: (B, T'), ascending: which of the T tokens before each of them is at the place of. sizes: as in `Attention`.
    """

    tokens: Tensor
    places: Tensor
    sizes: Tensor | None


Operation = Callable[[Tensor, Attention], Kept]
"""A reduction inside the encoder: called with the tokens (B, T, C) between attention and MLP, and what the attention knew."""


class States(dict[int, Tensor]):
    """Hidden states by their layer, and the CLS token's attention to each patch in the last block, (B, N), if asked for."""

    scores: Tensor | None = None


@dataclass(frozen=True)
class BlockRunner:
    """Runs an encoder's blocks with reductions inside.

    parts: where the parts of its blocks are. prefix: the number of tokens before the patches. operations: the reduction in
    each block that has one, counted from 1. scored: whether to find what the CLS token attends to in the last block.
    """

    parts: BlockParts
    prefix: int
    operations: Mapping[int, Operation]
    scored: bool = False

    def run(self, tokens: Tensor, blocks: Iterable[nn.Module], layers: Sequence[int], **given: Any) -> States:
        """Run `blocks` on (B, T, C), and return only the hidden states of `layers`. If `scored`, add the scores.

        Blocks before the first merge are called as they are, with the arguments `given`.
        """
        arguments: Mapping[str, Any] = given
        kept, sizes, last = States({0: tokens} if 0 in layers else {}), None, max(layers)
        for index, block in enumerate(blocks, 1):
            if index > last:
                break
            if self.scored and index == last:
                kept.scores = self.cls_scores(block, tokens, sizes, arguments)
            operation = self.operations.get(index)
            if operation is None and sizes is None:
                tokens = block(tokens, **arguments)
            else:
                tokens, attention = self.attend(block, tokens, sizes, arguments)
                if operation is not None:
                    tokens, places, sizes = operation(tokens, attention)
                    arguments = self._follow(arguments, places)
                tokens = self.feed(block, tokens)
            if index in layers:
                kept[index] = tokens
        return kept

    def attend(
        self, block: nn.Module, tokens: Tensor, sizes: Tensor | None, arguments: Mapping[str, Any]
    ) -> tuple[Tensor, Attention]:
        """Run the first half of a block on (B, T, C). Return the tokens after it, and what its attention computed with."""
        if sizes is not None:
            arguments = {**arguments, self.parts.bias: _bias(sizes, tokens.dtype)}
        with _outputs(self._projections(block)) as given:
            output = self._attended(block, tokens, arguments)
        after = tokens + _through(block, self.parts.after_attention, output)
        return after, self._attention(block, given, sizes, arguments)

    def feed(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """Run the second half of a block, its MLP, on (B, T, C)."""
        output = block.get_submodule(self.parts.mlp)(block.get_submodule(self.parts.mlp_norm)(tokens))
        return tokens + _through(block, self.parts.after_mlp, output)

    def cls_scores(
        self, block: nn.Module, tokens: Tensor, sizes: Tensor | None, arguments: Mapping[str, Any]
    ) -> Tensor:
        """Return the CLS token's attention to each patch, (B, T - prefix), in a block with the input (B, T, C).

        A fused kernel gives no weights, so queries and keys are computed once more, and nothing behind them.
        """
        modules = self._projections(block)
        given = hidden_states(
            lambda layer, keep: modules[layer].register_forward_hook(lambda _, __, output: keep(output)),
            lambda: self._attended(block, tokens, arguments),
            range(len(modules)),
        )
        return self._attention(block, [*given.values()], sizes, arguments).cls_scores()

    def _projections(self, block: nn.Module) -> list[nn.Module]:
        return [block.get_submodule(self.parts.queries), block.get_submodule(self.parts.keys)]

    def _attended(self, block: nn.Module, tokens: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        normed = block.get_submodule(self.parts.norm)(tokens)
        output: Tensor | tuple[Tensor, ...] = block.get_submodule(self.parts.attention)(normed, **arguments)
        return output[0] if isinstance(output, tuple) else output

    def _attention(
        self, block: nn.Module, given: Sequence[Tensor], sizes: Tensor | None, arguments: Mapping[str, Any]
    ) -> Attention:
        heads = getattr(block.get_submodule(self.parts.attention), self.parts.heads)
        queries, keys = (part if part.ndim == 4 else part.unflatten(2, (heads, -1)).transpose(1, 2) for part in given)
        positions = arguments.get(self.parts.positions or "")
        rotated = keys if positions is None or self.parts.rotate is None else self.parts.rotate(keys, positions)
        return Attention(queries, keys, rotated, sizes, self.prefix)

    def _follow(self, arguments: Mapping[str, Any], places: Tensor) -> Mapping[str, Any]:
        """Return the arguments of the next blocks, with the rotary positions of the tokens that are kept."""
        name = self.parts.positions
        if name is None or arguments.get(name) is None:
            return arguments
        rows: Tensor = arguments[name]
        each = rows.expand(len(places), 1, *rows.shape[-2:])
        index = (places[:, self.prefix :] - self.prefix)[:, None, :, None].expand(-1, -1, -1, rows.shape[-1])
        return {**arguments, name: each.gather(2, index)}


def _bias(sizes: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ToMe's bias (B, 1, 1, T) on logits: a token that stands for n patches weighs as n equal ones."""
    return sizes.log().to(dtype)[:, None, None]


def _through(block: nn.Module, names: Sequence[str], output: Tensor) -> Tensor:
    for name in names:
        part = getattr(block, name)
        if isinstance(part, nn.Module):
            output = part(output)
        elif part is not None:
            output = part * output
    return output


@contextmanager
def _outputs(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect what each of the modules returns in this thread, in the order of `modules`."""
    found: list[Tensor] = []
    thread = threading.get_ident()

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        if threading.get_ident() == thread:  # another thread may run the same module, which calls these hooks too
            found.append(output)

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()

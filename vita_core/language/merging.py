"""Put picture tokens in their places among the embedded words, and pad the rows to a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vita_core.errors import VitaError
from vita_core.language.llm import PICTURE_ID

__all__ = ["IGNORED_LABEL", "Batch", "merge", "merge_labelled"]

Embed = Callable[[Tensor], Tensor]
IGNORED_LABEL = -100
"""The label of positions that have no target, as in torch's cross entropy."""


def merge(
    prompts: Sequence[Sequence[int]],
    pictures: Sequence[Sequence[Tensor]],
    embed: Embed,
    *,
    padding: str = "left",
    shared: int = 0,
) -> tuple[Tensor, Tensor]:
    """Replace each `PICTURE_ID` of the prompts by picture tokens. Return zero-padded embeddings (B, T, D) and a mask (B, T).

    `pictures[b]` holds the tokens (N, D) of row b's pictures, in order. All rows share their first `shared` tokens; padding
    on the left comes after these. Raises VitaError if a row has another number of pictures than places.
    """
    ids = [torch.tensor(row, dtype=torch.long) for row in prompts]
    each = zip(ids, pictures, _embedded(ids, embed), strict=True)
    rows = [torch.cat(_parts(row, visual, words)) for row, visual, words in each]
    front, rest = torch.stack([row[:shared] for row in rows]), [row[shared:] for row in rows]
    ones = torch.ones(front.shape[:2], dtype=torch.long, device=front.device)
    padded = pad_sequence(rest, batch_first=True, padding_side=padding)
    return torch.cat([front, padded], dim=1), torch.cat([ones, _mask(rest, padding)], dim=1)


@dataclass(frozen=True)
class Batch:
    """A merged batch: embeddings (B, T, D), with labels, mask and positions (B, T)."""

    embeds: Tensor
    labels: Tensor
    mask: Tensor
    positions: Tensor


def merge_labelled(
    ids: Sequence[Tensor],
    labels: Sequence[Tensor],
    pictures: Sequence[Sequence[Tensor]],
    embed: Embed,
    *,
    padding: str,
    max_length: int | None,
) -> Batch:
    """Do the same as `merge`, with labels and positions. Rows are cut at `max_length`.

    `ids` and `labels` are rows (T) of any length. The label of a picture's tokens is `IGNORED_LABEL`. All words are embedded
    by one call, whatever the batch: the processes of a distributed training gather the table together.
    """
    rows, targets = [], []
    for row, words, label, visual in zip(ids, _embedded(ids, embed), labels, pictures, strict=True):
        rows.append(torch.cat(_parts(row, visual, words))[:max_length])
        unlabelled = [label.new_full((len(tokens),), IGNORED_LABEL) for tokens in visual]
        targets.append(torch.cat(_parts(row, unlabelled, label))[:max_length])
    positions = [torch.arange(len(row), device=row.device) for row in rows]
    return Batch(
        pad_sequence(rows, batch_first=True, padding_side=padding),
        pad_sequence(targets, batch_first=True, padding_value=IGNORED_LABEL, padding_side=padding),
        _mask(rows, padding),
        pad_sequence(positions, batch_first=True, padding_side=padding),
    )


def _embedded(ids: Sequence[Tensor], embed: Embed) -> Sequence[Tensor]:
    """Return the embeddings (T, D) of rows of ids (T), by one call. Those in the place of a picture have no meaning."""
    every = torch.cat(list(ids))
    return torch.split(embed(every.masked_fill(every == PICTURE_ID, 0)), [len(row) for row in ids])


def _parts(ids: Tensor, visual: Sequence[Tensor], words: Tensor) -> list[Tensor]:
    """Return the stretches of `words` (T, ...) with one of `visual` in the place of each `PICTURE_ID` of `ids` (T)."""
    places = (ids == PICTURE_ID).nonzero().flatten().tolist()
    if len(places) != len(visual):
        raise VitaError(
            f"the prompt has places for {len(places)} pictures, but {len(visual)} are given. Try: one <image> per picture"
        )
    parts, begin = [], 0
    for place, tokens in zip(places, visual, strict=True):
        parts += [words[begin:place], tokens]
        begin = place + 1
    return [*parts, words[begin:]]


def _mask(rows: Sequence[Tensor], padding: str) -> Tensor:
    ones = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows]
    return pad_sequence(ones, batch_first=True, padding_side=padding)

"""The loss of a batch of samples: pictures through tower and projector, with the text through the language model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vita_core.language.merging import IGNORED_LABEL, merge_labelled
from vita_core.models.model import VisionLanguageModel
from vita_core.pixels.fused import FusedPixels, Pixels
from vita_core.planning.towers import ResolvedTower
from vita_core.training.cache.frozen import FrozenTower, Visual

__all__ = ["Joint", "collate"]


class Joint(nn.Module):
    """A model whose forward returns the loss of a batch that `collate` made: the mean cross-entropy of the labelled tokens.

    A batch without a picture still runs a blank one, whose tokens do not count, so that in every process of a distributed
    training the same weights get a gradient. With `blanks` in the batch, so many run beside its pictures. A `frozen` tower
    encodes each picture once.
    """

    accepts_loss_kwargs = True
    """Trainer counts the labelled tokens of a whole step, of all parts and processes, and gives them as `count`."""

    def __init__(self, model: VisionLanguageModel, frozen: FrozenTower | None = None) -> None:
        super().__init__()
        self.model, self.frozen = model, frozen
        self.encode_each: Callable[[Sequence[Any]], list[Tensor]] = (frozen or model).encode_each

    def forward(self, batch: Mapping[str, Any], count: Tensor | int | None = None) -> Tensor:
        """Return the summed loss of the labelled tokens, divided by `count`, or by their number in this batch."""
        logits, targets = self.read(batch)
        loss = F.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), reduction="sum", ignore_index=IGNORED_LABEL
        )
        labelled = targets != IGNORED_LABEL
        return loss / (labelled.sum().clamp(min=1) if count is None else count)

    def each(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the mean loss (B) of the labelled tokens of each sample."""
        logits, targets = self.read(batch)
        losses = F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none", ignore_index=IGNORED_LABEL)
        return losses.sum(1) / (targets != IGNORED_LABEL).sum(1).clamp(min=1)

    def read(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the logits (B, K, V) before the tokens that have a label in any row of a batch, and these labels (B, K)."""
        model = self.model
        rows = [
            (ids[:length], labels[:length])
            for ids, labels, length in zip(batch["input_ids"], batch["labels"], batch["lengths"].tolist(), strict=True)
        ]
        pictures, unused = self._pictures(batch)
        merged = merge_labelled(
            [ids for ids, _ in rows],
            [labels for _, labels in rows],
            pictures,
            model.llm.embed,
            padding="right",
            max_length=None,
        )
        targets = torch.cat([merged.labels[:, 1:], merged.labels[:, :1].fill_(IGNORED_LABEL)], dim=1).to(
            merged.embeds.device
        )
        kept = (targets != IGNORED_LABEL).any(0).nonzero().flatten()  # the head runs where an answer's token comes next
        read = model.llm.model(
            inputs_embeds=merged.embeds + unused,
            attention_mask=merged.mask,
            position_ids=merged.positions,
            logits_to_keep=kept,
            use_cache=False,
        )
        return read.logits, targets[:, kept]

    def _pictures(self, batch: Mapping[str, Any]) -> tuple[list[list[Tensor]], Tensor]:
        """Return the projected tokens (M, D) of each row's places, and zero times those of the blank pictures."""
        flat: list[Any] = [*batch["pixels"]]
        count = batch.get("blanks", int(not flat))
        blanks = [flat[0][:1] if flat else self._blank() for _ in range(count)]
        encoded = self.encode_each(flat + blanks)
        pairs = iter(zip(encoded[: len(flat)], batch["sizes"], strict=True))
        made = [[next(pairs) for _ in range(places)] for places in batch["places"]]
        zero = torch.zeros((), dtype=self.model.llm.dtype, device=self.model.llm.device)
        unused = sum((tokens.sum() * 0 for tokens in encoded[len(flat) :]), zero)
        ends = self.model.llm.row_ends(self.model.settings.prompt)
        pack = functools.partial(self.model.pack, by_tile=batch["by_tile"], ends=ends)
        return [[place for found, size in row for place in pack(found, size)] for row in made], unused

    def _blank(self) -> Visual:
        pixels = _black(self.model.tower.resolved, self.model.tower.device)
        return pixels if self.frozen is None else self.frozen.blank(pixels)


def _black(tower: ResolvedTower, device: torch.device) -> Pixels:
    """Return pixels of zeros for one picture or video, of a fused tower for each of its parts."""
    black = [
        torch.zeros(1, *part.shape.pixels[:-2], *part.geometry.input_size, device=device)
        for part in tower.parts or (tower,)
    ]
    return FusedPixels(black) if tower.parts else black[0]


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join samples to a batch: ids and labels (B, T), padded on the right, and a flat list of the pictures' pixels.

    A sample has `input_ids` and `labels` (T), and for each of its pictures `pixels` (tiles, 3, H, W) and the `size`
    (width, height) of the picture. Instead of pixels, there may be another `Visual`. If `by_tile` is true, each tile has its own
    place in the prompt.
    """
    labels = pad_sequence([sample["labels"] for sample in samples], batch_first=True, padding_value=IGNORED_LABEL)
    labels[:, 0] = IGNORED_LABEL  # nothing stands before it that could predict it, and Trainer counts the labels
    return {
        "input_ids": pad_sequence([sample["input_ids"] for sample in samples], batch_first=True),
        "labels": labels,
        "lengths": torch.tensor([len(sample["input_ids"]) for sample in samples]),
        "places": [len(sample["pixels"]) for sample in samples],
        "pixels": [pixels for sample in samples for pixels in sample["pixels"]],
        "sizes": [size for sample in samples for size in sample["sizes"]],
        "by_tile": any(sample.get("by_tile") for sample in samples),
    }

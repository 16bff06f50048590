"""The projector `visual_vocabulary`, for towers whose last layer holds the scores of a classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from vita_core import VitaError
from vita_plugins.torchvision import features_beside_scores
from vita_plugins.torchvision.options import ProjectorOptions

FASTER = 10.0
"""How much faster the words are trained than the other weights. Only pictures that show a word train it: a few percent."""


class VisualVocabulary(nn.Module):
    """Maps tokens (B, N, C + K) to the expected word embedding (B, N, D) under each token's probabilities over words.

    A table of visual words weighted by probabilities is the method of Ovis (arXiv 2405.20797). Here the logits of the K
    classes are the tower's own scores plus a correction computed from the C features. The logits of the other words are
    computed from the features alone. So the language model always reads a mixture of words that it knows. Training does
    not change words that occur in none of its captions.
    """

    undecayed = ("table",)

    def __init__(self, in_features: int, out_features: int, options: ProjectorOptions) -> None:
        super().__init__()
        self.options = options
        self.features = features_beside_scores(in_features, options.classes)
        size = options.classes + options.words
        self.norm = nn.LayerNorm(self.features)
        self.dropout = nn.Dropout(options.dropout)
        self.reading = nn.Linear(self.features, size)
        self.scale = nn.Parameter(torch.ones(options.classes))
        self.table = nn.Parameter(torch.randn(size, out_features) / FASTER)
        self.said: Tensor | None = None  # (K + words, 1): the words that the captions of a training say

    def logits(self, tokens: Tensor, scale: Tensor | None = None) -> Tensor:
        """Return the logit of every word (B, N, K + words) for tokens (B, N, C + K). `scale` (K) replaces that of the scores."""
        features, scores = tokens.split([self.features, self.options.classes], dim=-1)
        read: Tensor = self.reading(self.dropout(self.norm(features)))
        return read + F.pad((self.scale if scale is None else scale) * scores, (0, self.options.words))

    def forward(self, tokens: Tensor) -> Tensor:
        table, logits = self.table, self.logits(tokens)
        if self.training and self.said is not None:
            table = torch.where(self.said.to(table.device), table, table.detach())
            logits = logits / (1 + self.options.softening * torch.rand(len(logits), 1, 1, device=logits.device))
        if not self.training:
            logits = self.options.sharpness * logits
        return torch.softmax(logits, dim=-1) @ (FASTER * table)

    def alignment_parameters(self) -> Iterable[nn.Parameter]:
        """Return the table of words. The other parameters overfit on the language model's loss: 91% right becomes 83%."""
        return [self.table]

    @torch.no_grad()
    def start_from_words(self, captions: Sequence[str], embed: Callable[[str], Tensor]) -> None:
        """Give each class, and each caption that names no class, a word: the mean embedding (D) that `embed` returns."""
        names: list[str] = []
        if self.options.names_of is not None:
            names = torchvision.models.get_weight(self.options.names_of).meta["categories"]
            if len(names) != self.options.classes:
                raise VitaError(
                    f"projector.options.names_of: {self.options.names_of} has {len(names)} classes, not "
                    f"{self.options.classes}. Try: set projector.options.classes to {len(names)}, or name other weights"
                )
        place = {name.casefold(): number for number, name in reversed(list(enumerate(names)))}
        own = [caption for caption in captions if caption.casefold() not in place]
        if len(own) > self.options.words:
            raise VitaError(
                f"projector.options.words: {len(own)} captions name no class, such as {own[0]!r}, but there are only "
                f"{self.options.words} words for them. Try: set words to {len(own)} or more, or `projector.type: mlp2x_gelu`"
            )
        place |= {caption.casefold(): self.options.classes + number for number, caption in enumerate(own)}
        for text, number in [
            *((name, number) for number, name in enumerate(names)),
            *((c, place[c.casefold()]) for c in own),
        ]:
            self.table[number] = embed(text) / FASTER
        self.reading.weight[: len(names)] = 0
        nn.init.zeros_(self.reading.bias)
        self.places = torch.tensor([place[caption.casefold()] for caption in captions])
        self.said = torch.zeros(len(self.table), 1, dtype=torch.bool).index_fill_(0, self.places, True)

    def word_loss(self, tokens: Tensor, wanted: Tensor) -> Tensor:
        """Return the cross-entropy of tokens (B, N, C + K) with the words of `wanted` (B), and what the corrections cost.

        `wanted` holds indices into the captions that ``start_from_words`` got.
        """
        logits = self.logits(tokens, self.scale.detach() if self.options.restraint else None)
        words = self.places.to(wanted.device)[wanted]
        loss = F.cross_entropy(logits.flatten(0, 1), words.repeat_interleave(logits.shape[1]))
        if not self.options.restraint:
            return loss
        return loss + self.options.restraint * self.reading.weight[: self.options.classes].pow(2).sum()


def visual_vocabulary(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> nn.Module:
    """Return the projector. Raises VitaError if all of the tower's channels are class scores."""
    return VisualVocabulary(in_features, out_features, ProjectorOptions(**options))

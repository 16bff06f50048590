"""A projector for towers whose last layer are a classifier's scores: `class_scores_mlp`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pydantic
import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from vita_core import VitaError
from vita_plugins.torchvision import features_beside_scores


class ProjectorOptions(pydantic.BaseModel):
    """Options of ``class_scores_mlp``.

    `classes`: how many of the last channels are scores. `temperature`: of their softmax. `hidden_size`: of the MLP on the
    other channels. `dropout`, `feature_dropout`: in training, of that MLP's channels, and of all it says about a picture.
    `names_of`: the torchvision weights whose class names a training starts from.
    """

    model_config = pydantic.ConfigDict(extra="forbid")
    classes: pydantic.PositiveInt = 1000
    temperature: pydantic.PositiveFloat = 2.0
    hidden_size: pydantic.PositiveInt = 512
    dropout: float = pydantic.Field(0.2, ge=0, lt=1)
    feature_dropout: float = pydantic.Field(0.3, ge=0, lt=1)
    names_of: str | None = None


class ClassScoresMLP(nn.Module):
    """(B, N, C + K) -> (B, N, D): the expected embedding under the class probabilities, plus an MLP on the features.

    Probabilities hardly change with a picture's sharpness, features do: dropping the MLP's whole output for some pictures
    in training (stochastic depth, arXiv 1603.09382) keeps the first branch able to answer alone.
    """

    def __init__(self, in_features: int, out_features: int, options: ProjectorOptions) -> None:
        super().__init__()
        self.options = options
        self.features = features_beside_scores(in_features, options.classes)
        self.words = nn.Linear(options.classes, out_features)
        self.mlp = nn.Sequential(
            nn.LayerNorm(self.features),
            nn.Linear(self.features, options.hidden_size),
            nn.GELU(),
            nn.Dropout(options.dropout),
            nn.Linear(options.hidden_size, out_features),
        )
        self.drop = StochasticDepth(options.feature_dropout, mode="row")

    def forward(self, tokens: Tensor) -> Tensor:
        features, scores = tokens.split([self.features, self.options.classes], dim=-1)
        said: Tensor = self.words(torch.softmax(scores / self.options.temperature, dim=-1))
        return said + self.drop(self.mlp(features))

    @torch.no_grad()
    def start_from_words(self, embed: Callable[[str], Tensor]) -> None:
        """Let each class say its name: `embed` gives the mean embedding (D) of a text's words."""
        if self.options.names_of is None:
            return
        names = torchvision.models.get_weight(self.options.names_of).meta["categories"]
        if len(names) != self.options.classes:
            raise VitaError(
                f"projector.options.names_of: {self.options.names_of} has {len(names)} classes, not {self.options.classes}"
            )
        self.words.weight.copy_(torch.stack([embed(name) for name in names]).T)
        self.words.bias.zero_()


def class_scores_mlp(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> nn.Module:
    """The projector. Raises VitaError where the tower gives no channels beside the scores."""
    return ClassScoresMLP(in_features, out_features, ProjectorOptions(**options))

"""`VisionTower`: what callers rely on, whoever wrote the tower. `WordProjector`: a projector that learns words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vita_core.planning.geometry import Grid

__all__ = ["VisionTower", "WordProjector"]


@runtime_checkable
class VisionTower(Protocol):
    """What every tower offers; the names are VITA's and LLaVA's, so that code written for them works.

    Everything but the features is right before `load_model` is called.
    """

    def load_model(self) -> None: ...
    def forward(self, images: Any) -> Any: ...
    def feature_select(self, hidden_states: Any) -> Tensor: ...
    def pixel_shuffle(self, x: Tensor, scale_factor: float = 0.5, *, grid: Grid | None = None) -> Tensor: ...

    @property
    def is_loaded(self) -> bool: ...
    @property
    def image_processor(self) -> Any: ...
    @property
    def vision_tower(self) -> nn.Module | None: ...
    @property
    def config(self) -> Any: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_patches(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def grid(self) -> Grid: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dummy_feature(self) -> Tensor: ...


@runtime_checkable
class WordProjector(Protocol):
    """What a projector may offer, all of it or none, to be trained on the captions' words before it meets the language model."""

    undecayed: Sequence[str]
    """Names of the parameters that are trained without weight decay: a decay would move what no loss moves."""

    def start_from_words(self, captions: Sequence[str], embed: Callable[[str], Tensor]) -> None:
        """Before the training: its captions without articles, and text -> mean embedding (out_features) of its words."""

    def word_loss(self, tokens: Tensor, wanted: Tensor) -> Tensor:
        """The warm start's loss: features (B, N, in_features), and the captions' numbers (B)."""

    def alignment_parameters(self) -> Iterable[nn.Parameter]:
        """The parameters that the language model's loss trains; those it leaves out are then frozen."""

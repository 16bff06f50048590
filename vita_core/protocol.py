"""The protocols `VisionTower`, which every tower implements, and `WordProjector`, a projector that is trained on words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vita_core.planning.geometry import Grid

__all__ = ["VisionTower", "WordProjector"]


@runtime_checkable
class VisionTower(Protocol):
    """The interface of every tower. The names are those of VITA and LLaVA, so that code written for them works.

    All properties are valid before `load_model` is called; `vision_tower` may be None until then.
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
    def grid(self) -> Grid | None: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dummy_feature(self) -> Tensor: ...


@runtime_checkable
class WordProjector(Protocol):
    """Optional methods of a projector that is trained on the captions' words before the training with the language model.

    A projector has all of them or none.
    """

    undecayed: Sequence[str]
    """Names of the parameters without weight decay, which would change parameters that no loss depends on."""

    def start_from_words(self, captions: Sequence[str], embed: Callable[[str], Tensor]) -> None:
        """Prepare the training. `captions` have no articles; `embed` maps a text to the mean embedding of its words.

        The embedding has shape (out_features).
        """

    def word_loss(self, tokens: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss of the warm start, for features (B, N, in_features) and the indices (B) of their captions."""

    def alignment_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters that are trained with the language model's loss. The other parameters are then frozen."""

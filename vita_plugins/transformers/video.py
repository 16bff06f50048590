"""The order of the tokens of a video."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedConfig


def runs_as_pictures(config: PreTrainedConfig) -> bool:
    """Return whether the model runs each frame of a video as a picture: TimeSformer with ``space_only`` attention."""
    return config.model_type == "timesformer" and config.attention_type == "space_only"


def step_by_step(state: Tensor, config: PreTrainedConfig, steps: int) -> Tensor:
    """Return a hidden state as (B, prefix + steps * rows * cols, C), with the tokens of one step after the other.

    TimeSformer keeps the tokens of one place together: (B, 1 + rows * cols * steps, C). If it runs the frames as pictures,
    (B * steps, 1 + rows * cols, C), the CLS tokens of the frames are dropped.
    """
    if config.model_type != "timesformer":
        return state
    if runs_as_pictures(config):
        return state[:, 1:].unflatten(0, (-1, steps)).flatten(1, 2)
    ordered = state[:, 1:].unflatten(1, (-1, steps)).transpose(1, 2).flatten(1, 2)
    return torch.cat([state[:, :1], ordered], dim=1)

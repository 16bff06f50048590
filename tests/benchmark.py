"""A tiny model whose answers depend on its pictures."""

from __future__ import annotations

from pathlib import Path


def spread_answers(config: Path, folder: Path) -> Path:
    """Save the model of a config with larger weights, so that it does not repeat the last word of every question."""
    import torch

    from vita_core import build_model

    torch.manual_seed(0)
    model = build_model(config)
    for name, parameter in [*model.projector.named_parameters(), *model.llm.model.model.layers.named_parameters()]:
        if name.endswith("weight") and parameter.ndim == 2:
            parameter.data.mul_(16)
    model.save(folder)
    return folder

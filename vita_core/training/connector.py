"""What flat training trains: the reductions that learn, with the projector behind them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from vita_core.errors import ConfigError
from vita_core.language.projectors import project
from vita_core.models.model import VisionLanguageModel
from vita_core.planning.geometry import Grid
from vita_core.planning.reductions import ResolvedReduction
from vita_core.protocol import WordProjector
from vita_core.towers.freezing import train_unfrozen
from vita_core.towers.reducing import load_reduction, run_reduction

__all__ = ["Connector", "connect", "described"]


class Connector(nn.Module):
    """The reductions `steps`, from the first one that learns on, and the projector, in float32.

    Its input are the tower's tokens before them.
    """

    def __init__(self, steps: Sequence[ResolvedReduction], projector: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.steps = tuple(steps)
        loaded = [load_reduction(step, dtype=torch.float32, device=device)[0] for step in steps]
        self.reductions = nn.ModuleList(loaded)
        self.projector = projector

    def forward(self, tokens: Tensor, grid: Grid | None) -> Tensor:
        """Return the projected tokens (B, N', D) of tokens (B, N, C) on a grid, or without one."""
        for step, module in self.reduced_by():
            tokens, grid = run_reduction(step, module, tokens, grid)
        return project(self.projector, tokens, grid)

    def reduced_by(self) -> Iterator[tuple[ResolvedReduction, nn.Module]]:
        """Return each reduction with its module."""
        return zip(self.steps, self.reductions, strict=True)

    def train(self, mode: bool = True) -> Connector:
        """Set train or eval mode. Frozen reductions stay in eval mode."""
        super().train(mode)
        if mode:
            train_unfrozen(self.reductions)
        return self

    def train_untrained(self) -> None:
        """Freeze the reductions that have weights already: a warm start would undo their training."""
        for step, module in self.reduced_by():
            module.requires_grad_(step.settings.weights is None)


def connect(steps: Sequence[ResolvedReduction], vlm: VisionLanguageModel) -> nn.Module:
    """Return what is trained for a model whose tower ends before `steps`: a `Connector`, or the projector without `steps`.

    Raises ConfigError if the projector is trained on words, from the tower's own tokens.
    """
    projector = vlm.projector.float()
    if not steps:
        return projector
    if isinstance(projector, WordProjector):
        kind = vlm.settings.projector.type
        raise ConfigError(
            f"projector.type: {kind!r} is trained on the captions' words, from the tower's own tokens, but {steps[0].key} learns "
            f"too. Try: `projector.type: mlp2x_gelu`, or leave {steps[0].key} out"
        )
    return Connector(steps, projector, vlm.llm.device)


def described(trained: nn.Module) -> str:
    """Return a line that says what is trained: each part with its number of parameters."""
    parts: dict[str, nn.Module] = {"projector": trained}
    if isinstance(trained, Connector):
        parts = {"projector": trained.projector, "reduce": trained.reductions}
    counts = {name: sum(p.numel() for p in part.parameters() if p.requires_grad) for name, part in parts.items()}
    return ", ".join(f"{name} ({count:,} parameters)" for name, count in counts.items())

"""The projectors that keep every token: ``linear``, ``mlpNx_gelu``, ``layernorm_mlp`` and ``identity``."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from vita_core.plugins.builtin_projectors import identity_parameters, mlp_widths

__all__ = ["LayerNormMLP", "Linear", "identity", "layernorm_mlp", "mlp"]


class Linear(nn.Linear):
    """One linear layer: (B, N, in) -> (B, N, out). Its keys are those of LLaVA, ``weight`` and ``bias``."""

    renames = ((r"^0\.", ""),)  # the keys of files that were saved before


def mlp(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> nn.Module:
    """Return linear layers with GELU between them: (B, N, in) -> (B, N, out).

    The keys are those of LLaVA's ``mm_projector`` (0, 2, ...; of ``linear`` none).
    """
    widths = mlp_widths(name, in_features, out_features, options)
    epsilon = options.get("norm_eps", 1e-5)
    layers: list[nn.Module] = [nn.LayerNorm(in_features, eps=epsilon)] if options.get("input_norm") else []
    layers += [nn.GELU()] if options.get("input_gelu") else []
    for index, (a, b) in enumerate(pairwise(widths)):
        layers += [nn.GELU()] * (index > 0) + [nn.Linear(a, b)]
    return Linear(in_features, out_features) if name == "linear" and len(layers) == 1 else nn.Sequential(*layers)


def identity(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> nn.Module:
    """Return a projector that leaves tokens (B, N, C) unchanged. Raises ConfigError if the widths differ."""
    identity_parameters(name, in_features, out_features, options)
    return nn.Identity()


class LayerNormMLP(nn.Module):
    """InternVL's projector (arXiv 2404.16821), with the keys of transformers' ``InternVLMultiModalProjector``.

    A LayerNorm and two linear layers with GELU between them: (B, N, in) -> (B, N, out).
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(in_features)
        self.linear_1 = nn.Linear(in_features, out_features)
        self.linear_2 = nn.Linear(out_features, out_features)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the projected tokens."""
        return self.linear_2(F.gelu(self.linear_1(self.layer_norm(tokens))))  # type: ignore[no-any-return]  # Module returns Any


def layernorm_mlp(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> nn.Module:
    """Return ``layernorm_mlp``."""
    return LayerNormMLP(in_features, out_features)

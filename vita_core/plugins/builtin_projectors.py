"""The built-in projectors, as specs without torch: their sizes, options and papers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from vita_core.errors import ConfigError
from vita_core.plugins.specs import ProjectorSpec

__all__ = ["PROJECTORS", "depth", "identity_parameters", "mlp_parameters", "mlp_widths"]


def depth(name: str) -> int:
    """Return the number of linear layers: N for ``mlpNx_gelu``, 1 for ``linear``."""
    return 1 if name == "linear" else int(name.removeprefix("mlp").removesuffix("x_gelu"))


def mlp_widths(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> list[int]:
    """Return the widths of the MLP, from input to output. The hidden width defaults to `out_features`, as in LLaVA."""
    return [in_features, *[options.get("hidden_size") or out_features] * (depth(name) - 1), out_features]


def mlp_parameters(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> int:
    """Return the number of parameters: weights and biases of the layers, and of the LayerNorm with ``input_norm``."""
    widths = mlp_widths(name, in_features, out_features, options)
    norm = 2 * in_features if options.get("input_norm") else 0
    return norm + sum(a * b + b for a, b in pairwise(widths))


def identity_parameters(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> int:
    """Return 0: ``identity`` has no parameters. Raises ConfigError if the widths differ."""
    if in_features != out_features:
        raise ConfigError(
            f"projector.type: 'identity' needs equal widths, but the tower gives {in_features} channels and the language "
            f"model takes {out_features}. Try: `type: linear` or `type: mlp2x_gelu`"
        )
    return 0


MLP_OPTIONS = "vita_core.config.schema:MLPOptions"
PROJECTORS = (
    ProjectorSpec(
        "identity",
        "no projection, for a tower whose width is the language model's",
        "vita_core.language.projectors:identity",
        identity_parameters,
    ),
    ProjectorSpec(
        "linear", "one linear layer", "vita_core.language.projectors:mlp", mlp_parameters, options=MLP_OPTIONS
    ),
    ProjectorSpec(
        "mlpNx_gelu",
        "N linear layers with GELU between them (LLaVA-1.5 uses N = 2)",
        "vita_core.language.projectors:mlp",
        mlp_parameters,
        pattern=r"mlp[1-9]\d*x_gelu",
        options=MLP_OPTIONS,
    ),
)
"""The specs that ``vita_projectors`` of the built-in plugin returns."""

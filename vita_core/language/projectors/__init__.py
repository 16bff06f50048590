"""Projectors map tokens from the tower's width to the language model's: (B, N, in_features) to (B, N', out_features)."""

from __future__ import annotations

from vita_core.language.projectors.building import build_projector, check_buildable
from vita_core.language.projectors.linear import identity, mlp
from vita_core.language.projectors.projecting import project

__all__ = ["build_projector", "check_buildable", "identity", "mlp", "project"]

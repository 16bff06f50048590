"""The multiply-accumulates of projectors some of whose layers see all tokens of the tower, and some those of the output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["ldp_macs", "ldpv2_macs", "spp_macs", "squeezed"]


def squeezed(width: int) -> int:
    """Return MobileNetV3's width of squeeze-and-excitation: a quarter, in the nearest multiple of 8 that loses at most 10%."""
    quarter = width // 4
    near = max(8, (quarter + 4) // 8 * 8)
    return near if near >= 0.9 * quarter else near + 8


def spp_macs(name: str, width: int, out: int, options: Mapping[str, Any], tokens: int, output: int) -> int:
    """Return the multiply-accumulates of ``spp_v1`` to ``spp_v3``, where the mean over 2 x 2 tokens has its place."""
    first, second = width * out, out * out
    if name == "spp_v1":
        return first * tokens + second * output
    return (first + second) * tokens if name == "spp_v2" else width**2 * tokens + (first + second) * output


def ldp_macs(name: str, width: int, out: int, options: Mapping[str, Any], tokens: int, output: int) -> int:
    """Return the multiply-accumulates of ``ldp``: the MLP, and a bottleneck on the tower's tokens and one on the output's."""
    mlp, block = width * out + out**2, 9 * out + out**2
    return mlp * tokens + block * (tokens + output) + 2 * 2 * out * squeezed(out)


def ldpv2_macs(name: str, width: int, out: int, options: Mapping[str, Any], tokens: int, output: int) -> int:
    """Return the multiply-accumulates of ``ldpv2``: the MLP, and the convolution on the tokens of the output."""
    return (width * out + out**2) * tokens + 9 * out * output

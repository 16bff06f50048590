"""MobileVLM's Lightweight Downsample Projectors: ``ldp``, ``ldpv2``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops.misc import Conv2dNormActivation, SqueezeExcitation

from vita_core.language.projectors.maps import Grid, to_map, to_tokens
from vita_core.plugins.projector_macs import squeezed
from vita_core.plugins.shapes import pair

__all__ = ["LDP", "LDPv2", "ldp", "ldpv2"]


class MapNorm(nn.LayerNorm):
    """A LayerNorm over the channels of a map (B, C, rows, columns)."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the normalised map."""
        return super().forward(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Bottleneck(nn.Module):
    """MobileNetV3's block (arXiv 1905.02244) without expansion: (B, C, h, w) -> (B, C, ceil(h / stride), ceil(w / stride)).

    A depthwise 3 x 3 convolution, squeeze-and-excitation, and a 1 x 1 convolution. With stride 1, the input is added.
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.adds = stride == 1
        self.block = nn.Sequential(
            Conv2dNormActivation(width, width, 3, stride, None, width, MapNorm, nn.Hardswish),
            SqueezeExcitation(width, squeezed(width), scale_activation=nn.Hardsigmoid),
            Conv2dNormActivation(width, width, 1, norm_layer=MapNorm, activation_layer=None),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the map behind the block."""
        out: torch.Tensor = self.block(features)
        return out + features if self.adds else out


class LDP(nn.Module):
    """MobileVLM's LDP (arXiv 2312.16886), in VITA ``ldp``: (B, N, in) -> (B, ceil(rows / 2) * ceil(columns / 2), out).

    Two linear layers with GELU between them, then two bottlenecks of MobileNetV3, the second with stride 2.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        # nn.Identity and ModuleDict: the checkpoints' keys are model.mlp.1, model.mb_block.1 and so on
        self.model = nn.ModuleDict(
            {
                "mlp": nn.Sequential(nn.Identity(), *_mlp(in_features, out_features)),
                "mb_block": nn.Sequential(nn.Identity(), Bottleneck(out_features, 1), Bottleneck(out_features, 2)),
            }
        )

    def forward(self, tokens: torch.Tensor, grid: Grid | None = None) -> torch.Tensor:
        """Return the projected tokens."""
        return to_tokens(self.model["mb_block"](to_map(self.model["mlp"](tokens), grid)))


class LDPv2(nn.Module):
    """MobileVLM V2's LDPv2 (arXiv 2402.03766): (B, N, in) -> (B, rows' * columns', out) for any input grid.

    Two linear layers with GELU between them, the means of adaptive pooling to `size` (rows', columns'), and a depthwise 3 x 3
    convolution that is added to them and gives each token its position.
    """

    def __init__(self, in_features: int, out_features: int, size: Grid) -> None:
        super().__init__()
        self.size = size
        self.mlp = nn.ModuleDict({"mlp": nn.Sequential(*_mlp(in_features, out_features))})
        convolution = nn.Conv2d(out_features, out_features, 3, padding=1, groups=out_features)
        self.peg = nn.ModuleDict({"peg": nn.Sequential(convolution)})

    def forward(self, tokens: torch.Tensor, grid: Grid | None = None) -> torch.Tensor:
        """Return the projected tokens."""
        features = F.adaptive_avg_pool2d(to_map(self.mlp["mlp"](tokens), grid), self.size)
        return to_tokens(self.peg["peg"](features) + features)


def _mlp(in_features: int, out_features: int) -> list[nn.Module]:
    return [nn.Linear(in_features, out_features), nn.GELU(), nn.Linear(out_features, out_features)]


def ldp(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> nn.Module:
    """Return ``ldp``."""
    return LDP(in_features, out_features)


def ldpv2(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> nn.Module:
    """Return ``ldpv2`` with the output grid of ``projector.options.grid``."""
    return LDPv2(in_features, out_features, pair(options["grid"]))

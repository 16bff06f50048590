"""The built-in projectors, as specs without torch: their sizes, options and papers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from vita_core.errors import ConfigError
from vita_core.plugins.projector_macs import ldp_macs, ldpv2_macs, spp_macs, squeezed
from vita_core.plugins.shapes import pair
from vita_core.plugins.specs import ProjectorSpec

__all__ = ["PROJECTORS", "four_joined", "halved_down", "identity_parameters", "mlp_widths", "windows_merged"]


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


def normed_parameters(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> int:
    """Return the number of parameters of ``layernorm_mlp``, which are those of ``mlp2x_gelu`` with ``input_norm``."""
    return mlp_parameters("mlp2x_gelu", in_features, out_features, {"input_norm": True})


def four_parameters(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> int:
    """Return the number of parameters of ``minigpt`` and ``vanilla``: one linear layer for four tokens."""
    return mlp_parameters("linear", 4 * in_features, out_features, {})


def four_joined(rows: int, columns: int) -> int:
    """Return the number of tokens where four that follow each other become one. Raises ConfigError if some are left over."""
    count = rows * columns
    if count % 4:
        raise ConfigError(
            f"projector.type: 'minigpt' and 'vanilla' join 4 tokens to one, but the tower gives {rows} x {columns} = {count}, "
            "not a multiple of 4. Try: `tower.pool` to an even grid, or `type: spp_v1`"
        )
    return count // 4


def spp_parameters(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> int:
    """Return the number of parameters of ``spp_v1``, ``spp_v2`` and ``spp_v3``, of which all have the same layers."""
    return mlp_parameters("linear", in_features, in_features, {}) + mlp_parameters(
        "mlp2x_gelu", in_features, out_features, {}
    )


def halved_down(rows: int, columns: int) -> tuple[int, int]:
    """Return the grid of the means of 2 x 2 tokens, without an odd last row or column. Raises ConfigError if it is empty."""
    if min(rows, columns) < 2:
        raise ConfigError(
            f"projector.type: 'spp' averages 2 x 2 tokens, but the tower gives {rows} x {columns}. Try: `type: mlp2x_gelu`"
        )
    return rows // 2, columns // 2


def ldp_parameters(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> int:
    """Return the number of parameters of ``ldp``: the MLP and two bottlenecks."""
    width, narrow = out_features, squeezed(out_features)
    convolutions, norms = 9 * width + width**2, 2 * 2 * width
    squeeze = 2 * width * narrow + narrow + width
    return mlp_parameters("mlp2x_gelu", in_features, width, {}) + 2 * (convolutions + norms + squeeze)


def halved_up(rows: int, columns: int) -> tuple[int, int]:
    """Return the grid of a convolution with stride 2, which counts an odd last row or column."""
    return (rows + 1) // 2, (columns + 1) // 2


def ldpv2_parameters(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> int:
    """Return the number of parameters of ``ldpv2``: the MLP, and a depthwise convolution with a bias."""
    return mlp_parameters("mlp2x_gelu", in_features, out_features, {}) + 10 * out_features


def pooled_to(rows: int, columns: int, options: Mapping[str, Any]) -> tuple[int, int]:
    """Return the output grid of ``ldpv2``, which is the same for every picture. A smaller grid is filled with repeated means."""
    return pair(options["grid"])


def merger_parameters(name: str, in_features: int, out_features: int, options: Mapping[str, Any]) -> int:
    """Return the number of parameters of ``patch_merger``: a LayerNorm, and two linear layers for a window of tokens."""
    width = in_features * options["spatial_merge_size"] ** 2
    return 2 * in_features + mlp_parameters("mlp2x_gelu", width, out_features, {"hidden_size": width})


def windows_merged(rows: int, columns: int, options: Mapping[str, Any]) -> tuple[int, int]:
    """Return the grid of the windows. Raises ConfigError if some tokens are left over."""
    window = options["spatial_merge_size"]
    if rows % window or columns % window:
        raise ConfigError(
            f"projector.options.spatial_merge_size: {window} does not divide the tower's {rows} x {columns} tokens. "
            "Try: a number that divides both"
        )
    return rows // window, columns // window


MODULES = "vita_core.language.projectors"
MLP_OPTIONS = "vita_core.config.schema:MLPOptions"
VITA = "VITA: Towards Open-Source Interactive Omni Multimodal LLM, arXiv 2408.05211"
PROJECTORS = (
    ProjectorSpec(
        "identity",
        "no projection, for a tower whose width is the language model's",
        f"{MODULES}:identity",
        identity_parameters,
    ),
    ProjectorSpec(
        "linear",
        "one linear layer",
        f"{MODULES}:mlp",
        mlp_parameters,
        options=MLP_OPTIONS,
        paper="Visual Instruction Tuning (LLaVA), arXiv 2304.08485",
    ),
    ProjectorSpec(
        "mlpNx_gelu",
        "N linear layers with GELU between them (LLaVA-1.5 uses N = 2)",
        f"{MODULES}:mlp",
        mlp_parameters,
        pattern=r"mlp[1-9]\d*x_gelu",
        options=MLP_OPTIONS,
        paper="Improved Baselines with Visual Instruction Tuning (LLaVA-1.5), arXiv 2310.03744",
    ),
    ProjectorSpec(
        "minigpt",
        "one linear layer for 4 tokens that follow each other",
        f"{MODULES}.joining:four",
        four_parameters,
        tokens=four_joined,
        paper="MiniGPT-v2, arXiv 2310.09478",
    ),
    ProjectorSpec(
        "vanilla",
        "as minigpt, with the channels of the 4 tokens interleaved",
        f"{MODULES}.joining:four",
        four_parameters,
        tokens=four_joined,
        paper=VITA,
    ),
    ProjectorSpec(
        "ldp",
        "MLP and two convolution blocks, half the grid (LDP)",
        f"{MODULES}.ldp:ldp",
        ldp_parameters,
        tokens=halved_up,
        macs=ldp_macs,
        paper="MobileVLM, arXiv 2312.16886",
    ),
    ProjectorSpec(
        "ldpv2",
        "MLP, pooling to a fixed grid and a convolution (LDPv2)",
        f"{MODULES}.ldp:ldpv2",
        ldpv2_parameters,
        options="vita_core.config.schema:LDPv2Options",
        tokens=pooled_to,
        macs=ldpv2_macs,
        paper="MobileVLM V2, arXiv 2402.03766",
    ),
    *(
        ProjectorSpec(
            f"spp_{version}",
            f"linear layers, and the means of 2 x 2 tokens {where}",
            f"{MODULES}.pooling:spp",
            spp_parameters,
            tokens=halved_down,
            macs=spp_macs,
            paper=VITA,
        )
        for version, where in (("v1", "between two"), ("v2", "behind two"), ("v3", "behind the first of three"))
    ),
    ProjectorSpec(
        "layernorm_mlp",
        "LayerNorm and two linear layers with GELU between them, as in transformers' InternVL",
        f"{MODULES}.linear:layernorm_mlp",
        normed_parameters,
        paper="How Far Are We to GPT-4V? (InternVL 1.5), arXiv 2404.16821",
    ),
    ProjectorSpec(
        "patch_merger",
        "LayerNorm and an MLP for blocks of 2 x 2 tokens, as in Qwen2-VL",
        f"{MODULES}.joining:patch_merger",
        merger_parameters,
        options="vita_core.config.schema:PatchMergerOptions",
        tokens=windows_merged,
        paper="Qwen2-VL, arXiv 2409.12191",
    ),
)
"""The specs that ``vita_projectors`` of the built-in plugin returns."""

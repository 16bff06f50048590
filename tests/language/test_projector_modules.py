"""The built-in projectors compute what the implementations compute that their checkpoints come from.

`ldp` and `spp_*` and their like: VITA's files in `fixtures/golden/projectors`, and `ldpv2.safetensors` beside them, made by
MobileVLM's own code: `weight.KEY` for each key of the state dict, `x` in, `y` out, in float32. Other sizes: the modules of
torchvision, timm and transformers, and the formulas of the linear ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import GOLDEN as FIXTURES
from conftest import close
from natives import picture
from safetensors.torch import load_file
from timm.layers.norm_act import LayerNormAct2d
from torch import nn
from torch.nn import functional as F
from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig
from transformers.models.internvl.modeling_internvl import InternVLMultiModalProjector
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from vita_core import build_tower
from vita_core.config.schema import ProjectorConfig
from vita_core.language.projectors import build_projector
from vita_core.planning.projectors import resolve_projector

CPU = torch.device("cpu")
FACTS = json.loads((FIXTURES / "projectors" / "expected.json").read_text())
EXPECTED = {name: facts for name, facts in FACTS.items() if isinstance(facts, dict)}
"""The numbers of tokens and the keys of each of VITA's projectors, as its own code makes them."""
GOLDEN = ["minigpt", "vanilla", "ldp", "ldpv2", "spp_v1", "spp_v2", "spp_v3"]


def built(name: str, in_features: int, out_features: int, **options: Any) -> nn.Module:
    """A projector with random weights. A LayerNorm's are random too, so that a wrong one shows."""
    resolved = resolve_projector(ProjectorConfig(type=name, options=options), in_features, out_features)
    module = build_projector(resolved, out_features, dtype=torch.float32, device=CPU)
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


@pytest.mark.parametrize("name", GOLDEN)
def test_the_originals_files(golden: Path, name: str) -> None:
    tensors = load_file(golden / "projectors" / f"{name}.safetensors")
    x, y = tensors.pop("x"), tensors.pop("y")
    module = built(name, x.shape[-1], y.shape[-1])
    module.load_state_dict({key.removeprefix("weight."): tensor for key, tensor in tensors.items()}, strict=True)
    close(module(x), y)  # the original itself differs by 1e-6 between processors


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_originals_keys_and_sizes(name: str) -> None:
    width, expected = FACTS["mm_hidden_size"], EXPECTED[name]
    module = built(name, width, FACTS["hidden_size"] if name != "identity" else width)
    assert sorted(module.state_dict()) == expected["keys"]
    assert module(torch.randn(2, expected["tokens_in"], width)).shape == (
        2,
        expected["tokens_out"],
        expected["width_out"],
    )


def weights(module: nn.Module) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """Return the linear layers of a module as functions of their name and an input."""
    return lambda name, x: F.linear(x, module.get_parameter(f"{name}.weight"), module.get_parameter(f"{name}.bias"))


def means(x: torch.Tensor, side: int) -> torch.Tensor:
    """Return the means of 2 x 2 tokens of a square grid, without an odd last row or column."""
    even = x.unflatten(1, (side, side))[:, : side // 2 * 2, : side // 2 * 2]
    blocks = torch.stack([even[:, i::2, j::2] for i in (0, 1) for j in (0, 1)])
    return blocks.mean(0).flatten(1, 2)


@pytest.mark.parametrize(("in_features", "out_features", "side"), [(5, 9, 4), (40, 24, 8)])
def test_four_tokens_at_other_sizes(in_features: int, out_features: int, side: int) -> None:
    x = torch.randn(3, side**2, in_features)
    fours = [x[:, i::4] for i in range(4)]
    for name, joined in (
        ("minigpt", torch.cat(fours, -1)),
        ("vanilla", torch.stack(fours, -1).flatten(2)),
    ):
        module = built(name, in_features, out_features)
        close(module(x), weights(module)("linear", joined))


def spp(name: str, module: nn.Module, x: torch.Tensor, side: int) -> torch.Tensor:
    """Return what the original's class `SPP` computes."""
    layer = weights(module)
    if name == "spp_v1":
        return layer("linear_2", means(layer("linear_1", x), side))
    if name == "spp_v2":
        return means(layer("linear_2", layer("linear_1", x)), side)
    return layer("linear_2", layer("linear_1", means(layer("linear_0", x), side)))


@pytest.mark.parametrize(("in_features", "out_features", "side"), [(5, 9, 4), (24, 40, 7)])
@pytest.mark.parametrize("name", ["spp_v1", "spp_v2", "spp_v3"])
def test_means_at_other_sizes(name: str, in_features: int, out_features: int, side: int) -> None:
    module, x = built(name, in_features, out_features), torch.randn(3, side**2, in_features)
    close(module(x), spp(name, module, x, side))


@pytest.mark.parametrize(
    ("out_features", "grid"), [(8, (5, 5)), (40, (4, 4)), (104, (6, 6)), (24, (3, 8)), (24, (8, 3))]
)
def test_ldp_at_other_sizes_is_torchvisions_block(out_features: int, grid: tuple[int, int]) -> None:
    """Squeeze-and-excitation has 8, 16 and 24 channels at the first widths."""
    module, norm = built("ldp", 10, out_features), partial(LayerNormAct2d, act_layer=None)
    config = partial(InvertedResidualConfig, out_features, 3, out_features, out_features, True, "HS")
    blocks = nn.Sequential(*(InvertedResidual(config(stride, 1, 1), norm) for stride in (1, 2)))
    prefix = "model.mb_block."
    state = {key.removeprefix(prefix): value for key, value in module.state_dict().items() if key.startswith(prefix)}
    blocks.load_state_dict({f"{int(key[0]) - 1}{key[1:]}": value for key, value in state.items()}, strict=True)
    x, layer = torch.randn(2, grid[0] * grid[1], 10), weights(module)
    hidden = layer("model.mlp.3", F.gelu(layer("model.mlp.1", x)))
    expected = blocks(hidden.permute(0, 2, 1).reshape(2, out_features, *grid)).flatten(2).permute(0, 2, 1)
    assert torch.equal(module(x, grid=grid), expected)
    if grid[0] == grid[1]:
        assert torch.equal(module(x), expected)


def test_ldpv2_in_a_grid_that_divides_has_the_means_and_their_neighbours() -> None:
    module = built("ldpv2", 6, 4, grid=[2, 3])
    x, layer = torch.randn(2, 4 * 9, 6), weights(module)
    hidden = layer("mlp.mlp.2", F.gelu(layer("mlp.mlp.0", x))).unflatten(1, (4, 9))
    pooled = torch.stack(
        [hidden[:, 2 * r : 2 * r + 2, 3 * c : 3 * c + 3].mean((1, 2)) for r in (0, 1) for c in (0, 1, 2)], 1
    )
    weight, bias = module.get_parameter("peg.peg.0.weight")[:, 0], module.get_parameter("peg.peg.0.bias")
    around = F.pad(pooled.unflatten(1, (2, 3)), (0, 0, 1, 1, 1, 1))
    filtered = sum(around[:, i : i + 2, j : j + 3] * weight[:, i, j] for i in range(3) for j in range(3)) + bias
    close(module(x, grid=(4, 9)), pooled + filtered.flatten(1, 2))


def test_layernorm_mlp_is_internvls() -> None:
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.InternVLConfig(
        vision_config={"hidden_size": 10, **sizes},
        text_config={"model_type": "qwen2", "hidden_size": 24, "num_key_value_heads": 2, **sizes},
    )
    library, module = InternVLMultiModalProjector(config), built("layernorm_mlp", 40, 24)
    library.load_state_dict(module.state_dict(), strict=True)
    x = torch.randn(2, 7, 40)
    assert torch.equal(module(x), library(x))


@pytest.mark.parametrize("window", [2, 3])
def test_patch_merger_is_qwen2_vls(tmp_path: Path, window: int) -> None:
    """The tokens of the library's own encoder without its merger, merged by the projector, are those with its merger."""
    torch.manual_seed(0)
    sizes = {
        "depth": 2,
        "embed_dim": 32,
        "num_heads": 2,
        "hidden_size": 20,
        "patch_size": 8,
        "spatial_merge_size": window,
    }
    library = Qwen2VisionTransformerPretrainedModel(Qwen2VLVisionConfig(**sizes)).eval()
    library.save_pretrained(tmp_path)
    processor = transformers.Qwen2VLImageProcessorPil(
        patch_size=8, merge_size=window, size={"shortest_edge": 1024, "longest_edge": 16384}
    )
    processor.save_pretrained(tmp_path)
    module = built("patch_merger", 32, 20, spatial_merge_size=window)
    module.load_state_dict(library.merger.state_dict(), strict=True)
    tower = build_tower({"weights": str(tmp_path)})
    for size in ((96, 96), (200, 48)):
        made = processor(images=[picture(*size)], return_tensors="pt")
        _, rows, columns = made["image_grid_thw"][0].tolist()
        (tokens,) = tower(tower.image_processor.preprocess([picture(*size)])["pixel_values"])
        expected = library(made["pixel_values"], grid_thw=made["image_grid_thw"]).pooler_output
        close(module(tokens, grid=(rows, columns))[0], expected)
        assert len(expected) == rows // window * (columns // window)

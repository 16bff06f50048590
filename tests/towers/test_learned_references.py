"""Reductions that learn give what the implementation gives that they come from, with weights under its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_learned_reductions import named, spec_of, tokens_of
from timm.layers import LayerNorm2d
from timm.models.regnet import RegStage
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2QFormerConfig, Blip2QFormerModel
from transformers.models.idefics2.configuration_idefics2 import Idefics2Config, Idefics2PerceiverConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2Connector, Idefics2PerceiverResampler

from vita_core.config.validation import validate
from vita_core.loading import KeyRules, LoadReport, load_into, without_weights
from vita_core.plugins.builtin_reductions import c_abstractor, qformer, resampler
from vita_core.plugins.reductions import Sizes


def randomised(module: nn.Module) -> nn.Module:
    """The module with random weights: a norm that starts as 1 or a bias that starts as 0 would hide an error."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    return module.eval()


def opened(rules: Any, given: dict[str, Any], sizes: Sizes, file: Path) -> tuple[nn.Module, LoadReport]:
    """The reduction, built without memory and filled strictly from a file."""
    spec = spec_of(rules)
    options = validate(named(spec.options), given).model_dump()
    with without_weights():
        module = named(spec.factory)(sizes, options)
    keys = KeyRules(renames=spec.renames, skips=spec.skips)
    cpu = torch.device("cpu")
    return module.eval(), load_into(module, [file], keys, dtype=torch.float32, device=cpu, where=str(file))


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def qwen_table(sides: tuple[int, int], width: int) -> np.ndarray[Any, Any]:
    """Positions as Qwen-VL's paper and code place them: of each point first the column's sines and cosines, then the row's."""
    frequencies = 1.0 / 10000 ** (np.arange(width // 4, dtype=np.float32) / (width / 4))
    rows = []
    for row in range(sides[0]):
        for col in range(sides[1]):
            rows.append(
                np.concatenate(
                    [part for at in (col, row) for part in (np.sin(at * frequencies), np.cos(at * frequencies))]
                )
            )
    return np.stack(rows).astype(np.float32)


def qwen_by_hand(weights: dict[str, Tensor], tokens: Tensor, places: Tensor, heads: int) -> Tensor:
    """Qwen-VL's arithmetic, with torch's own attention, one picture after another. `places` are the positions of the tokens."""
    width = weights["query"].shape[1]
    attention = nn.MultiheadAttention(width, heads)
    attention.load_state_dict({key[5:]: value for key, value in weights.items() if key.startswith("attn.")})

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (width,), weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-6)

    outputs = []
    for picture in tokens:
        values = norm("ln_kv", picture @ weights["kv_proj.weight"].T if "kv_proj.weight" in weights else picture)
        queries = norm("ln_q", weights["query"]) + weights["pos_embed"]
        attended = attention(queries[:, None], (values + places)[:, None], values[:, None])[0][:, 0]
        outputs.append(norm("ln_post", attended) @ weights["proj"])
    return torch.stack(outputs)


@pytest.mark.parametrize(("grid", "width"), [((3, 3), 16), ((4, 4), 16), ((3, 5), 16), ((6, 2), 12)])
def test_qwen(tmp_path: Path, grid: tuple[int, int], width: int) -> None:
    torch.manual_seed(0)
    given = {"queries": 9, "width": width, "heads": 2}
    shapes = resampler.tensors((*grid, 12), {"layout": "qwen", "post": True, **given})
    weights = {key: torch.randn(shape) * 0.3 for key, shape in shapes.items()}
    weights["pos_embed"] = torch.from_numpy(qwen_table((3, 3), width))
    outside = {"attn_pool." * (not key.startswith(("ln_post", "proj"))) + key: value for key, value in weights.items()}
    whole = {f"transformer.visual.{key}": value for key, value in outside.items()}
    whole |= {"transformer.visual.conv1.weight": torch.rand(2), "transformer.h.0.ln_1.weight": torch.rand(2)}
    save_file(whole, tmp_path / "whole.safetensors")
    module, report = opened(resampler, given, (4, 4, 12), tmp_path / "whole.safetensors")
    assert report.skipped == {
        "not of the resampler": ["transformer.h.0.ln_1.weight", "transformer.visual.conv1.weight"]
    }
    tokens = tokens_of((*grid, 12))
    as_map = weights["pos_embed"].reshape(1, 3, 3, width).permute(0, 3, 1, 2)
    places = F.interpolate(as_map, grid, mode="bicubic", align_corners=False)[0].flatten(1).T
    close(module(tokens, grid), qwen_by_hand(weights, tokens, places, 2))
    rest = {"vpm.pos_embed": torch.rand(2), "llm.lm_head.weight": torch.rand(2)}  # MiniCPM-V 2 has other keys around it
    save_file({f"resampler.{key}": value for key, value in weights.items()} | rest, tmp_path / "minicpm.safetensors")
    module, report = opened(resampler, given | {"adaptive": True}, (4, 4, 12), tmp_path / "minicpm.safetensors")
    assert report.skipped == {"not of the resampler": sorted(rest)}
    close(module(tokens, grid), qwen_by_hand(weights, tokens, torch.from_numpy(qwen_table(grid, width)), 2))


def test_the_fixed_positions_are_qwens() -> None:
    spec = spec_of(resampler)
    options = validate(named(spec.options), {"queries": 256}).model_dump()
    module = named(spec.factory)((4, 4, 32), options)
    close(module.pos_embed, torch.from_numpy(qwen_table((16, 16), 32)))
    assert not module.pos_embed.requires_grad


def test_the_published_resampler_has_its_published_size() -> None:
    options = validate(named(spec_of(resampler).options), {"width": 4096, "post": False}).model_dump()
    parameters = spec_of(resampler).parameters
    assert parameters is not None
    assert round(parameters((32, 32, 1664), options) / 1e9, 2) == 0.08  # table 1 of arXiv 2308.12966, "VL Adapter"
    assert spec_of(resampler).sizes((32, 32, 1664), options) == (256, 4096)


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_idefics2(tmp_path: Path, key_heads: int) -> None:
    config = Idefics2PerceiverConfig(
        hidden_size=12,
        resampler_n_latents=5,
        resampler_depth=2,
        resampler_n_heads=4,
        resampler_head_dim=6,
        num_key_value_heads=key_heads,
    )
    original = randomised(Idefics2PerceiverResampler(config))
    original.save_pretrained(tmp_path)
    given = {"layout": "idefics2", "queries": 5, "depth": 2, "heads": 4, "head_width": 6, "kv_heads": key_heads}
    module, _ = opened(resampler, given, (4, 4, 12), tmp_path / "model.safetensors")
    assert module.state_dict().keys() == original.state_dict().keys()
    for tokens in (tokens_of((4, 4, 12)), tokens_of((7, 12))):
        close(module(tokens, None), original(tokens, torch.ones(tokens.shape[:2])))


def test_idefics2_with_the_rest_of_its_connector(tmp_path: Path) -> None:
    heads = {"resampler_n_heads": 4, "resampler_head_dim": 6, "num_key_value_heads": 2}
    config = Idefics2Config(
        vision_config={"hidden_size": 12},
        text_config={"model_type": "mistral", "hidden_size": 20, "intermediate_size": 7, "hidden_act": "silu"},
        perceiver_config={"hidden_size": 20, "resampler_n_latents": 5, "resampler_depth": 1, **heads},
    )
    original = randomised(Idefics2Connector(config))
    whole = {f"model.connector.{key}": value for key, value in original.state_dict().items()}
    rest = ("lm_head.weight", "model.text_model.norm.weight", "model.vision_model.a")
    save_file(whole | {key: torch.rand(2) for key in rest}, tmp_path / "whole.safetensors")
    given = {"layout": "idefics2", "queries": 5, "depth": 1, "heads": 4, "head_width": 6, "kv_heads": 2}
    module, report = opened(
        resampler, given | {"width": 20, "mlp_width": 7}, (4, 4, 12), tmp_path / "whole.safetensors"
    )
    assert report.skipped == {"not of the resampler": list(rest)}
    tokens = tokens_of((3, 5, 12))
    close(module(tokens, (3, 5)), original(tokens, torch.ones(2, 15)))


QFORMER = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 24}
GIVEN = {"queries": 5, "hidden_size": 16, "depth": 3, "heads": 4, "mlp_width": 24}
BLIP2: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 12,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "image_size": 8,
        "patch_size": 2,
    },
    "qformer_config": {**QFORMER, "encoder_hidden_size": 12},
    "text_config": {
        "model_type": "opt",
        "hidden_size": 20,
        "word_embed_proj_dim": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "ffn_dim": 8,
        "vocab_size": 30,
    },
    "num_query_tokens": 5,
}


def test_qformer_of_a_whole_blip2(tmp_path: Path) -> None:
    original = randomised(Blip2ForConditionalGeneration(Blip2Config(**BLIP2)))
    original.save_pretrained(tmp_path)
    module, report = opened(qformer, GIVEN | {"width": 20}, (17, 12), tmp_path / "model.safetensors")
    assert set(report.skipped) == {"not of the Q-Former"}
    pixels = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        wanted = original.get_image_features(pixels)
        close(module(wanted.last_hidden_state, None), wanted.pooler_output)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_qformer_saved_alone_with_its_queries(tmp_path: Path, every: int) -> None:
    config = Blip2QFormerConfig(**QFORMER, encoder_hidden_size=12, cross_attention_frequency=every)
    original = randomised(Blip2QFormerModel(config))
    queries = torch.randn(1, 5, 16)
    save_file({"query_tokens": queries, **original.state_dict()}, tmp_path / "alone.safetensors")
    module, _ = opened(qformer, GIVEN | {"cross_every": every}, (4, 4, 12), tmp_path / "alone.safetensors")
    tokens = tokens_of((4, 4, 12))
    wanted = original(queries.expand(2, -1, -1), encoder_hidden_states=tokens, encoder_attention_mask=torch.ones(2, 16))
    close(module(tokens, (4, 4)), wanted.last_hidden_state)


def honeybee(depth: int, width: int, places: int, *, first: int = 0) -> nn.ModuleDict:
    """The parts of Honeybee's C-Abstractor, from timm, under its names."""

    def stage(channels: int) -> nn.Module:
        return RegStage(depth, channels, 16, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d)

    parts = nn.ModuleDict(
        {
            "net": nn.Sequential(stage(12), nn.AdaptiveAvgPool2d((2, 2)), stage(16)),
            "readout": nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width)),
            "prenorm": nn.LayerNorm(12, eps=1e-6),
        }
    )
    parts.register_parameter("pos_emb", nn.Parameter(torch.zeros(1, first + places, 12)))
    parts.register_parameter("eos_tokens", nn.Parameter(torch.zeros(1, 3, width)))
    return parts


@pytest.mark.parametrize(("depth", "first"), [(1, 0), (3, 0), (2, 1)])
def test_c_abstractor(tmp_path: Path, depth: int, first: int) -> None:
    original = randomised(honeybee(depth, 20, 16, first=first))
    whole = {f"abstractor.{key}": value for key, value in original.state_dict().items()}
    save_file(
        whole | {"vision_model.a": torch.rand(2), "language_model.b": torch.rand(2)}, tmp_path / "whole.safetensors"
    )
    given = {
        "queries": 4,
        "hidden_size": 16,
        "depth": depth,
        "width": 20,
        "prenorm": True,
        "end_tokens": 3,
        "positions": 16,
    }
    module, report = opened(
        c_abstractor, given | {"cls_position": bool(first)}, (3, 5, 12), tmp_path / "whole.safetensors"
    )
    assert report.skipped == {"not of the C-Abstractor": ["language_model.b", "vision_model.a"]}
    table = original.get_parameter("pos_emb")[:, first:]
    for rows, cols in ((4, 4), (3, 5), (6, 2)):
        tokens = tokens_of((rows, cols, 12))
        as_map = table.reshape(1, 4, 4, 12).permute(0, 3, 1, 2)
        places = (
            F.interpolate(as_map, (rows, cols), mode="bicubic", align_corners=False)
            if (rows, cols) != (4, 4)
            else as_map
        )
        x = original["prenorm"](tokens).reshape(2, rows, cols, 12).permute(0, 3, 1, 2) + places
        wanted = original["readout"](original["net"](x).flatten(2).transpose(1, 2))
        wanted = torch.cat([wanted, original.get_parameter("eos_tokens").expand(2, -1, -1)], dim=1)
        close(module(tokens, (rows, cols)), wanted)

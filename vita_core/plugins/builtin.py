"""The built-in projectors and language model, as specs like those of any plugin. They cannot be blocked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vita_core.plugins.builtin_projectors import PROJECTORS
from vita_core.plugins.builtin_reductions import REDUCTIONS
from vita_core.plugins.hookspecs import VITA_API, hookimpl
from vita_core.plugins.reductions import ReductionSpec
from vita_core.plugins.specs import LLMShape, LLMSpec, ProjectorSpec, TowerSpec

vita_api = VITA_API
LLAMA_LIKE = ("llama", "mistral", "qwen2")
"""Model types whose blocks have exactly the linear layers that `decoder_shape` states."""


def decoder_shape(config: Mapping[str, Any]) -> LLMShape:
    """Return the shape of a Llama-like decoder (Llama, Mistral, Qwen2, SmolLM2) from its ``config.json``."""
    width, layers = config["hidden_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or width // heads
    bias = config.get("model_type") == "qwen2" or config.get("attention_bias", False)
    q_width, kv_width, mlp, vocab = heads * head, kv_heads * head, config["intermediate_size"], config["vocab_size"]
    attention = 2 * width * q_width + 2 * width * kv_width
    biases = (q_width + 2 * kv_width) if bias else 0
    if config.get("attention_bias", False):
        biases += width  # Llama's option adds a bias to the output projection too
    block = attention + biases + 3 * width * mlp + 2 * width
    tied = config.get("tie_word_embeddings", False)
    projections = {"q": q_width, "k": kv_width, "v": kv_width}
    linears = (
        *((f"self_attn.{name}_proj", width, out) for name, out in projections.items()),
        ("self_attn.o_proj", q_width, width),
        *((f"mlp.{name}_proj", width, mlp) for name in ("gate", "up")),
        ("mlp.down_proj", mlp, width),
    )
    known = config.get("model_type") in LLAMA_LIKE
    return LLMShape(
        hidden_size=width,
        parameters=layers * block + width + vocab * width * (1 if tied else 2),
        macs_per_token=layers * (attention + 3 * width * mlp) + vocab * width,
        cache_values_per_token=2 * layers * kv_width,
        context=config.get("max_position_embeddings"),
        block_parameters=block if known else None,
        linears=linears if known else (),
    )


def _decoder(
    model_type: str, width: int, layers: int, heads: int, kv: int, mlp: int, vocab: int, context: int, tied: bool
) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": mlp,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "tie_word_embeddings": tied,
    }


@hookimpl
def vita_projectors() -> list[ProjectorSpec]:
    """Return the projectors of `vita_core.plugins.builtin_projectors`."""
    return list(PROJECTORS)


@hookimpl
def vita_towers() -> list[TowerSpec]:
    """Return ``fused``, the tower of several towers."""
    return [TowerSpec("fused", "several encoders as one, from a list `towers`", "vita_core.towers.fused:FusedTower")]


@hookimpl
def vita_reductions() -> list[ReductionSpec]:
    """Return the built-in reductions."""
    return [*REDUCTIONS]


@hookimpl
def vita_llms() -> list[LLMSpec]:
    """Return ``auto``, which loads any causal language model of transformers."""
    return [
        LLMSpec(
            name="auto",
            summary="any AutoModelForCausalLM of transformers",
            factory="vita_core.language.llm:LanguageModel",
            geometry=decoder_shape,
            hub_ids={
                "HuggingFaceTB/SmolLM2-135M-Instruct": _decoder("llama", 576, 30, 9, 3, 1536, 49152, 8192, True),
                "Qwen/Qwen2.5-0.5B-Instruct": _decoder("qwen2", 896, 24, 14, 2, 4864, 151936, 32768, True),
                "Qwen/Qwen2.5-7B-Instruct": _decoder("qwen2", 3584, 28, 28, 4, 18944, 152064, 32768, False),
                "TinyLlama/TinyLlama-1.1B-Chat-v1.0": _decoder("llama", 2048, 22, 32, 4, 5632, 32000, 2048, False),
                "lmsys/vicuna-7b-v1.5": _decoder("llama", 4096, 32, 32, 32, 11008, 32000, 4096, False),
                "mistralai/Mistral-7B-Instruct-v0.2": _decoder("mistral", 4096, 32, 32, 8, 14336, 32000, 32768, False),
            },
        )
    ]

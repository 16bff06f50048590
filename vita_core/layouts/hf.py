"""What the layouts share that transformers' multimodal classes save: keys, text config, tower config and chat template."""

from __future__ import annotations

from typing import Any

from vita_core.errors import CheckpointError
from vita_core.layouts.layout import OldConfig, Rule
from vita_core.untrusted.jsonfiles import read_object
from vita_core.weights.sources import Source

__all__ = [
    "BASE_RULES",
    "chat_template",
    "check_projector",
    "normed_projector",
    "processor_text",
    "single_pictures",
    "text_config",
    "vision_source",
]

# transformers saved the language model under `language_model.` until 4.52, and does so again since 5
BASE_RULES = (
    Rule(r"^(?:model\.)?vision_tower\.", "tower"),
    Rule(r"^(?:language_model\.)?lm_head\.", "llm", to="lm_head."),
    Rule(r"^(?:language_model\.model|model\.language_model)\.", "llm", to="model."),
)
TEXT = {
    "llama": (4096, 11008, 32, 32, None, 32000, 2048),
    "mistral": (4096, 14336, 32, 32, 8, 32000, 131072),
    "qwen2": (4096, 22016, 32, 32, 32, 151936, 32768),
}
"""transformers' defaults of `SIZES`, which older versions do not write to a nested config."""
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
)


def normed_projector(norm: str) -> tuple[Rule, ...]:
    """Return the rules of a projector that begins with a LayerNorm of this name, as keys of ``mlp2x_gelu``."""
    names = {norm: "0.", "linear_1": "1.", "linear_2": "3."}
    return tuple(
        Rule(rf"^(?:model\.)?multi_modal_projector\.{name}\.", "projector", to=own) for name, own in names.items()
    )


def check_projector(config: OldConfig) -> None:
    """Raise CheckpointError for a projector without GELU or without biases."""
    activation, bias = config.get("projector_hidden_act", "gelu"), config.get("multimodal_projector_bias", True)
    if activation != "gelu" or not bias:
        raise CheckpointError(
            f"unsupported projector: projector_hidden_act {activation!r}, multimodal_projector_bias {bias!r}. Try: a "
            "checkpoint whose projector has GELU and biases, as LLaVA-1.5 and 1.6 have"
        )


def text_config(config: OldConfig, model_type: str, *, tied: bool = False, inherits: bool = False) -> dict[str, Any]:
    """Return the ``text_config``. `model_type` is transformers' default for the whole model's config.

    Whether word embeddings and output share their weights is stated in the whole model's config, by default `tied`; with
    `inherits`, the text config can state it too.
    """
    text = config.get("text_config") or {}
    kind = text.get("model_type", model_type)
    sizes = {key: size for key, size in zip(SIZES, TEXT.get(kind, ()), strict=False) if size is not None}
    tied = config.get("tie_word_embeddings", tied) or (inherits and text.get("tie_word_embeddings", False))
    return {**sizes, **text, "model_type": kind, "tie_word_embeddings": tied}


def single_pictures(own: Source, kind: str, usual: str) -> dict[str, Any] | None:
    """Return the processor config for a tile, where the section ``images`` cuts the tiles.

    If it names a processor whose name begins with `kind`, it gets the name of the processor that does the same to a picture
    without cutting it, `usual`.
    """
    if own.preprocessor is None or not str(own.preprocessor.get("image_processor_type", "")).startswith(kind):
        return None if own.preprocessor is None else dict(own.preprocessor)
    kept = {key: value for key, value in own.preprocessor.items() if key not in ("image_grid_pinpoints", "do_pad")}
    return {**kept, "image_processor_type": usual}


def vision_source(own: Source, processor: dict[str, Any] | None) -> Source:
    """Return the tower's source, with the ``vision_config`` as its config."""
    vision = {"model_type": "clip_vision_model", **own.config["vision_config"]}
    return Source(own.weights, None, None, None, vision, processor, preprocessor_file=own.preprocessor_file)


def processor_text(own: Source, key: str, usual: str) -> str:
    """Return a text that ``processor_config.json`` states, or the `usual` one."""
    assert own.path is not None
    file = own.path / "processor_config.json"
    return str((read_object(file) if file.is_file() else {}).get(key, usual))


def chat_template(own: Source) -> bool:
    """Return whether the checkpoint has a chat template, of its processor or of its tokenizer."""
    assert own.path is not None
    if any((own.path / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    tokenizer = own.path / "tokenizer_config.json"
    return tokenizer.is_file() and "chat_template" in read_object(tokenizer)

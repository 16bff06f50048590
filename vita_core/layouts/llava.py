"""LLaVA-1.5 and 1.6 as their authors publish them: keys start with ``model.``, and the tower is often not included."""

from __future__ import annotations

from typing import Any

from vita_core.layouts.layout import Layout, OldConfig, Rule, decoder_config, dtype_of
from vita_core.layouts.sections import image_section, projector_section, tower_name, tower_section

__all__ = ["LAYOUT"]

# model_type -> (transformers' model_type, conversation format); LLaVA-1.5 itself has the plain `llava`
BACKBONES = {
    "llava": ("llama", "vicuna_v1"),
    "llava_llama": ("llama", "vicuna_v1"),
    "llava_mistral": ("mistral", "mistral_instruct"),
    "llava_qwen": ("qwen2", "chat"),
    "llava_qwen2": ("qwen2", "chat"),
}
RULES = (
    Rule(r"^model\.vision_tower\.(?:vision_tower\.)?", "tower"),
    Rule(r"^(?:model\.)?mm_projector\.", "projector"),
    Rule(r"^(?:model\.)?image_newline$", "newline", to="newline"),
    Rule(r"rotary_emb\.inv_freq$", reason="{count} tables of rotary angles skipped: the model computes them"),
    Rule(r"^(?=model\.(?:embed_tokens|layers|norm)\.|lm_head\.)", "llm"),
)


def _recognises(config: OldConfig) -> bool:
    # Hugging Face's converted checkpoints have `llava` too, but also a `vision_config`
    return config.get("model_type") in BACKBONES and "vision_config" not in config


def sections(config: OldConfig, tile: int) -> dict[str, Any]:
    """Return the config sections. LLaVA-1.5 states ``pad`` as its aspect ratio, LLaVA-1.6 ``anyres``."""
    return {
        "tower": tower_section(config, tile),
        "projector": projector_section(config, "linear"),
        "llm": {"dtype": dtype_of(config)},
        "images": image_section(config, tile),
        "prompt": {"template": BACKBONES[config["model_type"]][1]},
    }


LAYOUT = Layout(
    name="LLaVA",
    model_types=tuple(BACKBONES),
    recognises=_recognises,
    rules=RULES,
    decoder=lambda config: decoder_config(config, BACKBONES[config["model_type"]][0]),
    sections=sections,
    tower_name=tower_name,
    projector_file="mm_projector.bin",
)

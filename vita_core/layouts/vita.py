"""VITA-1.0 and VITA-1.5: a language model's config with ``mm_`` keys; tower, projector and audio encoder under ``model.``.

The audio half is skipped, and said so: this is the vision half.
"""

from __future__ import annotations

from typing import Any

from vita_core.errors import CheckpointError, ConfigError, nearest
from vita_core.layouts.layout import Layout, OldConfig, Rule, decoder_config, dtype_of
from vita_core.layouts.sections import image_section, projector_section, tower_name, tower_section

__all__ = ["LAYOUT", "check_demo_type"]

# model_type in lower case (forks write both) -> (transformers' model_type, conversation format)
BACKBONES = {
    "vita-qwen2": ("qwen2", "qwen2p5_instruct"),
    "vita-fo-qwen2": ("qwen2", "qwen2p5_instruct"),
    "vita-mixtral": ("mixtral", "mixtral_two"),
    "vita-nemo": ("mistral", "nemo"),
}
DEMO_TYPES = {
    "mixtral-8x7b": "vita-mixtral",
    "nemo": "vita-nemo",
    "qwen2p5_instruct": "vita-qwen2",
    "qwen2p5_fo_instruct": "vita-fo-qwen2",
}
"""What VITA's demo calls its model types, which it does not read from the checkpoint."""
RULES = (
    Rule(r"^model\.vision_tower\.(?:vision_tower\.)?", "tower"),
    Rule(r"^(?:model\.)?mm_projector\.", "projector"),
    Rule(r"^model\.audio_encoder\.", reason="vision only: {count} audio tensors skipped", audio=True),
    Rule(
        r"^(?:model\.)?predictor_head\.",
        reason="vision only: {count} tensors of the turn-taking head skipped",
        audio=True,
    ),
    Rule(r"rotary_emb\.inv_freq$", reason="{count} tables of rotary angles skipped: they are computed"),
    Rule(r"^(?=model\.(?:embed_tokens|layers|norm)\.|lm_head\.)", "llm"),
)


def _backbone(config: OldConfig) -> tuple[str, str]:
    kind = str(config["model_type"]).lower()
    if kind not in BACKBONES:
        raise CheckpointError(f"model_type {config['model_type']!r}: of VITA's there are {', '.join(BACKBONES)}")
    return BACKBONES[kind]


def sections(config: OldConfig, tile: int) -> dict[str, Any]:
    """VITA's demo cuts at most 12 tiles of the tower's size and a thumbnail, whatever the config says of aspect."""
    return {
        "tower": tower_section(config, tile),
        "projector": projector_section(config),
        "llm": {"dtype": dtype_of(config)},
        "images": {**image_section(config, tile), "tiles": {"min": 1, "max": 12, "thumbnail": True}},
        "prompt": {"template": _backbone(config)[1]},
    }


LAYOUT = Layout(
    name="VITA",
    model_types=tuple(BACKBONES),
    recognises=lambda config: str(config.get("model_type", "")).lower().startswith("vita-"),
    rules=RULES,
    decoder=lambda config: decoder_config(config, _backbone(config)[0]),
    sections=sections,
    tower_name=tower_name,
    projector_file="mm_projector.bin",
)


def check_demo_type(name: str, config: OldConfig) -> None:
    """Raise ConfigError where ``--model_type`` is unknown, or not what the checkpoint's config says."""
    if name not in DEMO_TYPES:
        raise ConfigError(f"--model_type {name!r} is none of {', '.join(DEMO_TYPES)}.{nearest(name, DEMO_TYPES)}")
    stated = str(config.get("model_type"))
    if stated.lower() != DEMO_TYPES[name]:
        raise ConfigError(f"--model_type {name}: the checkpoint's config.json says {stated!r}; leave --model_type out")

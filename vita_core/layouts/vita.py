"""VITA-1.0 and VITA-1.5: a language model's config with ``mm_`` keys; tower, projector and audio encoder under ``model.``.

The audio tensors are skipped, and a note reports how many.
"""

from __future__ import annotations

from typing import Any

from vita_core.errors import CheckpointError, ConfigError, nearest
from vita_core.layouts.layout import Layout, OldConfig, Rule, decoder_config, dtype_of
from vita_core.layouts.sections import image_section, projector_section, tower_name, tower_section

__all__ = ["LAYOUT", "check_demo_type"]

# model_type in lower case (forks use both cases) -> (transformers' model_type, conversation format)
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
"""The values of ``--model_type`` in VITA's demo, and the model_type of the checkpoints they stand for."""
RULES = (
    Rule(r"^model\.vision_tower\.(?:vision_tower\.)?", "tower"),
    Rule(r"^(?:model\.)?mm_projector\.", "projector"),
    Rule(r"^model\.audio_encoder\.", reason="vision only: {count} audio tensors skipped", audio=True),
    Rule(
        r"^(?:model\.)?predictor_head\.",
        reason="vision only: {count} tensors of the turn-taking head skipped",
        audio=True,
    ),
    Rule(r"rotary_emb\.inv_freq$", reason="{count} tables of rotary angles skipped: the model computes them"),
    Rule(r"^(?=model\.(?:embed_tokens|layers|norm)\.|lm_head\.)", "llm"),
)


def _backbone(config: OldConfig) -> tuple[str, str]:
    kind = str(config["model_type"]).lower()
    if kind not in BACKBONES:
        raise CheckpointError(
            f"model_type: unknown VITA model: {config['model_type']!r}.{nearest(kind, BACKBONES)} Try: a checkpoint with one "
            f"of {', '.join(BACKBONES)}"
        )
    return BACKBONES[kind]


def sections(config: OldConfig, tile: int) -> dict[str, Any]:
    """Return the config sections. As in VITA's demo, pictures are cut into up to 12 tiles and a thumbnail in any case."""
    return {
        "tower": tower_section(config, tile),
        "projector": projector_section(config, "mlp2x_gelu"),
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
    """Raise ConfigError if the value of ``--model_type`` is unknown or does not match the checkpoint's config."""
    if name not in DEMO_TYPES:
        known = ", ".join(DEMO_TYPES)
        raise ConfigError(f"--model_type: unknown value: {name!r}.{nearest(name, DEMO_TYPES)} Try: one of {known}")
    stated = str(config.get("model_type"))
    if stated.lower() != DEMO_TYPES[name]:
        raise ConfigError(
            f"--model_type: {name!r} does not match the checkpoint, whose config.json has model_type {stated!r}. "
            "Try: leave --model_type out"
        )

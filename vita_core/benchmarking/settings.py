"""What a benchmark says about generating its answers, as this project's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vita_core.config.schema import GenerationConfig
from vita_core.config.validation import validate
from vita_core.errors import VitaError

__all__ = ["Settings", "asked_settings"]

USED = {"max_new_tokens", "max_gen_toks", "temperature", "top_p", "do_sample", "until", "stop_sequences"}
NEUTRAL = {"num_beams": 1, "repetition_penalty": 1, "top_k": 0}
"""Ways of decoding that are not there, and the value with which they change nothing."""


@dataclass(frozen=True)
class Settings:
    """How answers are generated. An answer ends before the first of the texts `until`. `unused` are the keys left out."""

    generation: GenerationConfig
    until: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def ended(self, answer: str) -> str:
        """Return the answer up to the first of the texts that end it."""
        return answer[: min([len(answer), *(at for text in self.until if (at := answer.find(text)) >= 0)])]


def asked_settings(stated: Mapping[str, Any], own: GenerationConfig) -> Settings:
    """Return the settings for the `generation_kwargs` of a task. What they leave out is as in the config's section, `own`.

    The answers are greedy unless `do_sample` and a `temperature` above 0 ask for samples; `top_p` counts only then. Keys that
    are made for other models (`image_aspect_ratio`) are not used. Raises VitaError for a way of decoding that is not there,
    and ConfigError for a wrong value.
    """
    stated = {key: value for key, value in stated.items() if value is not None}
    temperature = stated.get("temperature", own.temperature)
    if stated.get("do_sample") and "temperature" not in stated:
        temperature = temperature or 1.0  # transformers' own
    sampled = stated.get("do_sample", True) and temperature != 0
    for key, neutral in NEUTRAL.items():
        if key in stated and stated[key] != neutral and (sampled or key != "top_k"):
            raise VitaError(
                f"generation_kwargs: {key}={stated[key]} is not supported. Try: `--gen_kwargs {key}={neutral}`"
            )
    given: dict[str, Any] = own.model_dump() | {"temperature": float(temperature) if sampled else 0.0}
    given["max_new_tokens"] = stated.get("max_new_tokens", stated.get("max_gen_toks", own.max_new_tokens))
    if sampled and stated.get("top_p", 0) != 0:  # some tasks write 0 for "all tokens"
        given["top_p"] = float(stated["top_p"])
    generation = validate(GenerationConfig, given, section="generation_kwargs")
    until = stated.get("until", stated.get("stop_sequences", ()))
    texts = [until] if isinstance(until, str) else until
    return Settings(generation, tuple(text for text in texts if text), tuple(sorted({*stated} - USED - {*NEUTRAL})))

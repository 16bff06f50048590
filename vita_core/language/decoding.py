"""What ``generation_config.json`` may say of how answers are generated: transformers would obey all of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from vita_core.errors import CheckpointError
from vita_core.untrusted.schemas import Outside

__all__ = ["Generation", "check_generation", "stop_token"]

Token = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Few = Annotated[int, Field(ge=0, le=4096)] | None


class Generation(Outside):
    """The keys of ``generation_config.json`` that take part in an answer. The tokens that end it may be several."""

    eos_token_id: Token | list[Token] | None = None
    pad_token_id: Token | None = None
    bos_token_id: Token | None = None
    min_length: Few = None
    min_new_tokens: Few = None
    no_repeat_ngram_size: Few = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    cache_implementation: Literal["dynamic", "static", "hybrid", "sliding_window", "hybrid_chunked"] | None = None
    repetition_penalty: Annotated[float | int, Field(gt=0, le=1000)] | None = None


OBEYED = {
    *Generation.model_fields,
    "cache_implementation",
    "use_cache",
    "typical_p",
    "min_p",
    "epsilon_cutoff",
    "eta_cutoff",
}
"""What transformers does as the file says. It checks the last ones itself."""
OURS = {
    "do_sample", "temperature", "top_p", "max_length", "max_new_tokens", "transformers_version", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind",
    "length_penalty", "early_stopping",
}  # fmt: skip
"""What the config of vita says instead, and what only a second model or several beams use."""

NEUTRAL = {
    "num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "guidance_scale": 1, "encoder_repetition_penalty": 1,
    "diversity_penalty": 0, "encoder_no_repeat_ngram_size": 0, "penalty_alpha": 0, "prefill_chunk_size": 0,
}  # fmt: skip
"""The values that change nothing, other than null, false and an empty list. Older files state them."""


def check_generation(config: Any, place: object) -> None:
    """Raise CheckpointError if a GenerationConfig of transformers asks for what is not obeyed here. `place` is its directory."""
    for key, value in config.to_diff_dict().items():
        neutral = value is None or value is False or value in ([], {}) or value == NEUTRAL.get(key)
        if key in vars(type(config)()) and not key.startswith("_") and key not in OBEYED | OURS and not neutral:
            raise CheckpointError(
                f"{place}/generation_config.json: {key}: {value!r:.80} is not supported. Try: remove that key from the file"
            )


def stop_token(*stated: Any) -> int:
    """Return the id of the token that ends an answer: the first one that is stated. Raises CheckpointError if there is none."""
    for value in stated:
        ids = value if isinstance(value, list) else [value]
        if ids and isinstance(ids[0], int):
            return ids[0]
    raise CheckpointError(
        "llm.weights: neither the language model nor its tokenizer names a token that ends an answer. Try: write eos_token_id "
        "into its generation_config.json"
    )

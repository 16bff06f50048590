"""The sections of a config about the prompt and the answer. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from vita_core.config.validation import Section

__all__ = ["GenerationConfig", "PromptConfig"]


class PromptConfig(Section):
    """The prompt. `template: chat` is the tokenizer's own chat template. The others are conversation formats of other
    projects without their system text: set it with `system`. `question` is the default question."""

    template: Literal["chat", "plain", "qwen2p5_instruct", "mixtral_two", "nemo", "vicuna_v1", "mistral_instruct"] = (
        "chat"
    )
    system: str | None = None
    question: str = "What is this?"


class GenerationConfig(Section):
    """How the answer is generated. `temperature: 0` is greedy decoding."""

    max_new_tokens: PositiveInt = 128
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0

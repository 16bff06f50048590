"""The sections of a config about the prompt and the answer. No torch."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
from pydantic import Field, PositiveInt

from vita_core.config.validation import Section

__all__ = ["GenerationConfig", "PromptConfig"]


class PromptConfig(Section):
    """The prompt. `template: chat` is the tokenizer's own chat template. The others are conversation formats of other
    projects without their system text: set it with `system`. `question` is the default question.

    `image_token` is the token, or its id, that stands for a picture in prompts of transformers' multimodal models. With it,
    the whole prompt is turned into tokens as transformers' processors do, not piece by piece between the pictures; a chat
    template gets the pictures and the question as a list if it can write one. `image_text` is what the prompt has for each
    picture; ``<image>`` in it is the place of the picture's tokens (InternVL's is ``<img><image></img>``). `row_tokens` are
    the token after each row of a picture's tokens but the last, and the one after the last (Pixtral's ``[IMG_BREAK]`` and
    ``[IMG_END]``).
    """

    template: Literal[
        "chat",
        "plain",
        "qwen2p5_instruct",
        "mixtral_two",
        "nemo",
        "vicuna_v1",
        "mistral_instruct",
        "vipllava",
        "internvl2_5",
        "internlm2_chat",
        "phi3_chat",
    ] = "chat"
    system: str | None = None
    question: str = "What is this?"
    image_token: int | str | None = None
    image_text: str = "<image>"
    row_tokens: Annotated[list[str], Field(min_length=2, max_length=2)] | None = None

    @pydantic.model_validator(mode="after")
    def _one_place(self) -> PromptConfig:
        if self.image_text.count("<image>") != 1:
            raise ValueError(f"image_text has no single <image>: {self.image_text!r}. Try: `image_text: <image>`")
        return self


class GenerationConfig(Section):
    """How the answer is generated. `temperature: 0` is greedy decoding."""

    max_new_tokens: PositiveInt = 128
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0

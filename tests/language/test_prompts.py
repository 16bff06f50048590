"""Prompts with a token for each picture, as transformers' processors of multimodal models write them."""

from __future__ import annotations

from typing import Any

import multimodal
import pytest
from tokenizers.processors import TemplateProcessing

from vita_core.config.schema import Config, PromptConfig
from vita_core.config.validation import validate
from vita_core.errors import CheckpointError, ConfigError, VitaError
from vita_core.language.prompts import PICTURE_ID, prompt_ids

LISTS = (
    "{% for m in messages %}{{ '[' + m['role'] + ']' }}{% for part in m['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endfor %}"
)
TEXTS = "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] }}{% endfor %}"
PRINTED = "{% for m in messages %}{{ '[' + m['role'] + ']' }}{{ m['content'] }}{% endfor %}"
PROMPT = PromptConfig(image_token="<image>")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return multimodal.tokenizer()


def written(tokenizer: Any, template: str, prompt: PromptConfig, question: str, pictures: int) -> str:
    """The prompt as a text, in which `#` is the place of a picture."""
    tokenizer.chat_template = template
    ids = prompt_ids(tokenizer, prompt, question, [1] * pictures)
    shown = ["#" if token == PICTURE_ID else tokenizer.decode([token]) for token in ids]
    return "".join(shown)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (LISTS, "[user]##What?"),
        (TEXTS, "[user]#\n#\nWhat?"),
        (PRINTED, "[user]#\n#\nWhat?"),  # it would print a list as Python does
    ],
)
def test_templates_of_lists_and_of_texts(tokenizer: Any, template: str, expected: str) -> None:
    assert written(tokenizer, template, PROMPT, "What?", 2) == expected


@pytest.mark.parametrize("template", [LISTS, TEXTS])
def test_pictures_stand_where_the_question_says(tokenizer: Any, template: str) -> None:
    question = "is <image> or <image> red?"
    assert written(tokenizer, template, PROMPT, question, 2) == "[user]is # or # red?"
    system = PROMPT.model_copy(update={"system": "S"})
    assert written(tokenizer, template, system, question, 2) == "[system]S[user]is # or # red?"


def test_the_text_around_a_picture(tokenizer: Any) -> None:
    prompt = PromptConfig(image_token="<IMG_CONTEXT>", image_text="<img><image></img>", template="internvl2_5")
    text = "<|im_start|>user\n<img>#</img>\nQ<|im_end|>\n<|im_start|>assistant\n"
    assert written(tokenizer, TEXTS, prompt, "Q", 1) == text
    number = multimodal.SPECIAL.index("<IMG_CONTEXT>")
    assert written(tokenizer, TEXTS, prompt.model_copy(update={"image_token": number}), "Q", 1) == text


def test_one_bos() -> None:
    """As in transformers' processors, BOS comes first once, from the tokenizer or from the template."""
    tokenizer = multimodal.tokenizer()
    tokenizer.bos_token = "<s>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    for template in (LISTS, "{{ bos_token }}" + LISTS):
        assert written(tokenizer, template, PROMPT, "Q", 1) == "<s>[user]#Q"


def test_wrong_tokens(tokenizer: Any) -> None:
    for token in ("<picture>", 100_000):
        with pytest.raises(CheckpointError, match=rf"image_token: the tokenizer does not have the token {token!r}"):
            prompt_ids(tokenizer, PromptConfig(image_token=token), "Q", [1])
    tokenizer.chat_template = TEXTS
    with pytest.raises(VitaError, match="the prompt has 2 tokens '<IMG_CONTEXT>', but the number of pictures is 1"):
        prompt_ids(tokenizer, PromptConfig(image_token="<IMG_CONTEXT>"), "what is <IMG_CONTEXT> ?", [1])
    with pytest.raises(ConfigError, match="image_text has no single <image>: 'picture'"):
        validate(Config, {"tower": {"weights": "./a"}, "prompt": {"image_text": "picture"}})

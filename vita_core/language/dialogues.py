"""Turn a whole conversation into text, and say which parts of it are answers. This module does not import torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vita_core.config.prompts import PromptConfig
from vita_core.errors import ConfigError
from vita_core.language.conversations import CONVERSATIONS, IMAGE
from vita_core.language.prompts import known_token, list_content
from vita_core.language.templates import chat_text

__all__ = ["Part", "dialogue"]

Part = tuple[str, bool]
"""A text, and whether it is an answer."""
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def dialogue(
    tokenizer: Any,
    prompt: PromptConfig,
    system: str | None,
    contents: Sequence[str],
    answers: Sequence[str],
    *,
    stop: str,
    listed: Sequence[str],
) -> tuple[list[Part], bool]:
    """Return the parts of a conversation in order, and whether the text that ends the last answer is among them.

    `contents` are the questions with their ``<image>`` marks; `listed` are the same for a template that takes lists, which
    writes its own text around a picture. `stop` is the tokenizer's token that ends an answer. With
    ``template: chat``, answers are what the template marks with ``{% generation %}``; if it has no such mark, each is the text
    behind the prompt that `vita run` would write, up to what ends it. Raises ConfigError if the template does not accept the
    conversation, or if the answers cannot be found in what it writes.
    """
    if prompt.template == "chat":
        return _chat(tokenizer, prompt, system, (contents, listed), answers)
    if prompt.template == "plain":  # LLaVA's alignment: the picture and its caption, and nothing else
        marks = [IMAGE * content.count(IMAGE) for content in contents]
        return [
            part for mark, answer in zip(marks, answers, strict=True) for part in ((mark, False), (answer + "\n", True))
        ], True
    form = CONVERSATIONS[prompt.template]
    known = form.stop.strip() in tokenizer.get_vocab()
    return form.dialogue(system, contents, answers, form.stop if known else stop), True


def _chat(
    tokenizer: Any,
    prompt: PromptConfig,
    system: str | None,
    questions: tuple[Sequence[str], Sequence[str]],
    answers: Sequence[str],
) -> tuple[list[Part], bool]:
    """Return the parts of what the tokenizer's own chat template writes."""
    contents, listed = questions
    messages, text = _messages(system, listed, answers, True), None
    if prompt.image_token is not None:
        text = _listed(tokenizer, prompt, messages, listed)
    if text is None:
        messages = _messages(system, contents, answers, False)
        text = chat_text(tokenizer, messages, asks=False)
    template = tokenizer.get_chat_template()
    spans = _marked(tokenizer, template, messages) if GENERATION.search(template) else []
    spans = spans or _found(tokenizer, text, messages, answers)
    parts, begin = [], 0
    for start, end in spans:
        parts += [(text[begin:start], False), (text[start:end], True)]
        begin = end
    return parts, not (text[: spans[-1][1]].endswith(answers[-1]) and not text[spans[-1][1] :].strip())


def _messages(system: str | None, contents: Sequence[str], answers: Sequence[str], lists: bool) -> list[dict[str, Any]]:
    rows = [("user", content, "assistant", answer) for content, answer in zip(contents, answers, strict=True)]
    pairs = [pair for user, content, bot, answer in rows for pair in ((user, content), (bot, answer))]
    if system is not None:
        pairs.insert(0, ("system", system))
    return [{"role": role, "content": list_content(text) if lists else text} for role, text in pairs]


def _listed(
    tokenizer: Any, prompt: PromptConfig, messages: list[dict[str, Any]], contents: Sequence[str]
) -> str | None:
    """Return what the template writes of lists of pictures and texts, or None if it takes only texts."""
    try:
        text = chat_text(tokenizer, messages, asks=False)
    except ConfigError:
        return None
    assert prompt.image_token is not None
    pictures = text.count(known_token(tokenizer, prompt.image_token, "image_token"))
    pieces = [piece.strip() for content in contents for piece in content.split(IMAGE)]
    printed = any(str(message["content"]) in text for message in messages)
    whole = pictures == sum(content.count(IMAGE) for content in contents) and all(piece in text for piece in pieces)
    return text if whole and not printed else None


def _marked(tokenizer: Any, template: str, messages: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """Return the spans of characters that the template marks as the assistant's."""
    from transformers.utils.chat_template_utils import render_jinja_template

    _, spans = render_jinja_template(
        conversations=[messages],
        chat_template=template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    return [(int(start), int(end)) for start, end in spans[0]]


def _found(tokenizer: Any, text: str, messages: list[dict[str, Any]], answers: Sequence[str]) -> list[tuple[int, int]]:
    """Return the spans of the answers: from the end of the prompt that asks for each, to the end of what ends the last one."""
    places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    bodies: list[tuple[int, int]] = []
    for place, answer in zip(places, answers, strict=True):
        asked = chat_text(tokenizer, messages[:place], asks=True)
        body = text.find(answer, len(asked)) if text.startswith(asked) else -1
        if body < 0:
            raise ConfigError(
                f"prompt.template: in what the tokenizer's chat template writes, answer {len(bodies) + 1} of {len(answers)} "
                "does not follow the prompt that asks for it. Try: a chat template that marks its answers with "
                "{% generation %}, or another `prompt.template`"
            )
        bodies.append((len(asked), body + len(answer)))
    ending = text[bodies[-1][1] :].rstrip()
    return [(start, end + len(ending) * text.startswith(ending, end)) for start, end in bodies]

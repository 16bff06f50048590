"""Turn a question about pictures into token ids, with `PICTURE_ID` in the place of each picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vita_core.config.schema import PromptConfig
from vita_core.errors import CheckpointError, ConfigError, VitaError
from vita_core.language.conversations import CONVERSATIONS, IMAGE
from vita_core.language.templates import chat_text
from vita_core.language.tokenizing import tokenized

__all__ = ["PICTURE_ID", "known_token", "leading_ids", "list_content", "prompt_ids"]

HALF = re.compile("[\ud800-\udfff]")
"""What Python makes of bytes that are not UTF-8, in an argument or a row of JSON. No tokenizer takes it."""
PICTURE_ID = -200
"""The token id that marks the place of a picture, as in LLaVA and VITA."""


def prompt_ids(tokenizer: Any, prompt: PromptConfig, question: str, places: Sequence[int]) -> list[int]:
    """Return the token ids of a question about pictures. `places` is how many places each picture takes.

    The question may contain ``<image>`` to say where the pictures go, once per picture. Raises VitaError if the numbers
    differ, and ConfigError if the chat template does not accept the prompt.
    """
    for name, said in (("question", question), ("system text", prompt.system or "")):
        if HALF.search(said):
            raise VitaError(
                f"the {name} is not text, for it holds half a character: {said!r:.80}. Try: write it as UTF-8"
            )
    written = question.count(IMAGE)
    if written not in (0, len(places)) or (written and not places):
        raise VitaError(
            f"the question contains {IMAGE} {written} times, but the number of pictures is {len(places)}. "
            f"Try: write {IMAGE} once per picture, or not at all"
        )
    form = CONVERSATIONS.get(prompt.template, CONVERSATIONS["plain"])
    if written:
        texts = question.split(IMAGE)
        content = texts[0] + "".join(IMAGE * n + text for n, text in zip(places, texts[1:], strict=True))
    else:
        content = form.content(question, list(places))
    chat = prompt.template == "chat"
    if prompt.image_token is not None:
        token = known_token(tokenizer, prompt.image_token, "image_token")
        text = form.text(prompt.system, content).replace(IMAGE, token)
        if chat:
            text = _mixed_chat(tokenizer, prompt.system, question, content.replace(IMAGE, token), token, len(places))
        return _as_processor(
            tokenizer, text.replace(token, prompt.image_text.replace(IMAGE, token)), token, sum(places)
        )
    text = _chat(tokenizer, prompt.system, content) if chat else form.text(prompt.system, content)
    if chat and text.count(IMAGE) != sum(places):
        raise ConfigError(
            f"prompt.template: the tokenizer's chat template writes {text.count(IMAGE)} of {sum(places)} pictures. "
            "Try: `prompt.template: plain`"
        )
    ids = [] if chat else leading_ids(tokenizer)
    for index, segment in enumerate(text.replace(IMAGE, prompt.image_text).split(IMAGE)):
        ids += [PICTURE_ID] * (index > 0) + _ids(tokenizer, segment, special=False)
    return ids


def known_token(tokenizer: Any, stated: int | str, key: str) -> str:
    """Return the text of the token that ``prompt.KEY`` names. Raises CheckpointError if the tokenizer does not have it."""
    known: dict[str, int] = tokenizer.get_vocab()
    token = stated if isinstance(stated, str) else next((text for text, own in known.items() if own == stated), None)
    if token is None or token not in known:
        raise CheckpointError(
            f"prompt.{key}: the tokenizer does not have the token {stated!r}. Try: the tokenizer's files of the same checkpoint"
        )
    return token


def _ids(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    """Return the token ids of a text. Raises CheckpointError for a tokenizer that cannot read it."""
    found: list[int] = tokenized(tokenizer, text, add_special_tokens=special).input_ids
    return found


def _as_processor(tokenizer: Any, text: str, token: str, places: int) -> list[int]:
    """Return the ids of a whole prompt as transformers' processors make them: with BOS, unless the text begins with it."""
    begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    mark, ids = tokenizer.convert_tokens_to_ids(token), _ids(tokenizer, text, special=not begun)
    if ids.count(mark) != places:
        raise VitaError(
            f"the prompt has {ids.count(mark)} tokens {token!r}, but the number of pictures is {places}. "
            f"Try: leave {token!r} out of the question, or write {IMAGE} once per picture"
        )
    return [PICTURE_ID if token_id == mark else token_id for token_id in ids]


def leading_ids(tokenizer: Any) -> list[int]:
    """Return the BOS token if the tokenizer begins every text with it. A chat template writes its own."""
    first = _ids(tokenizer, "", special=True)[:1]
    return first if first == [tokenizer.bos_token_id] else []


def list_content(text: str) -> list[dict[str, str]]:
    """Return a text with ``<image>`` marks as a list of pictures and texts, which templates of multimodal models take."""
    parts: list[dict[str, str]] = []
    for index, part in enumerate(text.split(IMAGE)):
        parts += [{"type": "image"}] * (index > 0) + ([{"type": "text", "text": part}] if part else [])
    return parts


def _mixed_chat(tokenizer: Any, system: str | None, question: str, content: str, token: str, pictures: int) -> str:
    """Return the prompt of a template that takes a list of pictures and texts, or else of one that takes only texts.

    A template takes lists if what it writes of one has the question and every picture.
    """
    marked = question if IMAGE in question else IMAGE * pictures + question
    parts = list_content(marked)
    try:
        lists = None if system is None else [{"type": "text", "text": system}]
        text = _chat(tokenizer, lists, parts)
    except ConfigError:
        return _chat(tokenizer, system, content)
    written = all(part.strip() in text for part in marked.split(IMAGE))
    whole = text.count(token) == pictures and written and str(parts) not in text
    return text if whole else _chat(tokenizer, system, content)


def _chat(tokenizer: Any, system: Any, content: Any) -> str:
    messages = [{"role": "user", "content": content}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return chat_text(tokenizer, messages, asks=True)

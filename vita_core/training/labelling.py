"""Turn a sample into token ids and labels. Only the tokens of its answers, and those that end them, have a label.

A token has a label if it begins inside an answer. The ids before the first answer are those of `LanguageModel.prompt`, so
that a model is trained on the prompt that `vita run` asks with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vita_core.config.prompts import PromptConfig
from vita_core.errors import ConfigError, split_advice
from vita_core.language.conversations import CONVERSATIONS, IMAGE
from vita_core.language.dialogues import Part, dialogue
from vita_core.language.prompts import PICTURE_ID, known_token, leading_ids
from vita_core.language.tokenizing import tokenized
from vita_core.training.data.samples import VIDEO, Sample, SampleError, check_marks

__all__ = ["IGNORE", "Labelled", "labelled"]

IGNORE = -100
"""The label of a token that is not trained on, as in torch's cross entropy."""
MARKS = re.compile(f"({IMAGE}|{VIDEO})")


@dataclass(frozen=True)
class Labelled:
    """Token ids (T) with `PICTURE_ID` in each place of a picture, and labels (T), `IGNORE` everywhere but on answers.

    `visuals` says what stands in each place: ``("image", 0)`` is the sample's first picture, ``("video", 0)`` its first
    video. A picture with several places (its tiles, or the frames of a video) is there several times.
    """

    ids: list[int]
    labels: list[int]
    visuals: list[tuple[str, int]]

    def length(self, tokens: Sequence[int]) -> int:
        """Return the number of tokens that the language model reads if place k takes ``tokens[k]``."""
        return len(self.ids) - len(self.visuals) + sum(tokens)


def labelled(
    tokenizer: Any,
    prompt: PromptConfig,
    sample: Sample,
    *,
    stop_id: int | None = None,
    places: Sequence[int] | None = None,
    frames: Sequence[int] | None = None,
) -> Labelled:
    """Return the ids and labels of a sample, in the format that `prompt` states.

    `places` is how many places each picture takes, `frames` the same of each video (1 by default). `stop_id` is the token
    that ends an answer (by default the tokenizer's EOS): it is added where the format ends an answer with nothing. With
    ``template: plain`` the sample is written as in LLaVA's alignment: the pictures, the caption and a newline, without a
    question. Raises SampleError for a sample that the format or template cannot write, and ConfigError for a tokenizer without
    the template.
    """
    stop_id = tokenizer.eos_token_id if stop_id is None else stop_id
    contents, listed, visuals = _contents(prompt, sample, places, frames)
    if prompt.template == "plain" and len(sample.turns) > 1:
        raise SampleError("more than one turn, which prompt plain cannot write", str(len(sample.turns)), sample.where)
    system = prompt.system if sample.system is None else sample.system
    answers = [turn.answer for turn in sample.turns]
    stop = tokenizer.convert_ids_to_tokens(stop_id)
    try:
        parts, ended = dialogue(tokenizer, prompt, system, contents, answers, stop=stop, listed=listed)
    except ConfigError as error:
        if prompt.template != "chat" or tokenizer.chat_template is None:
            raise
        reason = split_advice(str(error))[0].removeprefix("prompt.template: ")
        raise SampleError("the chat template does not take this sample", reason, sample.where) from error
    ids, labels = _encoded(tokenizer, prompt, parts)
    if not ended:
        ids, labels = [*ids, stop_id], [*labels, stop_id]
    if (found := ids.count(PICTURE_ID)) != len(visuals):
        raise SampleError(
            "a text holds the prompt's own mark for a picture", f"{found} of {len(visuals)}", sample.where
        )
    return Labelled(ids, labels, visuals)


def _contents(
    prompt: PromptConfig, sample: Sample, places: Sequence[int] | None, frames: Sequence[int] | None
) -> tuple[list[str], list[str], list[tuple[str, int]]]:
    """Return the questions, in which each ``<image>`` is one place, and what stands in each place.

    The questions are returned as texts and for a template of lists, in which no newline follows pictures without a mark.
    """
    counts = {"image": [1] * len(sample.pictures), "video": [1] * len(sample.videos)}
    counts |= {kind: list(given) for kind, given in (("image", places), ("video", frames)) if given is not None}
    questions = [prompt.question if turn.question is None else turn.question for turn in sample.turns]
    try:
        check_marks(questions, [turn.answer for turn in sample.turns], len(counts["image"]), len(counts["video"]))
    except SampleError as error:
        raise error.at(sample.where) from None
    written = {kind: sum(q.count(mark) for q in questions) for kind, mark in (("image", IMAGE), ("video", VIDEO))}
    unmarked = [(kind, index) for kind in counts for index in range(len(counts[kind]) - written[kind])]
    next_ones = {kind: iter(range(len(counts[kind]) - written[kind], len(counts[kind]))) for kind in counts}
    visuals = [place for kind, index in unmarked for place in [(kind, index)] * counts[kind][index]]
    contents = []
    for question in questions:
        pieces = MARKS.split(question)
        for number in range(1, len(pieces), 2):
            kind = "image" if pieces[number] == IMAGE else "video"
            index = next(next_ones[kind])
            visuals += [(kind, index)] * counts[kind][index]
            pieces[number] = IMAGE * counts[kind][index]
        contents.append("".join(pieces))
    form = CONVERSATIONS.get(prompt.template, CONVERSATIONS["plain"])
    first = [counts[kind][index] for kind, index in unmarked]
    texts = [form.content(contents[0], first), *contents[1:]]
    return texts, [IMAGE * sum(first) + contents[0], *contents[1:]], visuals


def _encoded(tokenizer: Any, prompt: PromptConfig, parts: list[Part]) -> tuple[list[int], list[int]]:
    """Return the ids and labels of the parts of a conversation. Only prompts have pictures."""
    if prompt.image_token is not None:
        token = known_token(tokenizer, prompt.image_token, "image_token")
        around = prompt.image_text.replace(IMAGE, token)
        texts = [
            (text if answer else text.replace(IMAGE, token).replace(token, around), answer) for text, answer in parts
        ]
        begun = tokenizer.bos_token is not None and texts[0][0].startswith(tokenizer.bos_token)
        ids, labels = _tokens(tokenizer, texts, special=not begun)
        mark = tokenizer.convert_tokens_to_ids(token)
        return [PICTURE_ID if token_id == mark else token_id for token_id in ids], labels
    ids = [] if prompt.template == "chat" else leading_ids(tokenizer)
    labels = [IGNORE] * len(ids)
    for index, chunk in enumerate(_chunks(prompt, parts)):
        found, counted = _tokens(tokenizer, chunk, special=False)
        ids, labels = ids + [PICTURE_ID] * (index > 0) + found, labels + [IGNORE] * (index > 0) + counted
    return ids, labels


def _chunks(prompt: PromptConfig, parts: list[Part]) -> Iterator[list[Part]]:
    """Yield the parts between two pictures, which are turned into tokens together, as in LLaVA."""
    chunk: list[Part] = []
    for text, answer in parts:
        first, *rest = [text] if answer else text.replace(IMAGE, prompt.image_text).split(IMAGE)
        chunk.append((first, answer))
        for piece in rest:
            yield chunk
            chunk = [(piece, False)]
    yield chunk


def _tokens(tokenizer: Any, parts: list[Part], *, special: bool) -> tuple[list[int], list[int]]:
    """Return the ids and labels of one text. It is cut before an answer only where a token would be in both parts."""
    text = "".join(part for part, _ in parts)
    if not getattr(tokenizer, "is_fast", False):  # it does not say which characters a token stands for
        return _apart(tokenizer, parts, special=special)
    encoded = tokenized(tokenizer, text, add_special_tokens=special, return_offsets_mapping=True)
    spans, begin = [], 0
    for part, answer in parts:
        spans += [(begin, begin + len(part))] if answer and part else []
        begin += len(part)
    ends = [last for _, last in encoded["offset_mapping"]]
    # byte-level tokenizers leave the space before a word out of its span: it begins where the token before it ends
    begins = [min(pair[0], end) for pair, end in zip(encoded["offset_mapping"], [0, *ends], strict=False)]
    if any(first < start < last for start, _ in spans for first, last in zip(begins, ends, strict=True)):
        return _apart(tokenizer, parts, special=special)
    counted = [any(start <= first < end for start, end in spans) for first in begins]
    ids = list(encoded["input_ids"])
    return ids, [token if count else IGNORE for token, count in zip(ids, counted, strict=True)]


def _apart(tokenizer: Any, parts: list[Part], *, special: bool) -> tuple[list[int], list[int]]:
    """Return the ids and labels of parts that are turned into tokens one by one."""
    ids: list[int] = []
    labels: list[int] = []
    for index, (part, answer) in enumerate(parts):
        found = tokenized(tokenizer, part, add_special_tokens=special and not index).input_ids
        ids, labels = ids + found, labels + (found if answer else [IGNORE] * len(found))
    return ids, labels

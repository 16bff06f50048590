"""Turn one row of a data set into a sample: a caption, LLaVA's ``conversations`` or ShareGPT's ``messages``."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita_core.training.data.samples import PictureRef, Sample, SampleError, Turn, UnansweredError, check_marks

__all__ = ["Root", "sample_of"]

Find = Callable[[Any], PictureRef]
ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot", "chatgpt"), "assistant"),
    "system": "system",
}
PICTURES, VIDEOS = ("image", "images"), ("video", "videos")
CONVERSATIONS = ("conversations", "messages")
CAPTIONS = ("caption", "text")


@dataclass(frozen=True)
class Root:
    """Finds pictures below `folder`. If `absolute`, absolute paths may lead out of it."""

    folder: Path
    absolute: bool = False

    def __call__(self, value: Any) -> PictureRef:
        """Return a picture from its path, or from its ``{"bytes", "path"}``. Raises SampleError for any other value."""
        stored = value.get("bytes") if isinstance(value, Mapping) else None
        name = value.get("path") if isinstance(value, Mapping) else value
        if isinstance(stored, bytes):
            return PictureRef(str(name or "picture"), data=stored)
        if not isinstance(name, str) or not name.strip():
            raise SampleError("no picture", reprlib.repr(value))
        root = os.path.abspath(self.folder)  # noqa: PTH100  # resolve() would follow the user's links to pictures
        path = os.path.normpath(Path(root) / name)
        if not (self.absolute and Path(name).is_absolute()) and os.path.commonpath([root, path]) != root:
            raise SampleError("a picture outside of the folder of the data set", name)
        return PictureRef(path, Path(path))


def sample_of(row: Any, where: str, find: Find) -> Sample:
    """Return the sample that a row holds. Raises SampleError, with the place `where`, if it holds none.

    A row has a caption (``caption`` or ``text``), or turns (``conversations`` or ``messages``), and its pictures as
    ``image`` or ``images``, one or a list. A row of turns needs no picture. `find` turns the value of a picture into a
    `PictureRef`. A row without caption and turns is an UnansweredError.
    """
    try:
        return _sample(row, where, find)
    except SampleError as error:
        raise error.at(where) from None


def _sample(row: Any, where: str, find: Find) -> Sample:
    if isinstance(row, list):  # a file that is one list, under a name that ends with .jsonl
        raise SampleError("a list where one sample is expected", f"{len(row)} entries")
    if not isinstance(row, Mapping):
        raise SampleError("not an object", reprlib.repr(row))
    pictures, videos = (_found(row, keys, find) for keys in (PICTURES, VIDEOS))
    said = next((row[key] for key in CONVERSATIONS if row.get(key) is not None), None)
    names, label = row.get("names") or [], _label(row.get("label"))
    if said is None and not any(row.get(key) is not None for key in CAPTIONS):
        detail = f"neither a caption nor turns, but {reprlib.repr([*row])}"
        raise UnansweredError(detail, Sample(pictures, (), (), where, videos, label=label))
    system, turns = (None, (_caption(row),)) if said is None else _turns(said)
    if said is None and not pictures and not videos:
        raise SampleError("no picture", "'image' is missing")
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name.strip() for name in names):
        raise SampleError("'names' is not a list of texts", reprlib.repr(names))
    questions = [turn.question or "" for turn in turns]
    check_marks(questions, [turn.answer for turn in turns], len(pictures), len(videos))
    return Sample(pictures, turns, tuple(names), where, videos, system, label)


def _found(row: Mapping[str, Any], keys: Sequence[str], find: Find) -> tuple[PictureRef, ...]:
    value: Any = next((row[key] for key in keys if row.get(key) is not None), [])
    return tuple(find(one) for one in (value if isinstance(value, list | tuple) else [value]))


def _caption(row: Mapping[str, Any]) -> Turn:
    key = next(key for key in CAPTIONS if row.get(key) is not None)
    return Turn(None, _text(row[key], repr(key)))


def _label(value: Any) -> str | None:
    """Return a label: a text, or the number of a class. Other values are none."""
    known = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value).strip() or None if known else None


def _turns(said: Any) -> tuple[str | None, tuple[Turn, ...]]:
    """Return the system text, or None, and the turns of a list of messages.

    As in LLaVA, answers that come before the first question are left out.
    """
    if not isinstance(said, Sequence) or isinstance(said, str):
        raise SampleError("the turns are not a list", reprlib.repr(said))
    messages = [_message(message) for message in said]
    system = messages.pop(0)[1] if messages and messages[0][0] == "system" else None
    while messages and messages[0][0] == "assistant":
        del messages[0]
    questions, answers = messages[::2], messages[1::2]
    if len(questions) != len(answers) or not answers:
        raise SampleError("no answer", "the last turn is a question" if messages else "there is no turn")
    if {role for role, _ in questions} != {"user"} or {role for role, _ in answers} != {"assistant"}:
        raise SampleError("questions and answers do not alternate", " ".join(role for role, _ in messages[:8]))
    pairs = zip(questions, answers, strict=True)
    return system, tuple(Turn(_text(q, "a question"), _text(a, "an answer")) for (_, q), (_, a) in pairs)


def _message(message: Any) -> tuple[str, Any]:
    """Return the role and the text of a message. Parts of a list become ``<image>`` and ``<video>`` marks and texts."""
    if not isinstance(message, Mapping):
        raise SampleError("a turn is not an object", reprlib.repr(message))
    stated = message.get("from", message.get("role"))
    role = ROLES.get(str(stated).lower())
    if role is None:
        raise SampleError("a turn of an unknown speaker", reprlib.repr(stated))
    content = message.get("value", message.get("content"))
    if isinstance(content, list):
        content = "".join(_part(part) for part in content)
    return role, content


def _part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("image", "video"):
        return f"<{kind}>"
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise SampleError("a part of a turn that is no text, image or video", reprlib.repr(part))


def _text(value: Any, what: str) -> str:
    """Return a text without the space around it. Raises SampleError if there is none."""
    if not isinstance(value, str):
        reason = "no question" if what == "a question" else "no answer"
        raise SampleError(reason, f"{what} is missing or not a text: {reprlib.repr(value)}")
    if not value.strip():
        raise SampleError("empty text", f"{what} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can state half of a character; no tokenizer takes it
        raise SampleError("a text that is not valid Unicode", reprlib.repr(value)) from None
    return value.strip()

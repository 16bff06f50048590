"""Hide secrets in what people share: messages, logs, records and commands.

A secret is the value of an environment variable whose name says so (``HF_TOKEN``, ``WANDB_API_KEY``), the user of a URL
(``https://user:token@host``), a signed parameter of a URL, and whatever has the shape of a known token.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote

__all__ = ["MASK", "masked", "masked_data", "masked_logs"]

MASK = "***"
SHORTEST = 6
"""Shorter values of environment variables are words such as ``true``, whose masking would hide nothing."""
_VARIABLE = re.compile(r"(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|APIKEY|CREDENTIALS?|(?:^|_)(?:KEY|PAT))$", re.I)
_NAMED = r"password|passwd|passphrase|secret|api[_-]?key|access[_-]?key|(?:hf|hub|auth|access|session)[_-]token"
_USER = re.compile(r"(?P<kept>\b[a-z][a-z0-9+.-]*://)(?P<user>[^\s/?#\"'<>]+)(?=@)", re.I)
_VALUE = r"[^\s\"'`<>&]+(?<![.,;:)}\]])"
_RULES = [
    _USER,
    re.compile(rf"(?P<kept>[?&;][\w.-]*(?:token|key|secret|password|signature|sig|credential|policy)=){_VALUE}", re.I),
    re.compile(rf"(?P<kept>\bauthorization[\"']?\s*[:=]\s*[\"']?(?:(?:basic|bearer|digest|token)\s+)?){_VALUE}", re.I),
    re.compile(rf"(?P<kept>--[\w-]*(?:password|secret|token|key)[ =][\"']?){_VALUE}", re.I),
    re.compile(rf"(?P<kept>\b[\w-]*(?:{_NAMED})[\"']?\s*=\s*[\"']?){_VALUE}", re.I),
    # not in a message about a file, such as /etc/passwd: no such file
    re.compile(
        rf"(?P<kept>(?<![\w/-])[\w-]*(?:{_NAMED})[\"']?\s*:\s*[\"']?){_VALUE}", re.I
    ),  # not a file: /etc/passwd: ...
    re.compile(r"(?P<kept>)(?<![\w-])(?:hf_|gh[opsur]_|github_pat_|glpat-|sk-|xox[abeprs]-|pypi-|AKIA|eyJ)[\w.-]{16,}"),
]
"""What surrounds a secret, or its shape. The group `kept` stays before the mask."""


def masked(text: str) -> str:
    """Return `text` with ``***`` in the place of each secret."""
    for secret in sorted(set(_secrets()), key=len, reverse=True):  # a long one may contain a short one
        text = text.replace(secret, MASK)
    for rule in _RULES:
        text = rule.sub(rf"\g<kept>{MASK}", text)
    return text


def masked_data(data: Any) -> Any:
    """Return plain data with the secrets in its texts masked. Keys stay as they are."""
    if isinstance(data, str):
        return masked(data)
    if isinstance(data, Mapping):
        return {key: masked_data(value) for key, value in data.items()}
    return [masked_data(value) for value in data] if isinstance(data, list | tuple) else data


def masked_logs() -> None:
    """Mask what this process logs from now on, whichever library logs it."""
    make = logging.getLogRecordFactory()
    if getattr(make, "masks", False):
        return

    def record(*arguments: Any, **options: Any) -> logging.LogRecord:
        made = make(*arguments, **options)
        with suppress(TypeError, ValueError):  # arguments that do not fit the format: logging says so
            made.msg, made.args = masked(made.getMessage()), None
        return made

    record.masks = True  # type: ignore[attr-defined]  # a mark, so that records are masked once
    logging.setLogRecordFactory(record)


def _secrets() -> Iterator[str]:
    """Yield the secrets in the environment of this process, as they are and as they stand in a URL."""
    for name, value in os.environ.items():
        found = [value.strip()] if _VARIABLE.search(name) and not os.path.exists(value) else []  # noqa: PTH110  # no error
        found += [match["user"].rpartition(":")[2] for match in _USER.finditer(value)]
        for secret in found:
            yield from (form for form in {secret, quote(secret, safe=""), unquote(secret)} if len(form) >= SHORTEST)

"""Have a tokenizer's chat template write a prompt. It is a stranger's program, and Jinja's sandbox bounds no time or memory.

So each template first runs in a process of its own, whose CPU time and memory are bounded: once for each form of a dialogue.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from vita_core.errors import ConfigError
from vita_core.plugins.discovery import describe

__all__ = ["chat_text"]

SECONDS, MEMORY = 2, 400 << 20
"""The most CPU time and memory that a template may take."""
PATIENCE = 10.0
"""After so many seconds without any CPU time, a process is given up: it waits for a lock of another thread."""
TOO_LARGE = f"it takes more than {MEMORY >> 20} MB"
LETTERS = 1_000_000
"""The most characters that a template may write beyond those of the messages."""
SEEN = 10_000
_tried: set[tuple[Any, ...]] = set()
"""The templates that ran to their end, each with the form of the messages. It is emptied at `SEEN` entries."""


def chat_text(tokenizer: Any, messages: list[dict[str, Any]], *, asks: bool) -> str:
    """Return what the tokenizer's chat template writes of messages; if `asks`, up to where the next answer begins.

    Raises ConfigError if there is no chat template, if it does not accept the messages, or if it takes too much time or memory.
    """
    if tokenizer.chat_template is None:
        from vita_core.language.conversations import CONVERSATIONS

        raise ConfigError(
            "prompt.template: this tokenizer has no chat template. Try: `prompt.template: plain`, or another of "
            + ", ".join(CONVERSATIONS)
        )

    def write() -> str:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks)
        given = sum(len(str(message["content"])) for message in messages)
        if len(text) > LETTERS + 10 * given:
            raise ValueError(f"it writes {len(text):,} characters of {given:,}")
        return text

    form = (str(tokenizer.chat_template), asks, tuple(_form(message) for message in messages))
    reason = None if form in _tried else _end(write)
    if reason is None:
        if len(_tried) >= SEEN:
            _tried.clear()
        _tried.add(form)
        try:
            return write()
        except MemoryError:
            raise
        except Exception as error:  # a template may raise whatever Python's operators do
            reason = _reason(error)
    without = "leave out prompt.system (--system), or set " if messages[0]["role"] == "system" else ""
    raise ConfigError(
        f"prompt.template: the tokenizer's chat template does not accept the prompt: {reason}. "
        f"Try: {without}`prompt.template: plain`"
    )


def _form(message: dict[str, Any]) -> tuple[Any, ...]:
    content = message["content"]
    parts: Sequence[Any] = content if isinstance(content, list) else ()
    return message["role"], type(content).__name__, *(part["type"] for part in parts)


def _reason(error: BaseException) -> str:
    from jinja2 import TemplateError

    told = str(error) if isinstance(error, TemplateError) else describe(error)
    return " ".join(told.split())[:500].rstrip(".")


def _end(write: Callable[[], str]) -> str | None:
    """Return why `write` fails in a bounded process, or None if it does not, or if there are no such processes here."""
    if not hasattr(os, "fork"):
        return None
    from transformers.utils import chat_template_utils  # noqa: F401  # not in the child: an import may wait for a lock

    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: the child uses no lock of another thread
        child = os.fork()
    if child == 0:
        _run(write, writing)
    os.close(writing)
    told, used = b"fine", -1
    try:
        while not (ended := select.select([reading], [], [], PATIENCE)[0]) and used != (used := _used(child)):
            pass
        if ended:
            told = os.read(reading, 4096)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not told:  # the kernel has ended it
        return f"it takes more than {SECONDS} seconds, or {MEMORY >> 20} MB"
    return None if told == b"fine" else told.decode("utf-8", "replace")


def _used(process: int) -> int:
    """Return the nanoseconds of CPU time of a process, or 0 where the kernel does not tell."""
    told = Path(f"/proc/{process}/schedstat")
    return int(told.read_text().split()[0]) if told.exists() else 0


def _run(write: Callable[[], str], writing: int) -> NoReturn:
    """Be the child: say how `write` ends, and leave without what a process does at its end."""

    def leave(told: str) -> NoReturn:
        with suppress(BaseException):
            os.write(writing, told.encode("utf-8", "replace")[:4096])
        os._exit(0)

    try:
        _bound()
        _watch_constants(lambda: leave(TOO_LARGE))
        write()
    except MemoryError:
        leave(TOO_LARGE)
    except BaseException as error:
        leave(_reason(error))
    leave("fine")


def _watch_constants(too_large: Callable[[], object]) -> None:
    """Call `too_large` when Jinja takes too much memory for a constant: it would try again when the template runs.

    The process that trusts the template compiles it too, without a bound, and would get that memory.
    """
    from jinja2.nodes import Impossible

    def start(self: BaseException) -> None:
        if isinstance(sys.exc_info()[1], MemoryError):
            too_large()

    Impossible.__init__ = start  # type: ignore[method-assign, assignment]  # this process runs nothing else


def _bound() -> None:
    """Bound the CPU time of this process and, where the kernel tells its size, its memory."""
    import resource

    bounds = {resource.RLIMIT_CPU: SECONDS, resource.RLIMIT_CORE: 0}
    if (pages := Path("/proc/self/statm")).exists():
        bounds[resource.RLIMIT_AS] = int(pages.read_text().split()[0]) * resource.getpagesize() + MEMORY
    for limit, most in bounds.items():
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))

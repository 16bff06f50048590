"""Ctrl-C and SIGTERM, wherever they fall: a command ends within two seconds with 130 or 143, says so, and leaves no debris."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

__all__ = ["asked", "finish", "listening", "raise_if_asked", "said_at_end", "take", "temporary", "temporary_directory"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 1.0
"""How many seconds a command has to end by itself after a signal."""


class _State:
    """What this process knows of signals. `number` is that of the first one, or 0."""

    def __init__(self) -> None:
        self.number = 0
        self.raised = self.told = self.over = self.patient = False
        self.listener: Callable[[], None] | None = None
        self.line = "stopped."
        self.paths: set[str] = set()


_state = _State()


def take() -> None:
    """Take SIGINT and SIGTERM in this process, until it ends. It only works in the main thread.

    The first signal raises KeyboardInterrupt in the main thread, so that blocks and files are closed. It is remembered,
    because libraries turn that exception into errors of their own: within an import, where they all do, the process ends at
    once. Elsewhere, a thread ends it after a second. Signals that the parent process has set to be ignored stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    taken = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    threading.Thread(target=_watch, args=(reading,), name="vita-signals", daemon=True).start()
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in taken:
        signal.signal(number, _handle)
    os.register_at_fork(after_in_child=_forget)


def asked() -> int:
    """Return the number of the signal that asked this process to end, or 0."""
    return _state.number


def raise_if_asked() -> None:
    """Raise KeyboardInterrupt if a signal asked this process to end: an error that follows may only come from that."""
    if _state.number:
        raise KeyboardInterrupt


def finish() -> None:
    """Call at the end of a command: exit with 130 or 143 if a signal asked for it, whatever became of the command since."""
    if _state.number:
        _tell()
        _sweep()
        sys.exit(128 + _state.number)
    _state.over = True


@contextmanager
def said_at_end(line: str) -> Iterator[None]:
    """Say `line` if a signal ends the process while the block runs, or if the block raises KeyboardInterrupt."""
    before, _state.line = _state.line, line
    try:
        yield
    except KeyboardInterrupt:
        _tell()
        raise
    finally:
        _state.line = before


@contextmanager
def temporary(path: str | os.PathLike[str]) -> Iterator[None]:
    """Remove a file or directory at the end of the block, or when a signal ends the process within it."""
    name = os.fspath(path)
    _state.paths.add(name)
    try:
        yield
    finally:
        _remove(name)
        _state.paths.discard(name)


@contextmanager
def temporary_directory(prefix: str) -> Iterator[Path]:
    """Yield a new directory of the system's folder for such ones, and remove it as `temporary` does."""
    import tempfile  # not before signals are taken

    place = Path(tempfile.mkdtemp(prefix=prefix))
    with temporary(place):
        yield place


@contextmanager
def listening(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` at the first signal while the block runs, and give the block all the time it takes to end.

    The next signal ends the process. Where `take` was not called, this only takes SIGINT.
    """
    before = signal.getsignal(signal.SIGINT)

    def once(*_: Any) -> None:
        signal.signal(signal.SIGINT, before)
        act()

    taken = before is _handle
    if taken:
        _state.listener, _state.patient = act, True
    else:
        signal.signal(signal.SIGINT, once)
    try:
        yield
    finally:
        if taken:
            _state.listener, _state.patient = None, False
        else:
            signal.signal(signal.SIGINT, before)


def _handle(number: int, frame: FrameType | None) -> None:
    _state.number = _state.number or number
    if (listener := _state.listener) is not None:
        _state.listener = None
        listener()
    elif _state.over or _importing(frame):
        _leave()
    elif not _state.raised or _state.patient:
        _state.raised, _state.patient = True, False
        sys.unraisablehook = lambda _: None
        threading.excepthook = lambda _: None
        raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _watch(reading: int) -> None:
    """End the process a second after a signal, but if it is given time for that, only half a second after another one."""
    seen, deadline = 0, 0.0
    while True:
        if select.select([reading], [], [], 0.05 if seen else None)[0]:
            numbers = [number for number in os.read(reading, 64) if number in SIGNALS]
            if numbers and not seen:
                _state.number = _state.number or numbers[0]
                deadline = time.monotonic() + GRACE
            elif numbers:  # who asks twice wants it now
                deadline = min(deadline, time.monotonic() + GRACE / 2)
            seen += len(numbers)
        if seen and _state.patient and seen < 2:
            deadline = time.monotonic() + GRACE
        elif seen and time.monotonic() > deadline:
            _leave()


def _leave() -> NoReturn:
    _tell()
    _sweep()
    os._exit(128 + _state.number)


def _tell() -> None:
    """Say that the process was stopped: once, and in one of the processes that train together."""
    if _state.told or os.environ.get("RANK", "0") != "0":
        return
    if not _state.number:  # Ctrl-C in a program that took no signals: it may go on, and call this again
        print(_state.line, file=sys.stderr)
        return
    _state.told = True
    with suppress(OSError):  # `sys.stderr` may be locked by the code that is ended
        os.write(2, f"{_state.line}\n".encode("utf-8", "backslashreplace"))


def _sweep() -> None:
    for name in list(_state.paths):
        _remove(name)


def _remove(name: str) -> None:
    path = Path(name)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):  # it must not replace an error that is being raised
        path.unlink()


def _forget() -> None:
    """Give a process that was forked the usual handlers: its parent ends it, and removes what is temporary."""
    global _state
    _state = _State()
    signal.set_wakeup_fd(-1)
    if signal.getsignal(signal.SIGINT) is _handle:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is _handle:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

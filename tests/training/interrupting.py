"""Ctrl-C at a chosen moment of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

__all__ = ["interrupted"]


@contextmanager
def interrupted(owner: type, method: str, call: int) -> Iterator[None]:
    """Raise KeyboardInterrupt instead of the given call (1 = the first) of a method, and expect it at the end of the block."""
    original, calls = getattr(owner, method), []

    def instead(self: Any, *args: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(self, *args, **keywords)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):  # noqa: PT012  # the block is the caller's
        patched.setattr(owner, method, instead)
        yield

"""How the function of a check reports its outcome: it returns, or raises one of these two exceptions."""

from __future__ import annotations

__all__ = ["BrokenContractError", "SkippedCheckError", "expect"]


class BrokenContractError(AssertionError):
    """The subject breaks the contract. The message says what the check saw."""


class SkippedCheckError(Exception):
    """The check does not apply to this subject or this machine. The message says why."""


def expect(condition: bool, seen: str) -> None:
    """Raise BrokenContractError with the message `seen` unless the condition is true."""
    if not condition:
        raise BrokenContractError(seen)

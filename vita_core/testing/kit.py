"""What a check is and what comes of one. No torch before a check runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vita_core.testing.subject import Subject

__all__ = ["Check", "Result", "SkippedCheckError", "expect", "holds"]


class BrokenContractError(AssertionError):
    """A tower did not keep a contract; the message is what was seen."""


class SkippedCheckError(Exception):
    """A check does not apply to this tower or machine; the message says why."""


def expect(condition: bool, seen: str) -> None:
    """Raise BrokenContractError, saying what was `seen`, unless the condition is true."""
    if not condition:
        raise BrokenContractError(seen)


@dataclass(frozen=True)
class Result:
    """What came of one check: `seen` is why it failed or was skipped, `error` the exception of the tower's own code."""

    check: Check
    outcome: Literal["ok", "failed", "skipped"]
    seen: str = ""
    error: Exception | None = None

    @property
    def message(self) -> str:
        """The contract, what was seen, and how to meet it."""
        return f"contract: {self.check.contract}\nseen: {self.seen}\nto meet it: {self.check.remedy}"


@dataclass(frozen=True)
class Check:
    """One contract of a tower, in one sentence, the function that tests it, and what its author does to meet it."""

    function: Callable[[Subject], None]
    remedy: str

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    @property
    def contract(self) -> str:
        """The function's docstring."""
        return inspect.getdoc(self.function) or self.name

    def run(self, subject: Subject) -> Result:
        """The result on one tower; whatever its code raises is a failure, whatever it leaves of torch's state is undone."""
        import torch

        try:
            with torch.enable_grad(), torch.random.fork_rng(devices=()):
                self.function(subject)
        except SkippedCheckError as reason:
            return Result(self, "skipped", str(reason))
        except BrokenContractError as broken:
            return Result(self, "failed", str(broken))
        except Exception as error:
            return Result(self, "failed", f"{type(error).__name__}: {error}", error)
        return Result(self, "ok")


def holds(remedy: str) -> Callable[[Callable[[Subject], None]], Check]:
    """Make a function whose docstring is a contract into the `Check` that holds towers to it."""
    return lambda function: Check(function, remedy)

"""A check of the conformance kit, and its result."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from vita_core.testing.outcomes import BrokenContractError, SkippedCheckError
from vita_core.testing.subject import Subject

__all__ = ["Check", "Result", "holds"]


@dataclass(frozen=True)
class Result:
    """The result of one check.

    `seen` says why the check failed or was skipped. `error` is the exception that the tower's own code raised, if any.
    """

    check: Check
    outcome: Literal["ok", "failed", "skipped"]
    seen: str = ""
    error: Exception | None = None

    @property
    def message(self) -> str:
        """The contract, what the check saw, and how the author can fix it."""
        return f"contract: {self.check.contract}\nseen: {self.seen}\nfix: {self.check.remedy}"


@dataclass(frozen=True)
class Check:
    """One contract of a tower: the function that tests it, and the remedy if a tower breaks it."""

    function: Callable[[Subject], None]
    remedy: str

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.function.__name__

    @property
    def contract(self) -> str:
        """The contract in one sentence: the docstring of the function."""
        return inspect.getdoc(self.function) or self.name

    def run(self, subject: Subject) -> Result:
        """Run the check on one tower and return the result.

        Every exception of the tower's code is a failure. Changes to torch's gradient mode and random state are undone.
        """
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
    """Turn a function whose docstring is a contract into the `Check` for that contract."""
    return lambda function: Check(function, remedy)

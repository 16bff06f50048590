"""A check of the conformance kit, and its result."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch

from vita_core.testing.outcomes import BrokenContractError, SkippedCheckError

__all__ = ["Check", "Result", "holds"]

Tested_contra = TypeVar("Tested_contra", contravariant=True)
"""What a check tests: the subject of a tower, a reduction or a projector."""


@dataclass(frozen=True)
class Result:
    """The result of one check.

    `seen` says why the check failed or was skipped. `error` is the exception that the tested code raised, if any.
    """

    check: Check[Any]
    outcome: Literal["ok", "failed", "skipped"]
    seen: str = ""
    error: Exception | None = None

    @property
    def message(self) -> str:
        """The contract, what the check saw, and how the author can fix it."""
        return f"contract: {self.check.contract}\nseen: {self.seen}\nfix: {self.check.remedy}"


@dataclass(frozen=True)
class Check(Generic[Tested_contra]):
    """One contract: the function that tests it, and the remedy if the subject breaks it."""

    function: Callable[[Tested_contra], None]
    remedy: str

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.function.__name__

    @property
    def contract(self) -> str:
        """The contract in one sentence: the docstring of the function."""
        return inspect.getdoc(self.function) or self.name

    def run(self, subject: Tested_contra) -> Result:
        """Run the check on one subject and return the result.

        Every exception of the tested code is a failure. Changes to torch's gradient mode and random state are undone.
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


def holds(remedy: str) -> Callable[[Callable[[Tested_contra], None]], Check[Tested_contra]]:
    """Turn a function whose docstring is a contract into the `Check` for that contract."""
    return lambda function: Check(function, remedy)

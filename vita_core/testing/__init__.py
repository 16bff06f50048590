"""The conformance kit for authors of towers: one small check for each contract of a vision tower.

Run it with ``vita check NAME_OR_CONFIG`` or ``pytest --vita-tower NAME_OR_CONFIG``, or in a program::

    with open_subject("clip") as subject:
        results = [check.run(subject) for check in CHECKS]
"""

from __future__ import annotations

from vita_core.testing import batches, gradients, loading, native, pictures, tokens
from vita_core.testing.kit import Check, Result
from vita_core.testing.subject import Subject, open_subject

__all__ = ["CHECKS", "Check", "Result", "Subject", "open_subject"]

CHECKS: tuple[Check, ...] = tuple(
    value
    for module in (loading, tokens, batches, native, gradients, pictures)
    for value in vars(module).values()
    if type(value) is Check
)
"""All checks, in the order in which they are shown."""

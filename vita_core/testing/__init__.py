"""The conformance kit for authors of plugins: one small check for each contract of a tower, a reduction or a projector.

Run it with ``vita check NAME_OR_CONFIG`` or ``pytest --vita-tower NAME_OR_CONFIG``, or in a program::

    with open_subject("clip") as subject:
        results = [check.run(subject) for check in CHECKS]

``pytest --vita-reduction NAME`` and ``--vita-projector NAME`` do the same for reductions and projectors, `open_reduction` with
`REDUCTION_CHECKS` and `open_projector` with `PROJECTOR_CHECKS` in a program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

from vita_core.testing import batches, gradients, loading, module_checks, native, pictures, reductions, tokens
from vita_core.testing.kit import Check, Result
from vita_core.testing.projectors import Projector, open_projector
from vita_core.testing.reductions import Reduction, open_reduction
from vita_core.testing.subject import Subject, open_subject

__all__ = [
    "CHECKS",
    "KIT",
    "PROJECTOR_CHECKS",
    "REDUCTION_CHECKS",
    "Check",
    "Projector",
    "Reduction",
    "Result",
    "Subject",
    "open_projector",
    "open_reduction",
    "open_subject",
]


def _checks(*modules: ModuleType) -> tuple[Check[Any], ...]:
    return tuple(value for module in modules for value in vars(module).values() if type(value) is Check)


CHECKS: tuple[Check[Subject], ...] = _checks(loading, tokens, batches, native, gradients, pictures)
"""All checks of towers, in the order in which they are shown."""
PROJECTOR_CHECKS: tuple[Check[Projector], ...] = _checks(module_checks)
"""All checks of projectors."""
REDUCTION_CHECKS: tuple[Check[Reduction], ...] = _checks(module_checks, reductions)
"""All checks of reductions."""
Opened = Callable[[Any, Sequence[str]], AbstractContextManager[Any]]
KIT: Mapping[str, tuple[tuple[Check[Any], ...], Opened]] = {
    "tower": (CHECKS, open_subject),
    "reduction": (REDUCTION_CHECKS, lambda name, overrides: nullcontext(open_reduction(name, overrides))),
    "projector": (PROJECTOR_CHECKS, lambda name, overrides: nullcontext(open_projector(name, overrides))),
}
"""What can be tested -> its checks, and the function that opens a subject for a name and overrides."""

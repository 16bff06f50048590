"""A `Finding`, and how to go on when looking for it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from vita_core import interrupts
from vita_core.errors import split_advice

__all__ = ["Finding", "Status", "cure_of", "described", "guarded"]

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """What was found about `name`, which belongs to `area`. A ``note`` is worth reading, a ``problem`` is to be cured."""

    area: str
    name: str
    status: Status
    says: str
    cure: str = ""


def described(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    return f"{type(error).__name__}: {split_advice(str(error).strip())[0]}".rstrip(": .")


def cure_of(error: BaseException) -> str:
    """Return what the user can do about a library that cannot be imported, or about another error."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"`pip install {error.name.partition('.')[0]}`"
    return split_advice(str(error))[1] or "install vita-core again: `pip install --force-reinstall vita-core`"


def guarded(area: str, look: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield what `look` finds. If it fails, yield a problem that says so: one broken library must not hide the rest."""
    try:
        yield from look()
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # sys.exit() and a Rust panic at import are not an Exception
        interrupts.raise_if_asked()
        yield Finding(area, area, "problem", f"it could not be examined: {described(error)}", cure_of(error))

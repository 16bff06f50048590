"""Find out in which library an error was raised, so that a message does not blame a file that is fine."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import traceback
from collections.abc import Iterable

from vita_core.plugins.installed import Owner

__all__ = ["failed_library", "library_advice"]

NEUTRAL = {"torch", "accelerate"}
"""Libraries that only fail because of what their caller gave them."""


def failed_library(error: BaseException, callers: Iterable[str]) -> str | None:
    """Return the name and version of the library in which `error` was raised, such as ``timm 1.0.31``.

    `callers` are modules or ``"module:name"`` strings: the code that called the library. Return None if their own code
    raised the error.
    """
    own = {re.split(r"[.:]", name)[0] for name in callers}
    packages = [
        frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    last = max((index for index, package in enumerate(packages) if package in own), default=-1)
    ignored = {*NEUTRAL, *sys.stdlib_module_names, "vita_core", ""}
    found = next((package for package in packages[last + 1 :] if package not in ignored), None)
    if found is None:
        return None
    try:
        version = importlib.metadata.version(found)
    except importlib.metadata.PackageNotFoundError:  # a distribution of another name
        version = str(getattr(sys.modules.get(found), "__version__", ""))
    return f"{found} {version}".strip()


def library_advice(library: str, owner: Owner) -> str:
    """Return what the user can do about a `library` that failed for a plugin of `owner`: a text to follow ``Try:``."""
    return (
        f"another version of {library.partition(' ')[0]}, or report this to the author of {owner}; if you wrote the "
        "checkpoint's config.json yourself, check its values"
    )

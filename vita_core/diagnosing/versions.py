"""Compare Python and the installed libraries with the versions that the package's own metadata allows."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, version
from typing import TYPE_CHECKING

from vita_core.diagnosing.findings import Finding

if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = ["libraries", "module_of", "needed", "python"]

DISTRIBUTION = "vita-core"
DEVELOPERS = {"all", "browser", "dev", "docs", "extras"}
"""Extras that only contain others, or that are for the development of vita-core."""
MODULES = {"open-clip-torch": "open_clip", "pillow": "PIL", "pyyaml": "yaml"}
"""The distributions whose module has another name."""


def python() -> Iterator[Finding]:
    """Find whether vita-core is installed, and whether it allows and names this version of Python."""
    try:
        own = metadata(DISTRIBUTION)
    except PackageNotFoundError:
        says = "it is not installed: Python finds its files, but not its metadata"
        yield Finding(
            "python", DISTRIBUTION, "problem", says, f"`pip install {DISTRIBUTION}`, or in a clone `pip install -e .`"
        )
        return
    from packaging.specifiers import SpecifierSet

    yield Finding("python", DISTRIBUTION, "ok", own["Version"])
    found, allowed = platform.python_version(), own["Requires-Python"]
    named = [line.rpartition(":: ")[2] for line in own.get_all("Classifier", []) if "Python :: 3." in line]
    says = f"{found}, allowed {allowed}"
    if not SpecifierSet(allowed).contains(found, prereleases=True):
        yield Finding("python", "Python", "problem", says, f"an environment with Python {named[-1]}")
    elif ".".join(found.split(".")[:2]) not in named:
        yield Finding("python", "Python", "note", f"{says}; vita-core names {', '.join(named)}", f"Python {named[-1]}")
    else:
        yield Finding("python", "Python", "ok", says)


def needed() -> list[Requirement]:
    """Return what vita-core needs in any case."""
    return [requirement for requirement in _requirements() if _asked(requirement, "")]


def module_of(requirement: Requirement) -> str:
    """Return the name under which a distribution is imported."""
    name = requirement.name.lower().replace("_", "-")
    return MODULES.get(name, name.replace("-", "_"))


def libraries() -> Iterator[Finding]:
    """Find the version of each library that vita-core needs, then those of its extras."""
    yield from (_compared(requirement, "library") for requirement in needed())
    extras = [extra for extra in metadata(DISTRIBUTION).get_all("Provides-Extra", []) if extra not in DEVELOPERS]
    for extra in extras:
        asked = [
            requirement for requirement in _requirements() if not _asked(requirement, "") and _asked(requirement, extra)
        ]
        missing = [requirement.name for requirement in asked if not _installed(requirement)]
        if missing:
            says = f"not installed, as {', '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing"
            yield Finding("extra", extra, "ok", f"{says}; `pip install '{DISTRIBUTION}[{extra}]'` if you need it")
        else:
            yield from (_compared(requirement, "extra") for requirement in asked)


def _requirements() -> list[Requirement]:
    from packaging.requirements import Requirement

    return [Requirement(text) for text in metadata(DISTRIBUTION).get_all("Requires-Dist", [])]


def _asked(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _installed(requirement: Requirement) -> str | None:
    try:
        return version(requirement.name) or "unknown"
    except PackageNotFoundError:
        return None


def _compared(requirement: Requirement, area: str) -> Finding:
    name, found = requirement.name, _installed(requirement)
    allowed = ",".join(sorted(map(str, requirement.specifier), reverse=True))  # the lower bound first
    cure = f"`pip install '{name}{allowed}'`"
    if found is None:
        return Finding(area, name, "problem", f"not installed, needed {allowed}", cure)
    try:
        within = requirement.specifier.contains(found, prereleases=True)
    except ValueError:  # not a version
        within = False
    says = f"{found}, tested {allowed}"
    return Finding(area, name, "ok", says) if within else Finding(area, name, "problem", says, cure)

"""What a command prints when it stops at an error that nobody expected: a short report to paste into an issue."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from vita_core.plugins.discovery import GROUP
from vita_core.plugins.installed import EntryPoint, installed

__all__ = ["report", "without_paths"]

LIBRARIES = ("torch", "transformers", "timm", "open_clip_torch", "safetensors", "pillow")
FRAMES = 8
PATH = re.compile(r"(?<![\w.:/])(?:~|\.{0,2})/[^\s'\",:;()\[\]]+|\w+://[^\s'\",;()\[\]]+")


def report(error: BaseException, arguments: Sequence[str]) -> str:
    """Return the report of an error in the command with these arguments. It contains no path, text or URL of the user."""
    frames = traceback.extract_tb(error.__traceback__)
    points = installed(GROUP)[0]
    owner = _owner(frames, points)
    whom = "the maintainers" if owner is None else f"the author of {owner.owner}"
    what = without_paths(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300].rstrip(": "))
    plugins = dict.fromkeys(str(point.owner) for point in points if point.owner.distribution != "vita-core")
    lines = [
        f"{what}. This is a bug{'' if owner is None else f' of plugin {owner.name}'}. Try: send these lines to {whom}; "
        "VITA_DEBUG=1 adds the traceback",
        f"  {', '.join([_version('vita-core'), f'Python {platform.python_version()}', platform.system(), platform.machine()])}",
        f"  {', '.join(map(_version, LIBRARIES))}",
        f"  plugins: {', '.join(plugins) or 'only the built-in ones'}",
        f"  command: vita {' '.join(map(_argument, arguments))}".rstrip(),
        *(f"  at {_place(frame.filename)}:{frame.lineno} in {frame.name}" for frame in frames[-FRAMES:]),
    ]
    return "\n".join(lines)


def without_paths(text: str) -> str:
    """Return a text without the paths and URLs in it. The ending of a file stays."""
    return PATH.sub(lambda found: "PATH" + Path(found[0]).suffix[:12], text)


def _argument(given: str) -> str:
    """Return an argument of the command, without a path, a URL or a text in it."""
    if given.startswith("-") and "=" not in given:
        return given
    key, equals, value = given.rpartition("=")
    if re.search(r"\s", value):
        return f"{key}{equals}TEXT"
    if os.sep in value or value.startswith("~") or Path(value).exists():
        return f"{key}{equals}PATH{Path(value).suffix[:12]}"
    return given


def _version(distribution: str) -> str:
    try:
        return f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {distribution}"


def _place(file: str) -> str:
    """Return the part of a file's path that is the same on every machine."""
    for folder in sorted(map(os.path.abspath, filter(None, sys.path)), key=len, reverse=True):
        if file.startswith(folder + os.sep):
            return file[len(folder) + 1 :]
    return Path(file).name


def _owner(frames: Sequence[traceback.FrameSummary], points: Sequence[EntryPoint]) -> EntryPoint | None:
    """Return the installed plugin in whose code the error was raised, if no code of ours comes after it."""
    packages = {re.split(r"[.:]", point.value)[0]: point for point in points}
    for frame in reversed(frames):
        package = re.split(r"[/\\.]", _place(frame.filename))[0]
        if package in {"vita_core", "vita_plugins"}:
            return None
        if package in packages:
            return packages[package]
    return None

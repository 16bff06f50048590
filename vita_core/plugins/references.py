"""Check that ``"module:name"`` strings resolve without importing the module, which usually would import torch."""

from __future__ import annotations

import ast
import importlib.util
import re
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from vita_core.errors import nearest
from vita_core.plugins.discovery import AnySpec

__all__ = ["dangling", "unresolved"]

KEYS = ("options", "shape", "processor", "geometry", "names", "random", "inside", "opens_blocks")
"""The fields of specs whose value may be a ``"module:name"`` string."""


def dangling(spec: AnySpec) -> list[str]:
    """Return a line for each ``"module:name"`` string of a spec that does not resolve.

    The factory must be such a string; the fields of `KEYS` may be.
    """
    fields = {key: getattr(spec, key, None) for key in KEYS}
    stated = {"factory": spec.factory, **{key: value for key, value in fields.items() if isinstance(value, str)}}
    return [f"{key} {value!r} {reason}" for key, value in stated.items() if (reason := unresolved(value))]


def unresolved(reference: object) -> str:
    """Return why `reference` cannot be imported (sentences), or an empty string. The module's source is not run.

    A reference that only running the module could check (a name made by ``setattr``, a compiled module) counts as valid.
    """
    if not isinstance(reference, str) or not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", reference):
        return "is not a string of the form 'module:name'."
    module, _, name = reference.partition(":")
    spec = _find(module)
    if spec is None:
        return f"names a module that does not exist: {module}."
    if spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    first = name.split(".")[0]
    try:
        source = Path(spec.origin).read_text(encoding="utf-8")
        if re.search(rf"^(?:class|def) {re.escape(first)}\b", source, re.MULTILINE):  # fast path: no parsing
            return ""
        names = _names(ast.parse(source))
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        return f"names a module that cannot be read: {error}."
    if first in names or {"*", "__getattr__"} & names:
        return ""
    return f"names {first!r}, which {module} does not define.{nearest(first, names)}"


def _find(module: str) -> ModuleSpec | None:
    """Return the module's import spec. `importlib.util.find_spec` alone would import the parent packages."""
    parts = module.split(".")
    try:
        spec = importlib.util.find_spec(parts[0])
    except ValueError:  # a module that was created by hand, such as __main__, has no import spec
        return None
    for depth in range(2, len(parts) + 1):
        if spec is None:
            return None
        spec = PathFinder.find_spec(".".join(parts[:depth]), spec.submodule_search_locations or ())
    return spec


def _names(tree: ast.Module) -> set[str]:
    """Return every name that the module binds anywhere, and ``*`` for a star import."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names

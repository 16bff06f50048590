"""Whether a ``"module:name"`` string resolves, without importing anything: what it names usually imports torch."""

from __future__ import annotations

import ast
import importlib.util
import re
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from vita_core.errors import nearest
from vita_core.plugins.specs import LLMSpec, ProjectorSpec, TowerSpec

__all__ = ["dangling", "unresolved"]


def dangling(spec: TowerSpec | ProjectorSpec | LLMSpec) -> list[str]:
    """What is wrong with the strings of a spec, a line each. A factory must be one; the rest may be."""
    fields = {key: getattr(spec, key, None) for key in ("options", "shape", "processor", "geometry")}
    stated = {"factory": spec.factory, **{key: value for key, value in fields.items() if isinstance(value, str)}}
    return [f"the {key} {value!r} {reason}" for key, value in stated.items() if (reason := unresolved(value))]


def unresolved(reference: object) -> str:
    """Why `reference` cannot be imported, or an empty string. The module's source is read, never run.

    What only running it would tell (a name made by ``setattr``, a compiled module) is taken to resolve.
    """
    if not isinstance(reference, str) or not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", reference):
        return "is no string of the form 'module:name'"
    module, _, name = reference.partition(":")
    spec = _find(module)
    if spec is None:
        return f"names a module that is not there: {module}"
    if spec.origin is None or not spec.origin.endswith(".py"):
        return ""
    first = name.split(".")[0]
    try:
        source = Path(spec.origin).read_text(encoding="utf-8")
        if re.search(rf"^(?:class|def) {re.escape(first)}\b", source, re.MULTILINE):  # the usual case, without parsing
            return ""
        names = _names(ast.parse(source))
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        return f"names a module that cannot be read: {error}"
    if first in names or {"*", "__getattr__"} & names:
        return ""
    return f"names {first!r}, which {module} does not define.{nearest(first, names)}"


def _find(module: str) -> ModuleSpec | None:
    """The module's spec. `importlib.util.find_spec` alone would import the packages that hold it."""
    parts = module.split(".")
    try:
        spec = importlib.util.find_spec(parts[0])
    except ValueError:  # a module that was made by hand, such as __main__, has no spec
        return None
    for depth in range(2, len(parts) + 1):
        if spec is None:
            return None
        spec = PathFinder.find_spec(".".join(parts[:depth]), spec.submodule_search_locations or ())
    return spec


def _names(tree: ast.Module) -> set[str]:
    """Every name that the module binds anywhere, ``*`` for a star import."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names

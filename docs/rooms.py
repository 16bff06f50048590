"""Read the rooms (packages) of vita_core: what each owns and imports, from its code and the contract in pyproject.toml."""

from __future__ import annotations

import ast
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grimp

REPOSITORY = Path(__file__).parent.parent
PACKAGE = "vita_core"


@dataclass(frozen=True)
class Room:
    """A package or module directly in vita_core. `floor` is its layer in the contract; 0 is the top layer."""

    name: str
    floor: int
    owns: str
    imports: tuple[str, ...]

    @property
    def place(self) -> str:
        """The path of its folder or file."""
        folder = REPOSITORY / PACKAGE / self.name
        return f"{PACKAGE}/{self.name}/" if folder.is_dir() else f"{PACKAGE}/{self.name}.py"


def rooms() -> list[Room]:
    """Return the existing rooms that the contract names, from the top layer down."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    floor = {name: number for number, names in enumerate(floors()) for name in names}
    imports: dict[str, set[str]] = {name: set() for name in floor}
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            above, below = _room(module), _room(imported)
            if above in floor and below in floor and above != below:
                imports[above].add(below)
    present = {_room(child) for child in graph.find_children(PACKAGE)}
    return [
        Room(name, number, owns(name), tuple(sorted(imports[name], key=lambda below: (floor[below], below))))
        for name, number in floor.items()
        if name in present
    ]


def floors() -> list[list[str]]:
    """Return the names in each layer of the contract. Names in parentheses are planned, and may not exist yet."""
    contract = next(contract for contract in _contracts() if contract["type"] == "layers")
    return [[name.strip(" ()") for name in layer.split("|")] for layer in contract["layers"]]


def without_torch() -> set[str]:
    """Return the rooms that must not import torch."""
    (contract,) = (contract for contract in _contracts() if "torch" in contract.get("forbidden_modules", ()))
    return {_room(module) for module in contract["source_modules"]}


def owns(name: str) -> str:
    """Return the first paragraph of its docstring, and the paragraph that begins with ``In:``."""
    path = REPOSITORY / PACKAGE / name
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))
    first, *more = (ast.get_docstring(tree) or "").split("\n\n")
    told = [first, *(paragraph for paragraph in more if paragraph.startswith("In:"))]
    return " ".join(" ".join(told).split()).replace("``", "`").replace("|", "\\|")


def arrows(found: list[Room]) -> list[tuple[str, str]]:
    """Return the imports (importing, imported) between rooms, without those that a longer path of imports implies."""
    direct = {room.name: {*room.imports} for room in found}

    def reached(name: str) -> set[str]:
        return direct[name].union(*(reached(below) for below in direct[name]))

    return [
        (room.name, below)
        for room in found
        for below in room.imports
        if not any(below in reached(other) for other in room.imports if other != below)
    ]


def table(found: list[Room]) -> list[str]:
    """Return the Markdown table of the rooms, one row each."""
    lines = ["| package | what it owns | imports |", "| --- | --- | --- |"]
    return [*lines, *(f"| `{room.place}` | {room.owns} | {', '.join(room.imports) or 'nothing'} |" for room in found)]


def _room(module: str) -> str:
    return ".".join(module.split(".")[1:2])


def _contracts() -> list[dict[str, Any]]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts: list[dict[str, Any]] = project["tool"]["importlinter"]["contracts"]
    return contracts

"""The rooms stay small, and no two modules import each other in a circle."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import REPOSITORY

MOST_LINES_OF_A_FILE = 250
MOST_LINES_OF_A_FUNCTION = 50
PACKAGES = ("vita_core", "vita_plugins")


def sources(root: Path, *suffixes: str) -> list[Path]:
    files = [file for package in PACKAGES for file in sorted((root / package).rglob("*")) if file.suffix in suffixes]
    assert files
    return files


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def module_name(file: Path, root: Path) -> str:
    """The dotted name of a file's module; a package is its `__init__`."""
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(statement: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    """The dotted names that a statement imports; of `from a import b`, both `a.b` and `a` may be the module."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
        return
    origin = statement.module or ""
    if statement.level:
        parents = package.split(".")[: len(package.split(".")) - statement.level + 1]
        origin = ".".join([*parents, *filter(None, [origin])])
    yield from (f"{origin}.{alias.name}" for alias in statement.names)


def import_graph(root: Path) -> dict[str, set[str]]:
    """Module -> the modules that it imports, by every statement: at the top, in functions, under TYPE_CHECKING.

    That a module's packages are run before it does not count: their `__init__` may import it.
    """
    modules = {module_name(file, root): file for file in sources(root, ".py")}
    graph: dict[str, set[str]] = {}
    for name, file in modules.items():
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        statements = [node for node in ast.walk(parsed(file)) if isinstance(node, ast.Import | ast.ImportFrom)]
        wanted = [target for statement in statements for target in imported(statement, package)]
        found = (target if target in modules else target.rpartition(".")[0] for target in wanted)
        graph[name] = {target for target in found if target in modules}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, the first one repeated at the end; empty if there are none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1][::-1])  # it lists each node after those that it depends on
    return []


def test_no_import_circle() -> None:
    graph = import_graph(REPOSITORY)
    assert len(graph) > 100
    assert graph["vita_core.testing"] > {"vita_core.testing.kit", "vita_core.testing.subject"}
    found = circle(graph)
    assert not found, " imports ".join(found)


@pytest.mark.parametrize(
    "back",
    [
        "import vita_core.a",
        "from vita_core import a",
        "from . import a",
        "from .a import something",
        "def function():\n    from vita_core.a import something",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vita_core.a import something",
    ],
)
def test_every_kind_of_circle_is_found(tmp_path: Path, back: str) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "vita_core" / "a.py").write_text("import vita_core.b\n")
    (tmp_path / "vita_core" / "b.py").write_text("import vita_core.c\n")
    (tmp_path / "vita_core" / "c.py").write_text("")
    assert circle(import_graph(tmp_path)) == []
    (tmp_path / "vita_core" / "c.py").write_text(back)
    found = circle(import_graph(tmp_path))
    assert set(found) == {"vita_core.a", "vita_core.b", "vita_core.c"}
    start = found.index("vita_core.a")
    assert found[(start + 1) % 3] == "vita_core.b", "the circle is told in the order of its imports"


def test_a_circle_through_a_package_is_found(tmp_path: Path) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
    (tmp_path / "vita_plugins" / "__init__.py").touch()
    (tmp_path / "vita_core" / "__init__.py").write_text("from vita_core.a import something\n")
    (tmp_path / "vita_core" / "a.py").write_text("from vita_core import something\n")
    assert set(circle(import_graph(tmp_path))) == {"vita_core", "vita_core.a"}


def test_no_file_is_long() -> None:
    lines = {
        file: len(file.read_text(encoding="utf-8").splitlines()) for file in sources(REPOSITORY, ".py", ".template")
    }
    long = {str(file.relative_to(REPOSITORY)): count for file, count in lines.items() if count > MOST_LINES_OF_A_FILE}
    assert not long, f"over {MOST_LINES_OF_A_FILE} lines"


def test_no_two_files_of_tests_have_one_name() -> None:
    """pytest imports them by their name alone, and takes the first for both in a run of all."""
    names = Counter(file.name for file in (REPOSITORY / "tests").rglob("*.py"))
    assert not [name for name, count in names.items() if count > 1]


def test_no_function_is_long() -> None:
    """From `def` to its last line, its docstring and the functions inside it included."""
    long = {}
    for file in sources(REPOSITORY, ".py"):
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                if lines > MOST_LINES_OF_A_FUNCTION:
                    long[f"{file.relative_to(REPOSITORY)}: {node.name}"] = lines
    assert not long, f"over {MOST_LINES_OF_A_FUNCTION} lines: {long}"

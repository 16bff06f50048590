"""docs/architecture.md says what happens: the functions of its two paths are called, in its order."""

from __future__ import annotations

import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from conftest import GOLDEN, REPOSITORY

from vita_core import build_model

PAGE = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def steps(title: str) -> list[str]:
    """The names in the first column of a section's table."""
    return re.findall(r"^\| `([\w.]+)` \|", section(title), re.MULTILINE)


def calls(run: Callable[[], Any]) -> Iterator[str]:
    """Every function of ours that `run` calls, once, in the order of the first calls; a class where it is made."""
    seen: dict[str, None] = {}

    def watch(frame: FrameType, event: str, _: Any) -> None:
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith(("vita_core.", "vita_plugins.")):
            seen.setdefault(f"{module}.{frame.f_code.co_qualname}".removesuffix(".__init__"))

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        run()
    finally:
        sys.setprofile(before)
    return iter(seen)


@pytest.fixture
def config(tmp_path: Path, tiny_llm: Path) -> Path:
    """Every optional step of the path of a picture is in it."""
    file = tmp_path / "every-step.yaml"
    file.write_text(
        f"tower: {{weights: {GOLDEN / 'siglip'}, s2: {{scales: [56, 112, 168]}}, pixel_shuffle: 0.5, pool: 1}}\n"
        f"llm: {{weights: {tiny_llm}}}\n"
        "generation: {max_new_tokens: 3}\ndevice: cpu\n"
    )
    return file


def test_a_picture_and_a_config_go_through_these_functions(config: Path) -> None:
    built: list[Any] = []
    paths = {
        "The path of a config": lambda: built.append(build_model(config)),
        "The path of a picture": lambda: built[0].ask(GOLDEN / "pictures" / "wide.png", "what is this"),
    }
    for title, run in paths.items():
        written, called = steps(title), calls(run)
        assert len(written) > 10
        for name in written:
            assert pkgutil.resolve_name(name)
            assert name in called, (
                f"{title}: {name} is not called, or not there"
            )  # `in` goes on from the last one found


def test_every_change_has_its_place_test_and_page() -> None:
    changes = section("Where do I put ...").split("\n### ")[1:]
    assert len(changes) >= 10
    for change in changes:
        assert [line[:7] for line in change.splitlines() if line.startswith("- ")] == ["- Edit:", "- Test:", "- Page:"]

"""The notebooks: what they show is what they print when they run, and says nothing of the machine that ran them."""

from __future__ import annotations

import importlib.util
import platform
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import REPOSITORY, vita

NOTEBOOKS = sorted((REPOSITORY / "examples" / "notebooks").glob("*.ipynb"))
MACHINE = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|usr|opt|var|mnt|data/\w+|Users)/")


def tool() -> Any:
    """tools/notebooks.py, which `make notebooks` runs."""
    spec = importlib.util.spec_from_file_location("notebooks", REPOSITORY / "tools" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_can_be_read_without_running_it(file: Path) -> None:
    node = nbformat.read(file, as_version=nbformat.NO_CONVERT)
    nbformat.validate(node)
    code = [cell for cell in node.cells if cell.cell_type == "code"]
    assert node.cells[0].source.startswith("# ")
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)], "run it: make notebooks"
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/jpeg" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert file.stat().st_size < 300_000
    assert max(len(cell.source.splitlines()) for cell in code) <= 40


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_no_notebook_names_the_machine_that_ran_it(file: Path) -> None:
    node = nbformat.read(file, as_version=4)
    shown = "\n".join(line for lines in tool().printed(node) for line in lines)
    whole = file.read_text()
    assert not MACHINE.findall(shown)
    assert platform.node() not in shown
    assert str(Path.home()) not in whole
    assert str(REPOSITORY) not in whole


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_every_link_of_a_notebook_leads_somewhere(file: Path) -> None:
    texts = [cell.source for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "markdown"]
    links = [link for text in texts for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("https:")]
    assert links
    assert not [link for link in links if not (file.parent / link).is_file()]


def test_the_page_of_examples_links_every_notebook() -> None:
    page = (REPOSITORY / "examples" / "notebooks" / "README.md").read_text()
    assert {file.name for file in NOTEBOOKS} == set(re.findall(r"\(([\w-]+\.ipynb)\)", page))


def test_what_varies_is_left_out_of_what_is_compared() -> None:
    stream = nbformat.v4.new_output("stream", text="loss 1.5 at 3,200\nok\n")
    picture = nbformat.v4.new_output("display_data", {"image/jpeg": "", "text/plain": "<Figure>"})
    cells = [
        nbformat.v4.new_code_cell("", outputs=[stream, picture], metadata={"tags": tags})
        for tags in ([], ["numbers-vary"], ["words-vary"])
    ]
    node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# a"), *cells])
    exact, masked, words = tool().printed(node)
    assert exact == ["<Figure>", "loss 1.5 at 3,200", "ok"]
    assert masked == ["<Figure>", "loss N at N", "ok"]
    assert words == ["..."]


@pytest.mark.extras
@pytest.mark.network
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_prints_what_it_shows(file: Path, tmp_path: Path) -> None:
    """It runs as committed, with the real weights of `vita assets`; a cell that fails is an error."""
    assert vita("assets").returncode == 0
    module = tool()
    assert module.printed(module.executed(file, tmp_path)) == module.printed(nbformat.read(file, as_version=4))

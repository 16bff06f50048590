"""Run the notebooks of examples/notebooks and save what they print: `make notebooks`.

`python tools/notebooks.py NAME...` runs only these. A notebook runs in a temporary folder. Its outputs are replaced by
what it prints and shows; what it writes to stderr is left out.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode

FOLDER = Path(__file__).parent.parent / "examples" / "notebooks"
NUMBERS, WORDS = "numbers-vary", "words-vary"
"""Tags of cells whose output another machine, or another time, gives with other numbers, or with other words too."""


def executed(notebook: Path, folder: Path) -> NotebookNode:
    """Return a notebook with the outputs that it has when it runs in `folder`, with this Python.

    Raises nbclient's CellExecutionError for the first cell that fails.
    """
    from nbclient import NotebookClient

    node = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        node,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # `vita` of this environment
    # DeepSpeed, where it is installed, warns if it must look for its accelerator
    told = {"HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"}
    client.execute(env={**os.environ, "PATH": path, **told})
    for cell in node.cells:
        if cell.cell_type == "code":  # warnings and progress bars, which differ from machine to machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    node.metadata = {"kernelspec": node.metadata.kernelspec, "language_info": {"name": "python"}}
    return node


def printed(node: NotebookNode) -> list[list[str]]:
    """Return the lines that each code cell shows, without what its tags say that varies. Pictures are their text alone."""
    return [_lines(cell) for cell in node.cells if cell.cell_type == "code"]


def _lines(cell: NotebookNode) -> list[str]:
    tags = cell.metadata.get("tags", [])
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    if WORDS in tags:
        return ["..."] * bool("".join(texts).strip())
    lines = [" ".join(line.split()) for text in texts for line in text.splitlines()]
    return sorted(re.sub(r"\d[\d,.]*", "N", line) if NUMBERS in tags else line for line in lines if line)


def main(names: list[str]) -> None:
    """Run the named notebooks, or all, and write each back."""
    for file in sorted(FOLDER.glob("*.ipynb")):
        if not names or file.stem in names:
            with tempfile.TemporaryDirectory() as folder:
                node = executed(file, Path(folder))
            nbformat.write(node, file)
            print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])

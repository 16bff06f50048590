"""Write the tables in encoders.md: which encoders of timm, open_clip and transformers open.

Every module of timm is tried with one small model: it gets random weights, timm saves it, and the tower must plan it and give
timm's own features of the last layer. So is every vision model of transformers. Every model of open_clip is planned. This takes
some minutes, so only `make test-extras` checks the page. With ``--check``, write nothing; exit with an error if the page differs
from the installed libraries'. The name of a library limits the run to it; with names of its modules or models as well, these
are tried and nothing is written.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import open_clip_table
import timm
import torch
import transformers_table
from timm.models import save_for_hf

from vita_core import VitaError, build_tower
from vita_core.planning.towers import resolve_tower

HERE = Path(__file__).parent
PAGE = HERE / "encoders.md"
CHOSEN: dict[str, tuple[str, dict[str, Any]]] = json.loads((HERE / "encoders.json").read_text())
"""For each module of timm the name of a small model, and arguments that make it smaller."""


@dataclass(frozen=True)
class Row:
    """What became of one model: its sizes, or the reason why it did not open."""

    module: str
    model: str
    layers: str = ""
    tokens: str = ""
    prefix: str = ""
    reason: str = ""


def chosen(module: str) -> tuple[str, dict[str, Any]]:
    """Return the model of CHOSEN; for a module that is newer than this list, the first model of the module."""
    names = timm.list_models(module=module)
    name, arguments = CHOSEN.get(module, ("", {}))
    return (name, arguments) if name in names else (names[0], {})


def tried(module: str) -> Row:
    name, arguments = chosen(module)
    torch.manual_seed(0)
    model = timm.create_model(name, **arguments).eval()
    with tempfile.TemporaryDirectory() as folder:
        save_for_hf(model, folder, model_args=arguments or None)
        try:
            shape = resolve_tower({"weights": folder}).shape
            tower = build_tower({"weights": folder})
        except VitaError as error:
            return Row(module, name, reason=str(error).partition(" Try: ")[0].replace(folder, "DIR"))
        pixels = torch.rand(1, 3, *shape.image_size)
        with torch.no_grad():
            maps = model.forward_intermediates(
                pixels, indices=[shape.layers - 1], intermediates_only=True, output_fmt="NCHW"
            )
            expected, found = maps[0].flatten(2).transpose(1, 2), tower(pixels)
        scale = 1 + expected.abs().max()
        if found.shape != expected.shape or (found - expected).abs().max() > 1e-5 * scale:
            return Row(module, name, reason="the features differ from timm's")
        sizes = f"{tower.grid[0]} x {tower.grid[1]} of {tower.hidden_size}"
    return Row(module, name, str(shape.layers), sizes, str(shape.prefix_tokens))


def rows(names: list[str], one: Callable[[str], Any]) -> Iterator[Any]:
    """Yield what becomes of each name, and print it."""
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            row = one(name)
        print(name, row.reason or "opens", file=sys.stderr, flush=True)
        yield row


def section(found: list[Row]) -> str:
    opened = [row for row in found if not row.reason]
    refused = Counter(row.reason for row in found if row.reason)
    lines = [
        f"timm {timm.__version__} has {len(found)} modules. One small model of each was saved with random weights, opened, and",
        f"its features were compared with timm's `forward_intermediates` (to 1e-5 of the largest one): **{len(opened)} open**.",
        "",
        *(f"- {count} not: {reason}" for reason, count in sorted(refused.items())),
        *([""] if refused else []),
        "| module | model | layers | tokens of the last layer | prefix tokens | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{row.module}` | `{row.model}` | {row.layers} | {row.tokens} | {row.prefix} | {row.reason or 'opens'} |"
        for row in found
    ]
    return "\n".join(lines) + "\n"


def replaced(page: str, library: str, new: str) -> str:
    """Return the page with another section of a library."""
    begin, end = f"<!-- {library}: begin, written by docs/encoders.py -->", f"<!-- {library}: end -->"
    before, after = re.split(f"{begin}\n.*?{end}", page, flags=re.DOTALL)
    return f"{before}{begin}\n{new}{end}{after}"


LIBRARIES: dict[str, tuple[Any, Any, Any]] = {
    "transformers": (transformers_table.types, transformers_table.tried, transformers_table.section),
    "timm": (timm.list_modules, tried, section),
    "open_clip": (open_clip.list_models, open_clip_table.tried, open_clip_table.section),
}
"""For each library what it has, what becomes of one of these, and the section of the page."""


def main(arguments: list[str]) -> None:
    check = "--check" in arguments
    wanted = [word for word in arguments if not word.startswith("-")]
    page = PAGE.read_text(encoding="utf-8")
    for library in [word for word in wanted if word in LIBRARIES] or LIBRARIES:
        names, one, written = LIBRARIES[library]
        some = [name for name in names() if name in wanted]
        found = list(rows(some or names(), one))
        if not some:
            page = replaced(page, library, written(found))
    if not check:
        PAGE.write_text(page, encoding="utf-8")
    elif page != PAGE.read_text(encoding="utf-8"):
        sys.exit(f"{PAGE} is out of date: run `python docs/encoders.py`")


if __name__ == "__main__":
    main(sys.argv[1:])

"""``make bench``: the quick set of every benchmark, its ratios held against ``baseline.json``.

A ratio is a cell with a median, a lowest and a highest value; the table's other cells are for people. It is worse when
even its best round is more than the tolerance above the baseline's worst (a ratio whose name is in `LARGER_IS_BETTER`:
below it): what varied within a run on a busy machine is no regression.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SCRIPTS = (
    "startup", "preprocess", "loader", "generate", "encode", "s2", "load", "load_memory", "activations",
    "first_feature", "gpu",
)  # fmt: skip
"""Every benchmark that may be there; one that is not is passed over."""
QUICK = tuple(script for script in SCRIPTS if script not in ("load_memory", "activations", "first_feature"))
"""What is run unless `--only` says otherwise; the others start processes of their own, which import for two minutes."""
IMPORTED = ("torch", "torchvision", "timm", "accelerate", "transformers.modeling_utils", "transformers.generation")
"""What most scripts import: once, by the process that those of the scripts are forked from."""
HERE = Path(__file__).parent
BASELINE = HERE / "baseline.json"
TOLERANCE = 0.1
LARGER_IS_BETTER = ("original / ours",)
SPREAD = ("median", "low", "high")
Key = tuple[str, str, str]
Ratios = Mapping[Key, Mapping[str, float]]
"""(script, row, column) -> median, low, high."""


def ratios(folder: Path) -> dict[Key, dict[str, float]]:
    """(script, row, column) -> median, low, high, of every result in `folder`."""
    found = {}
    for script in SCRIPTS:
        file = folder / f"{script}.json"
        if file.is_file():
            for row in json.loads(file.read_text())["rows"]:
                for column, cell in row.items():
                    if isinstance(cell, dict) and set(SPREAD) <= cell.keys():
                        found[script, _label(row), column] = cell
    return found


def _label(row: Mapping[str, Any]) -> str:
    """What tells a row from the others: its words and whole numbers, not what was measured."""
    return ", ".join(str(value) for value in row.values() if isinstance(value, str | int))


def worse(now: Ratios, before: Ratios) -> Iterator[tuple[Key, float, float]]:
    """Each ratio that got worse: its key, the baseline's worst round and the best round now."""
    for key, cell in now.items():
        if key in before:
            if key[2] in LARGER_IS_BETTER:
                worst, best = before[key]["low"], cell["high"]
                fell = best < worst * (1 - TOLERANCE)
            else:
                worst, best = before[key]["high"], cell["low"]
                fell = best > worst * (1 + TOLERANCE)
            if fell:
                yield key, worst, best


def read_baseline(file: Path) -> dict[Key, dict[str, float]]:
    """What `write_baseline` wrote; nothing where there is no file."""
    if not file.is_file():
        return {}
    rows = json.loads(file.read_text())
    return {(r["script"], r["row"], r["column"]): {name: r[name] for name in SPREAD} for r in rows}


def write_baseline(file: Path, now: Ratios) -> None:
    names = ("script", "row", "column")
    rows = [
        {**dict(zip(names, key, strict=True)), **{name: cell[name] for name in SPREAD}} for key, cell in now.items()
    ]
    file.write_text("[\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n]\n")


def compared(now: Ratios, before: Ratios) -> int:
    """Print what got worse, what is new and what was not measured; the exit status."""
    console, found = Console(), list(worse(now, before))
    for title, keys in (("not in the baseline", now.keys() - before), ("not measured now", before.keys() - now)):
        for key in sorted(keys):
            console.print(f"{title}: {', '.join(key)}", style="dim", highlight=False)
    if not found:
        console.print(f"{len(now.keys() & before)} ratios within {TOLERANCE:.0%} of the baseline")
        return 0
    table = Table(
        "benchmark",
        "row",
        "ratio",
        "worst round of the baseline",
        "best round now",
        title=f"worse by more than {TOLERANCE:.0%}",
    )
    for key, worst, best in found:
        table.add_row(*key, str(worst), str(best))
    console.print(table)
    console.print("run it again on an idle machine; if it is meant to be so: make bench UPDATE=--update")
    return 1


def run(scripts: Sequence[str], folder: str) -> list[str]:
    """Each script's quick set in a process of its own, its results in `folder`; those that failed."""
    context, failed = multiprocessing.get_context("forkserver"), []
    if len(scripts) > 1:
        context.set_forkserver_preload([*IMPORTED])
    for script in scripts:
        process = context.Process(target=_in_child, args=(script, folder))
        process.start()
        process.join()
        if process.exitcode:
            failed.append(script)
    return failed


def _in_child(script: str, folder: str) -> None:
    os.environ["VITA_BENCH_RESULTS"] = folder
    sys.argv = [script, "--quick"]
    sys.path.insert(0, str(HERE))
    runpy.run_path(str(HERE / f"{script}.py"), run_name="__main__")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--update", action="store_true", help="Make what is measured now the baseline.")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=QUICK, help="Other scripts than the quick ones.")
    arguments = parser.parse_args()
    here = [script for script in arguments.only if (HERE / f"{script}.py").is_file()]
    with tempfile.TemporaryDirectory() as folder:
        failed = run(here, folder)
        now = ratios(Path(folder))
    before = read_baseline(BASELINE)
    if arguments.update:
        kept = {key: cell for key, cell in before.items() if key[0] not in here}
        write_baseline(BASELINE, {**kept, **now})
    status = compared(now, {key: cell for key, cell in read_baseline(BASELINE).items() if key[0] in here})
    if failed:
        Console().print(f"failed: {', '.join(failed)}", style="red")
    sys.exit(status or bool(failed))


if __name__ == "__main__":
    main()

"""``make bench``: run the quick form of the benchmarks and compare their ratios with ``baseline.json``.

A ratio is a cell with a median, a lowest and a highest value. Other cells are not compared. A ratio is worse if even its
best round is more than the tolerance above the worst round of the baseline (below it, for the names in
`LARGER_IS_BETTER`). Variation within a run on a busy machine therefore does not count as a regression.
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
    "startup", "preprocess", "loader", "generate", "encode", "encoders", "s2", "load", "load_memory", "activations",
    "first_feature", "gpu", "fusion", "train",
)  # fmt: skip
"""All benchmarks. A script that does not exist is left out."""
SLOW = ("encoders", "load_memory", "activations", "first_feature", "fusion", "train")
QUICK = tuple(script for script in SCRIPTS if script not in SLOW)
"""The benchmarks that run by default. The others start processes of their own, which import for two minutes."""
IMPORTED = ("torch", "torchvision", "timm", "accelerate", "transformers.modeling_utils", "transformers.generation")
"""The modules that most scripts import. One process imports them once, and the scripts' processes are forked from it."""
HERE = Path(__file__).parent
BASELINE = HERE / "baseline.json"
TOLERANCE = 0.1
LARGER_IS_BETTER = ("original / ours",)
SPREAD = ("median", "low", "high")
Key = tuple[str, str, str]
Ratios = Mapping[Key, Mapping[str, float]]
"""(script, row, column) -> median, low, high."""


def ratios(folder: Path) -> dict[Key, dict[str, float]]:
    """Return the ratios of every result in `folder`."""
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
    """Return the row's name: its texts and whole numbers, without what was measured."""
    return ", ".join(str(value) for value in row.values() if isinstance(value, str | int))


def worse(now: Ratios, before: Ratios) -> Iterator[tuple[Key, float, float]]:
    """Yield each ratio that got worse: its key, the worst round of the baseline, and the best round now."""
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
    """Return the ratios that `write_baseline` wrote, or no ratios if the file does not exist."""
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
    """Print what got worse, what is new and what was not measured. Return the exit status."""
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
    console.print("Run it again on an idle machine. If the change is intended, run: make bench UPDATE=--update")
    return 1


def run(scripts: Sequence[str], folder: str) -> list[str]:
    """Run each script with ``--quick`` in a process of its own. Write results to `folder`. Return the scripts that failed."""
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
    parser.add_argument("--update", action="store_true", help="Save the numbers of this run as the baseline.")
    parser.add_argument(
        "--only", nargs="+", choices=SCRIPTS, default=QUICK, help="Run these scripts. Default: the quick ones."
    )
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

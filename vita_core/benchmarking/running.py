"""Run lmms-eval on a saved model, in a process of its own, and read the scores that it writes."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vita_core.errors import VitaError, nearest, split_advice
from vita_core.untrusted.jsonfiles import read_json
from vita_core.untrusted.limits import RECORD

__all__ = ["Scores", "benchmark_scores", "check_tasks", "mean_scores", "task_files"]

Scores = dict[str, dict[str, float]]
"""By task and metric."""


def check_tasks(tasks: Sequence[str]) -> list[str]:
    """Return the names of tasks. Raises VitaError if lmms-eval is not installed or does not know one. No data are read."""
    _check_installed()
    from lmms_eval.tasks import TaskManager

    names, folders = _named(tasks)
    known = TaskManager("ERROR", include_path=next((str(folder) for folder in folders), None)).all_tasks
    _check_known(names, known)
    return names


def _check_known(names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise VitaError(
                f"--lmms-eval: no such task: {name!r}.{nearest(name, known)} "
                "Try: a name that `lmms-eval tasks` lists, or the YAML file of a task"
            )


def _check_installed() -> None:
    if importlib.util.find_spec("lmms_eval") is None:
        raise VitaError("--lmms-eval: lmms-eval is not installed. Try: `pip install 'vita-core[lmms-eval]'`")


def benchmark_scores(model: Path, tasks: Sequence[str], out: Path, *, device: str, batch: int = 8) -> Scores:
    """Return the scores of the model in a directory. A task is a name that lmms-eval knows, or a YAML file in one folder.

    lmms-eval writes its results, and what it prints (``log.txt``), to the directory `out`, which is emptied first. Raises
    VitaError if it gives no scores.
    """
    _check_installed()
    names, folders = _named(tasks)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    command = [sys.executable, "-m", "lmms_eval", "--model", "vita", "--model_args", "config=."]
    command += ["--tasks", ",".join(names), "--batch_size", str(batch), "--device", device]
    command += [word for folder in folders for word in ("--include_path", str(folder))]
    with (out / "log.txt").open("w") as log:
        # in the directory of the model, since a path with a comma would be two arguments
        done = subprocess.run(  # noqa: S603  # words, not a shell; tasks are the value of one option
            [*command, "--output_path", out.absolute()], cwd=model, stdout=log, stderr=subprocess.STDOUT, check=False,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        )  # fmt: skip
    found = sorted(out.rglob("*_results.json"))
    if done.returncode != 0 or not found:
        raise VitaError(
            f"lmms-eval gave no scores for {','.join(tasks)}: {_reason((out / 'log.txt').read_text(errors='replace'))}. "
            f"Try: read {out / 'log.txt'}"
        )
    return _scores(read_json(found[-1], RECORD)["results"])


def mean_scores(runs: Sequence[Scores]) -> Scores:
    """Return the mean over the runs of every score that all of them have."""
    shared = {
        task: [key for key in first if all(key in run.get(task, {}) for run in runs)] for task, first in runs[0].items()
    }
    return {
        task: {metric: sum(run[task][metric] for run in runs) / len(runs) for metric in metrics}
        for task, metrics in shared.items()
    }


def _named(tasks: Sequence[str]) -> tuple[list[str], set[Path]]:
    """Return the names of the tasks, and the folder of those that are files, if there are any. Raises VitaError."""
    names, folders = [], set()
    for task in tasks:
        if not task.endswith((".yaml", ".yml")):
            names.append(task)
            continue
        file = Path(task).expanduser().absolute()
        stated = re.search(r"^task:\s*[\"']?([^\s\"'#]+)", file.read_text(), re.MULTILINE) if file.is_file() else None
        if stated is None:
            what = "has no key `task`" if file.is_file() else "no such file"
            raise VitaError(f"--lmms-eval: {task}: {what}. Try: the YAML file of a task, or the name of one")
        names.append(stated[1])
        folders.add(file.parent)
    if len(folders) > 1:
        raise VitaError("--lmms-eval: the files are in several folders. Try: put them into one folder")
    return names, folders


def task_files(tasks: Sequence[str]) -> str | None:
    """Return a digest of what the tasks that are files depend on, or None if all are names.

    It is of the YAML and Python files in their folder, which may refer to each other, and of the sizes and times of the files
    and directories that a YAML file names, such as its data. Raises VitaError.
    """
    _, folders = _named(tasks)
    digest = hashlib.sha256()
    for file in sorted(
        file for folder in folders for file in folder.iterdir() if file.suffix in (".yaml", ".yml", ".py")
    ):
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)} ".encode() + content)
        for place in _places(content.decode(errors="replace")) if file.suffix != ".py" else ():
            within = sorted(place.rglob("*")) if place.is_dir() else [place]
            stats = [(str(one), one.stat()) for one in within if one.is_file()]
            digest.update(repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]).encode())
    return digest.hexdigest() if folders else None


def _places(text: str) -> list[Path]:
    """Return the absolute paths in YAML that exist."""
    try:
        values = [token.value for token in yaml.scan(text) if isinstance(token, yaml.ScalarToken)]
    except yaml.YAMLError:  # lmms-eval tells
        return []
    return [Path(value) for value in values if value.startswith("/") and os.path.exists(value)]  # noqa: PTH110  # no error


def _scores(results: Mapping[str, Mapping[str, Any]]) -> Scores:
    """Return the numbers of each task, without their errors. lmms-eval names them ``METRIC,FILTER``."""
    return {
        task: {
            key.removesuffix(",none"): float(value)
            for key, value in sorted(row.items())
            if "," in key and "_stderr" not in key and isinstance(value, int | float)
        }
        for task, row in sorted(results.items())
    }


def _reason(log: str) -> str:
    """Return the last line that names an error, or else the last line, as one sentence."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    named = [line for line in lines if "Error: " in line]
    last = (named or lines or ["it printed nothing"])[-1]
    return split_advice(last)[0]

"""``vita run --images``: the same question about every picture of a folder, one JSON line each, resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vita_core.cli.common import open_model
from vita_core.errors import ConfigError, PictureError, VitaError
from vita_core.training.data import SUFFIXES
from vita_core.weights.files import write_whole

if TYPE_CHECKING:
    from vita_core.models.model import VisionLanguageModel
    from vita_core.models.pictures import Prepared
    from vita_core.planning.resolution import Resolved

    Ask = Callable[[Sequence[Prepared]], list[str]]

__all__ = ["answer_folder"]

ENCODING: Any = {"encoding": "utf-8", "errors": "surrogateescape"}
"""A file name that is no UTF-8 passes through unchanged."""


def answer_folder(
    resolved: Resolved,
    folder: Path,
    out: Path,
    question: str | None,
    *,
    batch: int,
    system: str | None,
    max_new_tokens: int | None,
) -> dict[str, int]:
    """Ask `question` about every picture below `folder`, `batch` at a time, in sorted order; append a row each to `out`.

    A row is ``{"image", "question", "settings", "answer"}``, with ``"error"`` in the place of the answer for a picture
    that cannot be opened or asked about; `settings` is a hash of the config, `system` and `max_new_tokens`. Pictures that
    `out` has an answer for are skipped, those with an error tried again. The model is opened only when something is left
    to ask. Returns the counts of rows ``answered``, ``skipped``, ``errors``. Raises ConfigError for a folder without
    pictures, and for an `out` that is damaged or was made with other settings.
    """
    config, pictures = resolved.config, _pictures(folder)
    question = question or config.prompt.question
    stated = f"{config.model_dump_json()}{system!r}{max_new_tokens}"
    settings = hashlib.sha256(stated.encode()).hexdigest()[:12]
    there = [row for row in _kept_rows(out) if row["question"] == question]
    if other := sum(row.get("settings") != settings for row in there):
        raise ConfigError(
            f"{out} holds {other} answers to this question made with another config, --system or --max-new-tokens; give "
            "another --jsonl"
        )
    done = {row["image"] for row in there}
    left = [name for name in pictures if name not in done]
    counts = {"answered": 0, "skipped": len(pictures) - len(left), "errors": 0}
    if not left:
        return counts
    model = open_model(resolved)

    def ask(pictures: Sequence[Prepared]) -> list[str]:
        answers = model.ask_each(pictures, question, system=system, max_new_tokens=max_new_tokens)
        return [answer.text for answer in answers]

    for results in _asked(model, folder, left, ask, batch):
        _append(out, [{"image": n, "question": question, "settings": settings, **result} for n, result in results])
        for _, result in results:
            counts["errors" if "error" in result else "answered"] += 1
    return counts


def _asked(
    model: VisionLanguageModel, folder: Path, names: Sequence[str], ask: Ask, batch: int
) -> Iterator[list[tuple[str, dict[str, str]]]]:
    """Names of pictures, each with its answer or error, a batch at a time, under a progress bar."""
    from tqdm import tqdm

    from vita_core.pixels.prefetching import prefetched

    def read(name: str) -> tuple[str, Prepared | PictureError]:
        try:
            return name, model.prepare(folder / name).copied(model.tower.device)
        except PictureError as error:
            return name, error

    with (
        tqdm(total=len(names), desc="run", unit="picture") as progress,
        prefetched(names, read, batch=batch) as batches,
    ):
        for read_ahead in batches:
            found = _results([picture for _, picture in read_ahead], ask)
            told = [{"error" if isinstance(result, VitaError) else "answer": str(result)} for result in found]
            yield list(zip([name for name, _ in read_ahead], told, strict=True))
            progress.update(len(read_ahead))


def _pictures(folder: Path) -> list[str]:
    """Every picture file below `folder`, by its suffix, as sorted paths relative to it."""
    if not folder.is_dir():
        raise ConfigError(f"--images {folder}: no such directory")
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not found:
        raise ConfigError(f"--images {folder} holds no picture ({', '.join(sorted(SUFFIXES))})")
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _kept_rows(out: Path) -> list[dict[str, Any]]:
    """The answers that `out` holds; what else stands there (errors, a line torn by an interruption) is removed from it."""
    if not out.exists():
        _append(out, [])
        return []
    try:
        text = out.read_text(**ENCODING)
    except OSError as error:
        raise VitaError(f"cannot read {out}: {error.strerror}") from error
    rows, kept = [], ""
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        row = _row(line)
        if row is None and line.endswith("\n"):
            raise ConfigError(f"{out}:{number}:1: no row of `vita run --jsonl`; give another file, or mend that line")
        if row is not None and "answer" in row:
            rows.append(row)
            kept += line if line.endswith("\n") else line + "\n"
    if kept != text:
        write_whole(out, lambda path: path.write_text(kept, **ENCODING))
    return rows


def _append(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add whole lines to `out`. Raises VitaError when it cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a", **ENCODING) as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    except OSError as error:
        raise VitaError(f"cannot write {out}: {error.strerror}") from error


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and {"image", "question"} <= row.keys() else None


def _results(pictures: Sequence[Prepared | PictureError], ask: Ask) -> Iterator[str | VitaError]:
    """The answer about each picture, or what is wrong with it."""
    answers = iter(_each([picture for picture in pictures if not isinstance(picture, PictureError)], ask))
    for picture in pictures:
        yield picture if isinstance(picture, PictureError) else next(answers)


def _each(pictures: Sequence[Prepared], ask: Ask) -> Sequence[str | VitaError]:
    """All pictures as one batch; where that is refused (one has too many tiles, say), one by one."""
    if not pictures:
        return []
    try:
        return ask(pictures)
    except ConfigError:  # nothing that another picture would mend
        raise
    except VitaError as error:
        return [error] if len(pictures) == 1 else [found for picture in pictures for found in _each([picture], ask)]

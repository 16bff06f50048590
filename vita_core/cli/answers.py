"""``vita run --images``: ask the same question about every picture of a folder, and write one JSON line per picture."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vita_core.cli.common import open_model
from vita_core.errors import ConfigError, PictureError, VitaError, nearest_path
from vita_core.training.data import SUFFIXES
from vita_core.untrusted.jsonfiles import BadJson, decode
from vita_core.weights.files import append, write_whole
from vita_core.weights.locks import alone

if TYPE_CHECKING:
    from vita_core.models.model import VisionLanguageModel
    from vita_core.models.pictures import Prepared
    from vita_core.planning.resolution import Resolved

    Ask = Callable[[Sequence[Prepared]], list[str]]

__all__ = ["answer_folder"]

ENCODING: Any = {"encoding": "utf-8", "errors": "surrogateescape"}
"""Keeps file names that are not UTF-8 unchanged."""
COMMAND = "vita run --images"


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
    """Ask `question` about every picture below `folder`, `batch` at a time, in sorted order. Append a row for each to `out`.

    A row is ``{"image", "question", "settings", "answer"}``. A picture that cannot be opened or asked about has ``"error"``
    instead of ``"answer"``. `settings` is a hash of the config, `system` and `max_new_tokens`. Pictures with an answer in
    `out` are skipped; pictures with an error are tried again. The model is only opened if a picture is left. Returns the
    numbers of pictures ``answered``, ``skipped``, and with ``errors``. Raises ConfigError if the folder has no pictures,
    or if `out` is damaged or has answers with other settings, and VitaError if another process writes to it.
    """
    config, pictures = resolved.config, _pictures(folder)
    question = question or config.prompt.question
    stated = f"{config.model_dump_json()}{system!r}{max_new_tokens}"
    settings = hashlib.sha256(stated.encode()).hexdigest()[:12]
    with alone(out, COMMAND):
        _kept_rows(out)  # it may replace the file, and a lock stays with the old one
    with alone(out, COMMAND):
        there = [row for row in _kept_rows(out) if row["question"] == question]
        if other := sum(row.get("settings") != settings for row in there):
            raise ConfigError(
                f"--jsonl: {out} contains {other} answers to this question with another config, --system or --max-new-tokens. "
                "Try: another file"
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
    """Yield each batch as a list of picture names with their answer or error, and show a progress bar."""
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
            columns = [{"error" if isinstance(result, VitaError) else "answer": str(result)} for result in found]
            yield list(zip([name for name, _ in read_ahead], columns, strict=True))
            progress.update(len(read_ahead))


def _pictures(folder: Path) -> list[str]:
    """Return the sorted paths, relative to `folder`, of all files below it that have the suffix of a picture."""
    if not folder.is_dir():
        raise ConfigError(
            f"--images: no such directory: {folder}.{nearest_path(folder)} Try: the path of a directory of pictures"
        )
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not found:
        suffixes = ", ".join(sorted(SUFFIXES))
        raise ConfigError(
            f"--images: no picture in this directory: {folder}. Try: a directory with files of {suffixes}"
        )
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _kept_rows(out: Path) -> list[dict[str, Any]]:
    """Return the rows of `out` that have an answer. Remove all others: errors, and a line that an interruption cut short."""
    if not out.exists():
        _append(out, [])
        return []
    try:
        text = out.read_text(**ENCODING)
    except OSError as error:
        raise VitaError(f"cannot read {out}: {error.strerror}. Try: a file that you may read and write") from error
    rows, kept = [], ""
    for number, line in enumerate(io.StringIO(text), 1):  # not splitlines, which also ends a line at U+2028
        row = _row(line)
        if row is None and line.endswith("\n"):
            raise ConfigError(
                f"{out}:{number}:1: not a line that vita run wrote. Try: another --jsonl, or delete the line"
            )
        if row is not None and "answer" in row:
            rows.append(row)
            kept += line if line.endswith("\n") else line + "\n"
    if kept != text:
        write_whole(out, lambda path: path.write_text(kept, **ENCODING))
    return rows


def _append(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Append a line for each row to `out`. Raises VitaError if it cannot be written."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    append(out, text.encode(**ENCODING))


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = decode(line)
    except BadJson:
        return None
    return row if isinstance(row, dict) and {"image", "question"} <= row.keys() else None


def _results(pictures: Sequence[Prepared | PictureError], ask: Ask) -> Iterator[str | VitaError]:
    """Yield the answer about each picture, or its error."""
    answers = iter(_each([picture for picture in pictures if not isinstance(picture, PictureError)], ask))
    for picture in pictures:
        yield picture if isinstance(picture, PictureError) else next(answers)


def _each(pictures: Sequence[Prepared], ask: Ask) -> Sequence[str | VitaError]:
    """Ask about all pictures in one batch. If that fails, for example because one has too many tiles, ask one by one."""
    if not pictures:
        return []
    try:
        return ask(pictures)
    except ConfigError:  # a mistake in the config, the same for every picture
        raise
    except VitaError as error:
        return [error] if len(pictures) == 1 else [found for picture in pictures for found in _each([picture], ask)]

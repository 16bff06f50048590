"""Print data sets and samples, for ``vita data``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from vita_core.training.counting import Counted, TokenCounter
    from vita_core.training.data.checking import Report

__all__ = ["print_report", "print_sample", "token_rows"]


def print_report(report: Report, total: int, *, counted: bool) -> None:
    """Print what `vita data check` found in a data set of `total` samples, of which it may have read only the first."""
    bad = sum(report.rejected.values())
    part = "" if report.samples == total else f" (of {total:,})"
    typer.echo(f"{report.samples:,} samples{part}: {report.samples - bad:,} can be trained on, {bad:,} are rejected")
    for reason, count in report.rejected.items():
        first = next(row for row in report.rows if row["reason"] == reason)
        detail = f": {first['detail']}" if first["detail"] else ""
        typer.echo(f"  {count:>7,}  {reason}, such as {first['where']}{detail}")
    typer.echo(
        f"{report.turns:,} turns, {report.pictures:,} pictures, {report.videos:,} videos; {report.text_only:,} samples are "
        f"text only. {report.duplicates:,} samples repeat an earlier one, and {report.repeated_pictures:,} pictures do"
    )
    if report.sizes:
        least, middle, most = (f"{width} x {height}" for width, height in report.sizes)
        typer.echo(f"pictures, in pixels: smallest {least}, median {middle}, largest {most}")
    if report.tokens:
        least_tokens, median, most_tokens = report.tokens
        limit = "" if report.max_length is None else f"; at most {report.max_length:,} fit"
        typer.echo(
            f"tokens of a sample, pictures included: {least_tokens:,} to {most_tokens:,}, median {median:,}{limit}"
        )
        widest = max(count for _, count in report.histogram)
        for upper, count in report.histogram:
            typer.echo(f"  to {upper:>6,}  {count:>7,}  {'#' * round(40 * count / widest)}")
        typer.echo(f"{report.trained_tokens:,} tokens have a label")
    elif not counted:
        typer.echo("tokens are counted with `--config CONFIG`")
    typer.echo(
        f"{report.rate:,} samples a second were read and decoded here, {total / report.rate:,.1f} s for all {total:,}; "
        "the model's own time is not in it"
    )


def token_rows(counter: TokenCounter, counted: Counted) -> list[dict[str, Any]]:
    """Return each token with its text and whether it has a label; of a picture's place, what stands there."""
    from vita_core.language.prompts import PICTURE_ID
    from vita_core.training.labelling import IGNORE

    visuals = iter(counted.tokens.visuals)
    rows: list[dict[str, Any]] = []
    for token, label in zip(counted.tokens.ids, counted.tokens.labels, strict=True):
        if token == PICTURE_ID:
            kind, number = next(visuals)
            tokens = f": {counted.pictures[number]} tokens" if kind == "image" else ""
            rows.append({"id": None, "text": f"[{kind} {number + 1}{tokens}]", "label": False})
        else:
            rows.append({"id": token, "text": _text(counter.tokenizer, token), "label": label != IGNORE})
    return rows


def _text(tokenizer: Any, token: int) -> str:
    """Return what a token stands for, with its space; or its own name if it is no whole character."""
    from vita_core.language.tokenizing import decoded

    piece, text = tokenizer.convert_ids_to_tokens(token), decoded(tokenizer, [token])
    if "\ufffd" in text or not text:
        return str(piece)
    return f" {text}" if piece[:1] in ("\u2581", "\u0120") and not text.startswith(" ") else str(text)


def print_sample(shown: dict[str, Any]) -> None:
    """Print one sample: its place, its pictures, and its tokens or its turns."""
    typer.echo(shown["where"])
    for picture in shown["pictures"]:
        typer.echo(f"picture {picture['name']}: {picture['size'][0]} x {picture['size'][1]} pixels")
    for video in shown["videos"]:
        typer.echo(f"video {video}")
    if "tokens" not in shown:
        for turn in shown["turns"]:
            typer.echo(f"question: {turn['question'] if turn['question'] is not None else '(that of the prompt)'}")
            typer.echo(f"answer: {turn['answer']}")
        typer.echo("the tokens are shown with `--config CONFIG`")
        return
    texts = [(row["text"].replace("\n", "\\n"), row["label"]) for row in shown["tokens"]]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text

        line = Text()
        for text, label in texts:
            line.append(text, style="black on green" if label else "dim")
            line.append("|", style="bright_black")
        Console().print(line)
    else:
        typer.echo(_marked(texts))
    typer.echo(f"{shown['length']} tokens, of which {shown['trained']} have a label")


def _marked(texts: Sequence[tuple[str, bool]]) -> str:
    """Return the tokens in one line, with ``|`` between them and those with a label between ``>>>`` and ``<<<``."""
    line, inside = "", False
    for text, label in texts:
        edge = ">>>" if label and not inside else "<<<" if inside and not label else "|" if line else ""
        line, inside = line + edge + text, label
    return line + "<<<" * inside

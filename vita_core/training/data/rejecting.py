"""Count the samples that cannot be trained on, and write each to ``rejected.jsonl`` once with its place and reason."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from pathlib import Path

from vita_core.errors import ConfigError, split_advice
from vita_core.training.data.samples import SampleError
from vita_core.untrusted.jsonfiles import decode
from vita_core.weights.files import append_line

__all__ = ["RejectedLog"]


class RejectedLog:
    """The rejected samples of a run, in a file that its processes share and that a resumed run goes on with.

    A row is ``{"data", "where", "reason", "detail"}``: the name of the data set, the place of the sample, one of few
    sentences, and the value. If `strict`, the first one is an error.
    """

    def __init__(self, file: Path, *, strict: bool = False) -> None:
        self.file, self.strict = file, strict
        self.seen = {(row["data"], row["where"]) for row in self.rows()}
        written = file.read_bytes() if file.is_file() else b""
        if written and not written.endswith(b"\n"):  # so that the next row is a line of its own
            append_line(file, "")

    def add(self, data: str, error: SampleError) -> None:
        """Write a sample to the file, unless it is there. Raises ConfigError if `strict`."""
        if self.strict:
            what, advice = split_advice(str(error))
            raise ConfigError(f"data.{data}: {what}. Try: {advice}, or train without --strict-data")
        if (data, error.where) in self.seen:
            return
        self.seen.add((data, error.where))
        row = {"data": data, "where": error.where, "reason": error.reason, "detail": error.detail}
        append_line(self.file, json.dumps(row, ensure_ascii=False))

    def rows(self) -> list[dict[str, str]]:
        """Return the rows of the file, each sample once. A line that was cut off when the process died is left out."""
        found: dict[tuple[str, str], dict[str, str]] = {}
        text = self.file.read_text(encoding="utf-8", errors="replace") if self.file.is_file() else ""
        for line in text.split("\n")[:-1]:  # not splitlines, which also ends a line at U+2028
            with suppress(ValueError):
                row = decode(line)
                found.setdefault((row["data"], row["where"]), row)
        return [*found.values()]

    def counts(self) -> dict[str, int]:
        """Return how many samples of all processes were rejected for each reason, the most frequent first."""
        counted = Counter(row["reason"] for row in self.rows())
        return dict(sorted(counted.items(), key=lambda pair: (-pair[1], pair[0])))

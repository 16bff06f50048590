"""JSONL, and JSON files that are a list. Only the places of the rows are kept in memory; a row is read when it is asked for."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NoReturn, TextIO

from vita_core.errors import ConfigError
from vita_core.training.data.conversations import Root, sample_of
from vita_core.training.data.samples import Sample, SampleError
from vita_core.untrusted.jsonfiles import BadJson, decode
from vita_core.untrusted.limits import ROW

__all__ = ["JsonSource"]

BLOCK = 1 << 20
"""How many characters of a JSON list are read at once."""
BOM = b"\xef\xbb\xbf"
"""What some programs write before a text in UTF-8."""
NEAR = 16
"""An error so near the end of what is read may only mean that the row goes on."""


class JsonSource:
    """The rows of a file with one a line (`lines`), or of a file that holds a list of rows.

    It keeps 32 bytes for each row: where it begins and ends, its line and its column. Raises ConfigError, with the place, for a
    file that cannot be read or a list that is not valid JSON. A line that is not valid is a SampleError of its own.
    """

    def __init__(self, path: Path, root: Root, *, lines: bool) -> None:
        self.path, self.root = path, root
        self.begins, self.ends, self.lines, self.columns = array("q"), array("q"), array("l"), array("l")
        try:
            for begin, end, line, column in _lines(path) if lines else _entries(path):
                self.begins.append(begin)
                self.ends.append(end)
                self.lines.append(line)
                self.columns.append(column)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"cannot read {path}: {error}. Try: check its permissions, or save it as UTF-8"
            ) from error
        self.blocks = (len(self.begins),)

    def __len__(self) -> int:
        return len(self.begins)

    def row(self, index: int) -> Any:
        """Return one row as plain data. Raises SampleError if it is not valid JSON."""
        # opened each time: processes that share a file would move each other's place
        with self.path.open("rb") as file:
            file.seek(self.begins[index])
            text = file.read(min(self.ends[index] - self.begins[index], ROW.bytes + 1))
        line, column = self.lines[index], self.columns[index]
        try:
            return decode(text.rstrip(), ROW)  # an error at the end is on this line
        except BadJson as error:
            detail = error.reason.removeprefix("not valid JSON: ")
            raise SampleError("not valid JSON", detail, f"{self.path}:{line}:{column - 1 + error.column}") from None

    def sample(self, index: int) -> Sample:
        """Return the sample of a row. Raises SampleError."""
        where = f"{self.path}:{self.lines[index]}:{self.columns[index]}"
        return sample_of(self.row(index), where, self.root)


def _lines(path: Path) -> Iterator[tuple[int, int, int, int]]:
    """Yield begin and end in bytes, line and column of each line that is not blank."""
    with path.open("rb") as file:
        begin = len(BOM) * (file.read(len(BOM)) == BOM)
        file.seek(begin)
        for number in count(1):
            line, size = file.readline(ROW.bytes), 0
            blank = not line.strip()
            while line:  # a line may be longer than any row
                size += len(line)
                line = b"" if line.endswith(b"\n") else file.readline(ROW.bytes)
            if not size:
                return
            if not blank:
                yield begin, begin + size, number, 1
            begin += size


def _entries(path: Path) -> Iterator[tuple[int, int, int, int]]:
    """Yield begin and end in bytes, line and column of each entry of a list."""
    with path.open("rb") as marked:
        start = len(BOM) * (marked.read(len(BOM)) == BOM)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = _Reader(file, path, start)
        reader.skip_space()
        if reader.next() != "[":
            kind = type(reader.value()).__name__
            raise ConfigError(f"{path}:1:1: not a list: {kind}. Try: a list of {{image, conversations}}, as LLaVA has")
        reader.move(1)
        reader.skip_space()
        while reader.next() != "]":
            begin, line, column = reader.byte, reader.line, reader.column
            reader.value()
            yield begin, reader.byte, line, column
            reader.skip_space()
            if reader.next() == ",":
                reader.move(1)
                reader.skip_space()
            elif reader.next() != "]":
                reader.refuse("Expecting ',' delimiter", reader.place)


class _Reader:
    """Reads JSON values one after the other, and knows the byte, line and column where it is. It keeps one block in memory."""

    def __init__(self, file: TextIO, path: Path, start: int) -> None:
        self.file, self.path = file, path
        self.text, self.place, self.ended = "", 0, False
        self.byte, self.line, self.column = start, 1, 1
        self.decoder = json.JSONDecoder()

    def next(self) -> str:
        """Return the next character, or "" at the end of the file."""
        if self.place >= len(self.text):
            self.more()
        return self.text[self.place : self.place + 1]

    def more(self) -> None:
        """Read on, twice as much as is kept."""
        added = self.file.read(max(BLOCK, len(self.text) - self.place))
        self.text, self.place, self.ended = self.text[self.place :] + added, 0, not added

    def move(self, count: int) -> None:
        """Go on by so many characters."""
        passed = self.text[self.place : self.place + count]
        self.byte += len(passed.encode())
        self.line += passed.count("\n")
        self.column = count - passed.rfind("\n") if "\n" in passed else self.column + count
        self.place += count

    def skip_space(self) -> None:
        while (character := self.next()) and character in " \t\r\n":
            self.move(1)

    def value(self) -> Any:
        """Read one value. Raises ConfigError with its place if it is not valid."""
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.place)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self.text) - NEAR
                if self.ended or not cut:
                    self.refuse(error.msg, error.pos)
            except RecursionError:
                self.refuse("nested too deep", self.place)
            except ValueError as error:  # an integer of over 4300 digits
                self.refuse(str(error).partition(";")[0], self.place)
            else:
                if end - self.place > ROW.bytes:
                    self.refuse(f"a row of more than {ROW.bytes:,} characters", self.place)
                if self.ended or end < len(self.text):  # a number at the end may go on
                    self.move(end - self.place)
                    return value
            if len(self.text) - self.place > 2 * ROW.bytes:
                self.refuse(f"a row of more than {ROW.bytes:,} characters, or one that does not end", self.place)
            self.more()

    def refuse(self, what: str, place: int) -> NoReturn:
        """Raise ConfigError for what is wrong at a place in the text."""
        self.move(place - self.place)
        raise ConfigError(
            f"{self.path}:{self.line}:{self.column}: not valid JSON: {what}. Try: correct the file at this place"
        )

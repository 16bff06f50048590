"""The documents for people, taken apart: their code blocks, their shell commands, their prose."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

from distributions import REPOSITORY

DOCUMENTS = [
    *sorted(REPOSITORY.glob("*.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "examples").rglob("README.md")),
]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?: title=\"(?P<title>[^\"\n]+)\")?\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced code block. `title` is the file that its text would be."""

    document: Path
    line: int
    language: str
    title: str | None
    text: str

    def __str__(self) -> str:
        """Where it is, as a test's id."""
        return f"{self.document.relative_to(REPOSITORY)}:{self.line}"


def blocks_of(document: Path, *languages: str) -> list[Block]:
    """The blocks of a document, in order; all of them, or those in `languages`."""
    text = document.read_text(encoding="utf-8")
    found = [
        Block(
            document,
            text.count("\n", 0, match.start()) + 1,
            match["language"],
            match["title"],
            textwrap.dedent(match["text"]),
        )
        for match in FENCE.finditer(text)
    ]
    return [block for block in found if not languages or block.language in languages]


def blocks(*languages: str) -> list[Block]:
    """The blocks of all documents."""
    return [block for document in DOCUMENTS for block in blocks_of(document, *languages)]


def prose(document: Path) -> str:
    """A document without its blocks."""
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def spans(document: Path) -> list[str]:
    """What stands in back-quotes in a document's prose."""
    return SPAN.findall(prose(document))


def shell_commands(text: str) -> list[list[str]]:
    """The words of each command of a shell block: without comments, variables set in front, and what joins commands."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not re.fullmatch(r"[&|;]+", word):
                words += [] if not words and re.match(r"[A-Z_]+=", word) else [word]
            elif words:
                found.append(words)
                words = []
    return found

"""How much is read of a file that a stranger may have written. The limits are far above those of any real file."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONFIG", "INDEX", "RECORD", "ROW", "Limits"]


@dataclass(frozen=True)
class Limits:
    """The most bytes, values and levels of a file or a text, and what it is. A value is an entry of a list or of an object.

    With `halves`, texts may hold half a character (a lone surrogate), which whoever uses them then finds.
    """

    bytes: int
    values: int
    depth: int
    what: str
    halves: bool = False


CONFIG = Limits(bytes=16_000_000, values=1_000_000, depth=100, what="config")
"""A config. The largest are those with the names of 20,000 classes."""
INDEX = Limits(bytes=64_000_000, values=1_000_000, depth=10, what="index")
"""The index of the shards of a checkpoint. That of a model of a trillion parameters has 16 MB."""
RECORD = Limits(bytes=1_000_000_000, values=100_000_000, depth=100, what="record")
"""What this project or a library wrote beside a training or a comparison, such as the log of every step."""
ROW = Limits(bytes=16_000_000, values=1_000_000, depth=100, what="row", halves=True)
"""A row of a data set."""

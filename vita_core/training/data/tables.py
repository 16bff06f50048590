"""Tables: Parquet files, and data sets that Hugging Face's `datasets` saved to disk. Pictures are paths or stored bytes."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

from vita_core.errors import ConfigError, nearest
from vita_core.training.data.conversations import Root, sample_of
from vita_core.training.data.samples import Sample, SampleError, located

__all__ = ["DiskSource", "ParquetSource"]

SPLIT = "train"
DAMAGED = (OSError, ValueError, LookupError, TypeError, ArithmeticError, NotImplementedError, MemoryError)
"""What pyarrow raises for files with a wrong number or name in them."""
MOST_GROUP, MOST_RATIO = 256 << 20, 100
"""A group of rows of over `MOST_GROUP` bytes is refused if it is over `MOST_RATIO` times as large as its file."""


def _missing(path: Path, package: str, error: ImportError) -> ConfigError:
    return ConfigError(
        f"{path}: reading it needs {package}, which cannot be imported: {error}. Try: `pip install 'vita-core[data]'`"
    )


class DiskSource:
    """A data set that ``save_to_disk`` wrote. Its rows stay on disk, in files that are mapped into memory.

    `split` is the part of a ``DatasetDict``, by default ``train``. Raises ConfigError for any other directory.
    """

    def __init__(self, path: Path, root: Root, split: str | None = None) -> None:
        try:
            from datasets import Dataset, load_from_disk
        except ImportError as error:
            raise _missing(path, "datasets", error) from error
        try:
            found = load_from_disk(str(path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path}: not a data set that `datasets` can open: {' '.join(str(error).split()).rstrip('.')}. "
                "Try: save it again with save_to_disk"
            ) from error
        if not isinstance(found, Dataset):
            chosen = SPLIT if split is None else split
            if chosen not in found:
                raise ConfigError(
                    f"{path}: there is no split {chosen!r}.{nearest(chosen, found)} Try: `split: NAME` with one of "
                    + ", ".join(found)
                )
            found, path = found[chosen], path / chosen
        # as arrow tables: `datasets` would decode the pictures
        self.path, self.root, self.rows = path, root, found.with_format("arrow")
        self.blocks = (len(found),)

    def __len__(self) -> int:
        return self.blocks[0]

    def sample(self, index: int) -> Sample:
        """Return the sample of a row. Raises SampleError."""
        (row,) = self.rows[index : index + 1].to_pylist()
        return sample_of(row, f"{self.path}: row {index}", self.root)


class ParquetSource:
    """The rows of Parquet files, one after the other. A group of rows is read at once, and the last one is kept."""

    def __init__(self, files: list[Path], root: Root) -> None:
        self.root, self.groups = root, list[tuple[Path, int, int]]()  # file, group, and the first row of the group
        blocks: list[int] = []
        for file in files:
            first = 0
            for number, rows in enumerate(_groups(file)):
                self.groups.append((file, number, first))
                blocks.append(rows)
                first += rows
        self.blocks = tuple(blocks)
        self.starts = list(accumulate(blocks, initial=0))[:-1]
        self.kept: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return sum(self.blocks)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "kept": (-1, None)}

    def sample(self, index: int) -> Sample:
        """Return the sample of a row. Raises SampleError."""
        number, place = located(self.starts, index)
        file, group, first = self.groups[number]
        where = f"{file}: row {first + place}"
        try:
            kept = self.kept  # another thread may replace it
            if kept[0] != number:
                import pyarrow.parquet as pq

                stored = pq.read_metadata(file)
                with pq.ParquetFile(file, metadata=stored) as opened:
                    # it raises an error for the damaged columns at which `_repeated` would end the process
                    next(opened.iter_batches(1, row_groups=[group]), None)
                repeated = _repeated(stored.row_group(group))
                with pq.ParquetFile(file, metadata=stored, read_dictionary=repeated) as opened:
                    kept = self.kept = (number, opened.read_row_group(group))
            (row,) = kept[1].slice(place, 1).to_pylist()
        except DAMAGED as error:
            raise SampleError("a damaged table", f"group {group}: {_reason(error)}", where) from None
        return sample_of(row, where, self.root)


def _repeated(group: Any) -> list[str]:
    """Return the columns of a group whose equal texts are stored once. They stay so: a million equal ones fill no memory."""
    columns = [group.column(number) for number in range(group.num_columns)]
    texts = [column for column in columns if column.physical_type == "BYTE_ARRAY"]
    return [column.path_in_schema for column in texts if any("DICTIONARY" in name for name in column.encodings)]


def _groups(file: Path) -> list[int]:
    """Return the number of rows of each group of a Parquet file. Raises ConfigError for any other file, and without pyarrow."""
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise _missing(file, "pyarrow", error) from error
    try:
        stored = pq.read_metadata(file)
        rows = [stored.row_group(number).num_rows for number in range(stored.num_row_groups)]
        if sum(rows) != stored.num_rows or min(rows, default=0) < 0:
            raise ValueError(f"it states {stored.num_rows} rows, and {sum(rows)} in its groups")
        largest = max((stored.row_group(number).total_byte_size for number in range(len(rows))), default=0)
    except DAMAGED as error:
        raise ConfigError(f"{file}: not a Parquet file: {_reason(error)}. Try: download it again") from error
    if largest > max(MOST_GROUP, MOST_RATIO * file.stat().st_size):
        raise ConfigError(
            f"{file}: a group of its rows would take {largest / 1e6:,.0f} MB in memory, over {MOST_RATIO} times the size of "
            "the file. Try: check where it comes from, or write it again with smaller groups of rows"
        )
    return rows


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__

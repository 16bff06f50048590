"""WebDataset shards: tar files, in which members of the same name but for the suffix are one sample.

Members are read in place, and never written to disk: no member's name becomes a path.
"""

from __future__ import annotations

import hashlib
import tarfile
from array import array
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

from vita_core.errors import ConfigError, VitaError
from vita_core.training.data.conversations import sample_of
from vita_core.training.data.folders import SUFFIXES
from vita_core.training.data.samples import PictureRef, Sample, SampleError, located
from vita_core.untrusted.jsonfiles import decode
from vita_core.untrusted.limits import ROW
from vita_core.weights.assets import cache_dir
from vita_core.weights.files import write_whole

__all__ = ["TarSource"]

VIDEO_SUFFIXES = {".mp4", ".webm", ".mkv", ".mov", ".avi"}
TEXTS = {".txt": "caption", ".caption": "caption"}


class TarSource:
    """The samples of tar files, one file after the other.

    The headers of all members are read once, to find the samples; 16 bytes are kept for each, in memory and in the cache
    directory, so that the next run need not read them. A sample is then read alone, and its pictures when they are needed.
    Raises ConfigError for a file that is not a tar, is cut short, or is compressed.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files, self.begins, self.ends = files, array("q"), array("q")
        counts: list[int] = []
        for file in files:
            places = _places(file)
            self.begins.extend(places[::2])
            self.ends.extend(places[1::2])
            counts.append(len(places) // 2)
        self.blocks = tuple(counts)
        self.starts = list(accumulate(self.blocks, initial=0))[:-1]

    def __len__(self) -> int:
        return len(self.begins)

    def sample(self, index: int) -> Sample:
        """Return one sample. Raises SampleError."""
        number, place = located(self.starts, index)
        file, begin, end = self.files[number], self.begins[index], self.ends[index]
        found: dict[str, list[PictureRef]] = {"images": [], "videos": []}
        row: dict[str, Any] = {}
        with file.open("rb") as opened:
            opened.seek(begin)
            where = f"{file}: sample {place}"
            with tarfile.open(fileobj=opened, mode="r:") as tar:
                for member in _regular(tar, end):
                    key, suffix = _named(member.name)
                    where, kind = f"{file}!{key}", f".{suffix.rpartition('.')[2]}"
                    ref = PictureRef(f"{file}!{member.name}", file, member.offset_data, member.size)
                    if kind in SUFFIXES:
                        found["images"].append(ref)
                    elif kind in VIDEO_SUFFIXES:
                        found["videos"].append(ref)
                    elif kind in TEXTS or kind == ".json":
                        row |= _read(ref, kind, where)
        # a JSON member may name its pictures, but these are the members beside it
        return sample_of({**_without_pictures(row), **found}, where, lambda ref: ref)


def _places(file: Path) -> array[int]:
    """Return where each sample begins and ends, from the cache if the file has not changed since."""
    found = array("q")
    try:
        state = file.stat()
        key = f"{file.absolute()}\0{state.st_size}\0{state.st_mtime_ns}".encode(errors="surrogateescape")
        kept = cache_dir() / "shards" / f"{hashlib.sha256(key).hexdigest()}.bin"
        content = kept.read_bytes() if kept.is_file() else b""
    except (OSError, RuntimeError):  # no such file, no home: told below, or of no matter
        kept, content = None, b""
    if content and len(content) % (2 * found.itemsize) == 0:
        found.frombytes(content)
        return found
    for pair in _samples(file):
        found.extend(pair)
    if kept is not None:
        with suppress(VitaError):  # it is only read again next time
            write_whole(kept, lambda path: path.write_bytes(found.tobytes()))
    return found


def _samples(file: Path) -> Iterator[tuple[int, int]]:
    """Yield where each sample of a tar file begins and ends, in bytes."""
    try:
        with tarfile.open(file, mode="r:") as tar:
            key, begin, end = "", -1, -1
            for member in _regular(tar, None):
                own = _named(member.name)[0]
                if begin >= 0 and own != key:
                    yield begin, end
                    begin = -1
                key, begin = own, member.offset if begin < 0 else begin
                end = member.offset_data + member.size
            if begin >= 0:
                yield begin, end
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:  # a size that no file has
        raise ConfigError(
            f"{file}: not a whole, uncompressed tar file: {error}. Try: download it again, or decompress it"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}. Try: check the path and its permissions") from error


def _regular(tar: tarfile.TarFile, end: int | None) -> Iterator[tarfile.TarInfo]:
    """Yield the members that hold data (no links, devices or sparse files), up to the byte `end`."""
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # not in the stubs; it would keep all of them
        if end is not None and member.offset_data > end:
            return
        if member.isreg() and not member.issparse() and _named(member.name)[1]:
            yield member


def _named(name: str) -> tuple[str, str]:
    """Return the key of a member, which its sample's members share, and its suffix in lower case (after the first dot)."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def _read(ref: PictureRef, kind: str, where: str) -> dict[str, Any]:
    """Return what a text or JSON member adds to the row."""
    if (ref.size or 0) > ROW.bytes:
        raise SampleError("a text that is too long", f"{ref.name} has {ref.size:,} bytes", where)
    with ref.opened() as file:
        content = file.read()
    try:
        row = {TEXTS[kind]: content.decode("utf-8")} if kind in TEXTS else decode(content, ROW)
    except ValueError as error:
        raise SampleError(
            "not valid JSON" if kind == ".json" else "a text that cannot be read", str(error), where
        ) from None
    if not isinstance(row, dict):
        raise SampleError("not an object", ref.name, where)
    return row


def _without_pictures(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("image", "images", "video", "videos")}

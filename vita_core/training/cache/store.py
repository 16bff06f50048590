"""Tensors by key in safetensors shards on disk, shared by processes and bounded in size."""

from __future__ import annotations

import json
import struct
import uuid
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from vita_core.weights.files import write_whole

__all__ = ["FeatureStore", "Stored"]

SHARDS = "features-*.safetensors"
"""Only files of this name are ever read or deleted: the folder may be the user's."""
SHARD_BYTES = 1 << 26
OTHER_CACHE = "`training.cache.path: DIR` on another disk, or `training.cache: false`"
ABOUT = "about"
"""The entry of a shard's metadata that has, for each key, the checksum of its bytes and the numbers kept with it."""
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


@dataclass(frozen=True)
class Stored:
    """A tensor of a shard: where it is, and the numbers that are kept with it."""

    shard: str
    begin: int
    size: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    checksum: int
    numbers: tuple[int, ...]


class FeatureStore:
    """Keeps tensors, with a few integers each, in the shards of a folder.

    The index is made from the headers of the shards. New tensors are collected, and written as one shard by `flush` or when
    they are large enough: to a temporary name first, so that other processes see finished shards only. They find it when
    they miss a tensor. If the shards take more than `most_bytes`, the oldest ones are deleted. A damaged shard is deleted
    when it is found, and its tensors count as missing. `other` is what the user can do if a shard cannot be written.
    """

    def __init__(self, folder: Path, most_bytes: int, other: str = OTHER_CACHE) -> None:
        self.folder, self.most_bytes, self.other = folder, most_bytes, other
        self.index: dict[str, Stored] = {}
        self.pending: dict[str, tuple[Tensor, tuple[int, ...]]] = {}
        self.seen: set[str] = set()
        self.changed = -1

    def get(self, key: str) -> tuple[Tensor, tuple[int, ...]] | None:
        """Return a tensor and its numbers, or None."""
        if key in self.pending:
            return self.pending[key]
        while (stored := self._find(key)) is not None:
            content = self._content(key, stored)
            if content is not None:
                return torch.frombuffer(bytearray(content), dtype=stored.dtype).reshape(stored.shape), stored.numbers
            self._discard(stored.shard)
        return None

    def add(self, key: str, tensor: Tensor, numbers: tuple[int, ...]) -> None:
        """Keep a tensor that is not kept yet. Raises VitaError if a shard cannot be written."""
        self.pending[key] = (tensor.detach().to("cpu").contiguous(), numbers)
        if sum(kept.nbytes for kept, _ in self.pending.values()) >= min(SHARD_BYTES, self.most_bytes // 4):
            self.flush()

    def flush(self) -> None:
        """Write the collected tensors as a shard. Raises VitaError, and keeps them, if it cannot be written."""
        if not self.pending:
            return
        sums = {
            key: [_checksum(_bytes(tensor), key, tensor.dtype, tuple(tensor.shape), numbers), *numbers]
            for key, (tensor, numbers) in self.pending.items()
        }
        content = save({key: tensor for key, (tensor, _) in self.pending.items()}, {ABOUT: json.dumps(sums)})
        shard = self.folder / f"features-{uuid.uuid4().hex}.safetensors"
        write_whole(shard, lambda partial: partial.write_bytes(content), len(content), self.other)
        self.pending.clear()
        self._drop_oldest(shard.name)
        self._refresh()

    def _find(self, key: str) -> Stored | None:
        if key not in self.index:
            self._refresh()
        return self.index.get(key)

    def _refresh(self) -> None:
        """Read the headers of shards that are new, if anything in the folder changed."""
        try:
            changed = self.folder.stat().st_mtime_ns
        except OSError:
            return
        if changed == self.changed:
            return
        self.changed = changed
        for shard in self.folder.glob(SHARDS):
            if shard.name not in self.seen:
                self.seen.add(shard.name)
                try:
                    self.index |= dict(_entries(shard))
                except FileNotFoundError:
                    continue
                except (OSError, ValueError, KeyError, TypeError, struct.error):
                    self._discard(shard.name)

    def _content(self, key: str, stored: Stored) -> bytes | None:
        """Return the bytes of a tensor, or None if they are gone or damaged."""
        try:
            # not mapped: a file that is cut would end the process
            with (self.folder / stored.shard).open("rb") as file:
                file.seek(stored.begin)
                content = file.read(stored.size)
        except OSError:
            return None
        found = _checksum(content, key, stored.dtype, stored.shape, stored.numbers)
        return content if len(content) == stored.size and found == stored.checksum else None

    def _discard(self, shard: str) -> None:
        with suppress(OSError):
            (self.folder / shard).unlink()
        self.index = {key: stored for key, stored in self.index.items() if stored.shard != shard}

    def _drop_oldest(self, newest: str) -> None:
        files = []
        for shard in self.folder.glob(SHARDS):
            with suppress(OSError):  # deleted by another process
                found = shard.stat()
                files.append((shard.name == newest, found.st_mtime_ns, found.st_size, shard.name))
        total = sum(size for *_, size, _ in files)
        for _, _, size, name in sorted(files)[:-1]:
            if total <= self.most_bytes:
                break
            self._discard(name)
            total -= size


def _checksum(
    content: bytes | memoryview, key: str, dtype: torch.dtype, shape: tuple[int, ...], numbers: tuple[int, ...]
) -> int:
    """Return the checksum of a tensor's bytes, and of what the header says of them: a bit of it may be wrong too."""
    return zlib.crc32(repr((key, dtype, shape, numbers)).encode(), zlib.crc32(content))


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _entries(shard: Path) -> Iterator[tuple[str, Stored]]:
    """Yield the tensors of a shard. Raises OSError, ValueError, KeyError, TypeError or struct.error for a damaged one."""
    whole = shard.stat().st_size
    with shard.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        if size > whole:
            raise ValueError("cut short")
        header = json.loads(file.read(size))
    about = json.loads(header.pop("__metadata__")[ABOUT])
    for key, told in header.items():
        begin, end = (8 + size + offset for offset in told["data_offsets"])
        if end > whole:
            raise ValueError("cut short")
        checksum, *numbers = about[key]
        yield (
            key,
            Stored(
                shard.name, begin, end - begin, DTYPES[told["dtype"]], tuple(told["shape"]), checksum, tuple(numbers)
            ),
        )

"""Look at the cache: its assets, what ended runs left in it, the features that are kept, and the space on the disk."""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from vita_core.diagnosing.findings import Finding

__all__ = ["cache", "disk"]

MB = 1_000_000
LEAST_FREE = 1_000_000_000
"""With fewer free bytes, a training or a download of weights fails soon."""
STALE_SECONDS = 3600.0
"""From this age on, an unfinished file is one of a process that ended."""


def cache() -> Iterator[Finding]:
    """Examine the directory of the cache."""
    from vita_core.weights.assets import cache_dir

    place = cache_dir()
    change = "change its permissions, or set VITA_CACHE to another directory"
    there = _existing(place)
    if not there.is_dir() or not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        yield Finding(
            "cache", str(place), "problem", f"{there} is not a directory that can be read and written", change
        )
    elif not place.exists():
        yield Finding("cache", str(place), "ok", "it does not exist yet")
    else:
        files = [path for path in place.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        yield Finding("cache", str(place), "ok", f"{len(files):,} files, {size / MB:,.0f} MB")
    yield from _assets()
    if place.is_dir():
        yield from _left_over(place)
        yield from _features(place / "features")


def _assets() -> Iterator[Finding]:
    from vita_core.weights.assets import statuses

    for row in statuses():
        name, status = f"asset {row['name']}", row["status"]
        if status == "fetched":
            yield Finding("cache", name, "ok", f"complete, {row['bytes'] / MB:,.0f} MB")
        elif status == "missing":
            yield Finding(
                "cache", name, "ok", f"not fetched; `vita assets {row['name']}` downloads it for the quickstart"
            )
        else:
            yield Finding("cache", name, "problem", f"{status}: {row['reason']}", f"`vita assets {row['name']}`")


def _left_over(place: Path) -> Iterator[Finding]:
    """Find unfinished files: those of `vita_core.weights.files`, of the feature cache and of interrupted downloads."""
    unfinished = [*place.rglob(".*.partial*"), *(place / "work").glob("*"), *(place / "downloads").glob("*")]
    stale = [path for path in unfinished if time.time() - path.lstat().st_mtime > STALE_SECONDS]
    if stale:
        inside = [file for path in stale for file in (path, *path.rglob("*")) if file.is_file()]
        size = sum(file.stat().st_size for file in inside)
        says = f"left by runs that ended: {', '.join(str(path.relative_to(place)) for path in stale[:3])}"
        more = f" and {len(stale) - 3} more" if len(stale) > 3 else ""
        yield Finding("cache", "unfinished files", "problem", f"{says}{more}, {size / MB:,.1f} MB", _removal(stale))


def _features(place: Path) -> Iterator[Finding]:
    """Read the headers of the shards that `vita probe` and trainings keep."""
    from vita_core.errors import VitaError
    from vita_core.untrusted.tensorfiles import tensor_shapes

    shards, damaged = sorted(place.glob("features-*.safetensors")), []
    for shard in shards:
        try:
            all(tensor_shapes([shard]))
        except VitaError:
            damaged.append(shard)
    if damaged:
        says = f"{len(damaged)} of {len(shards)} shards of kept features are damaged, such as {damaged[0].name}"
        yield Finding("cache", "features", "problem", says, _removal(damaged))
    elif shards:
        size = sum(shard.stat().st_size for shard in shards)
        yield Finding("cache", "features", "ok", f"{len(shards)} shards of kept features, {size / MB:,.0f} MB")


def _removal(paths: list[Path]) -> str:
    return f"`rm -r {shlex.join(map(str, paths[:20]))}`"


def disk() -> Iterator[Finding]:
    """Find how much space is free for the cache and in the working directory."""
    from vita_core.weights.assets import cache_dir

    places = {there.stat().st_dev: there for there in (Path.cwd(), _existing(cache_dir()))}
    for place in places.values():
        free = shutil.disk_usage(place).free
        enough = free >= LEAST_FREE
        cure = "" if enough else "free some space, or work on another disk (VITA_CACHE moves the cache)"
        yield Finding("disk", str(place), "ok" if enough else "problem", f"{free / MB:,.0f} MB are free", cure)


def _existing(place: Path) -> Path:
    whole = place.absolute()
    return next(path for path in (whole, *whole.parents) if path.exists())

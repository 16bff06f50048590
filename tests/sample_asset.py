"""A tiny asset in a wheel built here."""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vita_core.weights.assets import ASSETS, Asset

CONTENT = b"weights" * 100


def copy(file: Path, directory: Path) -> None:
    shutil.copy(file, directory / "model.bin")


def add(monkeypatch: pytest.MonkeyPatch, wheel_sha256: str, **changes: object) -> None:
    member = hashlib.sha256(CONTENT).hexdigest()
    fields = {
        "name": "sample",
        "distribution": "vita-sample-asset",
        "version": "1.0",
        "wheel_sha256": wheel_sha256,
        "member": "vita_sample_asset/weights.bin",
        "wheel_bytes": 2000,
        "member_sha256": member,
        "member_bytes": len(CONTENT),
        "licence": "CC0",
        "source": "made here",
        "convert": copy,
        "conversion": 1,
        "made_bytes": 1000,
    } | changes
    monkeypatch.setitem(ASSETS, "sample", Asset(**fields))


def leftovers(folder: Path) -> list[str]:
    """Names of all files in the cache but the lock."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def digest(wheel: Path) -> str:
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def in_a_process(run: Callable[[], object]) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process

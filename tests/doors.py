"""What a child of `law` calls: one function for each place where data of strangers enters.

Each does what a user's call would do with the path: `law` then sees what the user would. Imports are inside, for the child.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_config(path: Path) -> Any:
    """A YAML file, validated."""
    from vita_core import load_config

    return load_config(path).model_dump(exclude_unset=True)


def plan_checkpoint(directory: Path) -> Any:
    """``vita plan``: the sizes and costs of a checkpoint's tower, from its config files alone."""
    from vita_core import make_plan

    return make_plan({"tower": {"weights": str(directory)}}).tokens


def plan_model(directory: Path) -> Any:
    """``vita plan``: the whole model of a VITA or LLaVA checkpoint."""
    from vita_core import make_plan

    return make_plan(directory).tokens


def plan_typed(tower: dict[str, Any]) -> Any:
    """``vita plan`` of a section ``tower``."""
    from vita_core import make_plan

    return make_plan({"tower": tower}).tokens


def encode(tower: dict[str, Any]) -> Any:
    """Open a tower, prepare a picture as its checkpoint says, and encode it."""
    import torch
    from PIL import Image

    from vita_core import build_tower
    from vita_core.config.images import ImagesConfig
    from vita_core.models.pictures import prepare

    made = build_tower(tower)
    prepared = prepare(made, ImagesConfig(), Image.new("RGB", (70, 60), (200, 30, 90)))
    with torch.inference_mode():
        tokens = made(prepared.pixels)
    return [tuple(part.shape) for part in tokens] if isinstance(tokens, list) else tuple(tokens.shape)


def encode_checkpoint(directory: Path) -> Any:
    """Open the tower of a directory, and encode a picture."""
    return encode({"weights": str(directory)})


def plan_and_encode(directory: Path) -> Any:
    """Plan the tower of a directory, then open it and encode a picture."""
    return plan_checkpoint(directory), encode_checkpoint(directory)


def open_picture(path: Path) -> Any:
    """Decode a picture."""
    from vita_core.pixels.images import open_picture as opened

    return opened(path).size


def read_data(path: Path) -> Any:
    """Open a data set, and read each row and its pictures; a row that is refused is told, as in a training."""
    from vita_core import VitaError
    from vita_core.config.data import DataSetConfig
    from vita_core.pixels.images import open_picture as opened
    from vita_core.training.data.opening import open_source
    from vita_core.training.data.samples import SampleError

    source = open_source(DataSetConfig(path=str(path)))
    read, refused = 0, None
    for index in range(len(source)):
        try:
            sample = source.sample(index)
            for ref in sample.pictures:
                if ref.data is not None or ref.size is not None:
                    with ref.opened() as file:
                        try:
                            opened(file, name=ref.name)
                        except VitaError as error:
                            told = str(error).partition(" Try: ")[0].rstrip(".")
                            raise SampleError("a picture cannot be opened", told, sample.where) from error
            read += 1
        except SampleError as error:
            refused = error
    if refused is not None and not read:
        raise refused
    return read


def discover_plugins(folder: Path) -> Any:
    """Load the plugins whose metadata are in a folder of `sys.path`, and look towers up."""
    import importlib
    import sys

    from vita_core.plugins.discovery import Selection, discover
    from vita_core.plugins.registry import Registry
    from vita_core.plugins.specs import TowerSpec

    sys.path.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        registry = Registry(discover(Selection()))
        registry.find(TowerSpec, "clip")
        return [(plugin.owner.selector, plugin.status, plugin.reason[:80]) for plugin in registry.plugins]
    finally:
        sys.path.remove(str(folder))

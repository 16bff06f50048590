"""Where the value of each key of a tower comes from: the config, the checkpoint, the tower's type, or a general default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita_core.config.configfiles import overridden
from vita_core.config.schema import TowerConfig
from vita_core.plugins.specs import Shape, Stated, TowerSpec, plain
from vita_core.untrusted.yamlfiles import Document
from vita_core.weights.sources import Source

__all__ = [
    "Setting",
    "key_origins",
    "merged",
    "override_marks",
    "preprocessing",
    "size_origin",
    "tower_marks",
    "used_settings",
]

PRINTED = ("select_layer", "select_feature", "norm", "image_size", "dtype")
"""The keys that a plan always prints. It prints the others if they have not their general default."""
OF_SEVERAL = ("combine", "grid")
"""The same for several encoders."""
NOT_PRINTED = ("type", "weights", "revision", "options", "towers")
GENERAL = "general default"


@dataclass(frozen=True)
class Setting:
    """The value of one key, and where it comes from."""

    key: str
    value: Any
    origin: str


def tower_marks(document: Document) -> dict[str, str]:
    """Return for each dotted key of the section ``tower:`` of a config where it is set: in a file, or by ``--set``."""
    files = {".".join(map(str, key[1:])): mark.file for key, mark in document.marks.items() if key[0:1] == ("tower",)}
    return {
        key: "set by --set" if file.startswith("--set") else f"set in {_shown(file)}" for key, file in files.items()
    }


def _shown(file: str) -> str:
    """Return the path of a file, relative to the working directory if it is inside."""
    return str(Path(file).relative_to(Path.cwd())) if Path(file).is_relative_to(Path.cwd()) else file


def override_marks(overrides: Sequence[str]) -> dict[str, str]:
    """Return the marks of the keys that `overrides` set."""
    return tower_marks(overridden(Document({}, {}), overrides))


def merged(settings: TowerConfig, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `defaults` of a spec for the keys that `settings` leaves out."""
    return {key: value for key, value in plain(defaults).items() if not _is_set(settings, key)}


def key_origins(
    settings: TowerConfig, defaults: Mapping[str, Any], spec: TowerSpec, marks: Mapping[str, str]
) -> dict[str, str]:
    """Return the origin of each key. `settings` is the config before the `defaults` of `spec`, `marks` where its keys are set."""
    origins = dict.fromkeys(TowerConfig.model_fields, GENERAL)
    for key, value in defaults.items():
        origins[key] = f"checkpoint: {value.by}" if isinstance(value, Stated) else f"tower {spec.name!r}"
    for key in origins:
        if _is_set(settings, key):
            origins[key] = marks.get(key, "set in the config")
    return origins


def size_origin(shape: Shape, source: Source, origins: Mapping[str, str]) -> str:
    """Return where the size of the pictures comes from."""
    stated = shape.size_from
    if origins["image_size"] != GENERAL:
        return origins["image_size"]
    if stated is not None and stated.startswith("preprocessor: "):
        return f"{source.preprocessor_file or 'preprocessor'}{stated.removeprefix('preprocessor')}"
    return stated or ("published config" if source.published else "checkpoint: config.json")


def used_settings(settings: TowerConfig, shape: Shape, origins: Mapping[str, str]) -> tuple[Setting, ...]:
    """Return the keys that a plan prints, with their values and origins. With native resolution, there is no one size."""
    size = shape.image_size
    stated = settings.model_dump(include={"reduce"}, exclude_none=True)
    values = settings.model_dump() | stated | {"image_size": size[0] if size[0] == size[1] else list(size)}
    always = PRINTED if settings.towers is None else OF_SEVERAL
    others = [key for key, origin in origins.items() if origin != GENERAL and key not in (*always, *NOT_PRINTED)]
    printed = [key for key in (*always, *others) if key != "image_size" or shape.native is None]
    return tuple(Setting(key, values[key], origins[key]) for key in printed)


def preprocessing(processor: Mapping[str, Any], source: Source, spec: TowerSpec) -> Setting:
    """Return how pictures become pixels, and where that comes from: a file of the checkpoint, or the tower's own default."""
    kind = processor.get("image_processor_type") or processor.get("video_processor_type")
    numbers = [
        f"{name} [{', '.join(f'{number:.3g}' for number in processor[key])}]"
        for name, key in (("mean", "image_mean"), ("std", "image_std"))
        if isinstance(processor.get(key), Sequence)
    ]
    missing = f"tower {spec.name!r}: no preprocessor_config.json"
    origin = missing if source.preprocessor is None else source.preprocessor_file or "preprocessor_config.json"
    return Setting("preprocessing", ", ".join([str(kind), *numbers]), origin)


def _is_set(settings: TowerConfig, key: str) -> bool:
    return key in settings.model_fields_set and getattr(settings, key) is not None

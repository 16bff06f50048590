"""Every layout that can be opened, and which one a config is of. No torch."""

from __future__ import annotations

from pathlib import Path

from vita_core.errors import CheckpointError, nearest
from vita_core.layouts import llava, llava_hf, vita
from vita_core.layouts.layout import Layout, OldConfig
from vita_core.weights.sources import read_json

__all__ = ["LAYOUTS", "is_adapter", "read_config", "recognise"]

LAYOUTS = (vita.LAYOUT, llava.LAYOUT, llava_hf.LAYOUT)


def recognise(config: OldConfig, where: str) -> Layout:
    """The layout of a checkpoint with this ``config.json``.

    Raises CheckpointError for a model_type of no layout, and says so where its own code would have to be run.
    """
    for layout in LAYOUTS:
        if layout.recognises(config):
            return layout
    kind = config.get("model_type")
    known = list(dict.fromkeys(name for layout in LAYOUTS for name in layout.model_types))
    message = (
        f"{where}: model_type {kind!r} in its config.json is of no known layout.{nearest(str(kind), known)} Known: "
    )
    message += ", ".join(known)
    if "auto_map" in config:
        message += (
            ". It would need code of its own to be run (auto_map), which is refused here. A language model's code can "
            "be allowed in a YAML config: `llm: {weights: ..., trust_remote_code: true, revision: COMMIT}`, COMMIT "
            "being the one whose code you have read"
        )
    raise CheckpointError(message)


def is_adapter(directory: Path) -> bool:
    """Whether the directory holds a LoRA adapter and not a whole model."""
    return (directory / "adapter_config.json").is_file()


def read_config(directory: str | Path) -> OldConfig:
    """The ``config.json`` of a checkpoint's directory. Raises CheckpointError when there is none."""
    path = Path(directory).expanduser()
    if not path.is_dir():
        raise CheckpointError(f"{path} is no directory; give the directory of a checkpoint")
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"{path} has no config.json; it holds {', '.join(sorted(p.name for p in path.iterdir()))}"
        )
    return read_json(path / "config.json")

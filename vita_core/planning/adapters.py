"""Check that the directory of a LoRA adapter is there. No tensor is read."""

from __future__ import annotations

from pathlib import Path

from vita_core.errors import CheckpointError

__all__ = ["check_adapter"]


def check_adapter(key: str, directory: str | None) -> None:
    """Raise CheckpointError unless `directory`, the value of a config's `key`, is None or holds an ``adapter_config.json``."""
    if directory is None or (Path(directory) / "adapter_config.json").is_file():
        return
    found = "it holds no adapter_config.json" if Path(directory).is_dir() else "no such directory"
    raise CheckpointError(
        f"{key}: {found}: {directory}. Try: a directory that peft or vita train wrote, or leave `{key}` out"
    )

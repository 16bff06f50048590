"""Changes to a copied checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file


def edit_config(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def rewrite(directory: Path, change: Any) -> None:
    """All tensors of a checkpoint through `change`, saved as one file."""
    shards = sorted(directory.glob("model*.safetensors"))
    state = {key: tensor for shard in shards for key, tensor in load_file(shard).items()}
    for old in [*shards, *directory.glob("*.index.json")]:
        old.unlink()
    save_file(change(state), directory / "model.safetensors")

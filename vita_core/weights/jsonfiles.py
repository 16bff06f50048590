"""Read JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vita_core.errors import CheckpointError

__all__ = ["read_json"]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file. Raises CheckpointError with ``file:line:column`` for anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(
            f"{path}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}. Try: download the file again"
        ) from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: not a config: nested too deep. Try: download the file again") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"cannot read {path}: {error}. Try: check its permissions, or download the file again"
        ) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}:1:1: not a JSON object: a {type(data).__name__}. Try: download the file again")
    return data

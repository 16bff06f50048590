"""What one checkpoint layout of another project says of itself, as data: how to know it, whose each key is. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vita_core.weights.sources import Source

__all__ = ["Layout", "OldConfig", "Rule", "Stage", "decoder_config", "dtype_of"]

OldConfig = Mapping[str, Any]
"""The parsed ``config.json`` of a VITA or LLaVA checkpoint."""
Stage = Literal["tower", "projector", "newline", "llm"]
DROPPED = (
    "_name_or_path",
    "architectures",
    "auto_map",
    "model_type",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)
"""Keys of a config that are the old class's own, or would slow generation down (training saves ``use_cache: false``)."""


@dataclass(frozen=True)
class Rule:
    """Keys that match `pattern` belong to `stage`, which knows them with the match replaced by `to`.

    Without a stage they are skipped: `reason` says why, ``{count}`` in it is their number. `audio` marks the half that is
    not opened here.
    """

    pattern: str
    stage: Stage | None = None
    to: str = ""
    reason: str = ""
    audio: bool = False

    def own_key(self, key: str) -> str:
        """What the stage calls a key that matches."""
        return re.sub(self.pattern, self.to, key, count=1)


@dataclass(frozen=True)
class Layout:
    """A checkpoint layout. Of `rules` the first that matches a key decides; a key that none matches is an error.

    recognises: whether a ``config.json`` is of this layout.
    decoder: config -> the language model's config, in transformers' keys, its own ``model_type`` among them.
    sections: config and the tower's input size -> our config sections, but for where the weights lie.
    tower_name: config -> where it says its tower was, or None where it does not.
    tower_source: checkpoint -> the tower's own config and preprocessing, where the checkpoint holds them.
    projector_file: read beside the usual weight files, where those hold no projector.
    """

    name: str
    model_types: tuple[str, ...]
    recognises: Callable[[OldConfig], bool]
    rules: tuple[Rule, ...]
    decoder: Callable[[OldConfig], dict[str, Any]]
    sections: Callable[[OldConfig, int], dict[str, Any]]
    tower_name: Callable[[OldConfig], str | None]
    tower_source: Callable[[Source], Source | None] = lambda own: None
    projector_file: str | None = None


def decoder_config(config: OldConfig, model_type: str) -> dict[str, Any]:
    """The language model's part of a config whose top level is that of the language model."""
    kept = {key: value for key, value in config.items() if key not in DROPPED and not key.startswith("mm_")}
    return {**kept, "model_type": model_type}


def dtype_of(config: OldConfig) -> str:
    """The dtype the checkpoint was saved in, float32 where it does not say."""
    stated = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    return stated if stated in ("float32", "float16", "bfloat16") else "float32"

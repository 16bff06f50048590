"""`Layout`: the description of a checkpoint layout of another project, as data. No torch."""

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
"""Config keys of the original class, and ``use_cache``: training saves it as false, which would slow generation down."""


@dataclass(frozen=True)
class Rule:
    """Keys that match `pattern` belong to `stage`. In the stage's own key, the match is replaced by `to`.

    Without a stage these keys are skipped. `reason` says why; ``{count}`` in it stands for the number of tensors. `audio`
    marks keys of the audio half of a model, which is not loaded.
    """

    pattern: str
    stage: Stage | None = None
    to: str = ""
    reason: str = ""
    audio: bool = False

    def own_key(self, key: str) -> str:
        """Return the stage's own key for a key that matches."""
        return re.sub(self.pattern, self.to, key, count=1)


@dataclass(frozen=True)
class Layout:
    """A checkpoint layout. The first of `rules` that matches a key decides; a key without a rule is an error.

    recognises: return whether a ``config.json`` has this layout.
    decoder: return the language model's config in transformers' keys, including ``model_type``.
    sections: return our config sections, without the places of the weights, for a config and the tower's input size.
    file_sections: return what files beside ``config.json`` add to the sections, such as the tiles of an image processor.
    tower_name: return the path or hub id of the tower in the config, or None if the config has none.
    tower_source: return the tower's config and preprocessing if the checkpoint contains them, else None.
    projector_file: a file that is read too if the usual weight files contain no projector.
    """

    name: str
    model_types: tuple[str, ...]
    recognises: Callable[[OldConfig], bool]
    rules: tuple[Rule, ...]
    decoder: Callable[[OldConfig], dict[str, Any]]
    sections: Callable[[OldConfig, int], dict[str, Any]]
    tower_name: Callable[[OldConfig], str | None]
    tower_source: Callable[[Source], Source | None] = lambda own: None
    file_sections: Callable[[Source], Mapping[str, Mapping[str, Any]]] = lambda own: {}
    projector_file: str | None = None


def decoder_config(config: OldConfig, model_type: str) -> dict[str, Any]:
    """Return the language model's config, from a config whose top level holds the keys of the language model."""
    kept = {key: value for key, value in config.items() if key not in DROPPED and not key.startswith("mm_")}
    return {**kept, "model_type": model_type}


def dtype_of(config: OldConfig) -> str:
    """Return the dtype in which the checkpoint was saved; float32 if its config does not state one."""
    stated = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    return stated if stated in ("float32", "float16", "bfloat16") else "float32"

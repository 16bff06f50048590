"""What the ``config.json`` of a checkpoint says about its weights and its code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vita_core.errors import CheckpointError, ConfigError
from vita_core.untrusted.processors import check_processor
from vita_core.weights.assets import ASSET_PREFIX
from vita_core.weights.sources import PROCESSOR, Source, is_path

__all__ = ["check_commit", "check_own_code", "place", "quantised", "with_code", "with_processor"]

COMMIT = re.compile(r"[0-9a-f]{40}")

KEPT = ("modules_to_not_convert", "llm_int8_skip_modules", "ignore", "ignored_layers")
"""The keys of a ``quantization_config`` that list modules with unquantised weights, by method."""


def quantised(config: Mapping[str, Any]) -> str | None:
    """Return how the vision encoder of a checkpoint with this ``config.json`` is quantised, or None if it is not.

    Many quantised multimodal checkpoints list the modules that are not, among them their vision encoder.
    """
    stated = config.get("quantization_config")
    if not isinstance(stated, Mapping):
        return None
    kept = [name for key in KEPT for name in stated.get(key) or ()]
    if any("vis" in name or "image" in name for name in map(str, kept)):
        return None
    return str(stated.get("quant_method", "an unknown method"))


def with_code(source: Source, *, trusted: bool) -> Source:
    """Return the source with the key ``trusted_code`` in its config if the user allows its code to run, else without.

    Its value has the directory or the hub id (``place``) and the ``revision`` of the code. The config of a stranger may not
    set it.
    """
    config = {key: value for key, value in source.config.items() if key != "trusted_code"}
    if trusted:
        path = source.path if source.path is None or source.path.is_dir() else source.path.parent
        place = source.hub_id if path is None else str(path.absolute())
        config["trusted_code"] = {"place": place, "revision": source.revision}
    return replace(source, config=config)


def check_commit(section: str, weights: str | None, revision: str | None) -> None:
    """Raise ConfigError if code from a hub may run, but `revision` is no commit: a branch or a tag may move to other code."""
    here = weights is None or weights.startswith(ASSET_PREFIX) or is_path(weights)
    if not here and COMMIT.fullmatch(revision or "") is None:
        found = "" if revision is None else f", not {revision!r}"
        raise ConfigError(
            f"{section}.trust_remote_code: true needs a fixed revision{found}. Try: `{section}.revision: COMMIT` with the 40 "
            "hexadecimal digits of the commit whose code you have read"
        )


def check_own_code(source: Source, *more: str) -> None:
    """Raise CheckpointError if the config, or one of the files `more`, names code of another repository.

    transformers would take the newest commit of that repository, which nobody has read.
    """
    others = [source.described_by(name) for name in more]
    for config in [source.config, *(other.config for other in others if other is not None)]:
        stated = config.get("auto_map") or {}
        named = [*stated.values()] if isinstance(stated, Mapping) else [stated]
        for reference in (one for value in named for one in (value if isinstance(value, list | tuple) else [value])):
            repository = str(reference).rpartition("--")[0]
            if repository and repository != source.hub_id:
                raise CheckpointError(
                    f"{source.weights}: its code is in another repository, of which no commit is fixed: {reference} "
                    "(auto_map). Try: copy that code into the directory of the checkpoint, and name it there"
                )


def place(source: Source, name: str) -> str:
    """Return what messages call a file of a checkpoint."""
    directory = source.path if source.path is None or source.path.is_dir() else source.path.parent
    return f"{source.weights.rstrip('/') if directory is None else directory}/{name}"


def with_processor(source: Source) -> Source:
    """Return a checkpoint after a check of its preprocessor config. Raises CheckpointError with file, key and value."""
    stated, file = source.preprocessor, source.preprocessor_file
    if stated is not None and file is not None:
        part = "video_processor" if "video_processor_type" in stated else "image_processor"
        check_processor(stated, place(source, file), part if file == PROCESSOR else "")
    return source

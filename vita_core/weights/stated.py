"""What the ``config.json`` of a checkpoint says about its weights and its code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vita_core.weights.sources import Source

__all__ = ["quantised", "with_code"]

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

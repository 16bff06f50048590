"""Find the config of a model of open_clip: in its checkpoint, or by its name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import open_clip

from vita_core import VitaError


def model_config(config: Mapping[str, Any], options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config of the model that the option `model` names; without the option, the one in a checkpoint's config.

    Raises VitaError for a name that open_clip does not know, and if neither describes a model.
    """
    name = options.get("model")
    if name is not None:
        return named(name)
    model: Mapping[str, Any] = config.get("model_cfg", config)
    if "vision_cfg" in model:
        return model
    raise VitaError(
        "tower.options.model: missing, and the checkpoint has no open_clip_config.json. Try: open_clip's name of the model, "
        "such as `--set tower.options.model=ViT-B-32`"
    )


def named(name: str) -> Mapping[str, Any]:
    """Return open_clip's config of a model. Raises VitaError with the nearest names for an unknown one."""
    if name in open_clip.list_models():  # get_model_config() would also ask a hub, for names that start with `hf-hub:`
        found: Mapping[str, Any] = open_clip.get_model_config(name)
        return found
    close = difflib.get_close_matches(
        name.lower(), spelled := {known.lower(): known for known in open_clip.list_models()}
    )
    nearest = f" Nearest are {', '.join(spelled[match] for match in close)}." if close else ""
    raise VitaError(
        f"tower.options.model: open_clip {open_clip.__version__} has no model {name!r}.{nearest} "
        "Try: one of `open_clip.list_models()`"
    )


def written_instead(name: str) -> str | None:
    """Return what to write in ``weights`` instead of a model's name, or None if open_clip knows no such model."""
    if name not in open_clip.list_models():
        return None
    tags = open_clip.list_pretrained_tags_by_model(name)
    hubs = [open_clip.get_pretrained_cfg(name, tag).get("hf_hub", "").rstrip("/") for tag in tags]
    hub = next((f"`weights: {found}` from the hub, or " for found in hubs if found.count("/") == 1), "")
    return f"{hub}`weights: ./FILE` with a checkpoint that you have downloaded and `tower.options: {{model: {name}}}`"

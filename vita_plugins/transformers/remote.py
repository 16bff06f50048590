"""Classes of models that are not in transformers but in Python files beside the checkpoint (``auto_map``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from vita_core import VitaError

TRUSTED = "trusted_code"


def remote_config(config: Mapping[str, Any]) -> PreTrainedConfig:
    """Return the config of a checkpoint that brings its own classes, and import them.

    `TowerSpec.remote_code` says how the user allows that. Raises VitaError if the user does not.
    """
    trusted = config.get(TRUSTED)
    if trusted is None:
        named = f"model_type {config['model_type']!r}" if "model_type" in config else "it"
        raise VitaError(
            f"config.json: {named} needs code of its own, which does not run unless you allow it: "
            f"{', '.join(map(str, config['auto_map'].values()))} (auto_map). Try: read that code, then "
            "`tower.trust_remote_code: true`, and for a hub id also `tower.revision: COMMIT`"
        )
    kind = remote_class(config["auto_map"], "AutoConfig", trusted)
    kind.remote_class = remote_class(config["auto_map"], "AutoModel", trusted)
    made: PreTrainedConfig = kind.from_dict({key: value for key, value in config.items() if key != TRUSTED})
    return made


def remote_class(stated: Mapping[str, Any], name: str, trusted: Mapping[str, Any]) -> Any:
    """Import the class that ``auto_map`` names, from the checkpoint's own directory, or from its repository and revision."""
    found, place = stated.get(name), trusted["place"]
    if not isinstance(found, str):
        raise VitaError(
            f"config.json: its auto_map has no {name}, but {', '.join(stated)}. Try: the checkpoint of an encoder alone"
        )
    repository, _, reference = found.rpartition("--")
    file, local = f"{reference.partition('.')[0]}.py", Path(place).is_dir()
    if not (Path(place) / file).is_file() if local else repository not in ("", place):
        raise VitaError(
            f"config.json: its code is not beside it: {found} (auto_map). Try: copy {file} and the files that it imports into "
            "the directory of the checkpoint"
        )
    return get_class_from_dynamic_module(reference, place, revision=trusted["revision"], local_files_only=local)

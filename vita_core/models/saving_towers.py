"""Save a tower: its weights with its own keys, the configs of its checkpoint, and the section that opens it again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vita_core.adapters import adapter_state, plain_state, save_adapter
from vita_core.config.fused import WHOLE
from vita_core.errors import CheckpointError, VitaError
from vita_core.loading import KeyRules
from vita_core.models.provenance import full_type
from vita_core.planning.reduction_weights import place_in_reduce, stated_step
from vita_core.planning.reductions import ResolvedReduction
from vita_core.towers.fused import FusedTower
from vita_core.towers.reducing import save_reduction
from vita_core.towers.tower import BaseVisionTower
from vita_core.weights.files import write_whole

__all__ = ["REDUCTIONS", "dtype_name", "reduction_file", "tensors", "write_reductions", "write_tower"]

REDUCTIONS = "reduce-*.safetensors"
"""The files of `write_reductions`."""


def write_tower(made: Path, tower: BaseVisionTower, place: str = "tower") -> dict[str, Any]:
    """Write a tower to the directory `made`, and return the ``tower:`` section that opens it.

    `place` is that directory, relative to the saved config. The parts of a fused tower are in directories in it: 0, 1, ....
    Raises VitaError if the tower is not loaded, and CheckpointError if its key rules would change its own keys.
    """
    if tower.encoder is None:
        raise VitaError("the tower is not loaded, so it cannot be saved. Try: call model.tower.load_model() first")
    if isinstance(tower, FusedTower):
        whole = tower.settings.model_dump(
            mode="json", include={*WHOLE} - {"towers"}, exclude_none=True, exclude_defaults=True
        )
        parts = []
        for n, part in enumerate(tower.parts):
            parts.append(write_tower(made / str(n), part, f"{place}/{n}"))
            reductions = zip(part.resolved.geometry.reductions, part.reductions, strict=True)
            write_reductions(made / str(n), parts[-1], reductions, f"{place}/{n}/")
        return {**whole, "towers": parts}
    state, source = tensors(tower.encoder), tower.resolved.source
    _check_keys(tower, state)
    write_whole(made / "model.safetensors", lambda path: save_file(state, path, metadata={"format": "pt"}))
    for name, content in (("config.json", source.config), ("preprocessor_config.json", source.preprocessor)):
        if content:
            (made / name).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    # the weights are in the directory, and the keys of several encoders are not this tower's
    not_saved: Any = {"revision": True, "combine": True, "grid": True, "options": {"pretrained"}}
    section = tower.settings.model_dump(mode="json", exclude_none=True, exclude=not_saved)
    spec, owner = tower.resolved.spec, tower.resolved.owner
    kind, weights = full_type(spec.name, owner), f"./{place}/model.safetensors"
    # name the file, because each plugin looks for other file names in a directory
    section |= {"type": kind, "weights": weights, "dtype": dtype_name(tower.dtype)}
    if adapter_state(tower.encoder):
        save_adapter(tower.encoder, made / "adapter")
        section["adapter"] = f"./{place}/adapter"
    return section


def write_reductions(
    made: Path, section: dict[str, Any], reductions: Iterable[tuple[ResolvedReduction, nn.Module]], place: str = ""
) -> list[Path]:
    """Write the weights of reductions that learn to `made`, and let a `section` ``tower:`` name them. Return the files.

    `place` is that directory, relative to the saved config. Raises CheckpointError (see `save_reduction`).
    """
    files = []
    for step, module in reductions:
        if step.key.startswith("tower.reduce"):
            stated_step(section, step.key)["type"] = full_type(step.spec.name, step.owner)
        if step.spec.trainable:
            files.append(made / reduction_file(step))
            save_reduction(files[-1], step, module)
            stated_step(section, step.key)["weights"] = f"./{place}{files[-1].name}"
    return files


def reduction_file(step: ResolvedReduction) -> str:
    """Return the name of the file with the weights of a reduction in a saved model."""
    return f"reduce-{place_in_reduce(step.key)}.safetensors"


def _check_keys(tower: BaseVisionTower, state: dict[str, Tensor]) -> None:
    """Raise CheckpointError if the tower's key rules would change the keys of `state` when it is opened again."""
    rules = KeyRules(tower.renames, tower.splits, tower.skips)
    if changed := [key for key in state if rules.changes(key)]:
        raise CheckpointError(
            f"tower {tower.resolved.spec.name!r} cannot be saved: its renames, splits or skips change {len(changed)} of its "
            f"own keys, such as {changed[0]!r}. Try: let the plugin's patterns match checkpoint keys only"
        )


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a module by their keys, on the CPU, without those of an adapter."""
    return {key: value.detach().to("cpu").contiguous() for key, value in plain_state(module).items()}


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype as a config has it."""
    return str(dtype).removeprefix("torch.")

"""Write the result of a training in stages to its directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vita_core.config.training import PARTS
from vita_core.masking import masked_data
from vita_core.models.model import VisionLanguageModel
from vita_core.models.provenance import made_by, sources
from vita_core.models.writing import write_model
from vita_core.towers.devices import dtype_on
from vita_core.towers.tower import BaseVisionTower
from vita_core.training.parts import cast, encoders, roots
from vita_core.training.record import stage_record
from vita_core.training.stages import Stage
from vita_core.untrusted.tensorfiles import tensors_sha256
from vita_core.weights.files import hashes, write_text, writing

__all__ = ["write_trained"]


def write_trained(
    out: Path, model: VisionLanguageModel, stages: Sequence[Stage], data: Sequence[Mapping[str, Any]]
) -> None:
    """Write what the stages trained, ``provenance.json`` and ``config.yaml`` to `out`. The config appears last.

    The weights of a part that no stage trained are not written: the config names where they come from. Weights that were
    trained in float32 get the dtype of the config, on which `model` then runs too.
    """
    assert model.settings.llm is not None
    dtype = getattr(torch, model.settings.llm.dtype)
    towers = encoders(model.tower)  # of several, the reductions behind all have the dtype of the first
    dtypes = {"reduce": _dtype(towers[0]), "llm": dtype, "projector": dtype}
    ways = {part: [stage.parts[part] for stage in stages if part in stage.parts] for part in PARTS}
    written = [part for part, found in ways.items() if any(how.lora is None for how in found)]
    for part, root in roots(model).items():
        root.requires_grad_(False)
        if part in written and part != "tower":
            cast(root, dtypes[part])
        elif part in written:
            for tower in towers:
                cast(root if tower is model.tower else tower, _dtype(tower))
    model.eval()
    made = out / "work" / "made"
    shutil.rmtree(made, ignore_errors=True)
    with writing(made):
        made.mkdir(parents=True)
        write_model(made, model.resolved, model.tower, model.projector, model.llm, model.newline, written)
    files = sorted(made.rglob("*.safetensors"))
    others = {name: digest for name, digest in hashes(made).items() if not name.endswith(".safetensors")}
    record = {
        "made_by": made_by(model.resolved),
        "training": {"stages": [stage.settings.model_dump(mode="json", exclude_none=True) for stage in stages]},
        "results": {stage.name: stage_record(out / "work" / stage.name) for stage in stages},
        "data": list(data),
        "sources": sources(model.resolved),
        "tensors_sha256": {file.relative_to(made).as_posix(): tensors_sha256(file) for file in files},
        "files": others,
    }
    write_text(made / "provenance.json", json.dumps(masked_data(record), indent=2, ensure_ascii=False))
    (out / "config.yaml").unlink(missing_ok=True)  # of an earlier stage: it must not open half of this result
    for entry in sorted(made.iterdir(), key=lambda entry: entry.name == "config.yaml"):
        target = out / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        entry.replace(target)
    made.rmdir()


def _dtype(tower: BaseVisionTower) -> torch.dtype:
    """Return the dtype of an encoder in its config. While it is trained, it has another one."""
    return dtype_on(tower.settings.dtype, tower.device)

"""What a finished training leaves: the trained weights, the config that opens them, and the record of their sources."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from vita_core.masking import masked_data
from vita_core.models.model import VisionLanguageModel
from vita_core.models.provenance import learning, made_by, named_source, tower_source
from vita_core.models.saving_towers import write_reductions
from vita_core.planning.reduction_weights import reduction_files
from vita_core.planning.resolution import Resolved
from vita_core.training.connector import Connector
from vita_core.training.data import Sample
from vita_core.training.resumable import write_tensors
from vita_core.untrusted.jsonfiles import read_json
from vita_core.untrusted.limits import RECORD
from vita_core.untrusted.tensorfiles import tensors_sha256
from vita_core.weights.files import sha256, write_text

__all__ = ["HELD_OUT", "sources_of", "write_results"]

HELD_OUT = "held_out.jsonl"
"""The file with the pictures that were kept out of the training."""


def sources_of(
    resolved: Resolved, data: Sequence[Path], sets: Sequence[Sequence[Sample]], licences: Sequence[str]
) -> dict[str, Any]:
    """Return the record of the data sets and of the weights that a training started from."""
    described = []
    for index, (path, samples) in enumerate(zip(data, sets, strict=True)):
        digest = hashlib.sha256("".join(f"{s.image.name}\0{s.caption}\n" for s in samples).encode()).hexdigest()
        licence = licences[index] if index < len(licences) else "not stated"
        described.append(
            {
                "name": path.stem if path.is_dir() else path.parent.name,
                "samples": len(samples),
                "sha256_of_names_and_captions": digest,
                "licence": licence,
            }
        )
    projector, llm = resolved.language("vita train")
    weights = {
        "tower": tower_source(resolved.tower),
        "llm": named_source(llm.settings.weights, llm.settings.revision),
    }
    if projector.files is not None:
        weights["projector"] = _earlier(projector.files.files)
    learned = learning(resolved.tower).items()
    if opened := {key: _earlier(reduction_files(step)) for key, step in learned if step.settings.weights is not None}:
        weights["reduce"] = opened
    return {"data": described, "weights": weights}


def _earlier(files: Sequence[Path]) -> dict[str, Any]:
    """Return the hash of the projector that the training started from, and the provenance of its own run if it is there."""
    record = files[0].with_name("provenance.json")
    made = {"made_by_run": read_json(record, RECORD)} if record.is_file() else {}
    if len(files) > 1:  # shards
        return {"files": {file.name: sha256(file) for file in files}, **made}
    return {"sha256": sha256(files[0]), **made}


def write_results(
    resolved: Resolved,
    vlm: VisionLanguageModel,
    trained: nn.Module,
    out: Path,
    scores: Mapping[str, Any],
    sources: Mapping[str, Any],
) -> None:
    """Write the files, each atomically. The projector is saved in float16, reductions as they were trained, in float32.

    The pictures that were held out are written before. The tower of `vlm` ends before the reductions that were trained, that
    of `resolved` does not.
    """
    config, (plan, _) = vlm.settings, resolved.language("vita train")
    module = trained.projector if isinstance(trained, Connector) else trained
    state = {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in module.state_dict().items()}
    widths = {
        "in_features": str(plan.in_features),
        "out_features": str(vlm.llm.hidden_size),
        "type": config.projector.type,
    }
    files = [out / "projector.safetensors"]
    write_tensors(files[0], state, **widths)
    sections = config.model_dump(mode="json", exclude_none=True)
    sections["projector"]["weights"] = "./projector.safetensors"
    if isinstance(trained, Connector):
        files += write_reductions(out, sections["tower"], trained.reduced_by())
    write_text(out / "config.yaml", yaml.safe_dump(sections, sort_keys=False))
    record = {
        "made_by": made_by(resolved),
        "tensors_sha256": {file.name: tensors_sha256(file) for file in files},
        "files": {name: sha256(out / name) for name in ("config.yaml", HELD_OUT)},
        "training": config.training.model_dump(),
        "scores": scores,
        **sources,
    }
    write_text(out / "provenance.json", json.dumps(masked_data(record), indent=2, ensure_ascii=False))

"""Write the parts of a model to a directory, with the ``config.yaml`` that opens it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from vita_core.adapters import adapter_state, plain_state, save_adapter
from vita_core.config.schema import Config
from vita_core.config.training import PARTS
from vita_core.config.validation import validate
from vita_core.language.llm import LanguageModel
from vita_core.models.saving_towers import dtype_name, tensors, write_reductions, write_tower
from vita_core.pixels.anyres import NEWLINE
from vita_core.planning.resolution import Resolved
from vita_core.towers.fused import FusedTower
from vita_core.towers.tower import BaseVisionTower
from vita_core.weights.files import write_whole

__all__ = ["write_model"]


def write_model(
    made: Path,
    resolved: Resolved,
    tower: BaseVisionTower,
    projector: nn.Module,
    llm: LanguageModel,
    newline: Tensor | None = None,
    parts: Collection[str] = PARTS,
) -> None:
    """Write a model's weights and ``config.yaml`` to the directory `made`.

    Of `parts` (``tower``, ``reduce``, ``projector``, ``llm``) the weights are written; the config names the sources of the
    others. An adapter is always written, beside the weights of its part. Raises as `vita_core.models.saving.save_model`.
    """
    settings = resolved.config
    sections = settings.model_dump(mode="json", exclude_none=True)
    if "tower" in parts:
        sections["tower"] = write_tower(made / "tower", tower)
    if "reduce" in parts:
        write_reductions(
            made, sections["tower"], zip(tower.resolved.geometry.reductions, tower.reductions, strict=True)
        )
    if "projector" in parts and (state := tensors(projector)):
        widths = {"in_features": str(tower.hidden_size), "out_features": str(llm.hidden_size)}
        metadata = {**widths, "type": settings.projector.type}
        write_whole(made / "projector.safetensors", lambda path: save_file(state, path, metadata=metadata))
        sections["projector"]["weights"] = "./projector.safetensors"
    if newline is not None and settings.images.anyres is not None:
        ending = {NEWLINE: newline.cpu().contiguous()}
        write_whole(made / "newline.safetensors", lambda path: save_file(ending, path))
        sections["images"]["anyres"]["newline"] = "./newline.safetensors"
    if "llm" in parts:
        _write_llm(made / "llm", llm)
        sections["llm"] |= {"weights": "./llm", "dtype": dtype_name(llm.dtype)}
        sections["llm"].pop("revision", None)
    for name, root, section in _adapted(sections, tower, projector, llm, parts):
        section.pop("adapter", None)
        if root is not None and adapter_state(root):
            save_adapter(root, made / f"{name}-adapter")
            section["adapter"] = f"./{name}-adapter"
    sections.pop("data", None)  # paths of the machine that trained; provenance.json names the data sets
    validate(Config, sections)  # report a dtype that the schema does not have before the directory appears
    (made / "config.yaml").write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")


def _adapted(
    sections: dict[str, Any], tower: BaseVisionTower, projector: nn.Module, llm: LanguageModel, parts: Collection[str]
) -> Iterator[tuple[str, nn.Module | None, dict[str, Any]]]:
    """Yield the modules that may have an adapter, with a name and their section. `write_tower` writes those of `parts`."""
    yield "projector", projector, sections["projector"]
    yield "llm", llm.model, sections["llm"]
    if "tower" in parts:
        return
    if isinstance(tower, FusedTower):
        for place, (part, section) in enumerate(zip(tower.parts, sections["tower"]["towers"], strict=True)):
            yield f"tower-{place}", part.vision_tower, section
    else:
        yield "tower", tower.vision_tower, sections["tower"]


def _write_llm(made: Path, llm: LanguageModel) -> None:
    plain: dict[str, Any] = {"state_dict": plain_state(llm.model)} if adapter_state(llm.model) else {}
    llm.model.save_pretrained(made, **plain)
    llm.tokenizer.save_pretrained(made)

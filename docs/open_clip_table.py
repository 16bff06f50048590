"""The table of open_clip in encoders.md: every model that the installed version has, and what its encoder gives."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from open_clip.model import _build_vision_tower

from vita_core import VitaError
from vita_core.planning.towers import resolve_tower


@dataclass(frozen=True)
class Row:
    """What became of one model: the tower that opens it and its sizes, or the reason why it did not open."""

    model: str
    tower: str = ""
    picture: str = ""
    layers: str = ""
    tokens: str = ""
    prefix: str = ""
    reason: str = ""


def tried(name: str) -> Row:
    """Plan a model from the config that open_clip would save, and compare with a run of open_clip's own encoder on meta."""
    config = open_clip.get_model_config(name)
    with tempfile.TemporaryDirectory() as folder:
        saved = {"model_cfg": config, "preprocess_cfg": {}}
        (Path(folder) / "open_clip_config.json").write_text(json.dumps(saved))
        try:
            found = resolve_tower({"weights": folder})
            shape = resolve_tower({"weights": folder, "type": "open_clip"}).shape
        except VitaError as error:
            return Row(name, reason=str(error).partition(" Try: ")[0].replace(folder, "DIR"))
    with torch.device("meta"), torch.no_grad():
        encoder = _build_vision_tower(config["embed_dim"], config["vision_cfg"], config.get("quick_gelu", False)).eval()
        maps = encoder.forward_intermediates(torch.empty(1, 3, *shape.image_size), intermediates_only=True)
    expected = [(state.shape[1], tuple(state.shape[2:])) for state in maps["image_intermediates"]]
    stages = [(stage.channels, stage.grid) for stage in shape.stages]
    if stages[-len(expected) :] != expected or found.shape.stages[-1].grid != expected[-1][1]:
        return Row(name, reason="the sizes differ from open_clip's")
    (rows, cols), (height, width) = shape.stages[-1].grid, shape.image_size
    tokens = f"{rows} x {cols} of {shape.stages[-1].channels}"
    return Row(name, found.spec.name, f"{height} x {width}", str(shape.layers), tokens, str(shape.prefix_tokens))


def section(found: list[Row]) -> str:
    opened = [row for row in found if not row.reason]
    refused = Counter(row.reason for row in found if row.reason)
    lines = [
        f"open_clip {open_clip.__version__} has {len(found)} models. Each was planned from its config, without weights, and the",
        "sizes of every layer were compared with a run of open_clip's own encoder on torch's meta device:",
        f"**{len(opened)} open**.",
        "",
        *(f"- {count} not: {reason}" for reason, count in sorted(refused.items())),
        *([""] if refused else []),
        "| model | tower | picture | layers | tokens of the last layer | prefix tokens | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{row.model}` | {row.tower and f'`{row.tower}`'} | {row.picture} | {row.layers} | {row.tokens} | {row.prefix} "
        f"| {row.reason or 'opens'} |"
        for row in found
    ]
    return "\n".join(lines) + "\n"

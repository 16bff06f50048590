"""The table of transformers in encoders.md: every type of vision model that the installed version has, and what became of it."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers_models import CONFIGS, LEFT, ROWS, library_states, patches_of, settings, small, whole

from vita_core import VitaError
from vita_core.planning.native import at_size
from vita_core.planning.towers import resolve_tower
from vita_core.towers.tower import build_resolved
from vita_plugins.transformers.finding import model_class

MAPPINGS = (
    modeling_auto.MODEL_FOR_IMAGE_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_BACKBONE_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES,
)
NOT_TRIED = "not tried: docs/transformers.json has no small model of it"
MOST = 20_000_000
"""The parameters of the largest model that is tried."""
REASONS = ("takes no pixels", "a whole chat or detection model", "needs a missing extra")
"""Why a type is not counted."""


@dataclass(frozen=True)
class Row:
    """What became of one type: its sizes, why it is left out, or why it did not open."""

    model_type: str
    layers: str = ""
    tokens: str = ""
    beside: str = ""
    native: str = ""
    left: str = ""
    reason: str = ""


def types() -> list[str]:
    """Return every type in the library's mappings of pictures and videos, and of every part of a model that holds vision."""
    found = {model_type for mapping in MAPPINGS for model_type in mapping}
    for kind in CONFIGS.values():
        for key, part in kind.sub_configs.items():
            if any(word in key for word in ("vision", "image", "video")):
                found |= part_types(kind, key, part)
    return sorted(found)


def part_types(kind: type[PreTrainedConfig], key: str, part: type[PreTrainedConfig]) -> set[str]:
    """Return the type of a part of a class of config; if any type may be there, that of the default."""
    if getattr(part, "model_type", ""):
        return {part.model_type}
    try:
        default = getattr(kind(), key)
    except Exception:  # the library cannot make this config without arguments
        return set()
    return {default.model_type} if isinstance(default, PreTrainedConfig) else set()


def tried(model_type: str) -> Row:
    """Save a small model of a type, open it, and compare its last layer with that of the library."""
    if model_type in LEFT:
        return Row(model_type, left=LEFT[model_type])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            if not has_model(model_type):
                return Row(model_type, reason="transformers has no model of this type alone")
            if size(model_type) > MOST:
                return Row(model_type, reason=NOT_TRIED)
            model = whole(model_type, folder)
            return opened(model_type, model, built(settings(folder, model_type)))
        except ImportError as error:
            return Row(model_type, left="needs a missing extra", reason=str(error).strip().splitlines()[0])
        except VitaError as error:
            reason = str(error).partition(" Try: ")[0].replace(name, "DIR")
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    return Row(model_type, reason=reason)


def built(config: dict[str, Any]) -> Any:
    """Build a tower. One of native resolution gets the sizes of a picture of 4 x 4 blocks, because its budget may be large."""
    resolved = resolve_tower(config)
    if resolved.shape.native is not None:
        side = 4 * resolved.shape.native.block
        resolved = at_size(resolved, (side, side))
    return build_resolved(resolved, "cpu")


def has_model(model_type: str) -> bool:
    """Return whether the library has a model of a type."""
    config = CONFIGS[model_type]()
    return model_class(config) is not None or type(config) in modeling_auto.MODEL_MAPPING


def size(model_type: str) -> int:
    """Return the number of parameters of the small model of a type; if `SIZES` do not fit its config, more than `MOST`."""
    try:
        config = small(model_type)
    except Exception:
        return MOST + 1
    found = model_class(config)
    if found is None:
        return 0
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in found(config).parameters())


def opened(model_type: str, model: Any, tower: Any) -> Row:
    """Return the row of a tower that is built, if its features are those of the library."""
    shape = tower.shape
    grid = " x ".join(map(str, tower.grid))
    beside = f"{shape.prefix_tokens} + {shape.suffix_tokens}"
    row = Row(model_type, str(shape.layers), f"{grid} of {tower.hidden_size}", beside, "yes" if shape.native else "")
    torch.manual_seed(0)
    given = ROWS.get(model_type, {})
    if shape.native is not None or "compared" in given:  # tests/towers compares these
        side = 0 if shape.native is None else 4 * shape.native.patch * shape.native.merge
        pixels = torch.rand(1, *((3, side, side) if side else shape.pixels))
        count = math.prod(shape.native.grid(side, side)) if shape.native is not None else tower.num_tokens
        fits = tower([*pixels])[0].shape[1:] == (count, tower.hidden_size)
        return row if fits else Row(model_type, reason="the tokens are not those that are planned")
    pixels = torch.rand(1, *shape.pixels)
    state, found = library_states(model, pixels, shape.layers)[-1], tower(pixels)
    count = found.shape[1]
    patches = patches_of(state, 0, channels_last=given.get("channels_last", False))
    start = shape.prefix_tokens if shape.suffix_tokens else patches.shape[1] - count
    expected = patches[:, start : start + count]
    if found.shape != expected.shape or (found - expected).abs().max() > 1e-5 * (1 + expected.abs().max()):
        return Row(model_type, reason="the features differ from those of transformers")
    return row


def section(found: list[Row]) -> str:
    """Return the section of the page."""
    left = Counter(row.left for row in found if row.left)
    counted = [row for row in found if not row.left]
    good = [row for row in counted if not row.reason]
    lines = [
        f"transformers {transformers.__version__} has {len(found)} types of vision models: those in its mappings of pictures,",
        "classifiers of pictures, backbones and videos, and every part of a larger model that holds vision. Not counted:",
        "",
        *(f"- {reason}: {left[reason]}" for reason in REASONS),
        "",
        f"Of the other {len(counted)}, **{len(good)} open ({100 * len(good) // len(counted)}%)**. A small model of each was",
        "saved with random weights and opened, and its last layer was compared with that of transformers (to 1e-5 of the largest",
        "feature). Those of native resolution, and a few that take more than pixels, are compared in `tests/towers/`.",
        "",
        "| `model_type` | layers | tokens | prefix + suffix tokens | native resolution | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| `{row.model_type}` | {row.layers} | {row.tokens} | {row.beside} | {row.native} | "
        f"{(f'not counted: {row.left}' if row.left else row.reason) or 'opens'} |"
        for row in found
    ]
    return "\n".join(lines) + "\n"

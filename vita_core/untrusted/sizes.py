"""The numbers in a ``config.json``: each in bounds that no model exceeds, before anything is built from them.

A library makes tables, tensors and modules of them, and a number that has some zeros too many fills the memory.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vita_core.errors import CheckpointError, dotted
from vita_core.untrusted.jsonfiles import read_object
from vita_core.untrusted.processors import check_preparation
from vita_core.untrusted.schemas import check_object

__all__ = ["MOST_TABLE", "LargeTableError", "check_parameters", "check_sizes", "large_table", "read_config"]

Rule = tuple[re.Pattern[str], int, int]
BOUNDS: tuple[Rule, ...] = tuple(
    (re.compile(pattern), least, most)
    for pattern, least, most in (
        (r"hidden_sizes?|embed_dims?|d_model|out_hidden_size|width|hidden_dim|dim", 1, 1 << 17),
        (r"intermediate_size|(encoder_|decoder_)?ffn_dim|mlp_dim", 1, 1 << 20),
        (r"moe_intermediate_size", 0, 1 << 20),
        (r"num_hidden_layers", 1, 512),
        (r"num_layers|n_layers?|depths?|(encoder|decoder)_layers|layers", 0, 512),
        (r"num_(attention|key_value)_heads|num_heads|(encoder|decoder)_attention_heads", 1, 1 << 12),
        (r"head_dim|projection_dim", 0, 1 << 17),
        (r"head_width", 1, 1 << 14),
        (r"patch_size|tubelet_size|temporal_patch_size|spatial_merge_size|spatial_patch_size", 1, 1 << 12),
        (r"image_size|img_size|crop_size|input_size", 1, 1 << 14),
        (r"num_channels|in_chans", 1, 1 << 10),
        (r"in_channels", 1, 1 << 17),  # of a map inside a model too
        (r"num_(local_|routed_)?experts|n_routed_experts", 0, 1 << 16),
        (r"num_labels|num_classes|num_frames|num_queries|num_positions|window_size", 0, 1 << 20),
        (r"vocab_size", 0, 1 << 24),
        (r"max_position_embeddings|n_positions|n_ctx|max_seq_len(gth)?|seq_length", -1, 1 << 24),
    )
)
"""Regular expressions of keys, and the least and most of their values, also in a list or with names such as ``height``."""
NUMBERS = re.compile(
    r"hidden_size|intermediate_size|num_hidden_layers|num_(attention|key_value)_heads|patch_size|image_size|vocab_size|num_channels"
)
"""Keys whose value is never a text. Others of `BOUNDS` may mean something else in a part of a model."""
SIDES = {"height", "width", "depth"}
FREE = re.compile(
    r"theta|seed|total|num_param|flops|bytes|factor|scal|base|rope|eps|version|memory|max_length|sliding_window"
    r"|(train|training|max|num)_(tokens|samples|num_samples)|samples_seen|tokens_seen"
)
"""Keys whose numbers are no sizes."""
OBJECTS = re.compile(
    r"(vision|text|llm|audio|backbone|encoder|decoder|projector)_(config|cfg)|model_(cfg|args)|quantization_config"
)
"""Keys whose value is an object."""
TEXTS = ("model_type", "architecture", "timm_model_name")
"""Keys whose value is a text. Tables are asked for it, and a list cannot be looked up."""
UNREAD = ("id2label", "label2id", "label_names", "label_descriptions", "quantization_config", "task_specific_params")
MOST = 10**8
"""The most of a whole number under any other key."""
MOST_PATCHES = 1 << 22
"""The most patches of one picture: those of 8,192 x 8,192 pixels, each of 4 x 4, as Swin's are."""
MOST_PARAMETERS = 10**13
"""The most parameters of one model: several times those of the largest one that is published."""

MOST_TABLE = 200_000_000
"""The most bytes of one table that a model computes from its config."""
TABLE_KEYS = ("image_size", "img_size", "patch_size", "window_size")
"""What such tables are made of."""


class LargeTableError(ValueError):
    """A model would compute a table of so many `bytes`."""

    def __init__(self, found: int) -> None:
        super().__init__(f"a table of {found:,} bytes")
        self.bytes = found


def large_table(error: LargeTableError, config: Mapping[str, Any], file: str) -> CheckpointError:
    """Return the error for a config, which messages call `file`, with the keys that the table may be made of."""
    parts = [config, *(value for key, value in config.items() if OBJECTS.fullmatch(str(key)) and value)]
    stated = {key: part[key] for part in parts for key in TABLE_KEYS if key in part}
    told = ", ".join(f"{key}: {reprlib.repr(value)}" for key, value in stated.items()) or "its sizes"
    return CheckpointError(
        f"{file}: {told}: the encoder would compute a table of {error.bytes:,} bytes of it, and the limit is {MOST_TABLE:,}. "
        "Try: correct those keys, set `tower.image_size` to a smaller size, or download the file again"
    )


def read_config(path: Path) -> dict[str, Any]:
    """Read a ``config.json``. Raises CheckpointError with file, key and value, also for numbers that no model has."""
    config = read_object(path)
    check_sizes(config, str(path))
    return config


def check_sizes(config: Mapping[str, Any], file: str) -> None:
    """Check the numbers in a config, which messages call `file`. Raises CheckpointError with file, key and value."""
    _check_mapping(config, file, "")


def check_parameters(count: int, file: str) -> None:
    """Raise CheckpointError for a model of more parameters than any has. `file` is what messages call its config."""
    if not 0 <= count <= MOST_PARAMETERS:
        raise CheckpointError(
            f"{file}: a model of {count:,} parameters, which take {2 * count:,} bytes. Try: correct its sizes (hidden_size, "
            "intermediate_size, num_hidden_layers), or download the file again"
        )


def _check_mapping(config: Mapping[str, Any], file: str, inside: str) -> None:
    for key, value in config.items():
        if OBJECTS.fullmatch(str(key)):
            check_object(value, file, f"{inside}{key}")
        if key in TEXTS and value is not None and not isinstance(value, str):
            raise CheckpointError(
                f"{file}: {inside}{key}: {reprlib.repr(value)} is not a text. Try: download the file again"
            )
        if key in UNREAD:
            continue
        check_preparation(key, value, file)
        rule = next((rule for rule in BOUNDS if rule[0].fullmatch(str(key))), None)
        _check(value, rule, file, inside + dotted([key]), str(key))
    image, patch = (_least(config.get(key)) for key in ("image_size", "patch_size"))
    side = 0 if image is None or patch is None or patch < 1 else image // patch
    if image is not None and patch is not None and not 1 <= side <= math.isqrt(MOST_PATCHES):
        raise CheckpointError(
            f"{file}: {inside}patch_size: {patch} is not a part of image_size {image}, or too small a part. Try: correct that "
            "key, or download the file again"
        )


def _check(value: Any, rule: Rule | None, file: str, place: str, name: str, listed: bool = False) -> None:
    """Check a value of the key `name` by the `rule` of its key. `listed` is whether it is an entry of a list."""
    if isinstance(value, Mapping):
        if rule is None or not set(value) <= SIDES:
            _check_mapping(value, file, f"{place}.")
            return
        value = [*value.values()]
    if isinstance(value, list | tuple):
        for one in value:
            _check(one, rule, file, place, name, listed=True)
        return
    typed = NUMBERS.fullmatch(name) is not None and not listed
    if isinstance(value, bool | str):
        wrong, told = typed, "a whole number"
    elif not isinstance(value, int | float):
        return
    elif rule is not None:
        _, least, most = rule
        wrong = not least <= value <= most or (typed and value != int(value))
        told = f"a whole number from {least} to {most:,}"
    else:
        wrong = math.isnan(value) or (isinstance(value, int) and abs(value) > MOST and not FREE.search(name))
        told = f"a number up to {MOST:,}"
    if wrong:
        raise CheckpointError(
            f"{file}: {place}: {reprlib.repr(value)} is not {told}. Try: correct that key, or download the file again"
        )


def _least(value: Any) -> int | None:
    """Return a side in pixels, or the shorter one of two, or None."""
    sides = [*value.values()] if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
    known = bool(sides) and all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    return min(sides) if known else None

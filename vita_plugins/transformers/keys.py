"""How the keys of checkpoints map to the keys of the vision model, from the library's own tables of conversions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import transformers
from accelerate import init_empty_weights
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from vita_core import VitaError
from vita_plugins.transformers.experts import Experts
from vita_plugins.transformers.families import Family

HEADS = (
    "pooler", "pool", "head", "decoder", "classifier", "cls_classifier", "distillation_classifier", "lm_head",
    "layernorm", "layer_norm", "predictor", "fc", "last_convolution", "hidden_states_norms",
)  # fmt: skip
"""Parts that come after the blocks. Those that the vision model itself has are loaded."""


@dataclass
class Keys:
    """The `renames`, `splits` and `skips` of a tower, as `BaseVisionTower` describes them."""

    renames: list[tuple[str, str]] = field(default_factory=list)
    splits: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    skips: list[tuple[str, str]] = field(default_factory=list)
    outer: list[tuple[str, str]] = field(default_factory=list)


def saved_beside(model: nn.Module, part: PreTrainedConfig, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the skips for the tensors that only the saved class has, such as a head or a token for masks.

    ``architectures`` of a ``config.json`` names this class. It counts if it is one of transformers for this very config.
    """
    name = next(iter(config.get("architectures") or []), "")
    kind = getattr(transformers, name, None) if isinstance(name, str) else None
    if not inspect.isclass(kind) or not issubclass(kind, PreTrainedModel) or kind.config_class is not type(part):
        return []
    with init_empty_weights():
        whole = kind(part)
    stored = {key.removeprefix(f"{kind.base_model_prefix}.") for key in whole.state_dict()}
    beside = sorted(stored - set(model.state_dict()))
    return [(rf"^(?:{'|'.join(map(re.escape, beside))})$", f"other parts of {name}")] if beside else []


def checkpoint_keys(model: nn.Module, family: Family, parent: str | None) -> Keys:
    """Return the rules for a checkpoint of `model` alone, and those for the keys of a `parent` with this ``model_type``."""
    keys = Keys()
    for conversion in get_checkpoint_conversion_mapping(parent) or []:
        if isinstance(conversion, WeightRenaming):
            keys.outer.append(renaming(conversion, family))
        elif all(repr(operation) == "Chunk(dim=0)" for operation in conversion.operations):
            keys.splits.append((conversion.source_patterns[0], tuple(conversion.target_patterns)))
    own = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
    whole = getattr(model, "base_model_prefix", None)
    if whole and whole not in own:  # transformers saves ViT-MSN's classifier with `vit.` before some keys only
        keys.renames.append((rf"^{whole}\.", ""))
    for conversion in get_model_conversion_mapping(model):
        if isinstance(conversion, WeightRenaming):
            keys.renames.append(renaming(conversion, family))
        elif all(repr(operation) == "Chunk(dim=0)" for operation in conversion.operations):
            keys.splits.append((conversion.source_patterns[0], tuple(conversion.target_patterns)))
        elif not any(isinstance(one, Experts) for one in model.modules()):  # these are as they are saved
            raise VitaError(
                f"{type(model).__name__}: a conversion of its weights is not supported yet: {conversion.operations}. "
                "Try: report this to the authors of vita-core"
            )
    if family.blocks.startswith("encoder.layer"):  # AltCLIP is saved as `encoder.layer` and built as `encoder.layers`
        keys.renames.append((r"^encoder\.layers?\.", f"{family.blocks}."))
    keys.skips.append((rf"^(?!(?:{'|'.join(own)})\.)(?:{'|'.join(HEADS)})\.", "head"))
    computed = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
    keys.skips += [(pattern, "tables that are computed") for pattern in [*computed, r"position_ids$"]]
    return keys


def renaming(conversion: WeightRenaming, family: Family) -> tuple[str, str]:
    """Return a renaming of the library as (expression, replacement). The library replaces only the first match of a key."""
    target = conversion.target_patterns[0]
    # keys that already have the new path must stay: DINOv3's expression also matches inside `layer_scale`, and TIPSv2's
    # `cls_token` inside `embeddings.cls_token`
    again = target and "\\" not in target and conversion.compiled_sources.search(target)
    done = f"{family.blocks}." if target.startswith(f"{family.blocks}.") else target if again else None
    unless = "" if done is None else f"(?!{re.escape(done)})"
    # group 1 is what precedes the match, group 2 is the whole match, so that the library's group 1 is group 3
    return rf"^{unless}(.*?)(?:{conversion.compiled_sources.pattern})", r"\1" + target.replace(r"\1", r"\3")

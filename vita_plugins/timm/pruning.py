"""Remove the head and the layers that are not needed, and find out which parameter and tensor belongs to which layer."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

from vita_plugins.timm.special import FIRST_MODULES, HEADS, UNPRUNED

HEAD = rf"({'|'.join(HEADS)})\."


def prune(model: nn.Module, index: int, *, norm: bool) -> None:
    """Remove the head, the layers after timm's feature `index`, and the final norm unless `norm`."""
    if type(model).__name__ in UNPRUNED:
        model.reset_classifier(0)
        return
    if hasattr(model, "prune_intermediate_layers"):
        model.prune_intermediate_layers([index], prune_norm=not norm, prune_head=True)
        return
    model.blocks = model.blocks[: index + 1]  # the NaFlex ViT before timm 1.0.31
    model.norm = model.norm if norm else nn.Identity()
    model.fc_norm = nn.Identity()
    model.reset_classifier(0, "")


def heads(model: nn.Module) -> list[str]:
    """Return the names of the modules of the head. Before timm 1.0.31, ConvNeXt's pruned head keeps its norm."""
    stages = {info["module"].partition(".")[0] for info in model.feature_info}  # SelecSLS calls a stage `head`
    return [name for name in HEADS if hasattr(model, name) and name not in stages]


def layers_of(model: nn.Module, count: int, *, norm: bool) -> dict[str, int]:
    """Return the layer of each parameter, by removing one layer after the other from `model`, which has `count` layers.

    Layer 0 is the stem: the parameters before those of the first layer. The head is left out. The final norm belongs to
    the last layer if timm removes it with that layer, and to no layer otherwise.
    """
    layers: dict[str, int] = {}
    outside = tuple(f"{name}." for name in heads(model))
    prune(model, count - 1, norm=norm)
    left = [name for name, _ in model.named_parameters() if not name.startswith(outside)]
    for index in range(count - 2, -1, -1):
        prune(model, index, norm=norm)
        kept = {name for name, _ in model.named_parameters()}
        layers |= {name: index + 2 for name in left if name not in kept}
        left = [name for name in left if name in kept]
    left = [name for name in left if not (norm and name.startswith("norm."))]
    first = FIRST_MODULES.get(type(model).__name__) or model.feature_info[0]["module"]
    inside = [index for index, name in enumerate(left) if name.startswith(f"{first}.")]
    start = inside[0] if inside else 0
    return layers | {name: int(index >= start) for index, name in enumerate(left)}


def exactly(keys: Iterable[str]) -> str:
    """Return a regular expression that matches these keys and no others."""
    return f"^(?:{'|'.join(re.escape(key) for key in sorted(keys))})$"


def cut(model: nn.Module, count: int, keep: int, *, norm: bool) -> list[tuple[str, str]]:
    """Remove the head of `model`, which has `count` layers, and all layers but the first `keep`.

    Return which tensors of its checkpoint are not needed then, and why: (regular expression, reason). Nothing is removed for a
    larger `keep`: the class scores need all.
    """
    if keep > count:
        return []
    skips = [(r"^mask_token$", "mask token of pretraining")]
    whole = set(model.state_dict())
    tables = {name for name, _ in model.named_buffers()} - whole
    for last, reason in ((count, "classification head"), (keep, "layers after the selected one")):
        prune(model, last - 1, norm=norm)
        left = set(model.state_dict())
        skips.append((exactly(whole - left), reason))
        whole = left
    for name in heads(model):
        setattr(model, name, nn.Identity())
    used = "|".join(re.escape(key) for key in sorted(model.state_dict()) if re.match(HEAD, key))
    skips.append((f"^(?!(?:{used})$){HEAD}", "classification head"))
    return [*skips, (exactly(tables), "tables that the encoder computes")]

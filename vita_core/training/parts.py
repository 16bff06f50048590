"""Freeze and unfreeze the parts of a built model as a stage says, and count what is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vita_core.adapters import adapter_state, add_adapter, set_dropout
from vita_core.config.schema import FreezeConfig
from vita_core.config.training import LoraSettings, PartSettings
from vita_core.errors import ConfigError, VitaError
from vita_core.models.model import VisionLanguageModel
from vita_core.towers.freezing import freeze
from vita_core.towers.fused import FusedTower
from vita_core.towers.tower import BaseVisionTower

__all__ = ["PartRow", "cast", "encoders", "freeze_unused", "prepare_parts", "roots", "table"]


@dataclass(frozen=True)
class PartRow:
    """A line of the table of what is trained: a part, how, and its numbers of parameters, from ``requires_grad``."""

    part: str
    how: str
    parameters: int
    trained: int


def roots(model: VisionLanguageModel) -> dict[str, nn.Module]:
    """Return the module of each part of a model. The tower's is its encoder, and its reductions are a part of their own."""
    encoder = model.tower.vision_tower
    if encoder is None:
        raise VitaError("the tower is not loaded, because delay_load is set. Try: `tower.delay_load: false`")
    return {
        "tower": encoder,
        "reduce": model.tower.reductions,
        "projector": model.projector,
        "llm": model.llm.model,
    }


def prepare_parts(model: VisionLanguageModel, parts: Mapping[str, PartSettings], key: str) -> None:
    """Freeze the model but for `parts`, each as its settings say. `key` is that of the stage, for messages.

    A part whose own weights are trained is float32 afterwards, and so are adapters. The reductions in a part of a fused tower
    are trained with its encoder, unless by adapters. Raises ConfigError for adapters on a part without linear layers.
    """
    for part, root in roots(model).items():
        how = parts.get(part)
        root.requires_grad_(False)
        if how is None:
            continue
        if part == "tower":
            for tower in encoders(model.tower, how.towers):
                _train_encoder(tower, how, f"{key}.train.tower")
                if tower is not model.tower and how.lora is None:
                    cast(tower.reductions.requires_grad_(True), torch.float32)
            continue
        if how.lora is not None:
            _add_lora(root, how.lora, part, f"{key}.train.{part}.lora")
        elif how.from_layer is not None:
            _train_blocks(root, how.from_layer, f"{key}.train.{part}.from_layer")
        else:
            root.requires_grad_(True)
        if how.lora is None:
            cast(root, torch.float32)


def check_parts(model: VisionLanguageModel, parts: Mapping[str, PartSettings], key: str) -> None:
    """Raise ConfigError for adapters on a part without linear layers, and for blocks of a decoder that has no list of them."""
    for part, root in roots(model).items():
        how = parts.get(part)
        if how is not None and how.lora is not None:
            whole = encoders(model.tower, how.towers) if part == "tower" else ()
            for one in [tower.vision_tower for tower in whole] or [root]:
                assert one is not None  # as in `_train_encoder`
                if not adapter_state(one):
                    _adapted(one, how.lora, part, f"{key}.train.{part}.lora")
        elif how is not None and how.from_layer is not None and part == "llm":
            _blocks(root, f"{key}.train.{part}.from_layer")


def encoders(tower: BaseVisionTower, places: Sequence[int] | None = None) -> list[BaseVisionTower]:
    """Return the towers of one encoder each that a tower consists of: itself, or its parts, of these only those at `places`."""
    parts = tower.parts if isinstance(tower, FusedTower) else (tower,)
    return [part for place, part in enumerate(parts) if places is None or place in places]


def _train_encoder(tower: BaseVisionTower, how: PartSettings, key: str) -> None:
    """Train one encoder as `how` says."""
    encoder = tower.vision_tower
    assert encoder is not None  # `roots` raises an error for a tower that is not loaded
    if how.lora is not None:
        _add_lora(encoder, how.lora, "tower", f"{key}.lora")
        return
    first = FreezeConfig(from_layer=how.from_layer) if how.from_layer else False
    freeze(encoder, first, tower.shape, tower.in_run_order)
    cast(encoder, torch.float32)  # its frozen layers too: a layer takes values of its own dtype only


def cast(root: nn.Module, dtype: torch.dtype) -> None:
    """Cast the parameters and the saved buffers of a module. Adapters and tables that no checkpoint holds keep their dtype."""
    adapter = {id(parameter) for parameter in adapter_state(root).values()}
    for parameter in root.parameters():
        if id(parameter) not in adapter:
            parameter.data = parameter.data.to(dtype)
    for module in root.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set and buffer.is_floating_point():
                setattr(module, name, buffer.to(dtype))


def _train_blocks(decoder: nn.Module, first: int, key: str) -> None:
    """Train block `first` (1 = the first) of a decoder, all blocks behind it, and the norm behind them."""
    name, blocks = _blocks(decoder, key)
    for block in list(blocks)[first - 1 :]:
        block.requires_grad_(True)
    owner = decoder.get_submodule(name.rpartition(".")[0])
    for child in owner.children():
        if "norm" in type(child).__name__.lower():
            child.requires_grad_(True)


def _blocks(decoder: nn.Module, key: str) -> tuple[str, nn.ModuleList]:
    """Return the name of the list of a decoder's blocks, and the list. Raises ConfigError if there is none."""
    lists = [(name, part) for name, part in decoder.named_modules() if isinstance(part, nn.ModuleList)]
    if not lists:
        raise ConfigError(f"{key}: {type(decoder).__name__} has no list of blocks. Try: `llm: full`")
    return max(lists, key=lambda found: sum(p.numel() for p in found[1].parameters()))


def linear_layers(root: nn.Module, targets: Sequence[str] | None = None) -> list[str]:
    """Return the names of the linear layers of a part that get adapters.

    The layer that makes the output of a language model does not, and neither do those inside torch's MultiheadAttention,
    which reads their weights without calling them.
    """
    from transformers.pytorch_utils import Conv1D

    find: Any = getattr(root, "get_output_embeddings", lambda: None)
    output = find()
    inside = {
        id(child)
        for module in root.modules()
        if isinstance(module, nn.MultiheadAttention)
        for child in module.modules()
    }
    found = []
    for name, module in root.named_modules():
        linear = isinstance(module, nn.Linear | Conv1D) and module is not output and id(module) not in inside
        if linear and name and (targets is None or any(name == end or name.endswith(f".{end}") for end in targets)):
            found.append(name)
    return found


def _add_lora(root: nn.Module, lora: LoraSettings, part: str, key: str) -> None:
    """Put an adapter on the linear layers of a part, and train only that. That of an earlier stage stays, but not its dropout."""
    if not adapter_state(root):
        names = _adapted(root, lora, part, key)
        add_adapter(root, names, rank=lora.rank, alpha=lora.alpha or 2 * lora.rank, dropout=lora.dropout)
    set_dropout(root, lora.dropout)
    for parameter in adapter_state(root).values():
        parameter.requires_grad_(True)


def _adapted(root: nn.Module, lora: LoraSettings, part: str, key: str) -> list[str]:
    """Return the names of the layers that get an adapter. Raises ConfigError if there are none."""
    names = linear_layers(root, lora.targets)
    if not names:
        of = "" if lora.targets is None else f" of the names {', '.join(lora.targets)}"
        other = f"`{part}: full`" if lora.targets is None else f"other `targets`, or `{part}: full`"
        raise ConfigError(f"{key}: the {part} has no linear layer{of}. Try: {other}")
    return names


def freeze_unused(joint: nn.Module, batches: Iterable[Mapping[str, Any]]) -> list[str]:
    """Freeze the trained parameters that the losses of `batches` do not depend on, and return their names.

    Such are a final norm that `norm: false` does not apply, and layers that a projector keeps but does not use. A distributed
    training would wait for their gradients for ever. The batches run one by one, without a backward pass and without keeping
    activations, until every trained parameter was reached. One that only other batches reach counts as unused.
    """
    mode = [module.training for module in joint.modules()]
    joint.eval()
    unused = {name: value for name, value in joint.named_parameters() if value.requires_grad}
    for batch in batches:
        with torch.autograd.graph.saved_tensors_hooks(lambda kept: kept.shape, torch.empty):
            reached = _leaves(joint(batch))
        unused = {name: value for name, value in unused.items() if id(value) not in reached}
        if not unused:
            break
    for module, training in zip(joint.modules(), mode, strict=True):
        module.training = training
    for parameter in unused.values():
        parameter.requires_grad_(False)
    return list(unused)


def _leaves(loss: Tensor) -> set[int]:
    """Return the identities of the parameters that a loss depends on."""
    nodes: list[Any] = [loss.grad_fn]
    seen, found = set(nodes), set()
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        behind = {follower for follower, _ in getattr(node, "next_functions", ())} - seen
        seen |= behind
        nodes += behind
    return found


def table(model: VisionLanguageModel, parts: Mapping[str, PartSettings]) -> list[PartRow]:
    """Return the number of parameters of each part, and of those that are trained, counted from ``requires_grad``."""
    rows = []
    for part, root in roots(model).items():
        own = list(root.parameters())
        if part == "reduce" and not own and part not in parts:
            continue
        trained = sum(p.numel() for p in own if p.requires_grad)
        how = "frozen" if part not in parts else parts[part].words
        rows.append(PartRow(part, how, sum(p.numel() for p in own), trained))
    return rows

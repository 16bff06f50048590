"""The shape of a tower whose spec leaves it out, and the parts of its encoder that are not needed: both are measured."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vita_core.config.schema import TowerConfig
from vita_core.errors import ConfigError, PluginError, VitaError
from vita_core.planning.pictures import stated_size
from vita_core.planning.towers import ResolvedTower
from vita_core.plugins.discovery import describe
from vita_core.plugins.installed import Owner
from vita_core.plugins.registry import import_object
from vita_core.plugins.specs import Shape, TowerSpec
from vita_core.towers.encoders import build_checked
from vita_core.towers.measuring import shape_of, spent_on
from vita_core.towers.tapping import Blocks, NoBlock
from vita_core.towers.whole import WholeEncoder, find_blocks
from vita_core.weights.sources import Source

__all__ = ["Derived", "build_encoder", "derived_shape"]


@dataclass(frozen=True)
class Derived:
    """What one run of an encoder on the meta device tells.

    shape: its shape. path: where its blocks are. blocks: the keys of the blocks in that list. unused: the paths of modules
    and parameters outside the blocks that no hidden state needs, such as a head.
    """

    shape: Shape
    path: str
    blocks: tuple[str, ...]
    unused: tuple[str, ...]


class Unmeasured:
    """Stands for the shape and the geometry of a tower while they are measured. Reading them is an error."""

    def __init__(self, spec: TowerSpec, owner: Owner, config: Any) -> None:
        stated = config.get("num_hidden_layers")
        if isinstance(stated, int):
            self.blocks = stated
        self.advice = f"plugin {owner.plugin} of {owner}: tower {spec.name!r} leaves out TowerSpec.shape"

    def __getattr__(self, name: str) -> Any:
        raise PluginError(
            f"{self.advice}, so its sizes are not known when its encoder is measured, but it reads {name!r} of them. "
            "Try: read self.checkpoint_config instead, and build all blocks: those that are not needed are removed"
        )


_known: dict[tuple[Any, ...], Derived] = {}


def derived_shape(
    spec: TowerSpec, owner: Owner, settings: TowerConfig, source: Source, asked: tuple[int, int] | None = None
) -> Shape:
    """Return the shape of a tower from one run of its encoder on the meta device.

    The pictures have the size `asked` (height, width), or that of the checkpoint. Raises PluginError if the encoder cannot
    run there, ConfigError if it takes no other size, and VitaError if its features fit no grid.
    """
    factory = import_object(spec.factory, requires=spec.requires, owner=owner)
    size = stated_size(asked, source)
    if asked is not None and factory.input_sizes == "fixed" and asked != stated_size(None, source):
        raise ConfigError(
            f"tower.image_size: tower {spec.name!r} takes no other size than its checkpoint's. "
            "Try: `tower.image_size: null`"
        )
    unknown: Any = Unmeasured(spec, owner, source.config)
    return derived(ResolvedTower(spec, owner, "", settings, source, unknown, unknown, {}), size).shape


def derived(resolved: ResolvedTower, size: tuple[int, int]) -> Derived:
    """Return what a tower's encoder tells for pictures of `size`. Each encoder is measured once in a process."""
    spec, owner, settings, config = resolved.spec, resolved.owner, resolved.settings, resolved.source.config
    factory = import_object(spec.factory, requires=spec.requires, owner=owner)
    key = (factory, json.dumps([config, settings.options], sort_keys=True, default=str), size)
    if key not in _known:
        _known[key] = derive(resolved, size, factory)
    return _known[key]


def derive(resolved: ResolvedTower, size: tuple[int, int], factory: Callable[..., Any]) -> Derived:
    """Return what the encoder of a class of towers tells for pictures of `size`."""
    spec, owner = resolved.spec, resolved.owner
    unknown: Any = Unmeasured(spec, owner, resolved.source.config)
    plain = resolved.settings.model_copy(update={"compile": False})
    tower = factory(replace(resolved, settings=plain, shape=unknown, geometry=unknown), "cpu")
    with torch.device("cpu"):
        encoder = build_checked(tower.resolved, tower.build_encoder)
    try:
        return _measured(tower, encoder, size)
    except VitaError:
        raise
    except Exception as error:
        raise PluginError(
            f"plugin {owner.plugin} of {owner}: the shape of tower {spec.name!r} cannot be measured on the meta device "
            f"for pictures of {size[0]} x {size[1]}: {describe(error).rstrip('.')}. Try: correct the checkpoint's "
            "config.json if a size in it is wrong, or give the TowerSpec a shape function"
        ) from error


def _measured(tower: Any, encoder: nn.Module, size: tuple[int, int]) -> Derived:
    """Run the encoder of a tower on the meta device, once to count and once to see which parameters are used."""
    tower.encoder = encoder = encoder.eval().to("meta")
    blocks = find_blocks(encoder, tower.block_path)
    path = next(name for name, module in encoder.named_modules() if module is blocks)
    pixels, layers = torch.empty(1, 3, *size, device="meta"), range(len(blocks) + 1)
    called: set[nn.Module] = set()
    hooks = [module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in encoder.modules()]
    try:
        (states, grid), _, spent = spent_on(blocks, lambda: tower.encode(pixels, layers))
        reached, last = set(called), states[len(blocks)]
        called.clear()
        if tower.norm_path is not None or type(tower).final_norm is not WholeEncoder.final_norm:
            with torch.no_grad():
                tower.final_norm(last)
        leaves = [module for module in called if not any(True for _ in module.children())]
        norm = nn.ModuleList(module for module in leaves if not isinstance(module, nn.Identity))
    finally:
        for hook in hooks:
            hook.remove()
    needed = reached | set(norm)
    unused: tuple[str, ...] = ()
    with suppress(RuntimeError), torch.inference_mode(False), torch.enable_grad():
        # a module that writes into its parameters cannot record a graph; then nothing is left out
        encoder.requires_grad_(True)
        used = _parameters_of(tower.encode(pixels, [len(blocks)])[0][len(blocks)])
        unused = tuple(_unused(encoder, "", needed, used, blocks))
    remove(encoder, unused)
    grids = {layer: grid for layer, state in states.items() if state.shape[1] == last.shape[1]}
    for layer in states.keys() - grids.keys():  # the stages of a hierarchical encoder
        grids[layer] = tower.encode(pixels, [layer])[1]
    features = [(states[layer], grids[layer]) for layer in layers]
    shape = shape_of(encoder, blocks, features, spent, size, norm=norm if len(norm) else None)
    return Derived(shape, path, tuple(blocks._modules), unused)


def _parameters_of(output: Tensor) -> set[int]:
    """Return the ids of the parameters that a tensor was computed from."""
    found: set[int] = set()
    seen, left = set(), [output.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        left += [before for before, _ in node.next_functions]
    return found


def _unused(module: nn.Module, prefix: str, needed: set[nn.Module], used: set[int], blocks: Blocks) -> Iterator[str]:
    """Yield the paths of the largest modules, and of parameters, that no hidden state is computed from. Blocks are kept."""
    for name, parameter in module.named_parameters(recurse=False):
        if id(parameter) not in used and module not in needed:
            yield prefix + name
    for name, child in module.named_children():
        if child is blocks:
            continue
        inside = set(child.modules())
        own = list(child.parameters())
        if own and not inside & (needed | {blocks}) and not any(id(parameter) in used for parameter in own):
            yield prefix + name
        else:
            yield from _unused(child, f"{prefix}{name}.", needed, used, blocks)


def remove(encoder: nn.Module, paths: tuple[str, ...]) -> None:
    """Remove modules and parameters that are not used from an encoder."""
    for path in paths:
        parent, _, name = path.rpartition(".")
        owner = encoder.get_submodule(parent)
        if name in owner._modules:
            setattr(owner, name, nn.Identity())
        elif name in owner._parameters:
            setattr(owner, name, None)


def build_encoder(tower: Any) -> nn.Module:
    """Return the encoder of a tower without weights, of which only what is needed is left if its spec has no shape."""
    resolved: ResolvedTower = tower.resolved
    encoder = build_checked(resolved, tower.build_encoder)
    if resolved.spec.shape is not None:
        return encoder
    found = derived(resolved, resolved.shape.image_size)
    blocks = encoder.get_submodule(found.path)  # empty if the tower built no block
    for name in [name for name in blocks._modules if name not in found.blocks[: tower.blocks]]:
        del blocks._modules[name]
    if not blocks._modules:
        blocks._modules["0"] = NoBlock()
    remove(encoder, found.unused)
    tower.block_path = found.path
    behind = "|".join(re.escape(name) for name in found.blocks[tower.blocks :])
    skips = [(rf"^{re.escape(path)}(?:\.|$)", "not needed for hidden states") for path in found.unused]
    if behind:
        skips.append((rf"^{re.escape(found.path)}\.(?:{behind})\.", "blocks after the last selected layer"))
    tower.skips = [*tower.skips, *skips]
    return encoder

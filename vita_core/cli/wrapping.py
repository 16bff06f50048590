"""Find out what a plugin for an existing class has to say (``vita new-tower --wrap``), by running the class without weights."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from string import Template
from typing import Any

from vita_core.errors import PluginError, VitaError, nearest, split_advice

__all__ = ["wrapped"]

SIZES = ("image_size", "img_size")
"""The names that libraries give the size of the pictures."""


def wrapped(
    target: str,
    tower: Mapping[str, str],
    template: str,
    stated: Mapping[str, Any],
    *,
    blocks: str | None,
    side: int | None,
) -> dict[str, str]:
    """Return the values that fill in the templates of a plugin for the class `target` (``package:Class``).

    `tower` has the values that the name alone gives, `template` is that of the tower, `stated` are the arguments of the
    class. Raises VitaError if the class cannot be imported, built or run, or if its blocks are not found.
    """
    kind = imported(target)
    example, build = arguments(target, kind, stated, side)
    size = next((example[key] for key in SIZES if key in example), None)
    if size is None:
        raise VitaError(
            f"--wrap: no argument of {target} states the size of the pictures. Try: `--image-size 224`, or another size"
        )
    package, _, name = target.partition(":")
    values = {**tower, "package": package, "class_name": name, "build": build, "norm_line": "", "input_sizes": "fixed"}
    height, width = (size, size) if isinstance(size, int) else (size[0], size[1])
    found, build_encoder = run(target, Template(template), {**values, "blocks": blocks or ""}, example, (height, width))
    values |= {"blocks": found.path, "example": repr({"model_type": tower["name"], **example})}
    norm = norm_after(build_encoder, found.path, (height, width))
    values["norm_line"] = f'\n    norm_path = "{norm}"' if norm else ""
    rows, cols = found.shape.stages[0].grid
    try:  # one more row and two more columns of patches
        other = (height + height // rows, width + 2 * (width // cols))
        more, _ = run(target, Template(template), values, example, other)
        if more.shape.stages[0].grid == (rows + 1, cols + 2):
            values["input_sizes"] = "patches"
    except VitaError:
        pass  # it takes one size
    shape = found.shape
    values["seen"] = (
        f"{shape.layers} blocks at {found.path}, a grid of {rows} x {cols}, {shape.prefix_tokens} prefix tokens"
    )
    return values


def imported(target: str) -> type:
    """Return the class that ``package:Class`` names. Raises VitaError if it is no subclass of ``torch.nn.Module``."""
    from torch import nn

    package, _, name = target.partition(":")
    if not package or not name:
        raise VitaError(f"--wrap: not of the form package:Class: {target!r}. Try: torchvision.models:VisionTransformer")
    try:
        module = importlib.import_module(package)
    except Exception as error:  # whatever the module's own code raises
        raise VitaError(
            f"--wrap: cannot import {package}: {type(error).__name__}: {error}. Try: install the package that brings it, or "
            "run vita where the module is"
        ) from error
    if not hasattr(module, name):
        raise VitaError(
            f"--wrap: {package} has no {name!r}.{nearest(name, dir(module))} Try: the name of a class in it"
        )
    kind = getattr(module, name)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise VitaError(f"--wrap: {target} is not a subclass of torch.nn.Module. Try: the class of the encoder")
    return kind


def arguments(target: str, kind: type, stated: Mapping[str, Any], side: int | None) -> tuple[dict[str, Any], str]:
    """Return the example config of the class, and the line that builds it from a checkpoint's config.

    A class of transformers is built from its config class, another one from its arguments.
    """
    name = kind.__name__
    config_class = getattr(kind, "config_class", None)
    if config_class is not None:
        own = getattr(config_class(**stated), "image_size", None)
        size = {"image_size": side or own} if side or own else {}
        return {**stated, **size}, f"return {name}({name}.config_class.from_dict(self.checkpoint_config))"
    known = inspect.signature(kind).parameters
    named = {key: value for key, value in known.items() if value.kind not in (value.VAR_KEYWORD, value.VAR_POSITIONAL)}
    wrong = [key for key in stated if key not in named] if len(named) == len(known) else []
    if wrong:
        raise VitaError(
            f"--arg: {target} takes no argument {wrong[0]!r}.{nearest(wrong[0], named)} Try: {', '.join(named)}"
        )
    example = dict(stated)
    taken = next((key for key in SIZES if key in named), None)
    if taken is not None and taken not in example and (side or isinstance(named[taken].default, int)):
        example[taken] = side or named[taken].default
    missing = [key for key, value in named.items() if value.default is value.empty and key not in example]
    if missing:
        needed = " ".join(f"--arg {key}=..." for key in missing)
        raise VitaError(
            f"--wrap: {target} needs arguments: {', '.join(missing)}. Try: {needed} for a small encoder, as the config.json "
            "of a checkpoint will state them"
        )
    condition = 'k != "model_type"'
    if taken is None and side is not None:
        example["image_size"], condition = side, 'k not in ("model_type", "image_size")'
    return example, f"return {name}(**{{k: v for k, v in self.checkpoint_config.items() if {condition}}})"


def run(
    target: str, template: Template, values: Mapping[str, str], example: Mapping[str, Any], size: tuple[int, int]
) -> tuple[Any, Callable[[], Any]]:
    """Return what one run of the class on the meta device tells (a `Derived`), and what builds it. Raises VitaError."""
    from vita_core.config.schema import TowerConfig
    from vita_core.planning.towers import ResolvedTower
    from vita_core.plugins.installed import Owner
    from vita_core.plugins.specs import TowerSpec
    from vita_core.towers.deriving import derive
    from vita_core.weights.sources import Source

    module: dict[str, Any] = {}
    exec(template.substitute(values), module)  # noqa: S102  # our template, as it is written to the user's own plugin
    factory = module[values["tower"]]
    factory.block_path = values["blocks"] or None
    spec = TowerSpec(values["name"], target, f"{values['package']}:{values['class_name']}")
    source = Source(target, None, None, None, {"model_type": values["name"], **example}, None)
    unknown: Any = None
    resolved = ResolvedTower(
        spec, Owner(values["name"], target, ""), "", TowerConfig(weights=target), source, unknown, unknown, {}
    )
    try:
        return derive(resolved, size, factory), factory(resolved, "cpu").build_encoder
    except VitaError as error:
        what, _ = split_advice(str(error))
        raise PluginError(
            f"--wrap: {target} does not run by itself: {what}. Try: other arguments (--arg), the list of its blocks "
            f"(--blocks), or `vita new-tower {values['name']}` and an `encode` of your own"
        ) from error


def norm_after(build: Callable[[], Any], path: str, size: tuple[int, int]) -> str | None:
    """Return the path of the norm that gets the last block's tokens as they are, or None if something else gets them."""
    import torch

    from vita_core.loading import without_weights

    with without_weights():
        encoder = build().eval()
    encoder.to("meta")
    blocks = list(encoder.get_submodule(path).children())
    names = {module: name for name, module in encoder.named_modules()}
    last: list[Any] = []
    found: list[str] = []

    def ended(_: Any, args: Any, output: Any) -> None:
        last.append(output[0] if isinstance(output, tuple) else output)

    def starts(module: Any, args: Any) -> None:
        if last and args and args[0] is last[-1] and not any(True for _ in module.children()):
            found.append(names[module] if "norm" in type(module).__name__.lower() else "")

    hooks = [blocks[-1].register_forward_hook(ended)]
    hooks += [module.register_forward_pre_hook(starts) for module in names]
    try:
        with torch.no_grad():
            encoder(torch.empty(1, 3, *size, device="meta"))
    except Exception:  # what comes after the blocks is not needed
        return None
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found and found[0] else None

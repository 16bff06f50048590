"""Contracts of building, loading and saving."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vita_core.errors import VitaError
from vita_core.plugins.registry import registry
from vita_core.protocol import VisionTower
from vita_core.testing.kit import SkippedCheckError, expect, holds
from vita_core.testing.subject import Subject
from vita_core.towers.tower import build_tower

HEAVY = ("torch", "transformers", "timm", "open_clip", "torchvision")


@holds('Import these inside tower.py, which only the spec\'s "module:Class" string names, never in the plugin module.')
def plugin_import_is_light(subject: Subject) -> None:
    """Importing the plugin's module imports no torch, transformers, timm, open_clip or torchvision."""
    resolved = subject.resolved()
    module = next((p.module for p in registry().plugins if p.owner == resolved.owner), None)
    if module is None:
        raise SkippedCheckError(f"registered by {resolved.owner}: there is no plugin module")
    code = (
        f"import importlib, sys; importlib.import_module({module.partition(':')[0]!r}); "
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    expect(done.returncode == 0, f"import {module} failed: {done.stderr.strip().rpartition(chr(10))[2]}")
    expect(not done.stdout.strip(), f"import {module} imported {', '.join(done.stdout.split())}")


@holds(
    "Keep build_encoder() and load_model() out of __init__: it may only read self.resolved; load_model() builds and fills."
)
def init_touches_no_weights(subject: Subject) -> None:
    """With `delay_load: true` building a tower reads no weight and makes no parameter, and forward says to load it."""
    # for random weights this directory holds a config.json and no weights at all
    tower = build_tower(subject.configured(delay_load=True))
    expect(not tower.is_loaded, "is_loaded is True before load_model()")
    made = [name for name, parameter in tower.named_parameters() if not parameter.is_meta]
    expect(not made, f"{len(made)} parameters exist before load_model() ({', '.join(made[:3])})")
    try:
        tower(subject.pixels())
    except VitaError as error:
        expect(
            "load_model" in str(error), f"forward of the unloaded tower raised {error!s}, without naming load_model()"
        )
    else:
        expect(False, "forward of the unloaded tower raised nothing")


@holds(
    "Leave load_model() to BaseVisionTower. The encoder's own keys must pass through `renames`, `splits` and `skips` "
    "unchanged: anchor the expressions (^visual\\.)."
)
def loads(subject: Subject) -> None:
    """load_model() builds the encoder and fills it, also from the encoder's own keys; a second call does nothing."""
    tower = subject.build(delay_load=True)
    tower.load_model()
    encoder = tower.vision_tower
    expect(tower.is_loaded, "is_loaded is False after load_model()")
    expect(isinstance(encoder, nn.Module), f"vision_tower is {encoder!r} after load_model(), not the encoder")
    tower.load_model()
    expect(tower.vision_tower is encoder, "a second load_model() built another encoder")


@holds("Subclass BaseVisionTower and write only build_encoder, encode and final_norm; it offers all the rest.")
def protocol(subject: Subject) -> None:
    """A tower offers every member of `vita_core.VisionTower`, each of its type."""
    tower = subject.tower
    missing = [name for name in vars(VisionTower) if not name.startswith("_") and not hasattr(tower, name)]
    expect(not missing, f"it has no {', '.join(missing)}")
    kinds: dict[str, type] = {"hidden_size": int, "num_patches": int, "num_tokens": int, "grid": tuple}
    kinds |= {"dtype": torch.dtype, "device": torch.device, "is_loaded": bool, "dummy_feature": Tensor}
    for name, kind in kinds.items():
        value = getattr(tower, name)
        expect(isinstance(value, kind), f"{name} is {value!r}, not a {kind.__name__}")
    sides = tower.grid
    expect(len(sides) == 2 and all(isinstance(side, int) for side in sides), f"grid is {sides!r}, not (rows, cols)")
    expect(callable(getattr(tower.image_processor, "preprocess", None)), "image_processor has no preprocess()")
    dummy = tower.dummy_feature
    expect(dummy.shape == (1, tower.hidden_size), f"dummy_feature is {tuple(dummy.shape)}, not (1, hidden_size)")


def _metadata(tower: VisionTower) -> dict[str, Any]:
    names = ("hidden_size", "num_tokens", "num_patches", "grid", "dtype", "device", "config")
    return {name: getattr(tower, name) for name in names} | {"image_processor": tower.image_processor.to_dict()}


@holds("Take sizes from the Shape of the spec (the checkpoint's config), not from the loaded encoder.")
def metadata_is_right_before_loading(subject: Subject) -> None:
    """Sizes, dtype, device, config and image processor are the same before load_model() as after it."""
    tower = subject.build(delay_load=True)
    before = _metadata(tower)
    tower.load_model()
    for name, value in _metadata(tower).items():
        expect(value == before[name], f"{name} was {before[name]!r} before loading and is {value!r} after")


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


@holds(
    "Make no tensors outside build_encoder() (which runs on the CPU), and none that are no parameter or buffer of a module."
)
def built_on_meta_then_loaded(subject: Subject) -> None:
    """A tower built under `torch.device("meta")` and then loaded has no meta tensor, and the same features."""
    expected = subject.features
    with torch.device("meta"):
        tower = subject.build(delay_load=True)
    tower.load_model()
    left = [name for name, tensor in _tensors(tower) if tensor.is_meta]
    expect(not left, f"{len(left)} tensors are still on meta ({', '.join(left[:3])})")
    expect(torch.equal(tower(subject.pixels()), expected), "its features differ from those of a tower built on the CPU")


@holds("Leave loading to BaseVisionTower: it is strict. A `skips` expression may match only tensors that have no use.")
def loading_is_strict(subject: Subject) -> None:
    """A checkpoint that lacks a tensor of the encoder, or holds one too many, is refused with its name."""
    state = subject.encoder.state_dict()
    key = next(name for name, _ in subject.encoder.named_parameters())
    short = {name: tensor for name, tensor in state.items() if name != key}
    changed = {f"without {key}": (key, short), "with a tensor `stray`": ("stray", {**state, "stray": torch.zeros(1)})}
    for what, (named, tensors) in changed.items():
        try:
            subject.reloaded(tensors)
        except VitaError as error:
            expect(named in str(error), f"a checkpoint {what} was refused without naming it: {error}")
        else:
            expect(False, f"a checkpoint {what} was loaded silently")


@holds(
    "The encoder's own keys must pass through `renames`, `splits` and `skips` unchanged, and everything that forward "
    "uses must be in the encoder's state dict or follow from the config."
)
def saved_and_reloaded(subject: Subject) -> None:
    """The encoder's state dict, saved and loaded into a second tower, gives bit-equal features."""
    expected = subject.features
    off = (subject.reloaded()(subject.pixels()) - expected).abs().max().item()
    expect(off == 0, f"features of the second tower differ by up to {off:.3g}")


@holds("Keep in the config and the processor what pickle can carry: plain data, and classes found by their module.")
def sent_to_another_process(subject: Subject) -> None:
    """The resolved config, the checkpoint's config and the image processor survive pickling (data loaders, Ray)."""
    tower = subject.tower
    for name, value in {"settings": tower.settings, "config": tower.config}.items():
        expect(pickle.loads(pickle.dumps(value)) == value, f"{name} is another after pickling")
    processor = pickle.loads(pickle.dumps(tower.image_processor))
    expect(processor.to_dict() == tower.image_processor.to_dict(), "image_processor is another after pickling")

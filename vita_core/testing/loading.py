"""The contracts of building, loading and saving."""

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
from vita_core.plugins import builtin
from vita_core.plugins.installed import Owner
from vita_core.plugins.registry import CORE, registry
from vita_core.protocol import VisionTower
from vita_core.testing.kit import holds
from vita_core.testing.outcomes import SkippedCheckError, expect
from vita_core.testing.subject import Subject
from vita_core.towers.reducing import freeze_reductions
from vita_core.towers.tower import build_tower

HEAVY = ("torch", "transformers", "timm", "open_clip", "torchvision")


def expect_light(owner: Owner, kind: str, *more: str) -> None:
    """Expect that a process that imports the plugin module of `owner`, and the modules `more`, imports no heavy library."""
    module = {CORE: builtin.__name__, **{plugin.owner: plugin.module for plugin in registry().plugins}}.get(owner)
    if module is None:
        raise SkippedCheckError(f"the {kind} was registered by {owner}, not by a plugin module")
    names = [name.partition(":")[0] for name in (module, *more)]
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {names!r}]; "
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code]  # the names of modules that this process has imported
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603  # see above
    told = f"import {', '.join(names)}"
    expect(done.returncode == 0, f"{told} failed: {done.stderr.strip().rpartition(chr(10))[2]}")
    expect(not done.stdout.strip(), f"{told} imported {', '.join(done.stdout.split())}")


@holds('Import these libraries in tower.py, which the spec names as "module:Class", and not in the plugin module.')
def plugin_import_is_light(subject: Subject) -> None:
    """Importing the plugin module does not import torch, transformers, timm, open_clip or torchvision."""
    expect_light(subject.resolved().owner, "tower")


@holds("Call neither build_encoder() nor load_model() in __init__, and read nothing but self.resolved there.")
def init_touches_no_weights(subject: Subject) -> None:
    """With `delay_load: true`, building a tower reads and creates no weights, and calling it says to call load_model()."""
    # for a tower with random weights, the configured directory holds a config.json and no weights
    bare = subject.origin is None
    tower = build_tower(subject.configured(delay_load=True)) if bare else subject.build(delay_load=True)
    expect(not tower.is_loaded, "is_loaded is True before load_model()")
    made = [name for name, parameter in tower.named_parameters() if not parameter.is_meta]
    expect(not made, f"{len(made)} parameters exist before load_model() ({', '.join(made[:3])})")
    try:
        tower(subject.pixels())
    except VitaError as error:
        expect(
            "load_model" in str(error), f"the error of a tower that is not loaded does not name load_model(): {error}"
        )
    else:
        expect(False, "calling a tower that is not loaded raised no error")


@holds(
    "Use load_model() of BaseVisionTower, and anchor the expressions of `renames`, `splits` and `skips` (^visual\\.), so "
    "that they leave the encoder's own keys unchanged."
)
def loads(subject: Subject) -> None:
    """load_model() builds and loads the encoder, also from the encoder's own keys, and a second call does nothing."""
    tower = subject.build(delay_load=True)
    tower.load_model()
    encoder = tower.vision_tower
    expect(tower.is_loaded, "is_loaded is False after load_model()")
    expect(isinstance(encoder, nn.Module), f"vision_tower is {encoder!r} after load_model(), not the encoder")
    tower.load_model()
    expect(tower.vision_tower is encoder, "a second load_model() built another encoder")


@holds("Subclass BaseVisionTower, which has every member, and define only build_encoder, encode and final_norm.")
def protocol(subject: Subject) -> None:
    """A tower has every member of `vita_core.VisionTower`, each with the right type."""
    tower = subject.tower
    missing = [name for name in vars(VisionTower) if not name.startswith("_") and not hasattr(tower, name)]
    expect(not missing, f"the tower has no {', '.join(missing)}")
    kinds: dict[str, type] = {"hidden_size": int, "num_patches": int, "num_tokens": int}
    kinds |= {"dtype": torch.dtype, "device": torch.device, "is_loaded": bool, "dummy_feature": Tensor}
    for name, kind in kinds.items():
        value = getattr(tower, name)
        expect(isinstance(value, kind), f"{name} is {value!r}, not a {kind.__name__}")
    sides = tower.grid
    named = "(rows, cols)" if subject.resolved().shape.frames is None else "(steps, rows, cols)"
    whole = isinstance(sides, tuple) and len(sides) == len(named.split(",")) and all(isinstance(s, int) for s in sides)
    gone = sides is None and subject.resolved().geometry.grid is None
    expect(whole or gone, f"grid is {sides!r}, not {named}")
    expect(callable(getattr(tower.image_processor, "preprocess", None)), "image_processor has no preprocess()")
    dummy = tower.dummy_feature
    expect(dummy.shape == (1, tower.hidden_size), f"dummy_feature is {tuple(dummy.shape)}, not (1, hidden_size)")


def _metadata(tower: VisionTower) -> dict[str, Any]:
    names = ("hidden_size", "num_tokens", "num_patches", "grid", "dtype", "device", "config")
    return {name: getattr(tower, name) for name in names} | {"image_processor": tower.image_processor.to_dict()}


@holds("Take sizes from the spec's Shape, which is made from the checkpoint's config, not from the loaded encoder.")
def metadata_is_right_before_loading(subject: Subject) -> None:
    """Sizes, dtype, device, config and image processor are the same before and after load_model()."""
    tower = subject.build(delay_load=True)
    before = _metadata(tower)
    tower.load_model()
    for name, value in _metadata(tower).items():
        expect(value == before[name], f"{name} was {before[name]!r} before loading and is {value!r} after")


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


@holds("Create tensors only in build_encoder(), which runs on the CPU, and only as parameters or buffers of a module.")
def built_on_meta_then_loaded(subject: Subject) -> None:
    """A tower that is built under `torch.device("meta")` and then loaded has no meta tensors, and the same features."""
    expected = subject.features
    with torch.device("meta"):
        tower = subject.build(delay_load=True)
    tower.load_model()
    left = [name for name, tensor in _tensors(tower) if tensor.is_meta]
    expect(not left, f"{len(left)} tensors are still on meta ({', '.join(left[:3])})")
    freeze_reductions(tower)  # torch computes some products in another way where a weight requires a gradient
    expect(
        torch.equal(tower.eval()(subject.pixels()), expected),
        "the features differ from those of a tower built on the CPU",
    )


@holds("Use load_model() of BaseVisionTower, which is strict, and let `skips` match only tensors that are not needed.")
def loading_is_strict(subject: Subject) -> None:
    """A checkpoint with a missing or an unexpected tensor is refused, with an error that names the tensor."""
    subject.one_encoder()
    state = subject.encoder.state_dict()
    key = next(name for name, _ in subject.encoder.named_parameters())
    short = {name: tensor for name, tensor in state.items() if name != key}
    changed = {f"without {key}": (key, short), "with a tensor `stray`": ("stray", {**state, "stray": torch.zeros(1)})}
    for what, (named, tensors) in changed.items():
        try:
            subject.reloaded(tensors)
        except VitaError as error:
            expect(named in str(error), f"the error for a checkpoint {what} does not name it: {error}")
        else:
            expect(False, f"a checkpoint {what} was loaded silently")


@holds(
    "Leave the encoder's own keys unchanged in `renames`, `splits` and `skips`, and let forward use only what is in the "
    "encoder's state dict or follows from the config."
)
def saved_and_reloaded(subject: Subject) -> None:
    """A second tower that loads the saved state dict of the encoder gives the same features, up to float32 rounding."""
    subject.one_encoder()
    expected = subject.features  # some kernels round differently where a file puts a tensor at another alignment
    off = (subject.reloaded()(subject.pixels()) - expected).abs().max().item()
    expect(off <= 1e-5 * expected.abs().max().item(), f"features of the second tower differ by up to {off:.3g}")


@holds("Keep only plain data, and classes that pickle can import, in the config and the image processor.")
def sent_to_another_process(subject: Subject) -> None:
    """The tower's config, the checkpoint's config and the image processor can be pickled (for data loaders and Ray)."""
    tower = subject.tower
    for name, value in {"settings": tower.settings, "config": tower.config}.items():
        expect(_pickled(value) == value, f"{name} differs after pickling")
    processor = _pickled(tower.image_processor)
    expect(processor.to_dict() == tower.image_processor.to_dict(), "image_processor differs after pickling")


def _pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301  # the bytes were just made here

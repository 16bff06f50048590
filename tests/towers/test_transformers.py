"""Tower `transformers` against the library's own hidden states, on small models that the library saved."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import close
from families import (
    CLASSIFIERS,
    CONFIGS,
    MODELS,
    ROWS,
    TWO_TOWERS,
    classifier,
    library_states,
    patches_of,
    saved,
    settings,
    small,
    whole,
)
from safetensors.torch import load_file, save_file

from vita_core import VitaError, build_tower
from vita_core.towers import tower as tower_module
from vita_plugins.transformers.families import FAMILIES


def replace(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Write other weights. Older versions of safetensors would write into the file that a tower has mapped."""
    file = folder / "model.safetensors"
    file.unlink()
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, file)


NAMED = (
    "aimv2_vision_model", "altclip_vision_model", "beit", "blip_vision_model", "chinese_clip_vision_model",
    "clip_vision_model", "convnext", "convnextv2", "data2vec-vision", "deit", "dinov2", "dinov2_with_registers",
    "dinov3_convnext", "dinov3_vit", "efficientnet", "hiera", "ijepa", "internvl_vision", "metaclip_2_vision_model",
    "mlcd_vision_model", "resnet", "sam_vision_model", "siglip_vision_model", "swin", "swinv2", "vit", "vit_mae", "vit_msn",
)  # fmt: skip
"""The models that every run tests."""
OTHERS = [pytest.param(name, marks=pytest.mark.extras) for name in MODELS if name not in NAMED]
EVERY = [*NAMED, *OTHERS]


def test_every_family_has_a_test() -> None:
    assert set(NAMED) | (set(FAMILIES) & set(CONFIGS)) <= set(ROWS)


@pytest.mark.parametrize("model_type", EVERY)
def test_a_vision_model(tmp_path: Path, model_type: str) -> None:
    model = whole(model_type, tmp_path)
    tower = build_tower(settings(tmp_path, model_type, layers="all"))
    shape, count = tower.shape, tower.shape.layers
    assert (tower.settings.select_layer, tower.settings.norm, tower.settings.select_feature) == (-1, False, "patch")
    pixels = torch.randn(2, 3, *shape.image_size)
    states = library_states(model, pixels, count)
    assert len(states) == count + 1
    last = MODELS[model_type].get("channels_last", False)

    def expected(layer: int) -> torch.Tensor:
        patches = patches_of(states[layer], 0, channels_last=last)  # PVT has a prefix token in its last stage alone
        prefix = shape.prefix_tokens or patches.shape[1] - math.prod(shape.stages[layer].grid) - shape.suffix_tokens
        return patches[:, prefix : prefix + math.prod(shape.stages[layer].grid)]

    close(tower(pixels), expected(count))
    for layer in (shape.first_layer, count - 1):
        part = build_tower(settings(tmp_path, model_type, select_layer=layer))
        if states[layer] is not None:
            close(part(pixels), expected(layer))
        assert part.resolved.parameters == sum(parameter.numel() for parameter in part.parameters())
        assert part.grid == shape.stages[layer].grid
    # in the order they run, so that `freeze: {from_layer: k}` can count them
    ordered = dict(tower.in_run_order(tower.encoder))
    assert ordered.keys() == dict(tower.encoder.named_parameters()).keys()
    steps = [tower.trace.steps[name.rpartition(".")[0]] for name in ordered]
    assert steps == sorted(steps)
    counts = [0] * (count + 2)
    for step, parameter in zip(steps, ordered.values(), strict=True):
        counts[step] += parameter.numel()
    assert counts == [*(stage.parameters for stage in shape.stages), shape.norm_parameters or 0]


PATCHED = [name for name in NAMED if isinstance(MODELS[name]["config"].get("patch_size"), int) or name == "hiera"]


@pytest.mark.parametrize("model_type", PATCHED)
def test_the_patches_are_in_rows_after_the_prefix_tokens(tmp_path: Path, model_type: str) -> None:
    """A patch of the picture changes the embedding of its own token alone."""
    whole(model_type, tmp_path)
    tower = build_tower(settings(tmp_path, select_layer=0))
    (rows, cols), (height, width) = tower.grid, tower.shape.image_size
    pixels = torch.rand(1, 3, height, width).repeat(2, 1, 1, 1)
    row, col, down, right = 1, cols - 1, height // rows, width // cols
    pixels[1, :, row * down : (row + 1) * down, col * right : (col + 1) * right] += 1
    plain, changed = tower(pixels)
    found = (plain != changed).any(dim=-1).nonzero().flatten().tolist()
    assert row * cols + col in found
    if model_type != "hiera":  # whose patches overlap
        assert len(found) == 1


@pytest.mark.parametrize("model_type", EVERY)
def test_the_keys_of_the_model_itself(tmp_path: Path, model_type: str) -> None:
    """A saved tower has the encoder's own keys, which the library renames when it saves."""
    model = whole(model_type, tmp_path)
    expected = build_tower(settings(tmp_path, model_type)).state_dict()
    replace(tmp_path, model.state_dict())
    found = build_tower(settings(tmp_path, model_type)).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


@pytest.mark.parametrize("model_type", TWO_TOWERS)
def test_the_vision_part(tmp_path: Path, model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIGS[model_type](**TWO_TOWERS[model_type])
    model = saved(transformers.AutoModel.from_config(config), tmp_path)
    read = []

    def watched(files: Sequence[Path]) -> Iterator[Any]:
        for key, tensor in read_tensors(files):
            yield key, lambda key=key, tensor=tensor: (read.append(key), tensor())[1]

    read_tensors = tower_module.read_tensors
    monkeypatch.setattr(tower_module, "read_tensors", watched)
    tower = build_tower(settings(tmp_path))
    pixels = torch.randn(2, 3, 56, 56)
    close(tower(pixels), patches_of(library_states(model.vision_model, pixels, 3)[-1], tower.shape.prefix_tokens))
    stored = load_file(tmp_path / "model.safetensors").keys()
    vision = {key for key in stored if key.startswith("vision_model.") and not key.startswith("vision_model.head.")}
    assert set(read) == vision
    assert set(tower.load_report.skipped["other parts of the model"]) == {
        key for key in stored if not key.startswith("vision_model.")
    }
    replace(tmp_path, tower.encoder.state_dict())  # as a saved tower has them
    close(build_tower(settings(tmp_path))(pixels), tower(pixels))


@pytest.mark.parametrize("model_type", ["chinese_clip_vision_model", "metaclip_2", "mlcd_vision_model"])
def test_the_keys_of_transformers_4(tmp_path: Path, model_type: str) -> None:
    """They have one more level, and tables that are computed today."""
    if model_type in TWO_TOWERS:
        saved(transformers.AutoModel.from_config(CONFIGS[model_type](**TWO_TOWERS[model_type])), tmp_path)
    else:
        whole(model_type, tmp_path)
    expected = build_tower(settings(tmp_path)).state_dict()
    state = load_file(tmp_path / "model.safetensors")
    beside = ("vision_model.", "text_model.", "text_projection.", "visual_projection.", "logit_scale")
    state = {key if key.startswith(beside) else f"vision_model.{key}": tensor for key, tensor in state.items()}
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    replace(tmp_path, state)
    tower = build_tower(settings(tmp_path))
    assert tower.load_report.skipped["tables that are computed"] == ["vision_model.embeddings.position_ids"]
    found = tower.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


@pytest.mark.parametrize("model_type", EVERY)
def test_another_size_is_interpolated_by_the_library(tmp_path: Path, model_type: str) -> None:
    model = whole(model_type, tmp_path)
    tower = build_tower(settings(tmp_path, model_type))
    (height, width), rows, count = tower.shape.image_size, tower.shape.stages[0].grid[0], tower.shape.layers
    taller = torch.randn(1, 3, height + 2 * height // rows, width)
    if tower.input_sizes == "fixed":
        with pytest.raises(VitaError, match=rf"takes pictures of {height} x {width} pixels, not "):
            tower(taller)
        return
    if tower.input_sizes == "any":
        taller = torch.randn(1, 3, height + height // 2, width)
    state, found = library_states(model, taller, count)[-1], tower(taller)
    patches = patches_of(state, 0, channels_last=MODELS[model_type].get("channels_last", False))
    close(found, patches[:, patches.shape[1] - found.shape[1] :])


HEADS = {"vit_mae": transformers.ViTMAEForPreTraining, "beit": transformers.BeitForMaskedImageModeling}
HEADED = [name for name in MODELS if name in HEADS or type(small(name)) in CLASSIFIERS]


@pytest.mark.parametrize(
    "model_type", [case for case in EVERY if (getattr(case, "values", None) or (case,))[0] in HEADED]
)
def test_a_model_with_a_head(tmp_path: Path, model_type: str) -> None:
    config = small(model_type)
    if model_type == "beit":
        config.use_mean_pooling = True  # as published; else its head has a norm of the same name
    model = saved(HEADS[model_type](config), tmp_path) if model_type in HEADS else classifier(model_type, tmp_path)
    tower = build_tower(settings(tmp_path, model_type))
    pixels = torch.randn(1, 3, *tower.shape.image_size)
    base = getattr(
        model, model.base_model_prefix, model
    )  # some classifiers have the parts of the base model themselves
    state, found = library_states(base, pixels, tower.shape.layers)[-1], tower(pixels)
    patches = patches_of(state, 0, channels_last=MODELS[model_type].get("channels_last", False))
    close(found, patches[:, patches.shape[1] - found.shape[1] :])
    assert tower.load_report.skipped.keys() & {"other parts of the model", "head"}


def test_an_unknown_model_type_does_not_import_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    from vita_plugins.transformers import mentions, recognises

    assert all(mentions(name) for name in CONFIG_MAPPING_NAMES)
    monkeypatch.setitem(sys.modules, "transformers.models.auto.configuration_auto", None)
    assert not recognises({"model_type": "no_such_model"})
    with pytest.raises(ImportError):
        recognises({"model_type": "dinov2"})

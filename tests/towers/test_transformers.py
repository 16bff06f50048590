"""Tower `transformers` against the library's own hidden states, on small models that the library saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import close
from families import CONFIGS, TWO_TOWERS, VIDEOS, WHOLE, library_states, patches_of, saved, settings, whole
from safetensors.torch import load_file, save_file

from vita_core import build_tower
from vita_core.towers import tower as tower_module
from vita_plugins.transformers.families import FAMILIES
from vita_plugins.transformers.families import TWO_TOWERS as PARENTS


def replace(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Write other weights. Older versions of safetensors would write into the file that a tower has mapped."""
    file = folder / "model.safetensors"
    file.unlink()
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, file)


def test_every_family_has_a_test() -> None:
    assert set(WHOLE) | set(VIDEOS) == set(FAMILIES)
    assert set(TWO_TOWERS) == set(PARENTS)


@pytest.mark.parametrize("model_type", WHOLE)
def test_a_vision_model(tmp_path: Path, model_type: str) -> None:
    model = whole(model_type, tmp_path)
    tower = build_tower(settings(tmp_path, model_type, layers="all"))
    shape, count = tower.shape, tower.shape.layers
    assert (tower.settings.select_layer, tower.settings.norm, tower.settings.select_feature) == (-1, False, "patch")
    pixels = torch.randn(2, 3, *shape.image_size)
    states = library_states(model, pixels)
    close(tower(pixels), patches_of(states[-1], shape.prefix_tokens))
    for layer in (shape.first_layer, count - 1):
        part = build_tower(settings(tmp_path, model_type, select_layer=layer))
        close(part(pixels), patches_of(states[layer], shape.prefix_tokens))
        assert part.resolved.parameters == sum(parameter.numel() for parameter in part.parameters())
        assert part.grid == shape.stages[layer].grid
    # in the order they run, so that `freeze: {from_layer: k}` can count them
    family, names = tower.family, [name for name, _ in tower.encoder.named_parameters()]
    order = [
        1 if name.startswith(f"{family.blocks}.") else 2 if name.startswith(f"{family.norm}.") else 0 for name in names
    ]
    assert order == sorted(order)


@pytest.mark.parametrize("model_type", [name for name in WHOLE if WHOLE[name].get("patch_size")])
def test_the_patches_are_in_rows_after_the_prefix_tokens(tmp_path: Path, model_type: str) -> None:
    """A patch of the picture changes the embedding of its own token alone."""
    whole(model_type, tmp_path)
    tower = build_tower(settings(tmp_path, select_layer=0))
    pixels = torch.rand(1, 3, 56, 56).repeat(2, 1, 1, 1)
    pixels[1, :, 14:28, 42:56] += 1  # row 1, column 3
    plain, changed = tower(pixels)
    assert (plain != changed).any(dim=-1).nonzero().flatten().tolist() == [1 * 4 + 3]


@pytest.mark.parametrize("model_type", WHOLE)
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
    close(tower(pixels), patches_of(library_states(model.vision_model, pixels)[-1], tower.shape.prefix_tokens))
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


TAKES_OTHERS = [name for name in WHOLE if FAMILIES[name].sizes != "fixed"]


@pytest.mark.parametrize("model_type", TAKES_OTHERS)
def test_another_size_is_interpolated_by_the_library(tmp_path: Path, model_type: str) -> None:
    model = whole(model_type, tmp_path)
    tower = build_tower(settings(tmp_path, model_type))
    step = tower.shape.image_size[0] // 4
    pixels = torch.randn(1, 3, 6 * step, 6 * step)
    close(tower(pixels), patches_of(library_states(model, pixels)[-1], tower.shape.prefix_tokens))


HEADS = {
    "vit": transformers.ViTForImageClassification,
    "vit_mae": transformers.ViTMAEForPreTraining,
    "beit": transformers.BeitForMaskedImageModeling,
    "deit": transformers.DeiTForImageClassificationWithTeacher,
    "dinov2": transformers.Dinov2ForImageClassification,
    "resnet": transformers.ResNetForImageClassification,
}


@pytest.mark.parametrize("model_type", HEADS)
def test_a_model_with_a_head(tmp_path: Path, model_type: str) -> None:
    config = CONFIGS[model_type](**WHOLE[model_type])
    if model_type == "beit":
        config.use_mean_pooling = True  # as published; else its head has a norm of the same name
    model = saved(HEADS[model_type](config), tmp_path)
    tower = build_tower(settings(tmp_path, model_type))
    pixels = torch.randn(1, 3, *tower.shape.image_size)
    base = getattr(model, model.base_model_prefix)
    close(tower(pixels), patches_of(library_states(base, pixels)[-1], tower.shape.prefix_tokens))
    assert tower.load_report.skipped["other parts of the model"]

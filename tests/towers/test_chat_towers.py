"""The vision parts of multimodal models against the library's own hidden states."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_models import MODELS, chat_model
from conftest import close
from families import library_states, patches_of, settings
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file

from vita_core import VitaError, build_tower, make_plan
from vita_core.towers import tower as tower_module


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each tensor that is read."""
    sizes: list[int] = []

    def watched(files: Sequence[Path]) -> Iterator[Any]:
        for key, tensor in read_tensors(files):
            yield key, lambda tensor=tensor: (sizes.append((found := tensor()).nbytes), found)[1]

    read_tensors = tower_module.read_tensors
    monkeypatch.setattr(tower_module, "read_tensors", watched)
    return sizes


@pytest.mark.parametrize("model_type", MODELS)
def test_the_vision_part_of_a_multimodal_model(tmp_path: Path, model_type: str, read: list[int]) -> None:
    _, vision = chat_model(model_type, tmp_path)
    tower = build_tower(settings(tmp_path, layers="all"))
    pixels = torch.randn(2, 3, *tower.shape.image_size)
    states = library_states(vision, pixels)
    close(tower(pixels), patches_of(states[-1], tower.shape.prefix_tokens))
    wanted = sum(tensor.nbytes for tensor in tower.encoder.state_dict().values())
    assert sum(read) == wanted  # and nothing of the language model
    assert tower.load_report.skipped["other parts of the model"]
    first = build_tower(settings(tmp_path, select_layer=1))
    close(first(pixels), patches_of(states[1], tower.shape.prefix_tokens))


OLDER = {
    "llava": {"model.vision_tower.": "vision_tower.vision_model."},
    "llava_onevision": {"model.vision_tower.": "model.vision_tower.vision_model."},
    "internvl": {"model.vision_tower.": "vision_tower."},
    "deepseek_vl": {"model.vision_model.": "vision_model.vision_model."},
}


@pytest.mark.parametrize("model_type", OLDER)
def test_the_keys_of_older_versions(tmp_path: Path, model_type: str) -> None:
    model, _ = chat_model(model_type, tmp_path)
    expected = build_tower(settings(tmp_path)).state_dict()
    ((now, before),) = OLDER[model_type].items()
    state = {key.replace(now, before): tensor.clone() for key, tensor in model.state_dict().items()}
    assert any(key.startswith(before) for key in state)
    (tmp_path / "model.safetensors").unlink()
    save_file(state, tmp_path / "model.safetensors")
    found = build_tower(settings(tmp_path)).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


def sharded(folder: Path) -> tuple[set[str], set[str]]:
    """Split the weights of a folder into shards. Return the shards with vision tensors, and the others."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    split = split_torch_state_dict_into_shards(state, max_shard_size="8KB")
    for name, keys in split.filename_to_tensors.items():
        save_file({key: state[key].clone() for key in keys}, folder / name)
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    vision = {name for key, name in split.tensor_to_filename.items() if "vision_tower" in key}
    return vision, set(split.filename_to_tensors) - vision


def test_only_the_shards_of_the_vision_part_are_needed(tmp_path: Path) -> None:
    chat_model("llava", tmp_path)
    expected = build_tower(settings(tmp_path)).state_dict()
    vision, others = sharded(tmp_path)
    assert others
    for name in others:
        (tmp_path / name).unlink()
    found = build_tower(settings(tmp_path)).state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    missing = min(vision)
    (tmp_path / missing).unlink()
    with pytest.raises(VitaError, match=rf"1 of {len(vision)} shards are missing: {missing}\. Try: copy them to"):
        build_tower(settings(tmp_path))
    assert make_plan({"tower": settings(tmp_path)}).grid == (4, 4)  # which reads no weights

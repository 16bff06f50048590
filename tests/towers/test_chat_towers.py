"""The vision parts of multimodal models against the library's own hidden states."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from chat_models import CLS, MODELS, WRITTEN, block_states, chat_model
from conftest import GOLDEN, close, vita
from families import VISION, library_states, patches_of, settings
from huggingface_hub import split_torch_state_dict_into_shards
from PIL import Image
from safetensors.torch import load_file, save_file

from vita_core import VitaError, build_tower, make_plan
from vita_core.planning.resolution import resolve
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
    tower = build_tower(settings(tmp_path, layers="all", select_layer=-1, select_feature="patch"))
    pixels = torch.randn(2, 3, *tower.shape.image_size)
    shape = tower.shape
    if model_type in WRITTEN:
        states = block_states(model_type, vision, pixels)
        assert (shape.prefix_tokens, shape.suffix_tokens) == (int(model_type in CLS), int(model_type == "llama4"))
    else:
        states = [patches_of(state, shape.prefix_tokens) for state in library_states(vision, pixels)]
    close(tower(pixels), states[-1])
    wanted = sum(tensor.nbytes for tensor in tower.encoder.state_dict().values())
    assert sum(read) == wanted  # and nothing of the language model
    assert tower.load_report.skipped["other parts of the model"]
    first = build_tower(settings(tmp_path, select_layer=1, select_feature="patch"))
    close(first(pixels), states[1])


def test_a_tensor_that_nothing_explains_is_an_error(tmp_path: Path) -> None:
    """A saved tower has the encoder's own keys, beside the config of the whole model."""
    chat_model("llama4", tmp_path)
    state = build_tower(settings(tmp_path, layers="all")).encoder.state_dict()
    (tmp_path / "model.safetensors").unlink()
    save_file(
        {**{key: tensor.clone() for key, tensor in state.items()}, "stray": torch.ones(1)},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(VitaError, match=r"1 unexpected \(stray\)"):
        build_tower(settings(tmp_path))


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
    expected = build_tower(settings(tmp_path, select_layer=-1)).state_dict()
    vision, others = sharded(tmp_path)
    assert others
    for name in others:
        (tmp_path / name).unlink()
    found = build_tower(settings(tmp_path, select_layer=-1)).state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    missing = min(vision)
    (tmp_path / missing).unlink()
    with pytest.raises(VitaError, match=rf"1 of {len(vision)} shards are missing: {missing}\. Try: copy them to"):
        build_tower(settings(tmp_path, select_layer=-1))
    assert make_plan({"tower": settings(tmp_path)}).grid == (4, 4)  # which reads no weights


def origins(place: object, *overrides: str) -> dict[str, tuple[object, str]]:
    plan = make_plan(resolve(place, overrides, offline=True))
    return {setting.key: (setting.value, setting.origin) for setting in plan.settings}


def test_the_defaults_are_the_checkpoints_own(tmp_path: Path) -> None:
    """And the plan says where each value comes from."""
    _, vision = chat_model("llava", tmp_path / "llava")
    place = tmp_path / "tower.yaml"
    place.write_text("tower:\n  type: transformers\n  weights: ./llava\n")
    found = origins(place)
    values = "mean [0.481, 0.458, 0.408], std [0.269, 0.261, 0.276]"
    assert found.pop("preprocessing") == (
        f"LlavaImageProcessor, {values}",
        "tower 'transformers': no preprocessor_config.json",
    )
    assert found == {
        "select_layer": (-2, "checkpoint: vision_feature_layer"),
        "select_feature": ("patch", "checkpoint: vision_feature_select_strategy"),
        "norm": (False, "tower 'transformers'"),
        "image_size": (56, "checkpoint: config.json"),
        "dtype": ("float32", "general default"),
    }
    transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28).save_pretrained(tmp_path / "llava")
    place.write_text("tower:\n  type: transformers\n  weights: ./llava\n  norm: true\n  pool: 1\n")
    found = origins(place, "tower.select_layer=1")
    assert found["image_size"] == (28, "preprocessor_config.json: crop_size")
    assert found["preprocessing"] == (f"CLIPImageProcessor, {values}", "preprocessor_config.json")
    assert found["norm"] == (True, f"set in {place}")
    assert found["pool"] == (1, f"set in {place}")
    assert found["select_layer"] == (1, "set by --set")
    tower = build_tower(settings(tmp_path / "llava"))
    pixels = torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        states = vision(pixels, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
    close(tower(pixels), states[-2][:, 1:])


def test_several_layers_and_all_tokens(tmp_path: Path) -> None:
    """As the language model gets them: transformers' own features before the projector."""
    for model_type, kind in (("vipllava", "clip"), ("llava_next", "clip"), ("llava_onevision", "siglip")):
        folder = tmp_path / model_type
        changes: dict[str, Any] = {"vision_feature_layer": [-2, 1]}
        if model_type != "vipllava":
            changes["vision_feature_select_strategy"] = "full"
        _, vision = chat_model(model_type, folder, **changes)
        tower = build_tower(settings(folder))
        pixels = torch.randn(1, 3, 56, 56)
        states = library_states(vision, pixels)
        kept = [states[layer][:, 1:] if model_type == "vipllava" else states[layer] for layer in (-2, 1)]
        close(tower(pixels), torch.cat(kept, dim=-1))
        expected = "cls_patch" if kind == "clip" and model_type != "vipllava" else "patch"
        assert tower.settings.select_feature == expected


@pytest.mark.slow
def test_the_plan_on_the_command_line(tmp_path: Path) -> None:
    chat_model("llava", tmp_path)
    run = vita("plan", "--tower", "transformers", "--weights", str(tmp_path))
    assert "select_layer -2 (checkpoint: vision_feature_layer)\n" in run.stdout
    assert "norm false (tower 'transformers')\n" in run.stdout
    data = json.loads(vita("plan", "--tower", "transformers", "--weights", str(tmp_path), "--json").stdout)
    assert {"key": "dtype", "value": "float32", "origin": "general default"} in data["settings"]


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    """Unless the vision part is not: then only the language model's weights are."""
    chat_model("llava", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        VitaError, match=r"its weights are quantised: bitsandbytes .* Try: the checkpoint that it was made"
    ):
        make_plan({"tower": settings(tmp_path)})
    config["quantization_config"]["llm_int8_skip_modules"] = ["model.vision_tower", "lm_head"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert build_tower(settings(tmp_path)).is_loaded


@pytest.mark.parametrize("kind", ["LlavaNextImageProcessorPil", "LlavaOnevisionImageProcessorPil"])
def test_a_processor_that_cuts_tiles_makes_the_whole_picture(tmp_path: Path, kind: str) -> None:
    """The first of the tiles that the library's processor makes is the whole picture."""
    chat_model("llava", tmp_path)
    size = {"shortest_edge": 56} if kind.startswith("LlavaNext") else {"height": 56, "width": 56}
    crop = {"crop_size": {"height": 56, "width": 56}} if kind.startswith("LlavaNext") else {}
    theirs = getattr(transformers, kind)(size=size, **crop, image_grid_pinpoints=[[112, 56], [56, 112]])
    theirs.save_pretrained(tmp_path)
    tower = build_tower(settings(tmp_path))
    picture = Image.open(GOLDEN / "pictures" / "wide.png").convert("RGB")
    made = tower.image_processor.preprocess([picture], return_tensors="pt")["pixel_values"]
    expected = theirs.preprocess([picture], return_tensors="pt")["pixel_values"][0][:1]
    torch.testing.assert_close(made, expected, atol=1e-6, rtol=0)
    assert tower(made).shape == (1, 16, 32)


def test_a_vision_part_of_timm_opens_with_timm(tmp_path: Path) -> None:
    _, vision = chat_model("perception_lm", tmp_path)
    plan = make_plan({"tower": {"weights": str(tmp_path)}})
    assert (plan.tower, plan.grid) == ("timm", (4, 4))
    tower = build_tower({"weights": str(tmp_path), "select_layer": [1, 3]})
    pixels = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        states = vision.timm_model.forward_intermediates(pixels, output_fmt="NLC", intermediates_only=True, norm=False)
    close(tower(pixels), torch.cat([states[0], states[2]], dim=-1))
    assert tower.load_report.skipped["other parts of the model"]


@pytest.mark.parametrize("nested", [{}, {"model_type": "clip"}, {"model_type": "llava"}])
def test_old_configs_name_the_vision_part_wrongly(tmp_path: Path, nested: dict[str, str]) -> None:
    """They leave its type out, or give the type of the whole."""
    _, vision = chat_model("llava", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"] = {**VISION, **nested}
    (tmp_path / "config.json").write_text(json.dumps(config))
    pixels = torch.randn(1, 3, 56, 56)
    close(build_tower(settings(tmp_path))(pixels), library_states(vision, pixels)[-2][:, 1:])


def test_a_vision_part_with_stages(tmp_path: Path) -> None:
    """Florence 2's config states no size of pictures."""
    _, vision = chat_model("florence2", tmp_path)
    with pytest.raises(VitaError, match=r"tower\.image_size: missing, .*Try: `tower\.image_size: 224`"):
        make_plan({"tower": settings(tmp_path)})
    pixels = torch.randn(1, 3, 64, 64)
    states: list[torch.Tensor] = []
    vision.blocks[0][-1].register_forward_hook(lambda _, args, output: states.append(output))
    with torch.no_grad():
        states.append(vision(pixels).last_hidden_state)
    for layer, state in zip((1, 2), states, strict=True):
        tower = build_tower(settings(tmp_path, image_size=64, select_layer=layer))
        close(tower(pixels), state.flatten(2).transpose(1, 2))
        assert tower.grid == tuple(state.shape[2:])

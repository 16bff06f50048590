"""Models of native resolution in tower `transformers`, against the library's own processors and hidden states."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from conftest import close
from families import settings
from native_models import KNOWN, library_states, pictures, small_model, without
from torch import Tensor, nn

from vita_core import VitaError, build_tower, count_macs
from vita_plugins.transformers import opening
from vita_plugins.transformers.experts import separate_experts
from vita_plugins.transformers.natives import NATIVES
from vita_plugins.transformers.packing import pack

RARE = {
    "cohere_compass_vision", "exaone4_5_vision", "glm4v_moe_vision", "glm_ocr_vision", "lfm3_vl_vision",
    "minicpm_ocr_vision", "minicpmv4_7_vision", "minimax_m3_vl_vision", "muse_spark_vision",
    "qwen2_5_omni_vision_encoder", "qwen3_5_moe_vision",
    "qwen3_omni_moe_vision_encoder", "qwen3_vl_moe_vision", "qwen4_exp_vision",
}  # fmt: skip
"""Models that differ little from others, which `make test-extras` tests."""
ALL = [pytest.param(name, marks=pytest.mark.extras) if name in RARE else pytest.param(name) for name in KNOWN]


def tokens(maps: Tensor) -> Tensor:
    return maps.flatten(0, 1)[None]


def counted(model: nn.Module) -> list[int]:
    """The sizes of the list grow with each call of a model."""
    calls: list[int] = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("model_type", ALL)
def test_features_of_pictures_of_any_aspect(tmp_path: Path, model_type: str) -> None:
    """Three aspects, one by one and together in one run: the tokens of each picture, row by row."""
    model, processor = small_model(model_type, tmp_path)
    alone = [library_states(model, processor, [picture])[0] for picture in pictures()]
    together = library_states(model, processor, pictures())
    for layers in ([4], [0, 2]):
        tower = build_tower(settings(tmp_path, select_layer=layers))
        calls = counted(tower.encoder)
        made = tower.image_processor.preprocess(pictures(), return_tensors="pt")["pixel_values"]
        assert len({picture.shape for picture in made}) == 3
        features = tower(made)
        assert len(calls) == 1
        for found, one, mixed, picture in zip(features, alone, together, made, strict=True):
            assert one[0].shape[:2] == tower.shape.native.grid(*picture.shape[1:])
            close(found, torch.cat([tokens(one[layer]) for layer in layers], dim=-1))
            close(found, torch.cat([tokens(mixed[layer]) for layer in layers], dim=-1))
            close(tower([picture])[0], found)
        assert sum(parameter.numel() for parameter in tower.parameters()) == tower.resolved.parameters
        family, names = NATIVES[model_type], [name for name, _ in tower.in_run_order(tower.encoder)]
        names = [name for name in names if not family.between or not name.startswith(f"{family.between}.")]
        order = [2 if name.startswith(f"{family.norm}.") else name.startswith(f"{family.blocks}.") for name in names]
        assert order == sorted(order)


@pytest.mark.parametrize("model_type", ALL)
def test_operations_are_those_that_torch_counts(tmp_path: Path, model_type: str) -> None:
    """The rules of the families against a run of the library's model on a picture that does not fill whole windows."""
    model, _ = small_model(model_type, tmp_path)
    model.set_attn_implementation("eager")  # torch counts no operations of its fused attention on a CPU
    separate_experts(model)  # and none of grouped products
    config, processor = (
        json.loads((tmp_path / name).read_text()) for name in ("config.json", "preprocessor_config.json")
    )
    family = NATIVES[model_type]
    size = (64, 64) if family.tiles else (96, 96)
    shape = opening.shape(config, {}, processor, size=size)
    packed = pack(family, model, [torch.randn(3, *size)])
    blocks, early = model.get_submodule(family.blocks), getattr(model, "deepstack_visual_indexes", [])
    model.deepstack_visual_indexes = []  # mergers between the blocks
    _, spent = count_macs(lambda: model(**packed.arguments), blocks)
    expected = list(itertools.accumulate(stage.macs for stage in shape.stages))[1:]
    # some versions of transformers look positions up by a product before the blocks, which the shape does not count
    positions = spent[0] - expected[0] if model_type in ("gemma4_vision", "siglip2_vision_model") else 0
    assert positions >= 0
    assert [macs - positions for macs in spent[:4]] == expected
    joined = 2 if family.between else 1
    assert shape.stages[-1].grid == (size[0] // 8 // joined, size[1] // 8 // joined)
    if family.merger:
        shape = opening.shape(config, {"merger": True}, processor, size=size)
        model.deepstack_visual_indexes = early
        _, spent = count_macs(lambda: model(**packed.arguments))
        assert spent[-1] == sum(stage.macs for stage in shape.stages)
        assert shape.stages[-1].grid == (size[0] // 16, size[1] // 16)


@pytest.mark.parametrize("model_type", [one for one in ALL if NATIVES[str(one.values[0])].merger])
def test_the_models_own_merger(tmp_path: Path, model_type: str) -> None:
    model, processor = small_model(model_type, tmp_path)
    tower = build_tower(settings(tmp_path, options={"merger": True}))
    made = processor(images=pictures(), return_tensors="pt")
    with torch.no_grad():
        output = model(made["pixel_values"], grid_thw=made["image_grid_thw"])
    expected = torch.cat([output.pooler_output, *getattr(output, "deepstack_features", [])], dim=-1)
    calls = counted(tower.encoder)
    features = tower(tower.image_processor.preprocess(pictures())["pixel_values"])
    assert len(calls) == 1
    assert [found.shape[1] for found in features] == [
        rows * cols // 4 for _, rows, cols in made["image_grid_thw"].tolist()
    ]
    close(torch.cat(features, dim=1)[0], expected)
    assert tower.shape.stages[-1].channels == expected.shape[-1]
    assert sum(parameter.numel() for parameter in tower.parameters()) == tower.resolved.parameters
    with pytest.raises(VitaError, match=r"tower.select_layer: 2 is out of range: .*Try: a layer in -1\.\.-1 or 4\.\.4"):
        build_tower(settings(tmp_path, options={"merger": True}, select_layer=2))


@pytest.mark.parametrize("layer", [2, 3, 4])
@without("minicpmv4_6_vision")
def test_the_module_between_the_blocks_of_minicpm_belongs_to_the_layer_after_it(tmp_path: Path, layer: int) -> None:
    small_model("minicpmv4_6_vision", tmp_path)
    tower = build_tower(settings(tmp_path, freeze={"from_layer": layer}))
    trained = {name for name, parameter in tower.encoder.named_parameters() if parameter.requires_grad}
    assert any(name.startswith("vit_merger.") for name in trained) == (layer <= 3)
    with pytest.raises(VitaError, match=r"tower.select_layer: layers \[2, 3\] have different grids: "):
        build_tower(settings(tmp_path, select_layer=[2, 3]))


@pytest.mark.parametrize("model_type", ["idefics3_vision", "pixtral"])
def test_a_model_without_a_merger_says_so(tmp_path: Path, model_type: str) -> None:
    small_model(model_type, tmp_path)
    with pytest.raises(VitaError, match=rf"tower.options.merger: {model_type} has no merger of its own\. Try: "):
        build_tower(settings(tmp_path, options={"merger": True}))

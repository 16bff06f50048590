"""Directories that timm itself saves open, plan and give timm's own features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from vita_core import VitaError, build_model, build_tower, make_plan
from vita_core.planning.towers import resolve_tower
from vita_plugins.timm.geometry import measured

SMALL: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "convnext_atto": {},
    "efficientnet_b0": {},
    "mobilenetv3_small_050": {},
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 3},
    "vit_small_patch14_dinov2": {"img_size": 28, "depth": 3},
    "beit_base_patch16_224": {"img_size": 32, "depth": 2, "embed_dim": 64, "num_heads": 2},
    "eva02_tiny_patch14_224": {"img_size": 28, "depth": 2},
    "swin_tiny_patch4_window7_224": {
        "img_size": 56,
        "depths": (1, 1, 2, 1),
        "embed_dim": 24,
        "num_heads": (1, 2, 4, 8),
    },
    "swinv2_tiny_window8_256": {"img_size": 64, "depths": (1, 1, 2, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8)},
    "vitamin_small_224": {"img_size": 64, "depth": 2},
    "mvitv2_tiny": {"img_size": 64},
    "twins_pcpvt_small": {"img_size": 64, "depths": (1, 1, 2, 1)},
    "coat_tiny": {"img_size": 64, "serial_depths": (1, 1, 1, 1), "parallel_depth": 1},
    "pit_ti_224": {"img_size": 64, "depth": (1, 2, 1)},
    "crossvit_tiny_240": {"depth": ((1, 1, 0), (1, 1, 0))},
    "efficientvim_m1": {},
    "selecsls42": {},
}
"""One encoder of each family, made small, and the arguments that make it so."""


def saved(folder: Path, name: str, **arguments: Any) -> Any:
    """Save a model with random weights as timm does, and return it."""
    torch.manual_seed(0)
    model = timm.create_model(name, **arguments).eval()
    timm.models.save_for_hf(model, folder, model_args=arguments or None)  # older versions need the arguments again
    return model


def features(model: Any, pixels: torch.Tensor, index: int, **more: Any) -> torch.Tensor:
    """Return timm's own feature `index` as tokens (B, N, C)."""
    with torch.no_grad():
        maps = model.forward_intermediates(pixels, indices=[index], intermediates_only=True, output_fmt="NCHW", **more)
    tokens: torch.Tensor = maps[0].flatten(2).transpose(1, 2)
    return tokens


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal to 1e-5 of the largest feature: with random weights CoaT's features reach 10,000."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * (1 + expected.abs().max())


@pytest.mark.parametrize("name", SMALL)
def test_a_directory_that_timm_saves_gives_timms_features(tmp_path: Path, name: str) -> None:
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}: a newer version has")
    model = saved(tmp_path, name, **SMALL[name])
    if not hasattr(model, "forward_intermediates"):
        pytest.skip(f"{name} of timm {timm.__version__} gives no features: that of a newer version does")
    config = {"weights": str(tmp_path)}  # without `type`: the config.json says it
    resolved = resolve_tower(config)
    side, layers, norm = resolved.shape.image_size, resolved.shape.layers, resolved.shape.norm_parameters
    assert side == (SMALL[name].get("img_size", side[0]),) * 2
    pixels = torch.rand(1, 3, *side)
    for layer in sorted({1, layers}):
        tower = build_tower({**config, "select_layer": layer, "freeze": {"from_layer": layer}}).eval()
        close(tower(pixels), features(model, pixels, layer - 1))
        assert tuple(tower(pixels).shape[1:]) == (tower.num_tokens, tower.hidden_size)
        assert sum(parameter.numel() for parameter in tower.parameters()) == tower.resolved.parameters
        frozen = sum(parameter.numel() for parameter in tower.parameters() if not parameter.requires_grad)
        assert frozen == sum(stage.parameters for stage in resolved.shape.stages[:layer])
    if norm is not None:
        close(build_tower({**config, "norm": True})(pixels), features(model, pixels, layers - 1, norm=True))


def test_the_arguments_of_a_saved_config_are_used_once(tmp_path: Path) -> None:
    """timm 1.0.31 writes every argument; older versions write those that the user names."""
    from safetensors.torch import save_file

    arguments = {"num_classes": 7, "in_chans": 3, "global_pool": "avg", "img_size": [32, 48], "depth": 2}
    model = timm.create_model("vit_tiny_patch16_224", **arguments).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 7, "model_args": arguments}
    config |= {"pretrained_cfg": {"input_size": [3, 224, 224], "crop_mode": "squash", "crop_pct": 1.0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tower = build_tower({"weights": str(tmp_path)})
    pixels = torch.rand(1, 3, 32, 48)
    assert tower.grid == (2, 3)
    assert tower.image_processor.crop_size.height == 32
    close(tower(pixels), features(model, pixels, 1))
    assert tower.load_report is not None
    assert set(tower.load_report.skipped) == {"classification head"}


@pytest.mark.parametrize(("mode", "pct"), [("center", 1.0), ("squash", 1.0), ("squash", 0.8), ("border", 1.0)])
def test_a_config_asks_for_another_crop_as_timms_validation_does(tmp_path: Path, mode: str, pct: float) -> None:
    model = saved(tmp_path, "mobilenetv3_small_050")
    tower = build_tower({"weights": str(tmp_path), "options": {"crop_mode": mode, "crop_pct": pct}})
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 250, 3), np.uint8))
    data = timm.data.resolve_data_config({"crop_pct": pct, "crop_mode": mode}, model=model)
    expected = timm.data.create_transform(**data)(picture)
    found = tower.image_processor(picture, return_tensors="pt")["pixel_values"][0]
    assert (found - expected).abs().max() < 1.5 / 255 / min(data["std"])  # a level of 255, where the filters round


def test_a_crop_is_refused_where_pictures_are_not_cut(tmp_path: Path) -> None:
    saved(tmp_path / "naflex", "naflexvit_base_patch16_gap", embed_dim=32, depth=1, num_heads=2)
    with pytest.raises(VitaError, match=r"tower\.options\.crop_pct: this encoder takes pictures of any size"):
        resolve_tower({"weights": str(tmp_path / "naflex"), "options": {"crop_pct": 0.9}})
    saved(tmp_path / "own", "resnet18")
    ViTImageProcessorPil().save_pretrained(tmp_path / "own")
    with pytest.raises(VitaError, match=r"tower\.options\.crop_mode: this encoder has an image processor of its own"):
        resolve_tower({"weights": str(tmp_path / "own"), "options": {"crop_mode": "squash"}})


def test_gemma_4s_limits_may_be_infinite_as_timm_makes_them(tmp_path: Path) -> None:
    """Its linear layers clip at saved limits, which are infinite until they are set; a weight never is."""
    if not timm.is_model("gemma4_vit_167m"):
        pytest.skip(f"timm {timm.__version__} has no gemma4_vit: a newer version has")
    model = saved(tmp_path, "gemma4_vit_167m", img_size=96, depth=1)
    pixels = torch.rand(1, 3, 96, 96)
    assert any(torch.isinf(buffer).any() for buffer in model.buffers())
    close(build_tower({"weights": str(tmp_path)})(pixels), features(model, pixels, 0))


def test_pixels_that_fill_no_patch_are_dropped_as_in_timm(tmp_path: Path) -> None:
    """vit_so400m_patch14_siglip_384 has 27 x 27 patches of 14 pixels, and takes pictures of this size only."""
    model = saved(tmp_path, "vit_tiny_patch16_224", img_size=40, depth=2)
    tower = build_tower({"weights": str(tmp_path)})
    pixels = torch.rand(1, 3, 40, 40)
    close(tower(pixels), features(model, pixels, 1))
    assert (tower.grid, tower.input_sizes) == ((2, 2), "fixed")


def test_pictures_without_colours_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, "resnet18", in_chans=1)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_args": {"in_chans": 1}}))
    with pytest.raises(VitaError, match=r"takes pictures of 1 channels here, not 3. Try: "):
        resolve_tower({"weights": str(tmp_path)})


def test_a_norm_that_fits_the_last_layer_only_is_refused_elsewhere(tmp_path: Path) -> None:
    saved(tmp_path, "twins_pcpvt_small", **SMALL["twins_pcpvt_small"])
    with pytest.raises(
        VitaError, match=r"tower\.norm: the final norm of this encoder fits only its last layer, 4, not \[2\]"
    ):
        build_tower({"weights": str(tmp_path), "select_layer": 2, "norm": True})


def test_tables_that_the_encoder_computes_are_skipped(tmp_path: Path) -> None:
    """Checkpoints of the first Swin versions hold them."""
    model = saved(tmp_path, "swin_tiny_patch4_window7_224", **SMALL["swin_tiny_patch4_window7_224"])
    tables = {name: table for name, table in model.named_buffers() if name not in model.state_dict()}
    assert tables
    torch.save(model.state_dict() | tables, tmp_path / "pytorch_model.bin")
    tower = build_tower({"weights": str(tmp_path)})
    assert tower.load_report is not None
    assert set(tower.load_report.skipped["tables that the encoder computes"]) <= {*tables}


def test_a_failure_inside_timm_names_timm(tmp_path: Path) -> None:
    """It does not blame the config.json, which is fine."""
    saved(tmp_path, "resnet18")

    def broken(*_: Any, **__: Any) -> Any:
        raise KeyError("bn1")

    measured.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(broken.__globals__, "__name__", "timm.models.resnet")
        patch.setattr(timm.models.ResNet, "forward_intermediates", broken)
        with pytest.raises(VitaError) as caught:
            make_plan({"tower": {"weights": str(tmp_path)}})
    message = str(caught.value)
    assert f"cannot open it, because timm {timm.__version__} failed: KeyError: 'bn1'. Try: " in message
    assert "cannot read" not in message


def test_the_wrapper_of_transformers_opens(tmp_path: Path) -> None:
    from transformers import TimmWrapperConfig, TimmWrapperModel

    torch.manual_seed(0)
    arguments = {"img_size": 32, "depth": 2}
    model = TimmWrapperModel(TimmWrapperConfig(architecture="vit_tiny_patch16_224", model_args=arguments)).eval()
    model.save_pretrained(tmp_path)
    tower = build_tower({"weights": str(tmp_path)})
    pixels = torch.rand(1, 3, 32, 32)
    assert tower.resolved.spec.name == "timm"
    close(tower(pixels), features(model.timm_model, pixels, 1))


@pytest.mark.parametrize("architecture", ["test_resnet", "test_convnext"])
def test_the_stages_of_transformers_open(tmp_path: Path, architecture: str) -> None:
    """timm calls a stage of such a model ``stages_0``, and ``stages.0`` in the whole model."""
    from transformers import TimmBackbone, TimmBackboneConfig

    torch.manual_seed(0)
    model = TimmBackbone(TimmBackboneConfig(backbone=architecture, out_indices=[-1])).eval()
    model.save_pretrained(tmp_path)
    tower = build_tower({"weights": str(tmp_path)})
    pixels = torch.rand(1, 3, *tower.shape.image_size)
    assert tower.resolved.spec.name == "timm"
    with torch.no_grad():
        close(tower(pixels), model(pixels).feature_maps[-1].flatten(2).transpose(1, 2))


@pytest.mark.parametrize("whole", [False, True])
def test_the_encoder_of_edgetam_opens(tmp_path: Path, whole: bool) -> None:
    from transformers import EdgeTamConfig, EdgeTamModel, EdgeTamVisionConfig, EdgeTamVisionModel

    try:
        EdgeTamVisionConfig()
    except OSError:
        pytest.skip("the default config of older versions, which saving compares with, is on the hub")
    torch.manual_seed(0)
    stages = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
    backbone = {"model_type": "timm_wrapper", "architecture": "test_convnext", "model_args": stages}
    backbone |= {"num_classes": 2, "label_names": ["a", "b"]}
    config = EdgeTamVisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 48, 32, 24],
        backbone_feature_sizes=[[40, 40], [20, 20], [10, 10]],
        fpn_hidden_size=16,
    )
    if whole:
        parts = {
            "prompt_encoder_config": {"hidden_size": 16, "image_size": 160},
            "mask_decoder_config": {
                "hidden_size": 16,
                "mlp_dim": 16,
                "num_attention_heads": 2,
                "iou_head_hidden_dim": 16,
            },
        }
        model = EdgeTamModel(EdgeTamConfig(vision_config=config, **parts)).eval()
        vision = model.vision_encoder
    else:
        model = vision = EdgeTamVisionModel(config).eval()
    model.save_pretrained(tmp_path)
    tower = build_tower({"weights": str(tmp_path)})
    pixels = torch.rand(1, 3, *tower.shape.image_size)
    assert tower.resolved.spec.name == "timm"
    with torch.no_grad():
        expected = vision.backbone(pixels).last_hidden_state[-1]
    close(tower(pixels), expected.flatten(2).transpose(1, 2))


def test_a_tower_for_one_timm_model_is_chosen_before_timm(tmp_path: Path) -> None:
    from vita_core import TowerSpec, list_towers, register
    from vita_core.plugins.registry import registry

    saved(tmp_path, "vit_tiny_patch16_224", **SMALL["vit_tiny_patch16_224"])
    own = next(spec for spec in list_towers() if spec.name == "timm")
    register(
        TowerSpec(
            "only_vit_tiny",
            "one model of timm",
            own.factory,
            own.shape,
            own.processor,
            recognises=lambda config: config.get("architecture") == "vit_tiny_patch16_224",
        )
    )
    try:
        assert resolve_tower({"weights": str(tmp_path)}).spec.name == "only_vit_tiny"
    finally:
        registry.cache_clear()


@pytest.mark.parametrize("weights", ["vit_tiny_patch16_224", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"])
def test_the_name_of_a_model_is_not_weights(weights: str) -> None:
    """timm's users type it. The error says where the weights are; random weights must be asked for."""
    with pytest.raises(VitaError) as caught:
        make_plan({"tower": {"type": "timm", "weights": weights}})
    message = str(caught.value)
    assert message.startswith(
        f"weights: the name of a model, not its weights: {weights!r}. Try: `weights: timm/vit_tiny_"
    )
    assert f"timm.models.save_for_hf(timm.create_model({weights!r}), 'DIR')" in message
    assert message.count("Try: ") == 1


@pytest.mark.parametrize("config", [{"type": "timm", "weights": "vit_tinny"}, {"weights": "vit_tiny_patch16_224"}])
def test_another_word_is_not_weights_either(config: dict[str, str]) -> None:
    with pytest.raises(VitaError, match="weights: neither an existing path nor a hub id"):
        make_plan({"tower": config})


def test_random_weights_must_be_asked_for_and_are_said_aloud() -> None:
    config = {"type": "timm", "weights": "test_vit.r160_in1k", "options": {"pretrained": False}}
    plan = make_plan({"tower": config})
    assert plan.rule == "explicit `type: timm`, with random weights (`tower.options.pretrained` is false)"
    with pytest.warns(RuntimeWarning, match=r"tower test_vit\.r160_in1k has random weights, because"):
        tower = build_tower(config)
    assert list(tower.image_processor.image_mean) == [0.5, 0.5, 0.5]  # of timm's pretrained config
    torch.manual_seed(0)
    model = timm.create_model("test_vit").eval()
    pixels = torch.rand(1, 3, 160, 160)
    close(tower(pixels), features(model, pixels, tower.shape.layers - 1))
    for wrong, message in (
        ({"weights": "test_vitt"}, "not the name of a model"),
        ({"options": {"pretrained": True}}, "the name of a model, not its weights"),
    ):
        with pytest.raises(VitaError, match=message):
            build_tower({**config, **wrong})


@pytest.mark.filterwarnings("ignore:tower test_vit has random weights")
def test_a_model_with_random_weights_is_saved_as_any_other(tmp_path: Path, tiny_llm: Path) -> None:
    tower = {"type": "timm", "weights": "test_vit", "options": {"pretrained": False}}
    model = build_model({"tower": tower, "llm": {"weights": str(tiny_llm)}, "device": "cpu"})
    model.save(tmp_path / "saved")
    reopened = build_model(tmp_path / "saved")
    pixels = torch.rand(1, 3, 160, 160)
    assert torch.equal(reopened.tower(pixels), model.tower(pixels))
    assert not reopened.tower.resolved.random


def test_class_scores_are_the_classifiers(tmp_path: Path) -> None:
    model = saved(tmp_path, "mobilenetv2_035", num_classes=7)
    pixels = torch.rand(2, 3, 64, 64)
    settings = {"weights": str(tmp_path), "image_size": 64, "options": {"class_scores": True}}
    tower = build_tower({**settings, "pool": 1})
    with torch.no_grad():
        expected = torch.cat([model.forward_features(pixels).mean((2, 3)), model(pixels)], dim=1)
    torch.testing.assert_close(tower(pixels)[:, 0], expected, atol=1e-5, rtol=1e-5)
    assert tower.hidden_size == 1280 + 7
    assert tower.resolved.parameters == sum(parameter.numel() for parameter in tower.parameters())
    assert tower.resolved.parameters == sum(parameter.numel() for parameter in model.parameters())
    last = build_tower({**settings, "select_layer": -2})  # the layers before are timm's own
    torch.testing.assert_close(last(pixels), features(model, pixels, 4), atol=1e-5, rtol=1e-5)
    both = build_tower({**settings, "select_layer": [-2, -1]})
    width = last.hidden_size
    torch.testing.assert_close(both(pixels)[..., :width], last(pixels), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both(pixels).mean(1)[:, width:], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "arguments"), [("resnet18", {}), ("efficientnet_b0", {"num_classes": 0})])
def test_class_scores_need_a_classifier(tmp_path: Path, name: str, arguments: dict[str, Any]) -> None:
    saved(tmp_path, name, **arguments)
    with pytest.raises(
        VitaError, match=r"class_scores: timm's \w+ is not an EfficientNet.* Try: leave class_scores out"
    ):
        build_tower({"weights": str(tmp_path), "options": {"class_scores": True}})

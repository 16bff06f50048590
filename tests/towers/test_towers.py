"""Every built-in tower against the original implementation's outputs, and the contract all of them keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILIES, GOLDEN, close, golden_settings
from PIL import Image
from safetensors.torch import load_file

from vita_core import VisionTower, VitaError, build_tower
from vita_core.errors import CheckpointError, ConfigError, PluginError


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_the_originals(golden: Path, name: str) -> None:
    expected = load_file(golden / name / "expected.safetensors")
    tower = build_tower(golden_settings(name))
    close(tower(expected["pixel_values"]), expected["features"])


@pytest.mark.parametrize("name", FAMILIES)
def test_sizes_are_the_originals(golden: Path, name: str) -> None:
    expected = json.loads((golden / name / "expected.json").read_text())
    tower = build_tower({**golden_settings(name), "delay_load": True})
    assert (tower.hidden_size, tower.num_patches, tower.num_tokens) == tuple(
        expected[key] for key in ("hidden_size", "num_patches", "tokens")
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_pictures_end_to_end(golden: Path, name: str) -> None:
    expected = load_file(golden / name / "expected.safetensors")
    tower = build_tower(golden_settings(name))
    for picture in ("wide", "tall", "square"):
        pixels = tower.image_processor.preprocess(
            Image.open(golden / "pictures" / f"{picture}.png"), return_tensors="pt"
        )
        assert (pixels["pixel_values"][0] - expected[f"pixels.{picture}"]).abs().max() <= 1e-6
        close(tower(pixels["pixel_values"]), expected[f"features.{picture}"])


@pytest.mark.parametrize("name", FAMILIES)
def test_metadata_before_loading_is_that_of_the_output(name: str) -> None:
    tower = build_tower({**golden_settings(name), "delay_load": True})
    assert isinstance(tower, VisionTower)
    assert not tower.is_loaded
    before = (tower.hidden_size, tower.num_tokens, tower.grid, tower.num_patches, tower.dtype)
    picture = Image.open(GOLDEN / "pictures" / "wide.png")
    pixels = tower.image_processor.preprocess([picture, picture], return_tensors="pt")["pixel_values"]
    assert tower.vision_tower is None
    with pytest.raises(VitaError, match=r"is not loaded, .* Try: call tower.load_model\(\)"):
        tower(pixels)
    tower.load_model()
    encoder = tower.vision_tower
    tower.load_model()
    assert tower.vision_tower is encoder
    output = tower(pixels)
    assert (tower.hidden_size, tower.num_tokens, tower.grid, tower.num_patches, tower.dtype) == before
    assert output.shape == (2, tower.num_tokens, tower.hidden_size)
    assert tower.num_tokens == tower.grid[0] * tower.grid[1]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_devices_of_the_caller_leave_nothing_on_meta(name: str) -> None:
    with torch.device("meta"):
        tower = build_tower({**golden_settings(name), "delay_load": True})
        tower.load_model()
    assert not any(tensor.is_meta for tensor in (*tower.parameters(), *tower.buffers()))
    expected = load_file(GOLDEN / name / "expected.safetensors")
    close(tower(expected["pixel_values"]), expected["features"])


# what BaseVisionTower's docstring states, and the exact dtype of the input whatever the tower's
@pytest.mark.parametrize(("dtype", "error"), [("float16", 0.005), ("bfloat16", 0.03)])
@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision_keeps_its_stated_error(name: str, dtype: str, error: float) -> None:
    expected = load_file(GOLDEN / name / "expected.safetensors")
    tower = build_tower({**golden_settings(name), "dtype": dtype})
    assert {parameter.dtype for parameter in tower.parameters()} == {getattr(torch, dtype)}
    found = tower(expected["pixel_values"])
    assert found.dtype == torch.float32
    assert (found - expected["features"]).abs().max() <= error * expected["features"].abs().max()
    for given in (torch.float16, torch.bfloat16, torch.float64):
        assert tower(expected["pixel_values"].to(given)).dtype == given


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_eva_rotates_in_its_own_dtype(dtype: str) -> None:
    tower = build_tower({**golden_settings("eva_clip"), "dtype": dtype})
    angles: list[torch.Tensor] = []
    attention = tower.vision_tower.blocks[0].attn
    attention.register_forward_pre_hook(lambda _, __, given: angles.append(given["rope"]), with_kwargs=True)
    tower(torch.rand(1, 3, 56, 56))
    assert [found.dtype for found in angles] == [getattr(torch, dtype)]


def test_values_that_are_not_finite_are_told_only_when_asked() -> None:
    bright = torch.full((1, 3, 56, 56), 60000.0)
    half = {**golden_settings("clip"), "dtype": "float16"}
    assert not build_tower(half)(bright).isfinite().all()
    checked = build_tower({**half, "check_finite": True})
    with pytest.raises(
        VitaError, match=r"tower 'clip' in float16 gave \d+ of 512 features .*Try: `tower.dtype: bfloat16`"
    ):
        checked(bright)
    assert checked(torch.rand(1, 3, 56, 56)).isfinite().all()
    safe = build_tower({**half, "dtype": "bfloat16", "check_finite": True})
    assert safe(bright).isfinite().all()
    with pytest.raises(VitaError, match=r"tower 'clip' in bfloat16 .*The pixels are not finite either"):
        safe(torch.full((1, 3, 56, 56), float("nan")))


def test_list_batch_and_empty_agree(golden: Path) -> None:
    tower = build_tower(golden_settings("clip"))
    pixels = load_file(golden / "clip" / "expected.safetensors")["pixel_values"]
    batch = tower(pixels)
    listed = tower(list(pixels))
    assert [part.shape for part in listed] == [(1, 16, 32)] * 2
    torch.testing.assert_close(torch.cat(listed), batch)
    assert tower(pixels[:0]).shape == (0, 16, 32)
    assert tower(pixels.to(torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"select_layer": 9}, "9 is out of range: this encoder has 4 layers. Try: a layer in -5..-1 or 0..4"),
        (
            {"select_feature": "cls", "pool": 2},
            "cannot be used with select_feature 'cls'.* `tower.select_feature: patch`",
        ),
        ({"s2": {"scales": [56, 100]}}, "not a multiple of the first scale: 100. Try: multiples of 56"),
        ({"s2": {"scales": [28, 56]}}, "the first scale is not the encoder's own size: 28. Try: 56"),
        ({"pixel_shuffle": 0.4}, "not 1/n"),
        ({"pool": 9}, "larger than the grid"),
        ({"feature_scale": float("nan")}, "feature_scale: wrong value: nan. Try: a finite number"),
        ({"weights": " "}, "weights: wrong value: ' '"),
        ({"max_batch": 0}, "max_batch: wrong value: 0. Try: a value greater than 0"),
        ({"dtype": "float64"}, "dtype: wrong value: 'float64'. Did you mean 'float16'\\? Try: 'auto', "),
        (
            {"freeze": {"from_layer": 4}},
            r"4 is after the last selected layer, 3, .*Try: 1..3, or `tower.freeze: false`",
        ),
        ({"freeze": {"from_layer": 0}}, "freeze.from_layer: wrong value: 0. Try: a value greater than 0"),
        ({"freeze": {"from_layr": 1}}, "unknown key: 'from_layr' in section 'freeze'. Did you mean 'from_layer'"),
        ({"freeze": 3}, "freeze: wrong value: 3. Try: true or false"),
        ({"trust_remote_code": True}, "tower 'clip' runs no code"),
        ({"options": {"x": 1}}, "takes no options: x"),
        ({"selct_layer": 1}, "Did you mean 'select_layer'"),
    ],
)
def test_settings_that_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(VitaError, match=message):
        build_tower({**golden_settings("clip"), **change})


@pytest.mark.parametrize("name", ["clip", "siglip", "internvit"])
def test_the_attention_is_the_one_asked_for(tower_examples: Any, name: str) -> None:
    eager = build_tower({**tower_examples[name], "attention": "eager"})
    assert eager.encoder.config._attn_implementation == "eager"
    pixels = torch.rand(1, 3, 56, 56)
    close(eager(pixels), build_tower(tower_examples[name])(pixels))


# what the reader of the config refuses, what the geometry meets, and what the library meets when it builds
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"patch_size": 0}, "config.json: patch_size: 0 is not a whole number from 1 to "),
        ({"patch_size": 100}, "config.json: patch_size: 100 is not a part of image_size 56, or too small a part"),
        ({"hidden_size": "x"}, "config.json: hidden_size: 'x' is not a whole number"),
        ({"hidden_size": -8}, "config.json: hidden_size: -8 is not a whole number from 1 to "),
        ({"num_hidden_layers": None}, "cannot read its config.json: TypeError"),
        ({"num_attention_heads": 0}, "config.json: num_attention_heads: 0 is not a whole number from 1 to "),
        ({"num_attention_heads": 5}, r"cannot be built from .*, because transformers 5\.\S+ failed: .*Error"),
    ],
)
def test_a_config_that_makes_no_encoder_is_told(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    config = json.loads((GOLDEN / "clip" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | wrong))
    (tmp_path / "model.safetensors").symlink_to(GOLDEN / "clip" / "model.safetensors")
    with pytest.raises(VitaError, match=message):
        build_tower({"weights": str(tmp_path)})


def test_layers_norm_and_cls() -> None:
    pixels = torch.rand(1, 3, 56, 56)
    weights = golden_settings("clip")
    both = build_tower({**weights, "select_layer": [1, -1]})
    assert both.hidden_size == 64
    first, last = (
        build_tower({**weights, "select_layer": 1})(pixels),
        build_tower({**weights, "select_layer": -1})(pixels),
    )
    torch.testing.assert_close(both(pixels), torch.cat([first, last], dim=-1))
    normed = build_tower({**weights, "select_layer": -1, "norm": True})
    torch.testing.assert_close(normed(pixels), normed.vision_tower.post_layernorm(last))
    assert build_tower({**weights, "select_feature": "cls_patch"})(pixels).shape == (1, 17, 32)
    assert build_tower({**weights, "select_feature": "cls"})(pixels).shape == (1, 1, 32)
    shuffled = build_tower({**weights, "pixel_shuffle": 0.5, "pool": [1, 2]})
    assert shuffled(pixels).shape == (1, 2, 128) == (1, shuffled.num_tokens, shuffled.hidden_size)


def test_wrong_type_is_told_before_weights_are_read(golden: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((golden / "siglip" / "config.json").read_text())
    with pytest.raises(PluginError, match=r"cannot open .*siglip_vision_model.*Try: `type: siglip`"):
        build_tower({"type": "clip", "weights": str(tmp_path)})


def test_loading_is_strict(golden: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_text((golden / "clip" / "config.json").read_text())
    state = load_file(golden / "clip" / "model.safetensors")
    lost = "vision_model.encoder.layers.0.mlp.fc1.weight"
    save_file(
        {key: value for key, value in state.items() if key != lost} | {"stray": torch.zeros(1)},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(CheckpointError, match=r"1 missing \(encoder.layers.0.mlp.fc1.weight\); 1 unexpected \(stray\)"):
        build_tower({"weights": str(tmp_path)})
    (tmp_path / "model.safetensors").write_bytes((golden / "clip" / "model.safetensors").read_bytes()[:9000])
    with pytest.raises(CheckpointError, match="truncated"):
        build_tower({"weights": str(tmp_path)})
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no weight file: it holds config.json"):
        build_tower({"weights": str(tmp_path)})


def test_a_pickle_with_code_is_not_opened(golden: Path, tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("code ran",)

    (tmp_path / "config.json").write_text((golden / "clip" / "config.json").read_text())
    with (tmp_path / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"weight": Evil()}, file)
    with pytest.raises(CheckpointError):
        build_tower({"weights": str(tmp_path)})


def test_a_hub_id_while_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"Try: .* `weights: ./clip-vit-base-patch32`"):
        build_tower({"type": "clip", "weights": "openai/clip-vit-base-patch32"})


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture", ["mobilenet_v2", "resnet18", "efficientnet_b0", "convnext_tiny", "regnet_y_400mf"]
)
def test_torchvision_backbones(tmp_path: Path, architecture: str) -> None:
    import torchvision
    from safetensors.torch import save_file

    model = torchvision.models.get_model(architecture, weights=None).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    weights = {
        "type": "torchvision",
        "weights": str(tmp_path / "model.safetensors"),
        "options": {"architecture": architecture},
    }
    pixels = torch.rand(1, 3, 64, 64)
    body = model.features if hasattr(model, "features") else torch.nn.Sequential(*list(model.children())[:-2])
    tower = build_tower(weights)
    with torch.no_grad():
        torch.testing.assert_close(tower(pixels), body(pixels).flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)
    early = build_tower({**weights, "select_layer": 1})
    height, width = early.resolved.geometry.input_size
    assert early(torch.rand(1, 3, height, width)).shape == (1, early.num_tokens, early.hidden_size)
    assert sum(p.numel() for p in early.parameters()) == early.resolved.parameters


def test_torchvision_class_scores_are_the_classifiers(tmp_path: Path) -> None:
    import torchvision
    from safetensors.torch import save_file

    model = torchvision.models.mobilenet_v2(weights=None).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    options = {"architecture": "mobilenet_v2", "class_scores": True}
    tower = build_tower(
        {"type": "torchvision", "weights": str(tmp_path / "model.safetensors"), "options": options, "pool": 1}
    )
    pixels = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        pooled = model.features(pixels).mean((2, 3))
        torch.testing.assert_close(tower(pixels)[:, 0, :1280], pooled, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(tower(pixels)[:, 0, 1280:], model(pixels), atol=1e-4, rtol=1e-4)
    assert tower.hidden_size == 1280 + 1000
    assert tower.resolved.parameters == sum(parameter.numel() for parameter in tower.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "size"),
    [("vit_tiny_patch16_224", 224), ("resnet18", 64), ("convnext_atto", 64), ("vit_small_patch14_dinov2", 70)],
)
def test_timm_encoders(tmp_path: Path, architecture: str, size: int) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    arguments = {"img_size": size} if "vit" in architecture else {}
    model = timm.create_model(architecture, pretrained=False, **arguments).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    options = {"architecture": architecture, "image_size": size}
    weights = {"type": "timm", "weights": str(tmp_path / "model.safetensors"), "options": options}
    pixels = torch.rand(2, 3, size, size)
    for change in ({"select_layer": -1}, {"select_layer": -2}):
        tower = build_tower({**weights, **change})
        index = tower.resolved.geometry.layers[0] - 1
        with torch.no_grad():
            expected = model.forward_intermediates(pixels, indices=[index], intermediates_only=True, output_fmt="NCHW")[
                0
            ]
        torch.testing.assert_close(tower(pixels), expected.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)
        assert (tower.num_tokens, tower.hidden_size) == tuple(tower(pixels).shape[1:])
        assert sum(p.numel() for p in tower.parameters()) == tower.resolved.parameters
    with pytest.raises(ConfigError, match="out of range"):
        build_tower({**weights, "select_layer": 0})


@pytest.mark.parametrize(("dtype", "error"), [("float16", 0.005), ("bfloat16", 0.03)])
def test_timm_encoders_with_biases_in_buffers_run_in_half_precision(tmp_path: Path, dtype: str, error: float) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("eva02_tiny_patch14_224", img_size=56).eval()
    assert "blocks.0.attn.k_bias" not in model.state_dict()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    options = {"architecture": "eva02_tiny_patch14_224", "image_size": 56}
    tower = build_tower({"type": "timm", "weights": str(tmp_path), "options": options, "dtype": dtype})
    pixels, given = torch.rand(2, 3, 56, 56), {"intermediates_only": True, "output_fmt": "NLC"}
    with torch.no_grad():
        expected = model.forward_intermediates(pixels, **given)[tower.resolved.geometry.layers[0] - 1]
    assert (tower(pixels) - expected).abs().max() <= error * expected.abs().max()


def test_pixel_shuffle_is_the_originals(golden: Path) -> None:
    tower = build_tower({**golden_settings("clip"), "delay_load": True})
    saved = load_file(golden / "pixel_shuffle.safetensors")
    for size in ("4", "6"):
        assert torch.equal(tower.pixel_shuffle(saved[f"x{size}"]), saved[f"y{size}"])
        tokens = saved[f"x{size}"].flatten(1, 2)
        assert torch.equal(tower.pixel_shuffle(tokens, grid=(int(size), int(size))), saved[f"y{size}"].flatten(1, 2))

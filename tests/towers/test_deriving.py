"""Towers without a shape function, against the library's own hidden states and the shapes that others state."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import whole_towers
from conftest import close
from safetensors.torch import save_file
from torch import nn
from transformers import ViTConfig, ViTModel

from vita_core import VitaError, build_tower, register
from vita_core.planning.towers import resolve_tower
from vita_core.plugins.registry import use_plugins
from vita_core.testing import CHECKS, open_subject
from vita_core.towers import deriving


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(deriving, "_known", {})
    yield
    use_plugins()


def saved(folder: Path, name: str, model: nn.Module | None = None) -> str:
    """Register the tower of that name, and write a checkpoint of `model`, or one without weights."""
    spec = whole_towers.spec(name)
    register(spec)
    (folder / "config.json").write_text(json.dumps(spec.example))
    if model is not None:
        save_file(model.state_dict(), folder / "model.safetensors")
    return str(folder)


@pytest.mark.parametrize("name", ["clip", "siglip", "internvit"])
def test_the_measured_shape_is_what_the_spec_computes(tower_examples: dict[str, dict[str, Any]], name: str) -> None:
    resolved = resolve_tower(tower_examples[name])
    without = dataclasses.replace(resolved.spec, shape=None)
    size = resolved.shape.image_size
    stated = dataclasses.replace(resolved.shape, linears=())  # a run does not tell which layers get adapters
    assert deriving.derived_shape(without, resolved.owner, resolved.settings, resolved.source, size) == stated


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_features_are_the_librarys_hidden_states(tmp_path: Path, layer: int) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "image_size": 32, "patch_size": 8}
    model = ViTModel(ViTConfig(**sizes, num_hidden_layers=3, num_attention_heads=2)).eval()
    config = {"weights": saved(tmp_path, "Vit", model), "select_layer": layer}
    planned = resolve_tower(config)
    tower = build_tower(config)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(pixels, output_hidden_states=True)
    states = expected.hidden_states[:-1]  # the last one is normed
    last: list[torch.Tensor] = []
    [blocks] = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    blocks[-1].register_forward_hook(lambda _, args, output: last.append(output))
    model(pixels)
    close(tower(pixels), [*states, last[0]][layer][:, 1:])
    assert planned.parameters == sum(parameter.numel() for parameter in tower.parameters())
    [kept] = [module for module in tower.encoder.modules() if isinstance(module, nn.ModuleList)]
    assert len(kept) == max(1, layer % 4)
    assert "not needed for hidden states" in str(tower.load_report)  # the pooling layer
    normed = build_tower({**config, "select_layer": -1, "norm": True})
    close(normed(pixels), expected.last_hidden_state[:, 1:])


def test_stages_of_a_cnn(tmp_path: Path) -> None:
    weights = saved(tmp_path, "Resnet", whole_towers.resnet())
    tower = build_tower({"weights": weights, "layers": "all", "select_layer": 2})
    pixels = torch.randn(1, 3, 64, 96)
    maps = tower.encoder.stages[:2](tower.encoder.stem(pixels))
    assert maps.abs().sum() > 0
    close(tower(pixels), maps.flatten(2).transpose(1, 2))
    assert [stage.grid for stage in tower.shape.stages] == [(16, 16), (16, 16), (8, 8), (4, 4), (2, 2)]
    assert [stage.channels for stage in tower.shape.stages] == [64, 64, 128, 256, 512]


def test_the_kit_passes_a_tower_without_a_shape_function() -> None:
    register(whole_towers.spec("Whole"))
    with open_subject("Whole") as subject:
        wrong = {check.name: result.seen for check in CHECKS if (result := check.run(subject)).outcome == "failed"}
    assert not wrong


def test_an_encoder_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    build = whole_towers.Vit.build_encoder
    monkeypatch.setattr(whole_towers.Vit, "build_encoder", lambda tower: built.append(1) or build(tower))
    weights = saved(tmp_path, "Vit")
    assert resolve_tower({"weights": weights}).shape is resolve_tower({"weights": weights, "select_layer": 0}).shape
    assert built == [1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "AsksForBlocks",
            r"leaves out TowerSpec.shape, .*it reads 'blocks' of them. Try: read self.checkpoint_config",
        ),
        ("AsksForTheShape", "it reads 'image_size' of them. Try: "),
        ("NoList", r"Conv2d has no nn.ModuleList of blocks. Try: set `block_path`"),
        ("WrongPath", r"block_path: VisionTransformer has no 'encoder.layer': .*. Try: one of encoder.layers"),
        ("NotAList", "block_path: 'encoder.ln' of VisionTransformer is no list of blocks but a LayerNorm. Try: "),
        (
            "ChannelsLast",
            r"a grid of 8 x 16 for pictures of 32 x 32, from features",
        ),
        (
            "NeedsValues",
            r"the shape of tower 'NeedsValues' cannot be measured on the meta device for pictures of 32 x 32: ",
        ),
        (
            "NoConvolution",
            "Linear makes its patches without a convolution, so their grid is not known. Try: define `encode`",
        ),
    ],
)
def test_an_encoder_that_cannot_be_measured_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(VitaError, match=message):
        resolve_tower({"weights": saved(tmp_path, name)})


def test_an_encoder_that_gives_something_else_is_an_error(tmp_path: Path) -> None:
    weights = saved(tmp_path, "OtherWhenLoaded", whole_towers.VisionTransformer(**whole_towers.SIZES))
    tower = build_tower({"weights": weights, "type": "OtherWhenLoaded"})
    message = (
        r"'OtherWhenLoaded': layer 3 gives \(16, 16\) on a grid of \(4, 4\), but \(17, 16\) on \(4, 4\) was measured"
    )
    with pytest.raises(VitaError, match=message):
        tower(torch.randn(1, 3, 32, 32))


def test_what_a_measured_tower_cannot_do_is_an_error(tmp_path: Path) -> None:
    weights = saved(tmp_path, "Whole", whole_towers.VisionTransformer(**whole_towers.SIZES))
    with pytest.raises(VitaError, match=r"tower.compile: tower 'Whole' takes hidden states by hooks"):
        build_tower({"weights": weights, "compile": True})(torch.randn(1, 3, 32, 32))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "image_size": None}))
    with pytest.raises(VitaError, match=r"tower.image_size: missing, .* Try: `tower.image_size: 224`, or the size"):
        resolve_tower({"weights": weights})
    register(whole_towers.spec("Vit", processor=None))
    (tmp_path / "config.json").write_text(json.dumps({**whole_towers.EXAMPLES["Vit"], "model_type": "Vit"}))
    with pytest.raises(VitaError, match=r"no preprocessor_config.json, and the tower states no preprocessing. Try: "):
        resolve_tower({"weights": weights})


def test_the_size_is_that_of_the_processor(tmp_path: Path) -> None:
    weights = saved(tmp_path, "Vit")
    resolved = resolve_tower({"weights": weights})
    assert resolved.processor["crop_size"] == {"height": 32, "width": 32}
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 64, "width": 64}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(VitaError, match=r"pictures of 64 x 64: .*\(64\*64\) doesn't match model \(32\*32\)"):
        resolve_tower({"weights": weights})

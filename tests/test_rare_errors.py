"""Errors that no other test meets: each is raised for real, and says what is wrong (messages.py checks the form)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDEN, golden_settings

from vita_core import VitaError, build_model, make_plan
from vita_core.cli.encode import encode
from vita_core.language.llm import LanguageModel
from vita_core.layouts import llava_hf, sections, vita
from vita_core.planning.described import named_tower
from vita_core.planning.resolution import resolve
from vita_core.towers import features
from vita_core.towers.devices import pick_device
from vita_core.weights.assets import find_asset
from vita_core.weights.jsonfiles import read_json
from vita_core.weights.tensorfiles import tensor_keys

HF = {"model_type": "llava", "vision_config": {"model_type": "clip"}}
ANYRES = {"image_aspect_ratio": "anyres"}


def plan(name: str, **changes: Any) -> Callable[[Path], Any]:
    """Plan a golden tower with changes."""
    return lambda _: make_plan({"tower": golden_settings(name) | changes})


def timm(architecture: str) -> Callable[[Path], Any]:
    tower = {"type": "timm", "weights": "./x.safetensors", "options": {"architecture": architecture}}
    return lambda folder: make_plan({"tower": tower | {"weights": saved(folder, b"{}")}})


def torchvision(architecture: str, **options: Any) -> Callable[[Path], Any]:
    tower = {"type": "torchvision", "image_size": 64, "options": {"architecture": architecture, **options}}
    return lambda folder: make_plan({"tower": tower | {"weights": saved(folder, b"{}")}})


def saved(folder: Path, content: bytes, name: str = "config.json") -> str:
    (folder / name).write_bytes(content)
    return str(folder)


def pickled(folder: Path) -> Path:
    torch.save([torch.zeros(1)], folder / "model.bin")
    return folder / "model.bin"


def llm(folder: Path, **changes: Any) -> Any:
    config = resolve({"tower": golden_settings("clip"), "llm": {"weights": str(folder), **changes}}).config.llm
    return LanguageModel(config, torch.device("cpu"))


CASES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no CLS": (plan("siglip", select_feature="cls"), "tower.select_feature: 'cls' needs a CLS token"),
    "no encoder of timm": (timm("vit_tinny"), "has no model 'vit_tinny'"),
    "no backbone": (torchvision("mobilenet_v9"), "'mobilenet_v9' is not a classification model"),
    "no single classifier": (torchvision("vgg11", class_scores=True), "more layers than one linear layer"),
    "no grid": (lambda _: features.pixel_shuffle(torch.zeros(1, 4, 2)), "grid of the tokens .* is missing"),
    "another grid": (lambda _: features.to_map(torch.zeros(1, 5, 2), (2, 2)), "5 tokens do not fill a grid of 2 x 2"),
    "no device": (lambda _: pick_device("cuda:99"), "device: 'cuda:99' cannot be used here"),
    "no asset": (lambda _: find_asset("smollm"), "unknown asset"),
    "no tower": (lambda _: named_tower("clib"), "unknown tower: 'clib'. Did you mean 'clip'"),
    "no JSON": (
        lambda folder: read_json(Path(saved(folder, b"{,")) / "config.json"),
        r"config\.json:1:2: not valid JSON",
    ),
    "no object": (lambda folder: read_json(Path(saved(folder, b"[]")) / "config.json"), "not a JSON object"),
    "no file": (read_json, "cannot read"),
    "no dictionary": (lambda folder: list(tensor_keys([pickled(folder)])), "is not a dictionary of tensors"),
    "no strategy": (
        lambda _: llava_hf.sections(HF | {"vision_feature_select_strategy": "all"}, 28),
        "unknown value: 'all'",
    ),
    "another projector": (
        lambda _: llava_hf.sections(HF | {"projector_hidden_act": "relu"}, 28),
        "unsupported projector",
    ),
    "no merge": (
        lambda _: sections.image_section(ANYRES | {"mm_patch_merge_type": "flatt"}, 28),
        "mm_patch_merge_type: unknown value: 'flatt'. Did you mean 'flat'",
    ),
    "no pinpoints": (lambda _: sections.image_section(ANYRES, 28), "image_grid_pinpoints: not pairs of pixels"),
    "no scales": (lambda _: sections.tower_section({"use_s2": True}, None), "s2_scales: missing"),
    "another demo": (
        lambda _: vita.check_demo_type("nemo", {"model_type": "vita-Qwen2"}),
        "model_type.*does not match the checkpoint",
    ),
    "no demo": (lambda _: vita.check_demo_type("nemmo", {}), "unknown value: 'nemmo'. Did you mean 'nemo'"),
    "no picture": (lambda folder: encode(folder / "out.safetensors", ["config.yaml"]), "no picture is given"),
    "no language model": (lambda _: llm(GOLDEN / "clip"), "llm.weights: cannot open .* as a causal language model"),
    "an image_newline too few": (
        lambda _: build_model(
            {
                "tower": golden_settings("clip"),
                "llm": {"weights": str(GOLDEN / "vita15")},
                "images": {"anyres": {"grids": [[1, 2]], "merge": "spatial_unpad"}},
            }
        ),
        "",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_rare_errors_say_what_is_wrong(case: str, tmp_path: Path) -> None:
    raise_it, message = CASES[case]
    with pytest.raises(VitaError, match=message):
        raise_it(tmp_path)


def test_a_plan_says_what_a_language_model_lacks(tiny_llm: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_llm / "config.json").read_text())
    del config["vocab_size"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(VitaError, match=r"has no 'vocab_size' in its config\.json"):
        make_plan({"tower": golden_settings("clip"), "llm": {"weights": str(tmp_path)}})

"""Errors that no other test meets: each is raised for real, and says what is wrong (messages.py checks the form)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDEN, golden_settings
from transformers import SwinConfig, SwinModel
from videos import save_vivit
from whole_towers import Resnet

from vita_core import VitaError, build_model, build_tower, make_plan
from vita_core.cli.answers import answer_folder
from vita_core.cli.assets import assets
from vita_core.cli.encode import encode
from vita_core.cli.scaffolding import names, write_plugin
from vita_core.config.images import AnyresConfig
from vita_core.config.schema import LLMConfig
from vita_core.language.llm import LanguageModel
from vita_core.language.merging import merge
from vita_core.language.prompts import PICTURE_ID
from vita_core.language.tokenizing import checked_source, place
from vita_core.layouts import llava_hf, sections, vita
from vita_core.layouts.finding import find_tower
from vita_core.layouts.known import recognise
from vita_core.models.model_values import ModelValues
from vita_core.models.videos import open_video
from vita_core.pixels.anyres import read_newline
from vita_core.planning.described import named_tower
from vita_core.planning.resolution import resolve
from vita_core.towers import features
from vita_core.towers.devices import pick_device
from vita_core.training.parts import roots
from vita_core.untrusted.jsonfiles import read_object
from vita_core.untrusted.tensorfiles import tensor_keys
from vita_core.weights.assets import find_asset
from vita_core.weights.sources import locate

HF = {"model_type": "llava", "vision_config": {"model_type": "clip"}}
ANYRES = {"image_aspect_ratio": "anyres"}
ASKED: dict[str, Any] = {"batch": 1, "system": None, "max_new_tokens": 1}


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


def pickled(folder: Path, content: object) -> Path:
    torch.save(content, folder / "model.bin")
    return folder / "model.bin"


def under_a_file(folder: Path) -> Path:
    """A place that nobody can write to, root neither."""
    return Path(saved(folder, b"{}")) / "config.json" / "out"


def swin(folder: Path) -> Any:
    SwinModel(SwinConfig(image_size=32, embed_dim=8, depths=[1], num_heads=[1], window_size=4)).save_pretrained(folder)
    tower = {"type": "transformers", "weights": str(folder), "image_size": 32}
    return build_tower(tower | {"attention": "flex_attention"})


def adapted(folder: Path) -> Any:
    saved(folder, b'{"peft_type": "LORA"}', "adapter_config.json")
    return plan("clip", freeze={"from_layer": 1}, adapter=saved(folder, b"", "adapter_model.safetensors"))(folder)


def recognised(folder: Path, **config: Any) -> Any:
    own = locate(saved(folder, json.dumps(config).encode()))
    return find_tower(recognise(own.config, own.weights), own, None, whole=False)


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
        lambda folder: read_object(Path(saved(folder, b"{,")) / "config.json"),
        r"config\.json:1:2: not valid JSON",
    ),
    "no object": (lambda folder: read_object(Path(saved(folder, b"[]")) / "config.json"), "not a JSON object"),
    "no file": (read_object, "cannot read"),
    "no dictionary": (
        lambda folder: list(tensor_keys([pickled(folder, [torch.zeros(1)])])),
        "is not a dictionary of tensors",
    ),
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
    "no room for a plugin": (
        lambda folder: write_plugin("tower", folder.parent, {}, {}, json=True),
        "--at: already exists",
    ),
    "no directory for a plugin": (
        lambda folder: write_plugin("tower", under_a_file(folder), names("my_vit", "tower"), {}, json=True),
        "cannot write .*: File exists",
    ),
    "no directory for answers": (
        lambda folder: answer_folder(
            resolve({"tower": golden_settings("clip")}), GOLDEN / "pictures", under_a_file(folder), None, **ASKED
        ),
        "cannot write .*: File exists",
    ),
    "no commit": (
        lambda _: checked_source(LLMConfig(weights="someone/model", trust_remote_code=True)),
        "llm.trust_remote_code: true needs a fixed revision",
    ),
    "a file of a language model": (
        lambda folder: place(locate(saved(folder, b"{}") + "/config.json", None)),
        "llm.weights: .*config.json is a file",
    ),
    "a checkpoint without a tower": (
        lambda folder: recognised(folder, model_type="llava_llama"),
        "mm_vision_tower is missing in its config.json",
    ),
    "a checkpoint with code": (
        lambda folder: recognised(folder, model_type="mine", auto_map={}),
        "unknown model_type in its config.json: 'mine'.*needs its own code",
    ),
    "no newline": (
        lambda folder: read_newline(
            AnyresConfig(grids=[[1, 2]], newline=str(pickled(folder, {"weight": torch.zeros(1)}))),
            dtype=torch.float32,
            device=torch.device("cpu"),
        ),
        "images.anyres.newline: .* has no tensor 'image_newline'; it has weight",
    ),
    "a place without a picture": (
        lambda _: merge([[PICTURE_ID]], [[]], torch.nn.Embedding(2, 2)),
        "the prompt has places for 1 pictures, but 0 are given",
    ),
    "layers beside an adapter": (adapted, "tower.freeze: `from_layer` counts the encoder's own weights"),
    "scales beside the CLS token": (
        plan("clip", select_feature="cls_patch", s2={"scales": [56, 112]}),
        "tower.s2: it cannot be used with select_feature 'cls_patch'",
    ),
    "scales of wide pictures": (
        plan("clip", image_size=[56, 112], s2={"scales": [56, 112]}),
        "tower.s2: this encoder takes pictures of 56 x 112 pixels",
    ),
    "attention that the encoder lacks": (
        swin,
        "tower.attention: tower 'transformers' cannot be built with 'flex_attention'",
    ),
    "no final norm": (lambda _: Resnet.final_norm(Resnet.__new__(Resnet), torch.zeros(1)), "has no final_norm"),
    "another number of frames": (
        lambda folder: open_video(resolve({"tower": {"weights": str(save_vivit(folder))}}), folder / "v.mp4", 3),
        "max_frames: tower 'transformers' takes videos of 4 frames, not of 3",
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


def test_tokens_at_the_ends_of_rows_need_their_value(tiny_llm: Path) -> None:
    images = {"anyres": {"grids": [[1, 2]], "merge": "spatial_unpad"}}
    with pytest.raises(VitaError, match=r"images\.anyres\.merge: 'spatial_unpad' needs the image_newline"):
        build_model({"tower": golden_settings("clip"), "llm": {"weights": str(tiny_llm)}, "images": images})


def test_a_model_that_has_no_tower_yet_cannot_be_trained_or_written(tiny_llm: Path, tmp_path: Path) -> None:
    tower = golden_settings("clip") | {"delay_load": True}
    model = build_model({"tower": tower, "llm": {"weights": str(tiny_llm)}, "device": "cpu"})
    with pytest.raises(VitaError, match="the tower is not loaded, because delay_load is set"):
        roots(model)
    with pytest.raises(VitaError, match="the tower is not loaded, so it cannot be exported"):
        ModelValues(model.tower, model.projector, model.llm, "here")
    model.tower.load_model()
    with pytest.raises(VitaError, match=r"cannot write .*File exists"):
        model.save(under_a_file(tmp_path))


def test_assets_that_are_not_fetched_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITA_CACHE", str(tmp_path))
    with pytest.raises(
        VitaError, match=r"asset 'mobilenet-v2' is missing: .*\n?asset 'smollm2-135m-instruct' is missing"
    ):
        assets(check=True)

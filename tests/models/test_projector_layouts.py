"""VITA and LLaVA checkpoints with every projector of theirs: opened, asked, saved, opened again and exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import llava
import pytest
import torch
from checkpoints import all_tensors, edit_config, rewrite
from safetensors.torch import save_file
from transformers import LlamaConfig, Qwen2Config, Qwen2ForCausalLM

from vita_core import build_model
from vita_core.config.schema import ProjectorConfig
from vita_core.errors import VitaError
from vita_core.language.projectors import build_projector, project
from vita_core.models import building
from vita_core.planning.projectors import resolve_projector
from vita_core.planning.resolution import resolve

CPU = ["device=cpu"]
TYPES = [
    "linear",
    "mlp1x_gelu",
    "mlp3x_gelu",
    "minigpt",
    "vanilla",
    "ldp",
    "ldpv2",
    "spp_v1",
    "spp_v2",
    "spp_v3",
    "identity",
]
PREFIX = "model.mm_projector."
State = dict[str, torch.Tensor]


def projector(kind: str, width: int, out: int) -> torch.nn.Module:
    torch.manual_seed(0)
    resolved = resolve_projector(ProjectorConfig(type=kind), width, out)
    module = build_projector(resolved, out, dtype=torch.float32, device=torch.device("cpu"))
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module.eval()


def with_projector(state: State, module: torch.nn.Module) -> State:
    kept = {key: tensor for key, tensor in state.items() if "mm_projector" not in key}
    return kept | {PREFIX + key: tensor.contiguous() for key, tensor in module.state_dict().items()}


def as_wide_as_its_tower(directory: Path) -> None:
    """Give a VITA checkpoint a language model of the tower's width, 128, which ``identity`` needs."""
    torch.manual_seed(0)
    old = json.loads((directory / "config.json").read_text())
    kept = {key: old[key] for key in ("vocab_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}
    kept |= {"num_key_value_heads": 2, "tie_word_embeddings": False, "use_sliding_window": False}
    decoder = Qwen2ForCausalLM(Qwen2Config(hidden_size=128, **kept)).state_dict()
    rewrite(directory, lambda state: {k: t for k, t in state.items() if k not in decoder} | decoder)
    edit_config(directory, hidden_size=128)


def answers(model: Any, golden: Path) -> list[list[int]]:
    pictures = [golden / "pictures" / f"{name}.png" for name in ("wide", "tall")]
    return [model.ask(picture, "Describe it", max_new_tokens=6).token_ids for picture in pictures]


def opened(place: Path, module: torch.nn.Module) -> Any:
    """The model, which projects with the weights of `module`."""
    model = build_model(checkpoint=place, overrides=CPU)
    pixels = torch.randn(2, 3, *model.tower.resolved.geometry.input_size)
    with torch.no_grad():
        features = model.tower(pixels)
        assert torch.equal(model.encode_images(pixels), project(module, features, model.tower.grid))
    return model


def reopens(model: Any, saved: Path, golden: Path) -> None:
    """A saved model has the same weights and answers, and records where they came from."""
    model.save(saved)
    again = build_model(saved)
    state, kept = again.projector.state_dict(), model.projector.state_dict()
    assert state.keys() == kept.keys()
    assert all(torch.equal(tensor, kept[key]) for key, tensor in state.items())
    assert answers(again, golden) == answers(model, golden)
    assert again.settings.projector.type == model.settings.projector.type


@pytest.mark.parametrize("kind", TYPES)
def test_vita(vita15: Path, golden: Path, tmp_path: Path, kind: str) -> None:
    if kind == "identity":
        as_wide_as_its_tower(vita15)
    module = projector(kind, 128, 128 if kind == "identity" else 32)
    rewrite(vita15, lambda state: with_projector(state, module))
    edit_config(vita15, mm_projector_type=kind)
    model = opened(vita15, module)
    reopens(model, tmp_path / "saved", golden)
    told = model.export(tmp_path / "exported")
    assert told.changed == told.copied == 0
    source, exported = all_tensors(vita15), all_tensors(tmp_path / "exported")
    assert exported.keys() == {key for key in source if "audio_encoder" not in key}
    assert all(torch.equal(tensor, source[key]) for key, tensor in exported.items())
    assert answers(build_model(checkpoint=tmp_path / "exported", overrides=CPU), golden) == answers(model, golden)


@pytest.mark.parametrize("next_", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_llava(tiny_llm: Path, golden: Path, tmp_path: Path, kind: str, next_: bool) -> None:
    sizes = llava.TEXT | ({"hidden_size": 16} if kind == "identity" else {})
    theirs = llava.converted(tmp_path / "hf", tiny_llm, next_=next_, text=LlamaConfig(**sizes))
    place = llava.original(tmp_path, theirs, tiny_llm)
    module = projector(kind, 16, sizes["hidden_size"])
    save_file(with_projector(llava.all_tensors(place), module), place / "model.safetensors", metadata={"format": "pt"})
    edit_config(place, mm_projector_type=kind)
    if next_ and kind in ("minigpt", "vanilla"):  # LLaVA-1.6 joins rows, which these projectors do not keep
        with pytest.raises(
            VitaError, match=rf"^images\.anyres\.merge: .* projector '{kind}' gives 4 tokens without any"
        ):
            resolve(place)
        edit_config(place, mm_patch_merge_type="flat")
    reopens(opened(place, module), tmp_path / "saved", golden)


def test_the_projectors_own_file_beside_the_checkpoint(tiny_llm: Path, tmp_path: Path) -> None:
    theirs = llava.converted(tmp_path / "hf", tiny_llm, next_=False)
    place = llava.original(tmp_path, theirs, tiny_llm, adapter=True)
    module = projector("ldp", 16, 24)
    torch.save({PREFIX + key: tensor for key, tensor in module.state_dict().items()}, place / "mm_projector.bin")
    edit_config(place, mm_projector_type="ldp")
    opened(place, module)
    (place / "mm_projector.bin").rename(tmp_path / "stage1.bin")
    with pytest.raises(VitaError, match=r"contains no projector: 0 of .* or `projector\.weights: FILE` with"):
        resolve(place)
    model = build_model(checkpoint=place, overrides=[*CPU, f"projector.weights={tmp_path / 'stage1.bin'}"])
    tokens = torch.randn(1, 16, 16)
    assert torch.equal(project(model.projector, tokens, (4, 4)), project(module, tokens, (4, 4)))


@pytest.mark.parametrize(
    ("stated", "near"),
    [("spp", "spp_v"), ("ldpnetv2", "ldpv2"), ("mlp2x_gleu", "mlpNx_gelu"), ("minigpt4", "minigpt"), (["ldp"], "ldp")],
)
def test_an_unknown_type_names_the_nearest(vita15: Path, stated: Any, near: str) -> None:
    edit_config(vita15, mm_projector_type=stated)
    message = r"vita15: mm_projector_type: unknown projector: .* Did you mean '" + near + r".*Try: one of "
    with pytest.raises(VitaError, match=message):
        resolve(vita15)
    assert resolve(vita15, tower_only=True).tower.spec.name == "internvit"  # the tower opens without it
    assert resolve(vita15, ["projector.type=mlp2x_gelu"]).projector.name == "mlp2x_gelu"


def test_another_type_is_told_before_a_weight_is_read(vita15: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr(building, "build_resolved", read)
    edit_config(vita15, mm_projector_type="spp_v1")
    message = r"projector 'spp_v1' from 128 to 32 channels: the checkpoint does not fit: 0 tensors match; 6 missing"
    with pytest.raises(VitaError, match=message):
        build_model(checkpoint=vita15, overrides=CPU)


def test_a_config_without_a_type_has_that_of_its_project(vita15: Path, tiny_llm: Path, tmp_path: Path) -> None:
    edit_config(vita15, mm_projector_type=None)
    assert resolve(vita15).projector.name == "mlp2x_gelu"
    place = llava.original(tmp_path, llava.converted(tmp_path / "hf", tiny_llm, next_=False), tiny_llm)
    edit_config(place, mm_projector_type=None)
    assert resolve(place).projector.name == "linear"

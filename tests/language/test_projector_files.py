"""`projector.weights`: the files of a first training stage, as LLaVA's scripts write them, and files that do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import Boom
from safetensors.torch import save_file

from vita_core import ProjectorSpec, VitaError, build_model, load_config, make_plan
from vita_core.config.schema import ProjectorConfig
from vita_core.language.projectors import build_projector, project
from vita_core.planning.projectors import resolve_projector
from vita_core.plugins.registry import registry

State = dict[str, torch.Tensor]
OTHERS = {"model.vision_tower.vision_tower.a": torch.zeros(3), "model.embed_tokens.weight": torch.zeros(9, 24)}


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def saved_shards(folder: Path, state: State) -> Path:
    """The two files and the index of a whole checkpoint; the second file has no tensor of the projector, and is not there."""
    save_file(prefixed(state, "model.mm_projector."), folder / "model-1.safetensors")
    found = dict.fromkeys(prefixed(state, "model.mm_projector."), "model-1.safetensors")
    index = {"weight_map": found | dict.fromkeys(OTHERS, "model-2.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder / "model.safetensors.index.json"


def pickled(folder: Path, content: Any, name: str = "mm_projector.bin") -> Path:
    torch.save(content, folder / name)
    return folder / name


def in_safetensors(folder: Path, state: State) -> Path:
    save_file(state, folder / "mm_projector.safetensors")
    return folder / "mm_projector.safetensors"


FORMS: dict[str, Callable[[Path, State], Path]] = {
    "LLaVA's first stage": lambda d, s: pickled(d, prefixed(s, "model.mm_projector.")),
    "with the embeddings of new tokens": lambda d, s: pickled(d, prefixed(s, "model.mm_projector.") | OTHERS),
    "without the model's prefix": lambda d, s: in_safetensors(d, prefixed(s, "mm_projector.")),
    "safetensors": lambda d, s: in_safetensors(d, prefixed(s, "model.mm_projector.") | OTHERS),
    "beside a LoRA adapter": lambda d, s: pickled(
        d, prefixed(s, "base_model.model.model.mm_projector."), "non_lora_trainables.bin"
    ),
    "wrapped by DeepSpeed": lambda d, s: pickled(d, prefixed(s, "module.model.mm_projector.")),
    "a checkpoint of DeepSpeed": lambda d, s: pickled(d, {"module": prefixed(s, "model.mm_projector."), "step": 3}),
    "the shards of a checkpoint": saved_shards,
    "the directory of a checkpoint": lambda d, s: saved_shards(d, s).parent,
    "the directory of a first stage": lambda d, s: pickled(d, prefixed(s, "model.mm_projector.")).parent,
    "the projector's own keys": pickled,
}
TYPES = ["linear", "mlp1x_gelu", "mlp2x_gelu"]
JOINING = [found.spec.name for found in registry().all(ProjectorSpec) if found.spec.tokens is not None]


def trained(kind: str, width: int = 32, out: int = 24) -> torch.nn.Module:
    torch.manual_seed(0)
    resolved = resolve_projector(ProjectorConfig(type=kind), width, out)
    return build_projector(resolved, out, dtype=torch.float32, device=torch.device("cpu"))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(tiny_config: Path, tmp_path: Path, kind: str, form: str) -> None:
    theirs = trained(kind)
    (tmp_path / "stage").mkdir()
    file = FORMS[form](tmp_path / "stage", theirs.state_dict())
    config = load_config(tiny_config, [f"projector={{type: {kind}, weights: {file}}}"])
    assert make_plan(config).stages[2].parameters == sum(p.numel() for p in theirs.parameters())
    model = build_model(config)
    tokens = torch.randn(2, 5, 32)
    assert torch.equal(model.projector(tokens), theirs(tokens))
    model.save(tmp_path / "saved")
    assert torch.equal(build_model(tmp_path / "saved").projector(tokens), theirs(tokens))
    sources = json.loads((tmp_path / "saved" / "provenance.json").read_text())["sources"]
    assert len(sources["projector"]["files"]) == 1


@pytest.mark.parametrize("kind", [*JOINING, "layernorm_mlp"])
@pytest.mark.parametrize("form", ["LLaVA's first stage", "beside a LoRA adapter"])
def test_every_type_is_read(tiny_config: Path, tmp_path: Path, kind: str, form: str) -> None:
    theirs = trained(kind)
    file = FORMS[form](tmp_path, theirs.state_dict())
    model = build_model(load_config(tiny_config, [f"projector={{type: {kind}, weights: {file}}}"]))
    tokens = torch.randn(2, 24, 32)
    assert torch.equal(project(model.projector, tokens, (4, 6)), project(theirs, tokens, (4, 6)))


@pytest.mark.parametrize("kind", [*JOINING, "layernorm_mlp"])
def test_other_widths_of_every_type(tiny_config: Path, tmp_path: Path, kind: str) -> None:
    for widths, message in (
        ((40, 24), "trained for a tower of 40 channels, but this one gives 32"),
        ((32, 16), "trained for a language model of 16 channels, but this one takes 24"),
        (
            (16, 48),
            "a tower of 16 channels, but this one gives 32, and for a language model of 48 channels, but this one takes 24",
        ),
    ):
        file = pickled(tmp_path, prefixed(trained(kind, *widths).state_dict(), "model.mm_projector."))
        with pytest.raises(VitaError, match=message):
            make_plan(load_config(tiny_config, [f"projector={{type: {kind}, weights: {file}}}"]))


def test_the_newline_is_in_the_same_file(tiny_config: Path, tmp_path: Path) -> None:
    """LLaVA-1.6 saves it with the projector, and reads it from there."""
    newline = torch.randn(24)
    state = prefixed(trained("mlp2x_gelu").state_dict(), "model.mm_projector.") | {"model.image_newline": newline}
    file = pickled(tmp_path, state)
    unpad = f"images.anyres={{grids: [[1, 2]], merge: spatial_unpad, newline: {file}}}"
    model = build_model(load_config(tiny_config, [f"projector.weights={file}", unpad]))
    assert torch.equal(model.newline, newline)


def test_a_linear_layer_has_the_keys_of_llava(tmp_path: Path) -> None:
    assert list(trained("linear").state_dict()) == ["weight", "bias"]
    file = in_safetensors(tmp_path, prefixed(trained("linear").state_dict(), "0."))  # as this project wrote it
    resolved = resolve_projector(ProjectorConfig(type="linear", weights=str(file)), 32, 24)
    module = build_projector(resolved, 24, dtype=torch.float32, device=torch.device("cpu"))
    assert torch.equal(module.weight, trained("linear").weight)


@pytest.mark.parametrize("form", ["LLaVA's first stage", "safetensors", "the shards of a checkpoint"])
@pytest.mark.parametrize(
    ("kind", "widths", "message"),
    [
        ("linear", (40, 24), r"was trained for a tower of 40 channels, but this one gives 32\. Try"),
        ("mlp2x_gelu", (40, 24), r"was trained for a tower of 40 channels, but this one gives 32\. Try"),
        ("mlp2x_gelu", (32, 16), r"was trained for a language model of 16 channels, but this one takes 24\. Try"),
        (
            "mlp3x_gelu",
            (64, 16),
            r"a tower of 64 channels, but this one gives 32, and for a language model of 16 channels, but this one takes 24\.",
        ),
    ],
)
def test_other_widths_are_told_by_the_plan(
    tiny_config: Path, tmp_path: Path, form: str, kind: str, widths: tuple[int, int], message: str
) -> None:
    file = FORMS[form](tmp_path, trained(kind, *widths).state_dict())
    config = load_config(tiny_config, [f"projector={{type: {kind}, weights: {file}}}"])
    with pytest.raises(VitaError, match=r"projector\.weights: .*" + message):
        make_plan(config)


def test_another_type_is_told_by_the_plan(tiny_config: Path, tmp_path: Path) -> None:
    file = pickled(tmp_path, prefixed(trained("linear").state_dict(), "model.mm_projector."))
    with pytest.raises(
        VitaError, match=r"tensors of another projector than .*'mlp2x_gelu'\. Try: .*`projector.type: linear`"
    ):
        make_plan(load_config(tiny_config, [f"projector.weights={file}"]))


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "half a pickle": (
        lambda d: _cut(pickled(d, prefixed(trained("linear").state_dict(), "model.mm_projector."))),
        r"projector\.weights: cannot read .*mm_projector\.bin: it is truncated or not a checkpoint",
    ),
    "half a safetensors file": (
        lambda d: _cut(in_safetensors(d, trained("linear").state_dict())),
        r"projector\.weights: cannot read .*: it is truncated or not a safetensors file",
    ),
    "a page of a hub": (
        lambda d: _written(d / "mm_projector.bin", b"<!doctype html><html></html>"),
        "it is truncated or not a checkpoint",
    ),
    "a pointer of git-lfs": (
        lambda d: _written(d / "mm_projector.bin", b"version https://git-lfs.github.com/spec/v1\n"),
        "it is truncated or not a checkpoint",
    ),
    "other bytes": (lambda d: _written(d / "mm_projector.bin", b"hello" * 99), "it is truncated or not a checkpoint"),
    "text": (lambda d: _written(d / "mm_projector.bin", b"root:x:0:0:"), "it is truncated or not a checkpoint"),
    "an empty file": (lambda d: _written(d / "mm_projector.bin", b""), "it is truncated or not a checkpoint"),
    "code": (lambda d: pickled(d, Boom(d / "made")), "holds more than tensors and is not opened"),
    "a list": (lambda d: pickled(d, [1, 2]), "not a dictionary of tensors: a list"),
    "no tensors": (lambda d: pickled(d, {"epoch": 1}), "holds no projector: no tensor is called mm_projector"),
    "an index without a projector": (
        lambda d: _written(d / "model.safetensors.index.json", json.dumps({"weight_map": dict.fromkeys(OTHERS, "x")}).encode()),
        "holds no projector: no tensor is called mm_projector",
    ),
    "an index whose shard is missing": (
        lambda d: _without_shard(saved_shards(d, trained("linear").state_dict())),
        "1 of 1 shards are missing: model-1.safetensors",
    ),
    "a directory without weights": (lambda d: d, "holds no weight file: it holds nothing"),
    "a name that is not there": (lambda d: d / "mm_projektor.bin", "no such file"),
}  # fmt: skip


def _cut(file: Path) -> Path:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    return file


def _written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def _without_shard(index: Path) -> Path:
    (index.parent / "model-1.safetensors").unlink()
    return index


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_no_projector(tiny_config: Path, tmp_path: Path, name: str) -> None:
    make, message = BAD[name]
    (tmp_path / "stage").mkdir()
    file = make(tmp_path / "stage")
    with pytest.raises(VitaError, match=message) as raised:
        make_plan(load_config(tiny_config, [f"projector={{type: linear, weights: {file}}}"]))
    assert str(raised.value).startswith("projector.weights: ")
    assert not (tmp_path / "stage" / "made").exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"model.layers.0.weight": torch.zeros(24, 32)}, r"0 tensors match; 2 missing \(weight, bias\); 1 unexpected"),
        ({"model.mm_projector.weight": torch.zeros(24, 32)}, r"1 tensors match; 1 missing \(bias\)"),
        (
            {"mm_projector.weight": torch.zeros(24, 32), "mm_projector.bias": torch.zeros(25)},
            r"1 tensors match; 1 of another shape \(bias \(25,\) for \(24,\)\)",
        ),
    ],
)
def test_no_weight_is_read_before_the_headers_fit(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: State, message: str
) -> None:
    from vita_core.models import building

    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr(building, "build_resolved", read)
    file = in_safetensors(tmp_path, state)
    with pytest.raises(VitaError, match=r"projector\.weights: .* does not fit: " + message):
        build_model(load_config(tiny_config, [f"projector={{type: linear, weights: {file}}}"]))


def test_a_file_that_states_another_type_is_told(tmp_path: Path) -> None:
    """`minigpt` and `vanilla` have tensors of the same names and shapes, and read them differently."""
    file = tmp_path / "projector.safetensors"
    state = {"linear.weight": torch.zeros(24, 64), "linear.bias": torch.zeros(24)}
    widths = {"in_features": "16", "out_features": "24"}
    save_file(state, file, metadata={**widths, "type": "minigpt"})
    resolve_projector(ProjectorConfig(type="minigpt", weights=str(file)), 16, 24)
    with pytest.raises(
        VitaError, match=r"another type than projector\.type: 'vanilla'\. Try: `projector\.type: minigpt`"
    ):
        resolve_projector(ProjectorConfig(type="vanilla", weights=str(file)), 16, 24)
    save_file(state, file, metadata=widths)  # as without a type, from before it was written
    resolve_projector(ProjectorConfig(type="vanilla", weights=str(file)), 16, 24)

"""LoRA directories as LLaVA's and VITA's training writes them, made here by peft itself: merged, strictly."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llava
import pytest
import torch
from checkpoints import Boom
from conftest import vita
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from vita_core import build_model
from vita_core.adapters import load_adapter, save_adapter
from vita_core.errors import CheckpointError, VitaError
from vita_core.planning.migrating import migrate
from vita_core.weights.files import sha256

IDS = torch.tensor([[5, 6, 7, 8]])
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapt(model: Any, folder: Path, *, old: bool = False, **options: Any) -> Any:
    """peft's model of a copy of `model`, with random LoRA weights, saved in `folder`; `old`: as adapter_model.bin."""
    torch.manual_seed(7)
    adapted = get_peft_model(
        copy.deepcopy(model), LoraConfig(**{"task_type": "CAUSAL_LM", "target_modules": EVERY} | options)
    )
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder, save_embedding_layers=False)  # which would ask a hub about the base
    if old:
        state = load_file(folder / "adapter_model.safetensors")
        torch.save(state, folder / "adapter_model.bin")
        (folder / "adapter_model.safetensors").unlink()
    return adapted.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


@pytest.fixture
def lora(tmp_path: Path, tiny_llm: Path) -> tuple[Path, Path, Any]:
    """An adapter directory of LLaVA-1.5, its base (a plain Llama), and peft's own model of both."""
    theirs = llava.converted(tmp_path / "hf", tiny_llm, next_=False)
    whole = llava.original(tmp_path, theirs, tiny_llm, tower_inside=False, adapter=True)
    base = tmp_path / "base"
    language = LlamaForCausalLM(theirs.config.text_config)
    language.model.load_state_dict(theirs.model.language_model.state_dict())
    language.lm_head.load_state_dict(theirs.lm_head.state_dict())
    language.save_pretrained(base)
    llava.copy_tokenizer(tiny_llm, base)
    place = tmp_path / "llava-lora"
    adapted = adapt(language, place, old=True)
    shutil.copy(whole / "config.json", place)
    projector = torch.load(whole / "mm_projector.bin", weights_only=True)
    torch.save(
        {f"base_model.model.{key}": value for key, value in projector.items()}, place / "non_lora_trainables.bin"
    )
    return place, base, adapted


@pytest.mark.slow
def test_merged_logits_are_pefts(lora: tuple[Path, Path, Any], golden: Path, tmp_path: Path) -> None:
    place, base, adapted = lora
    before = {file.name: sha256(file) for file in base.iterdir()}
    model = build_model(checkpoint=place, model_base=str(base), overrides=["device=cpu"])
    torch.testing.assert_close(logits(model.llm.model), logits(adapted), atol=1e-5, rtol=0)
    assert (logits(model.llm.model) - logits(adapted.get_base_model())).abs().max() < 1e-5
    with adapted.disable_adapter():
        assert (logits(model.llm.model) - logits(adapted)).abs().max() > 0.01
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    assert before == {file.name: sha256(file) for file in base.iterdir()}
    assert any("LoRA adapter, merged into" in note for note in model.resolved.notes)
    model.save(tmp_path / "saved")
    again = build_model(tmp_path / "saved", overrides=["device=cpu"])
    assert torch.equal(logits(again.llm.model), logits(model.llm.model))
    picture = golden / "pictures" / "wide.png"
    asked = ["--question", "what ?", "--json"]
    done = vita("run", place, "--model-base", base, "--image", picture, "--max-new-tokens", 5, *asked)
    assert done.returncode == 0, done.stderr
    expected = model.ask(picture, "what ?", max_new_tokens=5).token_ids
    assert json.loads(done.stdout)["token_ids"] == expected
    named = ["--model_path", place, "--model_base", base, "--image_path", picture, "--max-new-tokens", 5]
    demo = vita("demo", *named, *asked)
    assert demo.returncode == 0, demo.stderr
    assert json.loads(demo.stdout)["token_ids"] == expected


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"use_rslora": True, "r": 4}, {"modules_to_save": ["lm_head"]}]
)
def test_lora_on_a_whole_vita_checkpoint(golden: Path, vita15: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """Its projector was trained further: what non_lora_trainables.bin holds goes before the base's."""
    plain = build_model(checkpoint=golden / "vita15", overrides=["device=cpu"])
    place = tmp_path / "vita-lora"
    adapted = adapt(plain.llm.model, place, **options)
    shutil.copy(golden / "vita15" / "config.json", place)
    trained = {f"model.mm_projector.{key}": value + 1 for key, value in plain.projector.state_dict().items()}
    torch.save({f"base_model.model.{key}": value for key, value in trained.items()}, place / "non_lora_trainables.bin")
    model = build_model(checkpoint=place, model_base=str(vita15), overrides=["device=cpu"])
    torch.testing.assert_close(logits(model.llm.model), logits(adapted), atol=1e-5, rtol=0)
    for key, value in model.projector.state_dict().items():
        assert torch.equal(value, trained[f"model.mm_projector.{key}"])
    for key, value in model.tower.encoder.state_dict().items():
        assert torch.equal(value, plain.tower.encoder.state_dict()[key])


def test_an_initialisation_that_would_change_the_base_is_not_run(vita15: Path, tmp_path: Path) -> None:
    plain = build_model(checkpoint=vita15, overrides=["device=cpu"])
    place = tmp_path / "vita-lora"
    adapted = adapt(plain.llm.model, place)
    shutil.copy(vita15 / "config.json", place)
    file = place / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "init_lora_weights": "pissa"}))
    model = build_model(checkpoint=place, model_base=str(vita15), overrides=["device=cpu"])
    torch.testing.assert_close(logits(model.llm.model), logits(adapted), atol=1e-5, rtol=0)


def _state(place: Path, change: Callable[[dict[str, Any]], dict[str, Any]], name: str = "adapter_model.bin") -> None:
    torch.save(change(torch.load(place / name, weights_only=True)), place / name)


def _without(word: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda state: {key: value for key, value in state.items() if word not in key}


def _settings(place: Path, **changes: Any) -> None:
    file = place / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _pickled(place: Path, name: str) -> None:
    import pickle

    (place / name).write_bytes(pickle.dumps({"a": Boom(place / "boom")}, protocol=2))


NON_LORA = "non_lora_trainables.bin"
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (
        lambda d: _state(d, _without("layers.1.mlp.up_proj")),
        r"LoRA adapter .* does not fit: 26 tensors match; 2 missing \(base_model\.model\.model\.layers\.1\.mlp\.up_proj",
    ),
    "unexpected": (
        lambda d: _state(
            d, lambda s: {**s, "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": torch.ones(1)}
        ),
        r"28 tensors match; 1 unexpected \(base_model\.model\.model\.layers\.9",
    ),
    "shape": (
        lambda d: _state(d, lambda s: {k: v[:, :3] if "lora_A" in k else v for k, v in s.items()}),
        r"14 of another shape \(.*lora_A\.weight \(8, 3\) for \(8, 24\)",
    ),
    "no adapter": (
        lambda d: (d / "adapter_model.bin").unlink(),
        r"holds no weight file: .*adapter_model\.safetensors, adapter_model\.bin",
    ),
    "other modules": (
        lambda d: _settings(d, target_modules=["query"]),
        "does not fit this model: .*query",
    ),
    "another method": (lambda d: _settings(d, peft_type="IA3"), "peft_type 'IA3' is not supported, only 'LORA'"),
    "no projector": (lambda d: (d / NON_LORA).unlink(), "contains no projector.*there is no non_lora_trainables.bin"),
    "half a projector": (lambda d: _state(d, _without(".2."), NON_LORA), r"2 missing \(2\.weight, 2\.bias\)"),
    "unknown key": (
        lambda d: _state(d, lambda s: {**s, "base_model.model.model.resampler.w": torch.ones(1)}, NON_LORA),
        r"1 unexpected tensors \(model\.resampler\.w\)",
    ),
    "layer the base lacks": (
        lambda d: _state(
            d, lambda s: {**s, "base_model.model.model.layers.7.mlp.up_proj.weight": torch.ones(1)}, NON_LORA
        ),
        r"1 unexpected \(model\.layers\.7\.mlp\.up_proj\.weight\)",
    ),
    "code in the adapter": (lambda d: _pickled(d, "adapter_model.bin"), "holds more than tensors and is not opened"),
    "code beside it": (lambda d: _pickled(d, NON_LORA), "holds more than tensors and is not opened"),
    "no config": (lambda d: (d / "config.json").unlink(), "has no config.json"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_adapters_say_what_is_wrong(lora: tuple[Path, Path, Any], kind: str) -> None:
    place, base, _ = lora
    break_it, message = BROKEN[kind]
    break_it(place)
    with pytest.raises(VitaError, match=f"(?s){message}"):
        build_model(checkpoint=place, model_base=str(base), overrides=["device=cpu"])
    assert not (place / "boom").exists()


@pytest.mark.slow
def test_the_base_must_be_named_and_a_model(lora: tuple[Path, Path, Any], golden: Path) -> None:
    place, base, _ = lora
    _settings(place, base_model_name_or_path="lmsys/vicuna-7b-v1.5")
    done = vita("run", place, "--image", golden / "pictures" / "wide.png", "--question", "what ?")
    assert done.returncode == 2
    assert "contains a LoRA adapter, which needs the model" in done.stderr
    assert "--model-base DIR" in done.stderr
    assert "'lmsys/vicuna-7b-v1.5'" in done.stderr
    with pytest.raises(CheckpointError, match="--model-base: a LoRA adapter itself"):
        build_model(checkpoint=place, model_base=str(place))
    with pytest.raises(CheckpointError, match="is not a directory"):
        build_model(checkpoint=place, model_base=str(base / "none"))


@pytest.mark.slow
def test_without_peft_the_error_says_what_to_install(
    lora: tuple[Path, Path, Any], golden: Path, tmp_path: Path
) -> None:
    place, base, _ = lora
    (tmp_path / "peft.py").write_text("raise ImportError('not here')\n")
    picture = golden / "pictures" / "wide.png"
    asked = ["--model-base", base, "--image", picture, "--question", "what ?"]
    done = vita("run", place, *asked, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "pip install 'vita-core[lora]'" in done.stderr


def test_migrate_says_to_merge_first(lora: tuple[Path, Path, Any]) -> None:
    with pytest.raises(
        CheckpointError, match=r"merge and save it with build_model\(checkpoint=\.\.\., model_base=\.\.\.\)\.save"
    ):
        migrate(lora[0])


def test_a_merged_adapter_is_exported_with_its_bases_keys(vita15: Path, tmp_path: Path) -> None:
    plain = build_model(checkpoint=vita15, overrides=["device=cpu"])
    place = tmp_path / "vita-lora"
    adapted = adapt(plain.llm.model, place)
    shutil.copy(vita15 / "config.json", place)
    model = build_model(checkpoint=place, model_base=str(vita15), overrides=["device=cpu"])
    with pytest.raises(CheckpointError, match="is not a whole checkpoint: it was opened on"):
        model.export(tmp_path / "out")
    told = model.export(tmp_path / "out", source=vita15)
    assert told.changed == 3 * len(EVERY)
    again = build_model(checkpoint=tmp_path / "out", overrides=["device=cpu"])
    torch.testing.assert_close(logits(again.llm.model), logits(adapted), atol=1e-5, rtol=0)


def test_an_adapter_beside_the_weights_is_what_peft_computes(tmp_path: Path, tiny_llm: Path) -> None:
    """Ours opens peft's directory, and peft opens ours, with the same logits to the bit."""
    base = LlamaForCausalLM.from_pretrained(tiny_llm).eval()
    theirs = adapt(base, tmp_path / "peft", r=4)
    ours = copy.deepcopy(base)
    load_adapter(ours, tmp_path / "peft")
    assert torch.equal(logits(ours), logits(theirs))
    assert not torch.equal(logits(ours), logits(base))
    save_adapter(ours, tmp_path / "saved")
    assert torch.equal(
        logits(PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "saved").eval()), logits(theirs)
    )
    with pytest.raises(CheckpointError, match=r"holds no weight file"):
        load_adapter(copy.deepcopy(base), tmp_path / "nothing")

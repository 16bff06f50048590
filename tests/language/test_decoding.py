"""What a checkpoint's generation_config.json says is obeyed, or refused with its key: nothing of it fails later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_generating import GREEDY, QUESTION, pictures
from transformers import GenerationConfig

from vita_core.config.schema import LLMConfig, PromptConfig
from vita_core.errors import CheckpointError
from vita_core.language.decoding import OBEYED, OURS, check_generation, stop_token
from vita_core.language.generating import generate
from vita_core.language.llm import LanguageModel
from vita_core.language.merging import merge

REFUSED: list[tuple[str, Any, str]] = [
    ("num_beams", 2, "is not supported"),
    ("num_beams", 10**9, "is not supported"),
    ("num_beams", "x", "is not supported"),
    ("stop_strings", ["cat"], "is not supported"),
    ("suppress_tokens", [10**9], "is not supported"),
    ("forced_bos_token_id", 10**9, "is not supported"),
    ("guidance_scale", 2, "is not supported"),
    ("assistant_early_exit", 1, "is not supported"),
    ("return_dict_in_generate", True, "is not supported"),
    ("eos_token_id", [10**30], "is not a valid integer"),
    ("eos_token_id", 2**31, "is not less than"),
    ("eos_token_id", {}, "is not a valid integer"),
    ("pad_token_id", "x", "is not a valid integer"),
    ("min_length", 10**9, "is not less than"),
    ("min_new_tokens", -1, "is not greater than"),
    ("repetition_penalty", 0, "is not greater than"),
    ("repetition_penalty", float("inf"), "is not less than"),
    ("no_repeat_ngram_size", "x", "is not a valid integer"),
    ("cache_implementation", "offloaded", "is not 'dynamic'"),
    ("top_k", -1, "is not greater than"),
]


def opened(tiny_llm: Path, folder: Path, **stated: Any) -> LanguageModel:
    """The tiny language model, whose generation_config.json has these keys."""
    copy = Path(shutil.copytree(tiny_llm, folder / "llm"))
    file = copy / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **stated}))
    return LanguageModel(LLMConfig(weights=str(copy)), torch.device("cpu"))


@pytest.mark.reliability(
    door="generation_config.json",
    fault="a wrong or unsupported value",
    expected="an error that names the file and the key",
)
@pytest.mark.parametrize(("key", "value", "reason"), REFUSED)
def test_refused(key: str, value: Any, reason: str, tiny_llm: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: {key}: .* {reason}"):
        opened(tiny_llm, tmp_path, **{key: value})


def test_what_is_said_is_obeyed(tiny_llm: Path, tmp_path: Path) -> None:
    """transformers' own penalty for repeated tokens changes the answer; what has no effect is let pass."""
    plain = {
        "transformers_version": "4.40.0",
        "num_beams": 1,
        "max_length": 20,
        "chat_format": "x",
        "stop_strings": None,
    }
    models = [opened(tiny_llm, tmp_path / "a", **plain), opened(tiny_llm, tmp_path / "b", repetition_penalty=1000.0)]
    answers = []
    for llm in models:
        embeds, mask = merge([llm.prompt(PromptConfig(), QUESTION, 1)], pictures([4]), llm.embed)
        answers.append(generate(llm, GREEDY, embeds, mask, 5)[0])
    assert len(set(answers[0])) < len(answers[0]) == 5
    assert len(set(answers[1])) == len(answers[1])


def test_every_key_of_the_library_is_decided() -> None:
    for key, value in vars(GenerationConfig()).items():
        if not key.startswith("_") and value is None and key not in ("eos_token_id", "pad_token_id", "bos_token_id"):
            config = GenerationConfig()
            setattr(config, key, {"some": "thing"})
            if key in OBEYED | OURS:
                check_generation(config, "llm")
                continue
            with pytest.raises(CheckpointError, match=rf"generation_config\.json: {key}: "):
                check_generation(config, "llm")


def test_a_model_without_an_end() -> None:
    assert stop_token(None, 3) == stop_token([], 3) == stop_token([3, 4], 5) == 3
    with pytest.raises(CheckpointError, match="neither the language model nor its tokenizer names a token"):
        stop_token(None, None)


@pytest.mark.reliability(
    door="config.json of a language model",
    fault="a key with the name of a method, or a model with an encoder",
    expected="an error that names the file and the key",
)
@pytest.mark.parametrize("key", ["validate", "save_pretrained", "_get_generation_parameters", "is_encoder_decoder"])
def test_a_config_that_could_not_generate(key: str, tiny_llm: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_llm, tmp_path / "llm"))
    (copy / "config.json").write_text(json.dumps({**json.loads((copy / "config.json").read_text()), key: True}))
    with pytest.raises(CheckpointError, match=rf"llm/config\.json: {key}: "):
        LanguageModel(LLMConfig(weights=str(copy)), torch.device("cpu"))


@pytest.mark.reliability(
    door="tokenizer.json", fault="no words, or ids beyond the embeddings", expected="an error that names the tokenizer"
)
@pytest.mark.parametrize("shift", [None, 1000])
def test_a_tokenizer_of_another_model(shift: int | None, tiny_llm: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_llm, tmp_path / "llm"))
    stated = json.loads((copy / "tokenizer.json").read_text())
    words = stated["model"]["vocab"].items()
    stated["model"]["vocab"] = {} if shift is None else {word: number + shift for word, number in words}
    (copy / "tokenizer.json").write_text(json.dumps(stated))
    llm = LanguageModel(LLMConfig(weights=str(copy)), torch.device("cpu"))
    told = (
        "tokenizer does not accept the text" if shift is None else r"token id 10\d\d, but the model has 28 embeddings"
    )
    with pytest.raises(CheckpointError, match=told):
        merge([llm.prompt(PromptConfig(), QUESTION, 1)], pictures([4]), llm.embed)

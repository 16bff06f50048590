"""A tokenizer.json of a stranger whose steps explode is refused, and one whose patterns fail is told."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from vita_core.config.schema import LLMConfig, PromptConfig
from vita_core.errors import CheckpointError
from vita_core.language.llm import LanguageModel
from vita_core.untrusted.tokenizers import check_growth

THOUSAND = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
CHARSMAP = base64.b64encode((4).to_bytes(4, "little") + b"\0\0\0\0" + b"short\0" + b"long" * 300 + b"\0").decode()
TEMPLATE = {"SpecialToken": {"id": "<s>", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
EXPLODING: list[tuple[str, dict[str, Any]]] = [
    ("normalizer", {"type": "Sequence", "normalizers": [THOUSAND, THOUSAND, THOUSAND]}),
    ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [THOUSAND]}, THOUSAND]}),
    ("normalizer", {"type": "Replace", "pattern": {"Regex": "x*"}, "content": "a" * 1000}),
    ("normalizer", {"type": "Prepend", "prepend": "a" * 2000}),
    ("normalizer", {"type": "Sequence", "normalizers": [{"type": "ByteLevel"}] * 50}),
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": CHARSMAP}),
    ("post_processor", {"type": "TemplateProcessing", "single": [TEXT] * 5000, "pair": [TEXT], "special_tokens": {}}),
    ("decoder", {"type": "Sequence", "decoders": [THOUSAND, THOUSAND]}),
]


def changed(tiny_llm: Path, folder: Path, **keys: Any) -> LanguageModel:
    """The tiny language model, whose tokenizer.json has these keys."""
    copy = Path(shutil.copytree(tiny_llm, folder / "llm"))
    file = copy / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))
    return LanguageModel(LLMConfig(weights=str(copy)), torch.device("cpu"))


@pytest.mark.reliability(
    door="tokenizer.json",
    fault="steps that make over a thousand letters or tokens of one",
    expected="an error that names the step, before any text is read",
)
@pytest.mark.parametrize(("key", "step"), EXPLODING)
def test_exploding_steps(key: str, step: dict[str, Any], tiny_llm: Path, tmp_path: Path) -> None:
    if step["type"] == "Precompiled":  # a table that the library cannot read
        with pytest.raises(CheckpointError, match="normalizer: its steps make up to 1,200 of one character, more than"):
            check_growth(key, step, "tokenizer.json")
        return
    with pytest.raises(CheckpointError, match=rf"{key}: its steps make up to [\d,]+ of one character, more than 1,000"):
        changed(tiny_llm, tmp_path, **{key: step})


@pytest.mark.parametrize(
    "step",
    [
        {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {**THOUSAND, "content": "▁"}]},
        {"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "Lowercase"}, {"type": "StripAccents"}]},
        {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True},
        {"type": "Sequence", "decoders": [{**THOUSAND, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        {
            "type": "TemplateProcessing",
            "single": [TEMPLATE, TEXT],
            "pair": [TEMPLATE, TEXT, TEXT],
            "special_tokens": {},
        },
    ],
)
def test_real_steps(step: dict[str, Any]) -> None:
    check_growth("any", step, "tokenizer.json")


@pytest.mark.reliability(
    door="tokenizer.json", fault="a pattern that takes for ever", expected="an error that names the tokenizer"
)
def test_a_pattern_that_takes_for_ever(tiny_llm: Path, tmp_path: Path) -> None:
    """The library gives it up, with an error that is no `Exception`."""
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    llm = changed(tiny_llm, tmp_path, pre_tokenizer=split, normalizer=None)
    with pytest.raises(CheckpointError, match=r"the tokenizer does not accept the text: PanicException: .*retry-limit"):
        llm.prompt(PromptConfig(template="plain"), "a" * 40 + "b", 0)

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
from vita_core.language.tokenizing import decoded
from vita_core.untrusted.tokenizers import check_steps

THOUSAND = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}


def charsmap(*texts: str) -> str:
    """The rules of a `Precompiled` normalizer that write these texts, behind an empty table."""
    return base64.b64encode((1024).to_bytes(4, "little") + bytes(1024) + "\0".join(texts).encode()).decode()


def template(*pieces: dict[str, Any], ids: int = 1) -> dict[str, Any]:
    special = {"<s>": {"id": "<s>", "ids": [1] * ids, "tokens": ["<s>"] * ids}}
    return {"type": "TemplateProcessing", "single": list(pieces), "pair": [TEXT], "special_tokens": special}


START = {"SpecialToken": {"id": "<s>", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
SPACES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
EMPTY = {"type": "Precompiled", "precompiled_charsmap": charsmap("")}
EXPLODING: list[tuple[str, dict[str, Any]]] = [
    ("normalizer", {"type": "Sequence", "normalizers": [THOUSAND, THOUSAND, THOUSAND]}),
    ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [THOUSAND]}, THOUSAND]}),
    ("normalizer", {"type": "Sequence", "normalizers": [EMPTY, THOUSAND, THOUSAND]}),
    ("normalizer", {"type": "Replace", "pattern": {"Regex": "x*"}, "content": "a" * 10_000}),
    ("normalizer", {"type": "Prepend", "prepend": "a" * 20_000}),
    ("normalizer", {"type": "Sequence", "normalizers": [{"type": "ByteLevel"}] * 50}),
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": charsmap("short", "long" * 3000)}),
    ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [SPACES] * 20}),
    ("post_processor", template(*[TEXT] * 20_000)),
    ("post_processor", template(*[START] * 500, TEXT, ids=500)),
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
    fault="steps that make over 10,000 letters or tokens of one",
    expected="an error that names the step, before the library opens the file",
)
@pytest.mark.parametrize(("key", "step"), EXPLODING)
def test_exploding_steps(key: str, step: dict[str, Any], tiny_llm: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=rf"tokenizer.json: {key}: its steps make up to [\d,]+ of one character, more "
    ):
        changed(tiny_llm, tmp_path, **{key: step})


def test_added_tokens_do_not_explode_when_the_file_is_opened(tiny_llm: Path, tmp_path: Path) -> None:
    added = {"id": 27, "content": "a" * 1000, "single_word": False, "lstrip": False, "rstrip": False, "special": False}
    steps = {"type": "Sequence", "normalizers": [THOUSAND, THOUSAND]}
    with pytest.raises(CheckpointError, match=r"normalizer: its steps make up to 1,000,000 of one character"):
        changed(tiny_llm, tmp_path, normalizer=steps, added_tokens=[{**added, "normalized": True}])


ALBERT = [("``", '"'), ("''", '"')]


@pytest.mark.parametrize(
    ("key", "step"),
    [
        (
            "normalizer",
            {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {**THOUSAND, "content": "▁"}]},
        ),
        (
            "normalizer",
            {"type": "Sequence", "normalizers": [{"type": "NFKD"}, {"type": "Lowercase"}, {"type": "StripAccents"}]},
        ),
        ("normalizer", {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}),
        (
            "normalizer",
            {
                "type": "Sequence",
                "normalizers": [
                    *[{"type": "Replace", "pattern": {"String": old}, "content": new} for old, new in ALBERT],
                    *[{"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}],
                    {"type": "Precompiled", "precompiled_charsmap": charsmap("f" * 18)},
                    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
                ],
            },
        ),
        (
            "decoder",
            {
                "type": "Sequence",
                "decoders": [{**THOUSAND, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}],
            },
        ),
        ("post_processor", template(START, TEXT)),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, SPACES]}),
    ],
)
def test_real_steps(key: str, step: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({key: step}))
    check_steps(tmp_path / "tokenizer.json")


@pytest.mark.reliability(
    door="tokenizer.json", fault="a pattern that takes for ever", expected="an error that names the tokenizer"
)
def test_a_pattern_that_takes_for_ever(tiny_llm: Path, tmp_path: Path) -> None:
    """The library gives it up, with an error that is no `Exception`."""
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    llm = changed(tiny_llm, tmp_path, pre_tokenizer=split, normalizer=None)
    with pytest.raises(CheckpointError, match=r"the tokenizer does not accept the text: RuntimeError: Onig.*retry"):
        llm.prompt(PromptConfig(template="plain"), "a" * 40 + "b", 0)
    llm = changed(
        tiny_llm, tmp_path / "decoder", decoder={"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}
    )
    llm.tokenizer.add_tokens(["a" * 40 + "b"])
    with pytest.raises(CheckpointError, match=r"the tokenizer cannot write the answer: RuntimeError: Onig.*retry"):
        decoded(llm.tokenizer, [len(llm.tokenizer) - 1])
    pieces: list[str] = []
    streamer = llm.streamer(pieces.append)
    with pytest.raises(CheckpointError, match="the tokenizer cannot write the answer"):
        streamer.put(torch.tensor([len(llm.tokenizer) - 1]))

"""Prompt formats: the structure that VITA, LLaVA and InternVL train with, as their own code writes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vita_core import build_model
from vita_core.config.schema import PromptConfig
from vita_core.language.conversations import CONVERSATIONS
from vita_core.language.llm import PICTURE_ID

# what get_prompt() of VITA's, LLaVA's and InternVL's conversation.py returns for one question about one picture
WRITTEN = {
    "qwen2p5_instruct": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n<image>\nQ<|im_end|>\n<|im_start|>assistant\n",
    "mixtral_two": "system:S</s>\nuser:<image>\nQ</s>\nbot:",
    "nemo": "[INST]S\n<image>\nQ[/INST]",
    "vicuna_v1": "S USER: <image>\nQ ASSISTANT:",
    "mistral_instruct": "[INST] <<SYS>>\nS\n<</SYS>>\n\n<image>\nQ [/INST]",
    "vipllava": "S###Human: <image>\nQ###Assistant:",
    "internvl2_5": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n<image>\nQ<|im_end|>\n<|im_start|>assistant\n",
    "internlm2_chat": "<|im_start|>system\nS<|im_end|><|im_start|>user\n<image>\nQ<|im_end|><|im_start|>assistant\n",
    "phi3_chat": "<|system|>\nS<|end|><|user|>\n<image>\nQ<|end|><|assistant|>\n",
    "plain": "S\n<image>\nQ\n",
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_structure(name: str) -> None:
    form = CONVERSATIONS[name]
    assert form.text("S", form.content("Q", [1])) == WRITTEN[name]
    bare = form.text(None, form.content("Q", [1]))
    assert "<image>\nQ" in bare
    assert not [word for word in ("system", "SYS", "S ", "S\n") if word in bare]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_name_is_a_template(name: str) -> None:
    assert PromptConfig(template=name).template == name


def test_braces_and_marks_of_the_user_stay() -> None:
    assert "{a} <|x|> {system}" in CONVERSATIONS["vicuna_v1"].text("{b}", "{a} <|x|> {system}")


def test_places(golden: Path) -> None:
    """VITA marks every tile, LLaVA every picture; a written <image> stands for all of its picture's places."""
    llm = build_model(checkpoint=golden / "vita15", overrides=["device=cpu"]).llm
    vita, llava = PromptConfig(template="qwen2p5_instruct"), PromptConfig(template="vicuna_v1")
    assert llm.marks_tiles(vita)
    assert not llm.marks_tiles(llava)
    assert not llm.marks_tiles(PromptConfig(template="chat"))
    assert CONVERSATIONS["qwen2p5_instruct"].content("Q", [2, 1]) == "<image><image><image>\nQ"
    assert CONVERSATIONS["vicuna_v1"].content("Q", [1, 1]) == "<image>\n<image>\nQ"
    ids = llm.prompt(vita, "a <image> b <image>", [3, 1])
    runs = "".join("p" if token == PICTURE_ID else "t" for token in ids).replace("t", " ").split()
    assert runs == ["ppp", "p"]


def test_the_golden_template_is_the_tokenizers_own(golden: Path) -> None:
    """In the golden checkpoint both are the same but for where the pictures stand: one text, one place each."""
    llm = build_model(checkpoint=golden / "vita15", overrides=["device=cpu"]).llm
    expected = json.loads((golden / "vita15" / "expected_answers.json").read_text())["square"]["input_ids"]
    system = "You are a helpful assistant."
    for template in ("chat", "qwen2p5_instruct"):
        assert llm.prompt(PromptConfig(template=template, system=system), "Describe this images.", 1) == expected

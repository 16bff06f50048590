"""Fixtures: the golden checkpoints, a tiny real language model, and a clean registry."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "fixtures" / "golden"
REPOSITORY = Path(__file__).parent.parent
WORDS = [
    "a",
    "an",
    "the",
    "cat",
    "dog",
    "cup",
    "red",
    "blue",
    "what",
    "is",
    "this",
    "picture",
    "of",
    "in",
    "it",
    "photo",
    ".",
    "?",
    "!",
    "yes",
    "no",
    "<image>",
]


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with a word tokenizer and a chat template, saved as transformers saves any model."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-llm")
    vocabulary = {
        word: number
        for number, word in enumerate(["<pad>", "<eos>", "<unk>", "user:", "assistant:", "system:", *WORDS])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    wrapped.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' \n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def vita15(golden: Path, tmp_path: Path) -> Path:
    """A copy of the golden checkpoint beside a copy of its base tower, to be broken."""
    shutil.copytree(golden / "internvit", tmp_path / "internvit")
    return Path(shutil.copytree(golden / "vita15", tmp_path / "vita15"))


@pytest.fixture
def tiny_config(tmp_path: Path, tiny_llm: Path) -> Path:
    """A YAML file of the golden CLIP tower and the tiny language model."""
    file = tmp_path / "tiny.yaml"
    file.write_text(
        f"tower: {{weights: {GOLDEN / 'clip'}}}\n"
        f"llm: {{weights: {tiny_llm}}}\n"
        "generation: {max_new_tokens: 5}\ndevice: cpu\n"
    )
    return file


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """A JSONL of the golden pictures, four rows each."""
    folder = tmp_path / "captioned"
    shutil.copytree(GOLDEN / "pictures", folder)
    names = {"wide.png": "a cat .", "tall.png": "a dog .", "square.png": "a cup ."}
    rows = [{"image": name, "caption": caption} for _ in range(4) for name, caption in names.items()]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "captions.jsonl"


def vita(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real command in a process of its own."""
    import os

    return subprocess.run(
        [sys.executable, "-m", "vita_core", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        timeout=300,
    )

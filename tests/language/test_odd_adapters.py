"""Each key of an adapter's config, and its tensors: what would fail later, or make every answer empty, is refused by name."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from vita_core.adapters import load_adapter, merge_adapter
from vita_core.errors import CheckpointError
from vita_core.untrusted.tensorfiles import open_safetensors, read_header, tensor_keys

REFUSED: list[tuple[str, Any]] = [
    ("lora_alpha", float("nan")),
    ("lora_alpha", float("inf")),
    ("lora_alpha", 1e308),
    ("lora_alpha", None),
    ("alpha_pattern", {"q_proj": float("nan")}),
    ("lora_dropout", 5),
    ("bias", 5),
    ("layer_replication", [[0, 10_000_000]]),
    ("arrow_config", {}),
    ("trainable_token_indices", [10**9]),
    ("exclude_modules", 5),
    ("target_modules", "("),
    ("exclude_modules", "("),
]


@pytest.fixture
def adapter(tiny_llm: Path, tmp_path: Path) -> Path:
    model = LlamaForCausalLM.from_pretrained(tiny_llm)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(
        tmp_path, save_embedding_layers=False
    )
    return tmp_path


def refused(adapter: Path, tiny_llm: Path, words: str) -> None:
    for put in (load_adapter, merge_adapter):
        with pytest.raises(CheckpointError, match=words):
            put(LlamaForCausalLM.from_pretrained(tiny_llm), adapter)


@pytest.mark.reliability(
    door="adapter_config.json", fault="a wrong value", expected="an error that names the key or peft's reason"
)
@pytest.mark.parametrize(("key", "value"), REFUSED)
def test_configs(key: str, value: Any, adapter: Path, tiny_llm: Path) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    told = re.escape(str(adapter)) if value == "(" else rf"adapter_config\.json: {key}"
    refused(adapter, tiny_llm, told)


@pytest.mark.reliability(
    door="tensors of an adapter", fault="NaN or integers", expected="an error that names the tensor"
)
@pytest.mark.parametrize(("kind", "told"), [("nan", "values that are not finite"), ("int", "holds integers")])
def test_values(kind: str, told: str, adapter: Path, tiny_llm: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    state = load_file(file)
    save_file({k: v * float("nan") if kind == "nan" else v.to(torch.int32) for k, v in state.items()}, file)
    refused(adapter, tiny_llm, rf"layers\.0\.self_attn\.q_proj\.lora_A\.weight.*{told}")


@pytest.mark.reliability(door="safetensors", fault="a pipe in the place of the file", expected="an error that says so")
def test_a_pipe(adapter: Path, tiny_llm: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.unlink()
    os.mkfifo(file)
    refused(adapter, tiny_llm, r"adapter_model\.safetensors: a device or a pipe, not a file")
    for read in (open_safetensors, read_header, lambda path: list(tensor_keys([path]))):
        with pytest.raises(CheckpointError, match="a device or a pipe"):
            read(file)

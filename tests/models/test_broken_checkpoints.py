"""Checkpoints that must be refused, and what each refusal says."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import Boom, edit_config, rewrite

from vita_core import build_model
from vita_core.errors import VitaError


def _cut(directory: Path) -> None:
    shard = directory / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1000])


def _garble(directory: Path) -> None:
    (directory / "model-00002-of-00002.safetensors").write_bytes(b"\x00" * 5000)


def _pickle(directory: Path) -> None:
    for file in [*directory.glob("model*.safetensors"), *directory.glob("*.index.json")]:
        file.unlink()
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Boom(directory / "boom")}, protocol=2))


def _other_tower_keys(directory: Path) -> None:
    def renamed(state: dict[str, Any]) -> dict[str, Any]:
        return {re.sub(r"(vision_tower\.vision_tower\.)", r"\1other.", key): value for key, value in state.items()}

    rewrite(directory, renamed)


def _narrow_projector(directory: Path) -> None:
    key = "model.mm_projector.0.weight"
    rewrite(directory, lambda state: {**state, key: state[key][:, :64].contiguous()})


def _shorter(directory: Path) -> None:
    rewrite(directory, lambda state: {k: v for k, v in state.items() if not k.startswith("model.layers.1.mlp")})


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "LoRA": (lambda d: (d / "adapter_config.json").write_text("{}"), "contains a LoRA adapter, .*--model-base DIR"),
    "no config.json": (lambda d: (d / "config.json").unlink(), "has no config.json"),
    "unknown model_type": (
        lambda d: edit_config(d, model_type="vota-Qwen2"),
        "unknown model_type .*'vota-Qwen2'.*Try: a checkpoint with one of vita-qwen2",
    ),
    "unknown VITA": (
        lambda d: edit_config(d, model_type="vita-gemma"),
        "unknown VITA model: 'vita-gemma'.*Try: .*vita-qwen2",
    ),
    "code of its own": (
        lambda d: edit_config(d, model_type="mine", auto_map={"AutoModel": "m.M"}),
        "needs code of its own, which does not run .*m.M.*`tower.trust_remote_code: true`.*`tower.revision: COMMIT`",
    ),
    "shard missing": (lambda d: (d / "model-00002-of-00002.safetensors").unlink(), "missing: model-00002-of-00002"),
    "shard cut short": (_cut, r"model-00002-of-00002\.safetensors: it is truncated"),
    "shard corrupt": (_garble, r"model-00002-of-00002\.safetensors: it is truncated or not a safetensors file"),
    "unknown keys": (
        lambda d: rewrite(d, lambda state: {**state, "model.new.weight": torch.ones(1)}),
        r"1 unexpected tensors \(model\.new\.weight\)",
    ),
    "no tower tensor matches": (_other_tower_keys, r"tower .* does not fit: 0 tensors match; \d+ missing"),
    "narrow projector": (
        _narrow_projector,
        r"projector was trained for a tower of 64 channels, but this one gives 128",
    ),
    "stated width": (lambda d: edit_config(d, mm_hidden_size=77), r"takes 77 channels .* gives 128"),
    "language model short": (_shorter, r"language model of .* does not fit: .*3 missing \(model\.layers\.1\.mlp"),
    "other vocabulary": (
        lambda d: edit_config(d, vocab_size=300),
        r"37 tensors match; 2 of another shape \(lm_head\.weight \(317, 32\) for \(300, 32\), model\.embed_tokens",
    ),
    "other projector": (lambda d: edit_config(d, mm_projector_type="spp"), "unknown projector: 'spp'"),
    "other aspect": (
        lambda d: edit_config(d, image_aspect_ratio="wide"),
        "image_aspect_ratio: unknown value: 'wide'. .*one of square, pad, anyres",
    ),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), r"no tokenizer \(none of"),
    "a pickle with code": (_pickle, "holds more than tensors and is not opened: it would call getattr"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.reliability(
    door="a VITA checkpoint",
    fault="each way in which it can be broken",
    expected="an error that says what is wrong",
)
def test_broken_checkpoints_say_what_is_wrong(vita15: Path, kind: str) -> None:
    break_it, message = BROKEN[kind]
    break_it(vita15)
    with pytest.raises(VitaError, match=f"(?s){message}"):
        build_model(checkpoint=vita15, overrides=["device=cpu"])
    assert not (vita15 / "boom").exists()

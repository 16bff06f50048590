"""Regular expressions of an adapter's config, which peft would run on the name of every layer."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vita_core.adapters import add_adapter, load_adapter, save_adapter
from vita_core.errors import CheckpointError
from vita_core.untrusted.patterns import is_quick

NAME = "a" * 60 + "b"
"""On it, the patterns below would run for longer than the world is old."""


class Model(nn.Module):
    """Two layers, one of which has a name that is hard to match."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.add_module(NAME, nn.Linear(4, 4))
        self.other = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.get_submodule(NAME)(x))  # type: ignore[no-any-return]  # untyped


@pytest.fixture
def adapter(tmp_path: Path) -> tuple[Path, Tensor]:
    """A saved adapter of one layer, and what the model gives with it."""
    model = Model()
    add_adapter(model, [NAME], rank=2, alpha=4, dropout=0.0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    save_adapter(model, tmp_path)
    with torch.no_grad():
        return tmp_path, model.eval()(torch.ones(1, 4))


def change(folder: Path, **keys: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))


@pytest.mark.parametrize("pattern", ["(a+)+c?b", "(a|aa)+b", "((a*)*)*b", ".*?a.*?a.*?a.*?a.*?a.*?b", "(?:a?){60}a*b"])
def test_the_layers_of_a_slow_pattern_are_those_of_the_tensors(adapter: tuple[Path, Tensor], pattern: str) -> None:
    folder, wanted = adapter
    change(folder, target_modules=pattern)
    model, start = Model(), time.process_time()
    load_adapter(model, folder)
    assert time.process_time() - start < 2
    with torch.no_grad():
        torch.testing.assert_close(model(torch.ones(1, 4)), wanted)


def test_a_quick_pattern_is_run_and_the_tensors_must_fit_it(adapter: tuple[Path, Tensor]) -> None:
    folder, wanted = adapter
    change(folder, target_modules=".*a.*b")
    model = Model()
    load_adapter(model, folder)
    with torch.no_grad():
        torch.testing.assert_close(model(torch.ones(1, 4)), wanted)
    change(folder, target_modules=".*[a-z]")
    with pytest.raises(CheckpointError, match=r"2 missing \(base_model\.model\.other\.lora_A"):
        load_adapter(Model(), folder)


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("exclude_modules", "(a+)+c", r"'\(a\+\)\+c' is a regular expression with too many repeats \(over 2\)"),
        ("rank_pattern", {"(a+)+c": 2}, r"'\(a\+\)\+c' is a regular expression with too many repeats \(over 1\)"),
        ("alpha_pattern", {"(a|aa)*c": 2}, r"'\(a\|aa\)\*c' is a regular expression with too many repeats \(over 1\)"),
        ("layers_pattern", ["(a+)+c"], r"'\(a\+\)\+c' is a regular expression with too many repeats \(over 0\)"),
        ("modules_to_save", ["(a+)+c"], r"'\(a\+\)\+c' is a regular expression with too many repeats \(over 0\)"),
        ("exclude_modules", "(a", r"'\(a' is not a regular expression: missing \)"),
        ("target_modules", "[", r"'\[' is not a regular expression: unterminated character set"),
        ("alpha_pattern", {"a": "x"}, r"'x' is not a valid number"),
    ],
)
def test_other_slow_patterns_are_refused(adapter: tuple[Path, Tensor], key: str, value: Any, shown: str) -> None:
    folder, _ = adapter
    change(folder, **{key: value})
    start = time.process_time()
    with pytest.raises(CheckpointError, match=rf"adapter_config\.json: {key}.*: {shown}"):
        load_adapter(Model(), folder)
    assert time.process_time() - start < 2


def test_tensors_of_an_adapter_are_finite(adapter: tuple[Path, Tensor]) -> None:
    folder, _ = adapter
    state = load_file(folder / "adapter_model.safetensors")
    key = next(iter(state))
    state[key][0] = float("nan")
    save_file(state, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=rf"LoRA adapter .*: {key} holds \d+ values that are not finite"):
        load_adapter(Model(), folder)


@pytest.mark.parametrize(
    ("pattern", "quick"),
    [
        ("all-linear", True),
        (r"(model\.layers\.0\.q_proj|model\.layers\.1\.q_proj)", True),
        (r".*language_model.*\.(q_proj|v_proj)", True),
        (r"^language_model(?=\.).*\.(down_proj|o_proj)$", True),
        (r"model\.layers\.\d+\.mlp\.[*+?{]", True),
        (r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)", False),
        ("(ab){1,9}", False),
        ("a" * 100_001, False),
    ],
)
def test_quick_patterns(pattern: str, quick: bool) -> None:
    assert is_quick(pattern) is quick

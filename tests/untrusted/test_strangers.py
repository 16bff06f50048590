"""What a stranger may put into a checkpoint, an adapter or a data set, and the user into a config."""

from __future__ import annotations

import json
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vita_core.config.data import DataSetConfig
from vita_core.config.schema import Config, LLMConfig
from vita_core.config.validation import WRITTEN, validate
from vita_core.errors import CheckpointError, ConfigError
from vita_core.language.llm import LanguageModel
from vita_core.towers.tower import build_tower
from vita_core.training.data.opening import open_source
from vita_core.training.data.samples import SampleError
from vita_core.untrusted.limits import ROW


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused(golden: Path, tmp_path: Path, value: float) -> None:
    folder = shutil.copytree(golden / "clip", tmp_path / "clip")
    state = load_file(folder / "model.safetensors")
    key = next(key for key in state if key.endswith("layers.0.mlp.fc1.weight"))
    state[key][0, :2] = value
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"tower .*clip: {key} holds 2 values that are not finite numbers"):
        build_tower({"weights": str(folder)})


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_so_are_those_of_a_language_model(tiny_llm: Path, tmp_path: Path, value: float) -> None:
    folder = shutil.copytree(tiny_llm, tmp_path / "llm")
    state = load_file(folder / "model.safetensors")
    key = next(key for key in state if key.endswith("layers.1.mlp.up_proj.weight"))
    state[key][3, :4] = value
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=rf"llm\.weights: .*llm: {key} holds 4 values that are not finite numbers"
    ):
        LanguageModel(LLMConfig(weights=str(folder)), torch.device("cpu"))


def test_large_weights_whose_sum_overflows_are_loaded(golden: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(golden / "clip", tmp_path / "clip")
    state = load_file(folder / "model.safetensors")
    key = next(key for key in state if key.endswith("layers.0.mlp.fc1.weight"))
    state[key].fill_(3e38)
    save_file(state, folder / "model.safetensors")
    assert build_tower({"weights": str(folder)}).is_loaded


TWO = [{"weights": "./a"}, {"weights": "./b"}]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"tower": {"weights": ""}}, r"tower\.weights: wrong value: ''"),
        ({"tower": {"weights": "  "}}, r"tower\.weights: wrong value: '  '"),
        ({"tower": {"towers": [TWO[0], {"weights": ""}]}}, r"tower\.towers\.1\.weights: wrong value: ''"),
        ({"tower": {"towers": [TWO[0], {**TWO[1], "device": "gpu"}]}}, r"tower\.towers\.1\.device: wrong value: 'gpu'"),
        ({"tower": {"towers": [TWO[0], {**TWO[1], "device": ""}]}}, r"tower\.towers\.1\.device: wrong value: ''"),
        ({"tower": TWO[0], "device": "cuda:"}, r"device: wrong value: 'cuda:'"),
        ({"tower": TWO[0], "llm": {"weights": ""}}, r"llm\.weights: wrong value: ''"),
        (
            {"tower": TWO[0], "llm": {"weights": "x"}, "projector": {"weights": ""}},
            r"projector\.weights: wrong value: ''",
        ),
    ],
)
def test_values_that_no_model_has_are_refused_by_the_config(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(Config, data)


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        (
            {"tower": TWO[0], "device": "nonsense"},
            r"device: wrong value: 'nonsense'\. Try: `device: auto` or `device: cpu`",
        ),
        ({"tower": {"weights": ""}}, r"tower\.weights: wrong value: ''\. Try: a directory, a file or a hub id"),
    ],
)
def test_a_pattern_is_told_in_words(data: dict[str, Any], advice: str) -> None:
    with pytest.raises(ConfigError, match=advice) as caught:
        validate(Config, data)
    assert not set("^$\\") & set(str(caught.value))


def test_every_pattern_of_a_config_has_words() -> None:
    stated: list[str] = []

    def visit(schema: Any) -> None:
        if isinstance(schema, dict):
            stated.extend([schema["pattern"]] if isinstance(schema.get("pattern"), str) else [])
        for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
            visit(inner)

    visit(Config.model_json_schema())
    assert len(set(stated)) >= 3
    assert set(stated) <= WRITTEN.keys()


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:3", "mps", "xpu:1"])
def test_devices_of_torch_are_taken(device: str) -> None:
    parts = [TWO[0], {**TWO[1], "device": device}]
    assert validate(Config, {"tower": {"towers": parts}, "device": device}).device == device


def test_a_language_model_reads_no_file_outside_of_its_directory(tiny_llm: Path, tmp_path: Path) -> None:
    """transformers itself follows any path of an index."""
    folder = shutil.copytree(tiny_llm, tmp_path / "a" / "llm")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    keys = load_file(tmp_path / "elsewhere.safetensors")
    shards = dict.fromkeys(keys, "../../elsewhere.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    with pytest.raises(CheckpointError, match=r"not the name of a file beside it: '\.\./\.\./elsewhere\.safetensors'"):
        LanguageModel(LLMConfig(weights=str(folder)), torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", '{"a":' * 100_000, r"tokenizer_config\.json:1:501: not a config: nested deeper"),
        ("generation_config.json", "[1]", r"generation_config\.json:1:1: not a JSON object: a list"),
        ("tokenizer.json", '{"a":' * 100_000, r"llm\.weights: cannot open .* as a causal language model: "),
        ("tokenizer.json", '{"model": {"type": "x"}}', r"llm\.weights: cannot open .* as a causal language model: "),
        ("tokenizer.json", "[]", r"llm\.weights: cannot open .* as a causal language model: "),
        (
            "generation_config.json",
            '{"eos_token_id": {"a": []}, "temperature": "x"}',
            r"generation_config\.json: eos_token_id: \{'a': \[\]\} is not a",
        ),
        ("model.safetensors", "", r"llm\.weights: cannot open .* as a causal language model: "),
    ],
)
def test_a_damaged_file_of_a_language_model_is_no_traceback(
    tiny_llm: Path, tmp_path: Path, name: str, content: str, message: str
) -> None:
    folder = shutil.copytree(tiny_llm, tmp_path / "llm")
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        LanguageModel(LLMConfig(weights=str(folder)), torch.device("cpu"))


def test_a_row_has_bounds(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    long = b'{"caption": "' + b"a" * ROW.bytes + b'", "image": "x.png"}'
    deep = b'{"a": ' * 500 + b"1" + b"}" * 500
    twice = b'{"image": "x.png", "caption": "a", "caption": "b"}'
    file.write_bytes(b"\n".join([long, deep, twice, b'{"image": "x.png", "caption": "a"}']) + b"\n")
    source = open_source(DataSetConfig(path=str(file)))
    reasons = [r":1:1: not valid JSON: not a row: it has more than 16,000,000 bytes",
               r":2:\d+: not valid JSON: not a row: nested deeper than 100 levels",
               r":3:1: not valid JSON: the key 'caption' stands twice in one object"]  # fmt: skip
    for index, reason in enumerate(reasons):
        with pytest.raises(SampleError, match=reason):
            source.sample(index)
    assert source.sample(3).caption == "a"
    assert len(source) == 4


def test_a_list_of_rows_has_bounds(tmp_path: Path) -> None:
    file = tmp_path / "d.json"
    for text in ('["' + "a" * 40_000_000, '[{"a": "' + "a" * (ROW.bytes + 1) + '"}]'):
        file.write_text(text)
        start = time.process_time()
        with pytest.raises(ConfigError, match=r"d\.json:1:2: not valid JSON: a row of more than 16,000,000 characters"):
            open_source(DataSetConfig(path=str(file)))
        assert time.process_time() - start < 3


def test_texts_of_a_sample_have_bounds(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_bytes(b"a" * (ROW.bytes + 1))
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(SampleError, match=r"a text that cannot be read: it has more than 16,000,000 bytes"):
        open_source(DataSetConfig(path=str(tmp_path), format="folder")).sample(0)
    with tarfile.open(tmp_path / "d.tar", "w") as tar:
        tar.add(text, "a.txt")
        (tmp_path / "b.json").write_text('{"a":' * 1000)
        tar.add(tmp_path / "b.json", "b.json")
    source = open_source(DataSetConfig(path=str(tmp_path / "d.tar")))
    with pytest.raises(SampleError, match=r"a text that is too long: .*d\.tar!a\.txt has 16,000,001 bytes"):
        source.sample(0)
    with pytest.raises(SampleError, match=r"not valid JSON: not a row: nested deeper than 100 levels"):
        source.sample(1)


def test_a_row_of_a_table_reads_no_picture_outside_of_its_folder(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "x.png").write_bytes(b"x")
    file = tmp_path / "sets" / "d.parquet"
    file.parent.mkdir()
    pq.write_table(pa.table({"image": [str(tmp_path / "x.png"), "../x.png"], "caption": ["a", "b"]}), file)
    for absolute in (True, False):
        source = open_source(DataSetConfig(path=str(file)), absolute=absolute)
        for index in range(2):
            with pytest.raises(SampleError, match=r"a picture outside of the folder of the data set: "):
                source.sample(index)

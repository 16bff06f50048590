"""The numbers in a config.json: what is refused before anything is built."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vita_core.config.schema import LLMConfig
from vita_core.errors import CheckpointError, VitaError
from vita_core.planning.language import resolve_llm
from vita_core.planning.resolution import resolve
from vita_core.planning.towers import resolve_tower
from vita_core.plugins.registry import registry
from vita_core.plugins.specs import TowerSpec
from vita_core.untrusted.sizes import check_parameters, check_sizes

TOWERS = ("clip", "eva_clip", "internvit", "open_clip", "siglip", "timm", "torchvision", "transformers")
NAN = float("nan")
VALUES = [10**9, 10**30, 0, -1, 1.5, NAN, "text", None, [], {}, True, [10**9, 10**9]]


def example(name: str) -> dict[str, Any]:
    made = registry().find(TowerSpec, name).spec.example
    assert made is not None
    return copy.deepcopy(dict(made))


def numbers(config: dict[str, Any], keys: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys of every number in a config."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from numbers(value, (*keys, key))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (*keys, key)


def changed(config: dict[str, Any], keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    inner = made = copy.deepcopy(config)
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return made


def saved(folder: Path, name: str, config: dict[str, Any]) -> dict[str, Any]:
    file = registry().find(TowerSpec, name).spec.config_file
    (folder / file).write_text(json.dumps(config))
    return {"type": name, "weights": str(folder)}


@pytest.mark.parametrize("name", TOWERS)
def test_a_number_with_zeros_too_many_is_refused_within_a_second(tmp_path: Path, name: str) -> None:
    config = example(name)
    resolve_tower(saved(tmp_path, name, config))  # the imports are not measured
    found = [*numbers(config)]
    assert found
    for keys in found:
        start = time.process_time()
        with pytest.raises(VitaError, match=keys[-1]):
            resolve_tower(saved(tmp_path, name, changed(config, keys, 10**9)))
        assert time.process_time() - start < 1, keys


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWERS)
def test_any_value_gives_a_shape_or_an_error_of_ours(tmp_path: Path, name: str) -> None:
    config = example(name)
    resolve_tower(saved(tmp_path, name, config))  # the imports are not measured
    for keys in numbers(config):
        for value in VALUES:
            start = time.process_time()
            try:
                resolve_tower(saved(tmp_path, name, changed(config, keys, value)))
            except VitaError as error:
                assert str(tmp_path) in str(error) or keys[-1] in str(error), (keys, value)  # noqa: PT017  # or it is a shape
            assert time.process_time() - start < 2, (keys, value)


LLAMA = {
    "model_type": "llama",
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 28,
    "max_position_embeddings": 256,
}


@pytest.mark.parametrize("key", [key for key in LLAMA if key != "model_type"])
@pytest.mark.parametrize("value", [10**9, -5, 0, NAN, "text", 1.5, True], ids=repr)
def test_the_numbers_of_a_language_model_are_bounded(tmp_path: Path, key: str, value: Any) -> None:
    if key == "max_position_embeddings" and value in (0, 1.5, "text", True):
        pytest.skip("it is not used")
    if key == "num_key_value_heads" and value == 0:
        pytest.skip("0 is as many as heads, as null is")
    if key == "vocab_size" and value == 0:
        pytest.skip("the weights do not fit it")
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, key: value}))
    with pytest.raises(CheckpointError, match=rf"config\.json: {key}: "):
        resolve_llm(LLMConfig(weights=str(tmp_path))).shape()


def test_sizes_that_are_large_together_are_refused() -> None:
    check_parameters(10**12, "x")
    with pytest.raises(
        CheckpointError, match=r"x: a model of 100,000,000,000,000 parameters, which take 200,000,000,000,000 by"
    ):
        check_parameters(10**14, "x")


def test_more_patches_than_a_picture_has_are_refused() -> None:
    for sizes in (
        {"image_size": 10_000, "patch_size": 1},
        {"image_size": 224, "patch_size": 448},
        {"image_size": [0, 0], "patch_size": 14},
    ):
        with pytest.raises(CheckpointError, match=r"f: vision_config\.(patch_size|image_size): "):
            check_sizes({"vision_config": sizes}, "f")


REAL: list[dict[str, Any]] = [
    {"time_step_limit": [0.0, float("inf")], "rope_theta": 10**10, "max_position_embeddings": 10_485_760},
    {"id2label": {str(i): "x" for i in range(3)}, "num_labels": 21_841, "initializer_range": 0.02, "seed": 2**40},
    {
        "image_size": [512, 512],
        "patch_size": {"height": 16, "width": 16},
        "layers": [3, 4, 6, 3],
        "depths": [2, 2, 6, 2],
    },
    {"hidden_size": 18_432, "intermediate_size": 73_728, "num_hidden_layers": 126, "vocab_size": 262_144},
    {"layers_block_type": ["attention", "mamba"], "layers": {"type": "x", "dim": "auto"}, "head_dim": None},
    {"image_token_index": -200, "bos_token_id": 151_643, "quantization_config": {"layers": "all"}},
]


@pytest.mark.parametrize("config", REAL, ids=repr)
def test_what_models_state_is_taken(config: dict[str, Any]) -> None:
    check_sizes(config, "x")
    check_sizes({"text_config": config}, "x")


@pytest.mark.slow
def test_every_config_of_transformers_is_taken() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    seen = 0
    for model_type in CONFIG_MAPPING:
        try:
            made = CONFIG_MAPPING[model_type]().to_dict()
        except Exception:  # noqa: S112  # some need arguments
            continue
        check_sizes(made, model_type)
        seen += 1
    assert seen > 300


@pytest.mark.slow
def test_every_config_of_open_clip_is_taken() -> None:
    import open_clip

    for name in open_clip.list_models():
        check_sizes({"model_cfg": open_clip.get_model_config(name)}, name)


@pytest.mark.parametrize("value", [[], ["clip"], {}, 3, True, 0.5])
def test_the_name_of_a_model_is_a_text(golden: Path, tmp_path: Path, value: Any) -> None:
    """It is looked up in the layouts of other projects too, before a tower is chosen."""
    for name in ("clip", "vita15"):
        stated = json.loads((golden / name / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**stated, "model_type": value}))
        with pytest.raises(CheckpointError, match=r"config\.json: model_type: .* is not a text"):
            resolve(str(tmp_path))


@pytest.mark.parametrize("patch", [{"": 0}, {"height": 0, "x": 1}, [0, 14]])
def test_a_patch_of_no_size_under_another_name_is_refused(patch: Any) -> None:
    with pytest.raises(CheckpointError, match=r"a/config\.json: .*patch_size: "):
        check_sizes({"image_size": 56, "patch_size": patch}, "a/config.json")


@pytest.mark.parametrize("key", ["a\nb", "a\u2028b", "a\x1b[2Jb", "a\x85b"])
def test_a_strangers_key_stays_on_one_line(key: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "dinov2", "vision_config": {key: 10**9}}))
    with pytest.raises(CheckpointError) as caught:
        resolve_tower({"weights": str(tmp_path)})
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{file}: vision_config.{ascii(key)[1:-1]}: 1000000000 is not a number")

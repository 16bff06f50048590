"""The settings of a task and the arguments of the command, as ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vita_core.benchmarking.arguments import UNSUPPORTED, device_of, model_arguments, refuse
from vita_core.benchmarking.settings import asked_settings
from vita_core.config.schema import GenerationConfig
from vita_core.errors import ConfigError, VitaError

OWN = GenerationConfig(max_new_tokens=32, temperature=0.5, top_p=0.9)
MME = {"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False, "until": ["\n\n"]}


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({}, (32, 0.5, 0.9)),
        (MME, (16, 0.0, 0.9)),
        ({"do_sample": False, "temperature": 0.2}, (32, 0.0, 0.9)),
        ({"temperature": 0, "top_p": 0, "top_k": 1}, (32, 0.0, 0.9)),
        ({"max_gen_toks": 8, "do_sample": True, "temperature": 1, "top_p": 1}, (8, 1.0, 1.0)),
        ({"temperature": 0.2, "top_p": 0, "num_beams": None}, (32, 0.2, 0.9)),
        ({"do_sample": True}, (32, 0.5, 0.9)),
    ],
)
def test_settings_of_a_task(stated: dict[str, Any], expected: tuple[int, float, float]) -> None:
    found = asked_settings(stated, OWN).generation
    assert (found.max_new_tokens, found.temperature, found.top_p) == expected


def test_samples_are_asked_for_without_a_temperature() -> None:
    assert asked_settings({"do_sample": True}, GenerationConfig()).generation.temperature == 1.0


def test_an_answer_ends_before_the_first_text() -> None:
    assert asked_settings({"until": ["\n\n", "", "user:"]}, OWN).ended("a user: b\n\nc") == "a "
    assert asked_settings({"stop_sequences": "b"}, OWN).ended("abc") == "a"
    assert asked_settings({"until": []}, OWN).ended("abc") == "abc"


def test_keys_for_other_models_are_told() -> None:
    assert asked_settings(MME | {"image_aspect_ratio": "pad"}, OWN).unused == ("image_aspect_ratio",)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"num_beams": 5}, r"num_beams=5 is not supported. Try: `--gen_kwargs num_beams=1`"),
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2 is not supported"),
        ({"top_k": 1}, "top_k=1 is not supported"),
        ({"max_new_tokens": 0}, "generation_kwargs: max_new_tokens: wrong value: 0"),
    ],
)
def test_ways_of_decoding_that_are_not_there(stated: dict[str, Any], message: str) -> None:
    with pytest.raises(VitaError, match=message):
        asked_settings(stated, OWN)


def test_arguments() -> None:
    found = model_arguments(
        {"config": "trained", "tower.pool": 2, "images.tiles.thumbnail": True, "max_frames": 4}, "8"
    )
    assert found.overrides == ("tower.pool=2", "images.tiles.thumbnail=true")
    assert (found.config, found.batch, found.max_frames) == ("trained", 8, 4)


@pytest.mark.parametrize(
    ("given", "batch", "message"),
    [
        ({}, 1, "config is missing"),
        ({"confg": "trained"}, 1, r"unknown argument: 'confg'. Did you mean 'config'\?"),
        ({"config": "trained"}, "auto", "--batch_size: not a number: 'auto'"),
        ({"config": "trained", "max_frames": "all"}, 1, "max_frames: wrong value: 'all'"),
    ],
)
def test_wrong_arguments(given: dict[str, Any], batch: int | str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_arguments(given, batch)


def test_each_process_takes_its_own_device() -> None:
    own = torch.device("cuda:1")
    assert device_of("cpu", 1, own) == "cpu"
    assert device_of(None, 1, own) is None
    assert device_of("cuda", 2, own) == device_of(None, 2, own) == "cuda:1"
    with pytest.raises(VitaError, match="--device: cpu, but each of 2 processes has cuda:1"):
        device_of("cpu", 2, own)


@pytest.mark.parametrize("what", UNSUPPORTED)
def test_what_is_not_supported_is_refused(what: str) -> None:
    with pytest.raises(VitaError, match=rf"^{what}: .* Try: "):
        refuse(what)

"""The table of values in docs/train.md has the defaults and the bounds of the config."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import REPOSITORY

from vita_core.config.training import CacheConfig, LoraSettings, PartSettings, StageConfig, TrainingConfig
from vita_core.config.validation import Section, validate
from vita_core.errors import ConfigError

SECTION = (REPOSITORY / "docs" / "train.md").read_text().partition("### The values of a stage")[2].partition("\n###")[0]
STAGE = {"name": "a", "train": {"projector": "full"}, "learning_rate": 1e-3}
MODELS: dict[str, tuple[type[Section], dict[str, Any]]] = {
    "lora.": (LoraSettings, {}),
    "from_layer": (PartSettings, {}),
    "": (StageConfig, STAGE),
}


def stated() -> Iterator[tuple[str, str, str]]:
    """Each key of the table, its default and its bounds."""
    for line in SECTION.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            for key in re.findall(r"`([\w.]+)`", cells[0]):
                yield key, cells[1], cells[2]


def refused(model: type[Section], data: dict[str, Any], key: str, value: Any) -> bool:
    try:
        validate(model, {**data, key: value})
    except ConfigError as error:
        assert key in str(error)  # noqa: PT017  # it may also be taken
        return True
    return False


@pytest.mark.parametrize(("key", "default", "bounds"), [*stated()], ids=lambda value: value)
def test_a_row_of_the_table(key: str, default: str, bounds: str) -> None:
    model, data = next(made for start, made in MODELS.items() if key.startswith(start))
    name = key.rpartition(".")[2]
    if re.fullmatch(r"[\d.]+", default):
        assert str(model.model_fields[name].default) == default
    whole = model.model_fields[name].annotation in (int, int | None) or "float" not in str(
        model.model_fields[name].annotation
    )
    step: float = 1 if whole else 1e-9
    least = re.match(r"(above|from) (\d+)", bounds)
    assert least
    if least[1] == "above" and not whole:
        taken, wrong = step, 0.0
    else:
        taken = int(least[2]) + (whole and least[1] == "above")
        wrong = taken - step
    assert not refused(model, data, name, taken)
    assert refused(model, data, name, wrong)
    if found := re.search(r"below (\d+)", bounds):
        assert not refused(model, data, name, int(found[1]) - 1e-9)
        assert refused(model, data, name, float(found[1]))
    for other in (float("nan"), float("inf")):
        assert refused(model, data, name, other)


def test_the_table_has_every_number_of_a_stage() -> None:
    numbers = {
        name for name, field in StageConfig.model_fields.items() if re.search(r"int|float", str(field.annotation))
    }
    assert numbers <= {key for key, _, _ in stated()} | {"precision"}


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("from 1", ["steps", "batch_size", "warm_start_batch", "eval_steps", "save_steps", "keep"]),
        ("from 0", ["warmup_steps", "warm_start_steps", "weight_decay", "variants", "moment_jitter", "held_out"]),
        ("above 0", ["learning_rate", "warm_start_learning_rate"]),
    ],
)
def test_the_short_form(words: str, keys: list[str]) -> None:
    for key in keys:
        assert f"`{key}`" in SECTION.replace("training.", "")
        least = {"from 1": 1, "from 0": 0, "above 0": 1e-9}[words]
        assert not refused(TrainingConfig, {}, key, least), key
        assert refused(TrainingConfig, {}, key, {"from 1": 0, "from 0": -1, "above 0": 0.0}[words]), key
    assert refused(TrainingConfig, {}, "held_out", 1.0)
    assert refused(TrainingConfig, {}, "moment_jitter", 1.1)
    assert refused(CacheConfig, {}, "max_gb", 0.0)

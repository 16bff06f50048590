"""Several encoders as one tower: paths and places of the parts' keys, and every mistake told with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from vita_core import load_config
from vita_core.config.reductions import PoolOptions
from vita_core.config.schema import TowerConfig
from vita_core.config.validation import validate
from vita_core.errors import ConfigError
from vita_core.planning.origins import override_marks

PARTS = "tower:\n  towers:\n    - {weights: ./a}\n    - {weights: ./b, select_layer: 3}\n"


def write(folder: Path, text: str) -> Path:
    file = folder / "c.yaml"
    file.write_text(text)
    return file


def parts(file: Path, *overrides: str) -> list[TowerConfig]:
    found = load_config(file, overrides).tower.towers
    assert found is not None
    return found


def test_paths_of_parts_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = tmp_path / "configs", tmp_path / "elsewhere"
    folder.mkdir(), elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    file = write(folder, PARTS + "    - {weights: owner/name}\n")
    assert [part.weights for part in parts(file)] == [str(folder / "a"), str(folder / "b"), "owner/name"]
    assert parts(file, "tower.towers.1.weights=./x")[1].weights == str(elsewhere / "x")
    whole = parts(file, "tower.towers=[{weights: ./x}, {weights: owner/name}]")
    assert [part.weights for part in whole] == [str(elsewhere / "x"), "owner/name"]
    assert parts(file, "tower.towers.0={weights: ./y}")[0].weights == str(elsewhere / "y")


def test_set_changes_one_part(tmp_path: Path) -> None:
    file = write(tmp_path, PARTS)
    first, second = parts(file, "tower.towers.0.select_layer=-1", "tower.towers.0.s2.scales=[8, 16]")
    assert (first.select_layer, second.select_layer) == (-1, 3)
    assert first.s2 is not None
    assert first.s2.scales == [8, 16]
    assert override_marks(["tower.towers.0.select_layer=-1"])["towers.0.select_layer"] == "set by --set"
    for place in ("2", "x", "-1"):
        with pytest.raises(ConfigError, match=rf"tower.towers.{place}:1:1: not a place in the list: .* Try: 0\.\.1$"):
            load_config(file, [f"tower.towers.{place}.select_layer=1"])
    with pytest.raises(ConfigError, match=r"the list is empty"):
        load_config(file, ["tower.towers=[]", "tower.towers.0.select_layer=1"])
    with pytest.raises(ConfigError, match=r"--set tower.towers:1:1: tower.towers.0.select_layer: wrong value"):
        load_config(file, ["tower.towers=[{weights: ./a, select_layer: x}, {weights: ./b}]"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tower: {combine: sum}\n", r":1:1: required key is missing: 'tower.weights'. Try: add 'weights'"),
        (PARTS + "    - {type: clip}\n", r":5:7: required key is missing: 'tower.towers.2.weights'"),
        (PARTS + "    - {wieghts: ./a}\n", r":5:8: unknown key: 'wieghts' in section 'tower.towers.2'. Did you mean 'weights'"),
        (PARTS + "  combine: add\n", r":5:3: tower.combine: wrong value: 'add'. Try: 'channel', 'sequence', 'interleave' or"),
        (PARTS + "  grid: [2]\n", r":5:3: tower.grid: wrong value"),
        ("tower: {towers: []}\n", r":1:9: tower.towers: is no encoder, but two or more are joined. Try: the keys of one"),
        ("tower: {towers: [{weights: ./a}]}\n", r":1:9: tower.towers: is one encoder, but two or more are joined"),
        (PARTS + "    - {towers: [{weights: ./a}, {weights: ./b}]}\n", r":5:8: tower.towers.2.towers: a part has none"),
        (PARTS + "    - {weights: ./c, delay_load: true}\n", r":5:22: tower.towers.2.delay_load: .* Try: write it beside"),
        (PARTS + "  type: clip\n", r":5:3: tower.type: 'clip' is the type of one encoder, not of several. Try: write it into"),
        ("tower: {weights: ./a, combine: sum}\n", r":1:23: tower.combine: .* there are none. Try: leave it out, or add"),
        ("tower: {weights: ./a, grid: [2, 2]}\n", r":1:23: tower.grid: .* there are none"),
        ("tower: {weights: ./a, type: fused}\n", r":1:23: tower.type: 'fused' needs several encoders. Try: `towers: \["),
        *(
            (PARTS + f"  {line}\n", rf":5:3: tower\.{line.partition(':')[0]}: it describes one encoder, .* into a part of")
            for line in (
                "weights: ./a",
                "select_layer: 1",
                "select_feature: cls",
                "norm: true",
                "s2: {scales: [2, 4]}",
                "feature_scale: 0.5",
                "freeze: false",
                "dtype: bfloat16",
                "image_size: 28",
                "options: {a: 1}",
                "device: cpu",
            )
        ),
    ],
)  # fmt: skip
def test_mistakes_have_a_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_a_models_own_config_cannot_allow_the_code_of_a_part(tmp_path: Path) -> None:
    file = write(tmp_path, PARTS + "    - {weights: ./c, trust_remote_code: true}\n")
    file = file.rename(tmp_path / "config.yaml")
    with pytest.raises(
        ConfigError, match=r"config.yaml:5:22: tower.towers.2.trust_remote_code: .*cannot allow the model"
    ):
        load_config(tmp_path)
    assert parts(tmp_path, "tower.towers.2.trust_remote_code=true")[2].trust_remote_code
    assert parts(file)[2].trust_remote_code  # a file that the user names


def test_keys_with_their_general_value_may_stand_beside_the_parts(tmp_path: Path) -> None:
    tower = load_config(write(tmp_path, PARTS + "  type: fused\n  norm: false\n  s2: null\n  pool: 2\n")).tower
    assert (tower.type, tower.combine, tower.grid, tower.weights) == ("fused", "channel", "first", None)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("firsts", r":5:3: tower\.grid: wrong value: 'firsts'\. Did you mean 'first'\? Try: 'first' or a list"),
        ("[0, 3]", r":5:10: tower\.grid\.0: wrong value: 0\. Try: a value greater than 0"),
        ("[3, 3.5]", r":5:13: tower\.grid\.1: wrong value: 3\.5\. Try: an integer"),
        ("[1, 2, 3]", r":5:3: tower\.grid: wrong value: \[1, 2, 3\]\. Try: 'first' or a list with at most 2 items"),
    ],
)
def test_a_value_that_no_type_of_a_key_takes_is_one_problem(value: str, message: str, tmp_path: Path) -> None:
    file = write(tmp_path, f"{PARTS}  grid: {value}\n")
    with pytest.raises(ConfigError, match=f"^{file}{message}$"):
        load_config(file)
    with pytest.raises(ConfigError, match=r"^tower\.options: window\.1: wrong value: 0\. Try: a value greater than 0$"):
        validate(PoolOptions, {"window": [2, 0]}, section="tower.options")

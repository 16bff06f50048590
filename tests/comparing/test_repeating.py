"""The command and the configs that a comparison states are those that repeat it, without a place of this machine."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path

from vita_core.comparing.planned import Options, named
from vita_core.comparing.repeating import command, portable
from vita_core.comparing.sweeping import swept

DATA = Path("/somewhere/photos.jsonl")


def test_the_command_of_a_comparison_has_every_option() -> None:
    asked = named(["/here/a.yaml", "b.yaml"], ["device=cpu", "tower.weights=/models/vit/model.safetensors"])
    options = Options(
        seeds=(0, 1), tokens=4, steps=150, rates=(3e-4, 1e-3), unequal=True, benchmarks=("mme", "/my/task.yaml")
    )
    assert command(asked, DATA, options) == (
        "vita compare a.yaml b.yaml --set device=cpu --set tower.weights=model.safetensors --data photos.jsonl --seeds 2 "
        "--tokens 4 --steps 150 --tune learning_rate=0.0003,0.001 --lmms-eval mme,task.yaml --unequal --out DIR"
    )
    assert command(named(["a.yaml", "b.yaml"]), DATA, Options()) == (
        "vita compare a.yaml b.yaml --data photos.jsonl --seeds 3 --out DIR"
    )


def test_files_of_one_name_keep_their_folders() -> None:
    told = command(named(["/x/one/config.yaml", "/x/two/config.yaml"]), DATA, Options())
    assert told.startswith("vita compare one/config.yaml two/config.yaml --data")


def test_the_command_of_a_sweep_gives_the_same_grid() -> None:
    over = [
        "tower.select_layer=-1",
        "tower.select_layer=[-1,-2]",
        "tower.norm=true",
        "tower.norm=false",
        "tower.pool=2",
    ]
    asked = swept("base.yaml", over, ["device=cpu"])
    words = shlex.split(command(asked, DATA, Options()))
    assert words[:3] == ["vita", "sweep", "base.yaml"]
    values = {option: [after for word, after in pairwise(words) if word == option] for option in ("--over", "--set")}
    assert swept("base.yaml", values["--over"], values["--set"]) == asked


def test_only_absolute_paths_are_shortened() -> None:
    data = {
        "a": ["/x/y/z.pt", {"b": "x/y.pt"}],
        "c": "https://host/a/b",
        "d": '["/x/one", "/y/two"]',
        "e": 3,
        "f": "org/name",
        "g": None,
    }
    assert portable(data) == {
        **data,
        "a": ["z.pt", {"b": "x/y.pt"}],
        "d": '["one", "two"]',
    }

"""The command and the configs that a comparison states are those that repeat it, without a place of this machine."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from vita_core.comparing.planned import Options, named
from vita_core.comparing.repeating import command, portable, readable
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


def test_blanks_are_quoted_and_directories_with_blanks_are_left_out() -> None:
    own = 'tower.towers=[{weights: "/my models/vit"}, {weights: /x/b.pt}]'
    asked = named(["/my work/a b.yaml", "c$.yaml"], ["llm.weights=~/my models/llm", own, "tower.adapter=/my files/a b"])
    told = command(asked, Path("/my data/all of it.jsonl"), Options(benchmarks=("/my tasks/t 1.yaml", "mme")))
    assert told == (
        "vita compare 'a b.yaml' 'c$.yaml' --set llm.weights=llm --set "
        """'tower.towers=[{"weights": "vit"}, {"weights": "b.pt"}]' --set 'tower.adapter=a b' """
        "--data 'all of it.jsonl' --seeds 3 --lmms-eval 't 1.yaml,mme' --out DIR"
    )
    assert command(named(["a.yaml", "b.yaml"]), Path(), Options()).endswith(
        f"--data {Path.cwd().name} --seeds 3 --out DIR"
    )
    assert portable({"tower": {"weights": "/my models/vit", "reduce": [{"weights": "/a b/c.pt"}]}}) == {
        "tower": {"weights": "vit", "reduce": [{"weights": "c.pt"}]}
    }
    assert portable({"system": "/no_think You like cats and / or dogs"}) == {
        "system": "/no_think You like cats and / or dogs"
    }


def test_an_error_tells_no_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my work").mkdir()
    monkeypatch.chdir(tmp_path / "my work")
    assert readable(f"cannot read {tmp_path}/my work/x.pt: damaged") == "cannot read x.pt: damaged"
    assert readable("no file '/my models/x.pt' in /a/b/c") == "no file 'x.pt' in c"

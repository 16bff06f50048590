"""``vita run --images``: a folder's pictures as a JSONL, through the real command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import vita
from PIL import Image

from vita_core import build_model
from vita_core.cli.answers import answer_folder
from vita_core.cli.run import run
from vita_core.errors import ConfigError, VitaError
from vita_core.planning.resolution import resolve
from vita_core.weights.locks import alone

QUESTION = "what is this ?"
DEFAULTS = {"batch": 16, "system": None, "max_new_tokens": None}


@pytest.fixture
def folder(tmp_path: Path, golden: Path) -> Path:
    folder = tmp_path / "pictures"
    shutil.copytree(golden / "pictures", folder)
    (folder / "more").mkdir()
    (folder / "square.png").rename(folder / "more" / "square.PNG")
    (folder / "notes.txt").write_text("no picture")
    return folder


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_a_row_each_resumed_and_mended(tiny_config: Path, tmp_path: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = build_model(tiny_config)
    weights = tmp_path / "projector.safetensors"
    save_file(model.projector.state_dict(), weights)
    out = tmp_path / "deep" / "answers.jsonl"
    command = ("run", tiny_config, "--images", folder, "--jsonl", out, "-q", QUESTION, "--batch", 2)
    command = (*command, "--set", f"projector.weights={weights}")
    done = vita(*command, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"out": str(out), "answered": 3, "skipped": 0, "errors": 0}
    assert "3/3" in done.stderr
    names = ["more/square.PNG", "tall.png", "wide.png"]
    made = rows(out)[0]["settings"]
    assert rows(out) == [
        {"image": name, "question": QUESTION, "settings": made, "answer": model.ask(folder / name, QUESTION).text}
        for name in names
    ]
    whole = out.read_bytes()
    out.write_bytes(whole[:-9])  # the last line torn, as when the machine went down
    again = vita(*command)
    assert again.returncode == 0, again.stderr
    assert "1 answered, 2 skipped, 0 with an error" in again.stdout
    assert out.read_bytes() == whole
    third = vita(*command)
    assert "0 answered, 3 skipped" in third.stdout
    assert out.read_bytes() == whole
    first = {**rows(out)[0], "answer": "a cat\u2028and a dog"}
    odd = whole.replace(whole.splitlines()[0], json.dumps(first, ensure_ascii=False).encode())
    out.write_bytes(odd)
    assert "0 answered, 3 skipped" in vita(*command).stdout
    assert out.read_bytes() == odd
    out.write_bytes(whole)
    longer = vita(*command, "--max-new-tokens", 7)
    assert longer.returncode == 2
    assert "contains 3 answers to this question with another config" in longer.stderr
    assert out.read_bytes() == whole


@pytest.mark.slow
def test_an_unreadable_picture_is_a_row_and_is_tried_again(tiny_config: Path, tmp_path: Path, folder: Path) -> None:
    good = (folder / "tall.png").read_bytes()
    (folder / "tall.png").write_bytes(good[:300])
    out = tmp_path / "answers.jsonl"
    command = ("run", tiny_config, "--images", folder, "--jsonl", out, "-q", QUESTION)
    done = vita(*command)
    assert done.returncode == 3
    assert "2 answered, 0 skipped, 1 with an error" in done.stdout
    assert [row["image"] for row in rows(out)] == ["more/square.PNG", "tall.png", "wide.png"]
    assert ["error" in row for row in rows(out)] == [False, True, False]
    assert "tall.png" in rows(out)[1]["error"]
    (folder / "tall.png").write_bytes(good)
    assert vita(*command).returncode == 0
    assert sorted(row["image"] for row in rows(out) if "answer" in row) == ["more/square.PNG", "tall.png", "wide.png"]
    assert not [row for row in rows(out) if "error" in row]


def test_a_picture_that_overflows_the_context_spoils_no_other(tiny_config: Path, tmp_path: Path) -> None:
    """Twelve tiles and a thumbnail of 16 tokens each are too many beside 60 new ones in a context of 256; one is not."""
    folder, out = tmp_path / "pictures", tmp_path / "answers.jsonl"
    folder.mkdir()
    Image.new("RGB", (12 * 56, 56)).save(folder / "long.png")
    Image.new("RGB", (56, 56)).save(folder / "small.png")
    settings = resolve(tiny_config, ["images.tiles={max: 12}", "generation.max_new_tokens=60"])
    counts = answer_folder(settings, folder, out, QUESTION, **DEFAULTS)
    assert counts == {"answered": 1, "skipped": 0, "errors": 1}
    long, small = rows(out)
    assert "context of 256" in long["error"]
    assert "answer" in small


@pytest.mark.slow
def test_what_is_refused(tiny_config: Path, tmp_path: Path, folder: Path) -> None:
    settings, wrong = resolve(tiny_config), tmp_path / "wrong.jsonl"
    wrong.write_text('{"caption": "a"}\n')
    with pytest.raises(ConfigError, match=r"wrong\.jsonl:1:1"):
        answer_folder(settings, folder, wrong, QUESTION, **DEFAULTS)
    assert wrong.read_text() == '{"caption": "a"}\n'
    (tmp_path / "empty").mkdir()
    for folder_, message in (
        (tmp_path / "empty", "no picture in this directory"),
        (tmp_path / "none", "no such directory"),
    ):
        with pytest.raises(ConfigError, match=message):
            answer_folder(settings, folder_, tmp_path / "o", QUESTION, **DEFAULTS)
    (taken := tmp_path / "taken.jsonl").touch()
    with (
        alone(taken, "x"),
        pytest.raises(VitaError, match=r"taken\.jsonl: another process is writing to it, such as the same"),
    ):
        answer_folder(settings, folder, taken, QUESTION, **DEFAULTS)
    bare = vita("run", tiny_config, "--images", folder)
    assert bare.returncode == 2
    assert "--images needs --jsonl" in bare.stderr
    nowhere = vita("run", tiny_config, "--images", folder, "--jsonl", tmp_path)
    assert nowhere.returncode == 2
    assert nowhere.stderr.startswith("error: cannot read")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no picture is given"),
        ({"image": [Path("a.png")], "video": Path("a.mp4")}, "--image and --video exclude each other"),
        ({"images": Path("a")}, "--images needs --jsonl"),
        (
            {"image": [Path("a.png")], "jsonl": Path("a.jsonl")},
            "--jsonl: it only works with --images, not with --image",
        ),
    ],
)
def test_options_that_exclude_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"{message}\\. Try: `vita run CONFIG"):
        run("a.yaml", **options)


@pytest.mark.parametrize(("config", "given"), [(None, "neither of them is given"), ("a.yaml", "both are given")])
def test_a_config_and_a_checkpoint_exclude_each_other(config: str | None, given: str) -> None:
    with pytest.raises(typer.BadParameter, match=f"CONFIG or --checkpoint: {given}\\. Try: "):
        run(config, image=[Path("a.png")], checkpoint=None if config is None else "dir")

"""`vita data check` and `vita data show`, as they are typed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from conftest import vita
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    Image.new("RGB", (8, 6), (255, 0, 0)).save(folder / "red.png")
    said = [{"from": "human", "value": "<image>\nwhat is this ?"}, {"from": "gpt", "value": "a red cup ."}]
    rows = [
        {
            "image": "red.png",
            "conversations": [*said, {"from": "human", "value": "a cup ?"}, {"from": "gpt", "value": "yes"}],
        },
        {"image": "no.png", "caption": "a cat"},
        {"image": "red.png", "caption": "a cup"},
    ]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "d.jsonl"


def told(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert done.returncode == code, done.stderr
    return done.stdout


def test_check(data: Path, tiny_config: Path, tmp_path: Path) -> None:
    text = told(vita("data", "check", data), 3)
    assert text.splitlines()[0] == "3 samples: 2 can be trained on, 1 are rejected"
    assert f"      1  a picture is missing, such as {data}:2:1: {data.parent}/no.png" in text
    assert "pictures, in pixels: smallest 8 x 6, median 8 x 6, largest 8 x 6" in text
    assert "tokens are counted with `--config CONFIG`" in text
    rejected = tmp_path / "rejected.jsonl"
    text = told(vita("data", "check", data, "--config", tiny_config, "--rejected", rejected), 3)
    assert "tokens of a sample, pictures included: 24 to 33, median 28; at most 256 fit" in text
    assert "9 tokens have a label" in text
    assert [json.loads(line) for line in rejected.read_text().splitlines()] == [
        {"data": str(data), "where": f"{data}:2:1", "reason": "a picture is missing", "detail": f"{data.parent}/no.png"}
    ]
    report = json.loads(told(vita("data", "check", data, "--config", tiny_config, "--max-length", 30, "--json"), 3))
    assert report["rejected"] == {"a picture is missing": 1, "too long": 1}
    assert json.loads(told(vita("data", "check", data, "--limit", 1, "--json"), 0))["samples"] == 1


def test_show(data: Path, tiny_config: Path) -> None:
    asked = ("data", "show", data, "--config", tiny_config)
    lines = told(vita(*asked), 0).splitlines()
    assert lines == [
        f"{data}:1:1",
        f"picture {data.parent}/red.png: 8 x 6 pixels",
        "user:|[image 1: 16 tokens]|what|is|this|?|assistant:>>>a|red|cup|.<<<user:|a|cup|?|assistant:>>>yes|<eos><<<",
        "33 tokens, of which 6 have a label",
    ]
    shown = json.loads(told(vita(*asked, "--json"), 0))
    assert [row["text"] for row in shown["tokens"] if row["label"]] == ["a", "red", "cup", ".", "yes", "<eos>"]
    assert (shown["length"], shown["trained"]) == (33, 6)
    assert shown["tokens"][1] == {"id": None, "text": "[image 1: 16 tokens]", "label": False}
    plain = told(vita("data", "show", data, "--index", 2), 0)
    assert "question: (that of the prompt)\nanswer: a cup\n" in plain
    assert "the tokens are shown with `--config CONFIG`" in plain
    bad = vita("data", "show", data, "--index", 1)
    assert bad.returncode == 3
    assert bad.stderr.startswith(f"rejected: {data}:2:1: a picture is missing: {data.parent}/no.png. Try: ")
    beyond = vita("data", "show", data, "--index", 3)
    assert (beyond.returncode, beyond.stderr) == (2, "error: --index: there is no sample 3. Try: 0 to 2\n")


def test_a_data_set_of_the_config(data: Path, tiny_config: Path) -> None:
    tiny_config.write_text(
        tiny_config.read_text() + f"data: {{mine: {{path: {data}}}, gone: {{path: ./gone.jsonl}}}}\n"
    )
    assert told(vita("data", "show", "mine", "--config", tiny_config), 0).startswith(f"{data}:1:1\n")
    gone = vita("data", "check", "gone", "--config", tiny_config)
    assert gone.returncode == 2
    assert gone.stderr.startswith(f"error: data.gone.path: no such file or directory: {tiny_config.parent}/gone.jsonl.")


def test_wrong_options(data: Path) -> None:
    done = vita("data", "check", data, "--max-length", 5)
    assert (done.returncode, done.stderr) == (
        2, "error: --stage and --max-length need a tokenizer. Try: `--config CONFIG`\n",
    )  # fmt: skip
    done = vita("data", "check", data, "--format", "lava")
    assert done.returncode == 2
    assert "Did you mean 'llava'?" in done.stderr
    done = vita("data", "check", "owner/name")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: D: a data set on a hub, which is not read from here: 'owner/name'. Try: `hf download"
    )


def test_on_a_terminal_labels_are_coloured(data: Path, tiny_config: Path) -> None:
    import os
    import pty
    import sys

    leader, follower = pty.openpty()
    line = [sys.executable, "-m", "vita_core", "data", "show", str(data), "--config", str(tiny_config)]
    done = subprocess.Popen(
        line, stdout=follower, stderr=subprocess.DEVNULL, env={**os.environ, "TERM": "xterm-256color"}
    )
    os.close(follower)
    text = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:
            break
        text += part
        if not part:
            break
    assert done.wait(60) == 0
    shown = text.decode()
    assert ">>>" not in shown
    assert "\x1b[30;42mred\x1b[0m" in shown  # black on green
    assert "\x1b[2mwhat\x1b[0m" in shown  # dim

"""Without a network: everything local works and opens no socket, and a hub id fails at once, with how to go on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import GOLDEN

pytestmark = pytest.mark.slow
SCRIPT = """
import json, sys, time, traceback

opened = []

def watch(event, args):
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        opened.append(f"{event} {args}")
    elif event == "socket.__new__" and int(args[1]) in (2, 10):  # AF_INET, AF_INET6
        opened.append(f"{event} {args[1:]}")

sys.addaudithook(watch)
from vita_core.cli import main
found = {}
for words in json.loads(sys.argv[1]):
    sys.argv = ["vita", *words]
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    found[" ".join(words[:2])] = [code, opened[:]]
    opened.clear()

from vita_core import VitaError
from vita_core.planning.resolution import resolve
start = time.monotonic()
try:
    resolve({"tower": {"weights": "someone/clip-model"}}, tower_only=True)
except VitaError as error:
    found["hub"] = [str(error), time.monotonic() - start]
print("FOUND" + json.dumps(found))
"""


def commands(config: Path, captions: Path, photos: Path, out: Path) -> list[list[str]]:
    picture = GOLDEN / "pictures" / "wide.png"
    quick = "training={steps: 2, batch_size: 4, warm_start_steps: 2, warm_start_batch: 4, variants: 1}"
    lines: list[list[object]] = [
        ["towers"],
        ["reductions"],
        ["projectors"],
        ["plugins"],
        ["plan", config],
        ["encode", config, picture, "--out", out / "features.safetensors"],
        ["run", config, "--image", picture],
        ["run", config, "--images", picture.parent, "--jsonl", out / "answers.jsonl"],
        ["migrate", GOLDEN / "vita15", "--out", out / "vita.yaml"],
        ["export", GOLDEN / "vita15", "--out", out / "exported"],
        ["train", config, "--data", captions, "--out", out / "trained", "--set", quick],
        ["run", out / "trained", "--image", picture],
        ["eval", out / "trained", "--data", captions],
        ["probe", config, "--data", photos],
        ["data", "check", captions],
        ["check", "clip"],
        ["new-tower", "my_vit", "--at", out / "tower"],
        ["new-reduction", "my_step", "--at", out / "reduction"],
        ["new-projector", "my_join", "--at", out / "projector"],
        ["assets", "--help"],
    ]
    return [[str(word) for word in line] for line in lines]


@pytest.mark.reliability(
    door="network",
    fault="none (a network namespace with `lo` only)",
    expected="what is local works and opens no socket; a hub id is an error within a second",
)
def test_what_is_local_needs_no_network(tiny_config: Path, captioned: Path, photos: Path, tmp_path: Path) -> None:
    lines = commands(tiny_config, captioned, photos, tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT)
    alone = shutil.which("unshare") and subprocess.run(["unshare", "-n", "true"], check=False).returncode == 0
    line = [*(["unshare", "-n"] if alone else []), sys.executable, str(tmp_path / "script.py"), json.dumps(lines)]
    online = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    place = {
        "VITA_CACHE": str(tmp_path / "cache"),
        "HF_HOME": str(tmp_path / "hub"),
        "PYTHONPATH": os.fspath(GOLDEN.parents[2]),
    }
    done = subprocess.run(line, capture_output=True, text=True, check=False, env={**online, **place}, timeout=560)
    told = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert told, done.stderr
    found = json.loads(told[0].removeprefix("FOUND"))
    message, seconds = found.pop("hub")
    assert found == {name: [0, []] for name in found}, done.stderr
    assert len(found) > len(lines) - 4
    if not alone:
        pytest.skip("only root may make a network namespace: the hub id was not tried")
    assert "cannot get someone/clip-model from the hub" in message
    assert "Try: check the network, or copy its directory here and write `weights: ./clip-model`" in message
    assert seconds < 1

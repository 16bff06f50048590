"""The real command in real processes: every subcommand, every mistake with exit code 2 and nothing half-written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, vita
from PIL import Image
from safetensors.torch import load_file, save_file

from vita_core import build_model
from vita_core.cli import _report
from vita_core.cli.commands import BUILTIN

pytestmark = pytest.mark.slow

COMMANDS = [name for name in BUILTIN if name != "data"] + ["data check", "data show"]
HEAVY = ("torch", "transformers", "timm", "open_clip", "torchvision")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command: str) -> None:
    done = vita(*command.split(), "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["towers"], ["plugins"], ["plan", "clip-vicuna-7b"]])
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print('HEAVY', [m for m in {HEAVY} if m in sys.modules], file=sys.stderr))\n"
        f"sys.argv = ['vita', *{arguments!r}]\nfrom vita_core.cli import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stderr


def test_help_imports_no_plugin() -> None:
    code = (
        "import sys\nsys.argv = ['vita', '--help']\nfrom vita_core.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not [m for m in sys.modules if m.startswith('vita_plugins')]\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_towers_and_plugins() -> None:
    rows = json.loads(vita("towers", "--json").stdout)
    assert {"clip", "siglip", "eva_clip", "internvit", "timm", "torchvision"} <= {row["name"] for row in rows}
    assert {row["distribution"] for row in rows} == {"vita-core"}
    states = {row["name"]: row["status"] for row in json.loads(vita("--no-plugin", "clip", "plugins", "--json").stdout)}
    assert states["clip"] == "blocked"
    assert states["siglip"] == "loaded"


def test_encode_says_where_the_time_went(tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    pictures = [golden / "pictures" / f"{name}.png" for name in ("wide", "tall")]
    began = time.perf_counter()
    done = vita("encode", tiny_config, *pictures, "--out", tmp_path / "o.safetensors", "--timings", "--json")
    took = time.perf_counter() - began
    seconds = json.loads(done.stdout)["timings"]
    assert next(iter(seconds)) == "start, command line"
    assert {"weights", "first pixels", "first feature", "written"} <= set(seconds)
    assert min(seconds.values()) >= 0
    assert 0.5 * took < sum(seconds.values()) <= took + 0.02  # all of the process but its end
    lines = vita("encode", tiny_config, *pictures, "--out", tmp_path / "o.safetensors", "--timings").stdout
    assert re.search(r"\d s  first feature \(\d+\.\d{3} s since the process started\)", lines)


def test_encode_writes_features_and_a_map(tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    picture, out, drawn = golden / "pictures" / "wide.png", tmp_path / "f.safetensors", tmp_path / "map.png"
    done = vita("encode", tiny_config, picture, "--out", out, "--picture-map", drawn, "--json")
    assert done.returncode == 0, done.stderr
    expected = load_file(golden / "clip" / "expected.safetensors")["features.wide"]
    assert (load_file(out)[str(picture)] - expected).abs().max() < 1e-5
    with Image.open(drawn) as sheet:
        assert sheet.size == (672, 336)
        right = sheet.crop((336, 0, 672, 336))
        assert len(set(right.convert("RGB").tobytes())) > 4
    assert json.loads(done.stdout)["pictures"][0]["shape"] == [1, 16, 32]


def test_run_streams(tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    """The answer comes in pieces, and together they are what `--json` tells at once."""
    torch.manual_seed(0)
    model, pieces = build_model(tiny_config), list[str]()
    weights, picture = tmp_path / "projector.safetensors", golden / "pictures" / "wide.png"
    save_file(model.projector.state_dict(), weights)
    answer = model.ask(picture, "what is this ?", on_text=pieces.append)
    assert answer.text
    assert len([piece for piece in pieces if piece]) > 1
    assert "".join(pieces).strip() == answer.text
    done = vita(
        "run", tiny_config, "--image", picture, "--question", "what is this ?", "--set", f"projector.weights={weights}"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == answer.text


def bad_pictures(folder: Path) -> dict[str, Path]:
    """One file of each kind that must be refused; test_images has more of them."""
    files = {"missing": folder / "none.png", "truncated": folder / "cut.png", "1x1": folder / "dot.png"}
    noise = Image.effect_noise((128, 128), 90)
    noise.save(files["truncated"])
    files["truncated"].write_bytes(files["truncated"].read_bytes()[:2000])
    Image.new("RGB", (1, 1)).save(files["1x1"])
    return files


@pytest.mark.parametrize("kind", ["missing", "truncated", "1x1"])
def test_bad_pictures(kind: str, tiny_config: Path, tmp_path: Path) -> None:
    picture, out = bad_pictures(tmp_path)[kind], tmp_path / "out.safetensors"
    done = vita("encode", tiny_config, picture, "--out", out)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert picture.name in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*out*"))


def test_every_mode_is_opened(tiny_config: Path, tmp_path: Path) -> None:
    modes, out = ["I;16", "P", "CMYK", "LA", "L"], tmp_path / "o.safetensors"
    files = [tmp_path / f"{number}.{'tif' if mode == 'CMYK' else 'png'}" for number, mode in enumerate(modes)]
    for mode, file in zip(modes, files, strict=True):
        Image.new(mode, (32, 48)).save(file)
    assert vita("encode", tiny_config, *files, "--out", out).returncode == 0
    assert set(load_file(out)) == {str(file) for file in files}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "quickstrat"], "Did you mean 'quickstart'"),
        (["plan", "TINY", "--set", "tower.type=clpi"], "Did you mean 'clip'"),
        (["plan", "TINY", "--set", "tower.select_layer=7"], "-5..-1 or 0..4"),
        (["plan", "TINY", "--set", "tower.slect_layer=7"], "Did you mean 'select_layer'"),
        (["plan", "TINY", "--set", "tower.weights=./nowhere"], "no such file or directory"),
        (["assets", "mobilnet"], "Did you mean 'mobilenet-v2'"),
        (["encode", "TINY", "PICTURE", "--out", "x.txt"], "must be a file that ends in .safetensors"),
    ],
)
def test_mistakes(arguments: list[str], message: str, tiny_config: Path, golden: Path) -> None:
    places = {"TINY": str(tiny_config), "PICTURE": str(golden / "pictures" / "wide.png")}
    done = vita(*[places.get(argument, argument) for argument in arguments])
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_quickstart_without_its_assets_says_what_to_do(tmp_path: Path) -> None:
    done = vita("plan", "quickstart", VITA_CACHE=str(tmp_path))
    assert done.returncode == 2
    assert "Try: `vita assets`" in done.stderr


def test_docs_are_generated_from_the_code() -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "docs" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pixel_limit_is_the_configs(tiny_config: Path, golden: Path, tmp_path: Path) -> None:
    picture = golden / "pictures" / "wide.png"
    limited = ["--set", "images.max_pixels=100"]
    for done in (
        vita("run", tiny_config, "--image", picture, *limited),
        vita("encode", tiny_config, picture, "--out", tmp_path / "o.safetensors", *limited),
    ):
        assert done.returncode == 2
        assert "more than 100 pixels" in done.stderr


def test_lines_of_yaml_can_be_copied_from_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    _report("DIR: wrong. Try: these lines\n  tower:\n    type: clip")
    assert capsys.readouterr().err == "error: DIR: wrong. Try: these lines\n  tower:\n    type: clip\n"

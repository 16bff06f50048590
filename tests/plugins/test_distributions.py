"""Packages as their authors publish them: built, installed into another environment, used, and taken away again."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import vita
from distributions import REPOSITORY, Environment, build_wheel, write_wheel
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

EXAMPLE = REPOSITORY / "examples" / "vita-tower-dinov2"
FROZEN = REPOSITORY / "tests" / "fixtures" / "plugins" / "vita_tower_dinov2-0.1.0-py3-none-any.whl"
"""The example as version 0.1 built it: what was written for ``vita_api = 1`` works as long as there is that version."""


def towers(environment: Environment) -> dict[str, dict[str, str]]:
    done = environment.vita("towers", "--json")
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)}


@pytest.fixture
def dinov2_config(tmp_path: Path, tiny_llm: Path) -> Path:
    """A YAML file, and the small DINOv2 checkpoint of transformers that it names."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 56, "patch_size": 14}
    model = Dinov2Model(Dinov2Config(**sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    model.save_pretrained(tmp_path / "dinov2")
    BitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}).save_pretrained(
        tmp_path / "dinov2"
    )
    file = tmp_path / "dinov2.yaml"
    file.write_text(f"tower: {{weights: ./dinov2, select_layer: -2}}\nllm: {{weights: {tiny_llm}}}\ndevice: cpu\n")
    return file


def test_our_own_wheel_holds_what_is_not_python(tmp_path: Path) -> None:
    with zipfile.ZipFile(build_wheel(REPOSITORY, tmp_path)) as wheel:
        packed = set(wheel.namelist())
    templates = (REPOSITORY / "vita_core" / "templates").rglob("*.template")
    configs = (REPOSITORY / "configs").rglob("*.yaml")
    assert {str(path.relative_to(REPOSITORY)) for path in templates} <= packed
    assert {f"vita_core/{path.relative_to(REPOSITORY)}" for path in configs} <= packed


@pytest.mark.parametrize("when", ["today", "at version 0.1"])
def test_the_example_is_built_installed_used_and_removed(
    environment: Environment, dinov2_config: Path, golden: Path, tmp_path: Path, when: str
) -> None:
    environment.install(build_wheel(EXAMPLE, tmp_path / "dist") if when == "today" else FROZEN)
    assert towers(environment)["dinov2"]["distribution"] == "vita-tower-dinov2"
    assert set(towers(environment)) >= {"clip", "siglip", "eva_clip", "internvit", "timm", "torchvision"}
    assert environment.vita("--strict-plugins", "towers").returncode == 0
    plan = json.loads(environment.vita("plan", dinov2_config, "--json").stdout)
    assert (plan["tower"], plan["owner"], plan["tokens"]) == ("dinov2", "vita-tower-dinov2 0.1.0", 16)

    picture, out = golden / "pictures" / "wide.png", tmp_path / "features.safetensors"
    done = environment.vita("encode", dinov2_config, picture, "--out", out)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(load_file(out)[str(picture)], hidden_states(tmp_path / "dinov2", picture, -2))

    environment.pip("uninstall", "--yes", "vita-tower-dinov2")
    assert "dinov2" not in towers(environment)
    gone = environment.vita("plan", dinov2_config)
    assert gone.returncode == 0, gone.stderr
    assert "by the fallback of tower 'transformers'" in gone.stdout
    typed = environment.vita("plan", dinov2_config, "--set", "tower.type=dinov2")
    assert typed.returncode == 2
    assert "unknown tower: 'dinov2'" in typed.stderr
    assert "Try: one of clip," in typed.stderr
    assert "install the plugin that provides it (`vita plugins`" in typed.stderr


def hidden_states(weights: Path, picture: Path, layer: int) -> torch.Tensor:
    """transformers' own patch tokens of one picture."""
    from PIL import Image
    from transformers import BitImageProcessorPil, Dinov2Model

    model = Dinov2Model.from_pretrained(weights, dtype=torch.float32).eval()
    with Image.open(picture) as opened, torch.no_grad():
        pixels = BitImageProcessorPil.from_pretrained(weights)(opened.convert("RGB"), return_tensors="pt").pixel_values
        return model(pixels, output_hidden_states=True).hidden_states[layer][:, 1:]


@pytest.mark.extras
def test_the_example_passes_its_own_tests(environment: Environment, tmp_path: Path) -> None:
    environment.install(build_wheel(EXAMPLE, tmp_path / "dist"))
    done = environment.run("pytest", "-q", EXAMPLE / "tests", "--rootdir", tmp_path, "-p", "no:cacheprovider")
    environment.pip("uninstall", "--yes", "vita-tower-dinov2")
    assert done.returncode == 0, done.stdout + done.stderr


SMALL = {"image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 24}
EXISTING = ["--wrap", "torchvision.models:VisionTransformer", *(f"--arg={key}={value}" for key, value in SMALL.items())]


@pytest.mark.parametrize(
    ("more", "lines"),
    [pytest.param([], 60, id="sample"), pytest.param(EXISTING, 30, id="existing class", marks=pytest.mark.extras)],
)
def test_a_new_tower_is_installed_and_passes_its_own_tests(
    environment: Environment, tmp_path: Path, more: list[str], lines: int
) -> None:
    package = tmp_path / "made" / "vita-tower-my-vit"
    done = environment.vita("new-tower", "my_vit", "--at", package, *more)
    assert done.returncode == 0, done.stderr
    files = [(package / "vita_tower_my_vit" / name).read_text() for name in ("__init__.py", "tower.py")]
    assert sum(len(text.splitlines()) for text in files) <= lines
    ruff = environment.run("python", "-m", "ruff", "check", "--isolated", ".", cwd=package)
    assert ruff.returncode == 0, ruff.stdout
    environment.install(package)
    assert towers(environment)["my_vit"]["distribution"] == "vita-tower-my-vit"
    assert environment.vita("--strict-plugins", "towers").returncode == 0
    tests = environment.run("pytest", "-q", cwd=package)
    assert tests.returncode == 0, tests.stdout + tests.stderr
    again = environment.vita("new-tower", "my_vit", "--at", tmp_path / "other")
    assert again.returncode == 2
    assert "tower already registered: 'my_vit', by vita-tower-my-vit 0.1.0" in again.stderr
    environment.pip("uninstall", "--yes", "vita-tower-my-vit")


@pytest.mark.parametrize("kind", [pytest.param("projector", marks=pytest.mark.extras), "reduction"])
def test_a_new_part_is_installed_and_passes_its_own_tests(environment: Environment, tmp_path: Path, kind: str) -> None:
    package = tmp_path / "made" / f"vita-{kind}-halves"
    done = environment.vita(f"new-{kind}", "halves", "--at", package)
    assert done.returncode == 0, done.stderr
    files = [(package / f"vita_{kind}_halves" / name).read_text() for name in ("__init__.py", f"{kind}.py")]
    assert sum(len(text.splitlines()) for text in files) <= 65
    ruff = environment.run("python", "-m", "ruff", "check", "--isolated", ".", cwd=package)
    assert ruff.returncode == 0, ruff.stdout
    environment.install(package)
    listed = environment.vita("--strict-plugins", f"{kind}s", "--json")
    assert f"vita-{kind}-halves" in {row["distribution"] for row in json.loads(listed.stdout)}
    for command in (["vita", "check", "halves"], ["pytest", "-q"]):
        done = environment.run(*command, cwd=package)
        assert done.returncode == 0, done.stdout + done.stderr
    environment.pip("uninstall", "--yes", f"vita-{kind}-halves")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My-ViT", "Did you mean 'my_vit'"),
        ("9lives", "Did you mean 'lives'"),
        ("a__b", "not a valid tower name: 'a__b'"),
        ("été", "not a valid tower name: 'été'"),
        ("../up", "Did you mean 'up'"),
        ("clip", "tower already registered: 'clip', by vita-core"),
    ],
)
def test_names_that_are_refused(name: str, message: str, tmp_path: Path) -> None:
    done = vita("new-tower", name, "--at", tmp_path / "made")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine.txt").write_text("mine")
    done = vita("new-tower", "my_vit", "--at", tmp_path / "made")
    assert done.returncode == 2
    assert "--at: already exists: " in done.stderr
    assert [file.name for file in (tmp_path / "made").iterdir()] == ["mine.txt"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["made"]


COMMAND = """
import typer
print("imported")
app = typer.Typer()
@app.command()
def shout(word: str, times: int = 1):
    typer.echo(word.upper() * times)
"""


def test_a_plugin_brings_a_command(environment: Environment, tmp_path: Path) -> None:
    entry_points = "[vita.commands]\nshout = shouting:app\ntowers = shouting:app\nnot-typer = shouting:typer\n"
    environment.install(write_wheel(tmp_path, "vita-shout", {"shouting": COMMAND}, entry_points))
    listed = environment.vita("--help")
    assert "shout" in listed.stdout
    assert "From vita-shout 1.0." in listed.stdout
    assert "imported" not in listed.stdout
    done = environment.vita("shout", "ha", "--times", "2")
    assert (done.returncode, done.stdout) == (0, "imported\nHAHA\n")
    assert "--times" in environment.vita("shout", "--help").stdout
    assert "clip" in towers(environment)  # a built-in command's name is not given away
    blocked = environment.vita("--no-plugin", "vita-shout:shout", "shout", "ha")
    assert blocked.returncode == 2
    assert "named in VITA_PLUGINS_BLOCK or --no-plugin" in blocked.stderr
    wrong = environment.vita("not-typer")
    assert wrong.returncode == 2
    assert "a command is a typer.Typer app" in wrong.stderr
    (tmp_path / "two").mkdir()
    environment.install(
        write_wheel(tmp_path / "two", "vita-yell", {"yelling": COMMAND}, "[vita.commands]\nshout = yelling:app\n")
    )
    both = environment.vita("shout", "ha")
    assert both.returncode == 2
    assert "vita-shout 1.0 and plugin shout of vita-yell 1.0" in both.stderr
    assert environment.vita("--no-plugin", "vita-shout:shout", "shout", "ha").stdout == "imported\nHA\n"
    environment.pip("uninstall", "--yes", "vita-shout", "vita-yell")
    assert "shout" not in environment.vita("--help").stdout

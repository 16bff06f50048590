"""Plugins without packaging (`vita -p MODULE`, VITA_PLUGINS), and what else than towers a plugin may bring."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import vita

from vita_core import build_model, load_config, make_plan
from vita_core.errors import PluginError
from vita_core.plugins import discovery
from vita_core.plugins.discovery import load_plugin, warn_notes
from vita_core.plugins.installed import Owner
from vita_core.plugins.registry import use_plugins

TOWER = """
from vita_core import TowerSpec, hookimpl
from vita_plugins.clip import processor, shape
vita_api = 1
@hookimpl
def vita_towers():
    return [TowerSpec("mine", "s", "vita_plugins.clip.tower:ClipTower", shape, processor)]
"""

PROJECTOR = """
from vita_core import ProjectorSpec, hookimpl

vita_api = 1


def parameters(name, in_features, out_features, options):
    return in_features + in_features * out_features


def build(name, in_features, out_features, options):
    from torch import nn

    class Tokenwise(nn.Sequential):
        def forward(self, tokens):
            return super().forward(tokens)

    return Tokenwise(nn.RMSNorm(in_features), nn.Linear(in_features, out_features, bias=False))


@hookimpl
def vita_projectors():
    return [ProjectorSpec("rms_linear", "RMSNorm, one linear layer", "my_projector:build", parameters)]
"""

LLM = """
from vita_core import LLMShape, LLMSpec, hookimpl

vita_api = 1


def geometry(config):
    width, vocabulary = config["hidden_size"], config["vocab_size"]
    return LLMShape(width, parameters=vocabulary * width, macs_per_token=0, cache_values_per_token=0)


@hookimpl
def vita_llms():
    return [LLMSpec("polite", "says please", "my_llm_model:Polite", geometry)]
"""

LLM_MODEL = """
from vita_core import LanguageModel


class Polite(LanguageModel):
    def prompt(self, prompt, question, pictures):
        return super().prompt(prompt, f"please {question}", pictures)
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path; the registry is built anew around the test."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    use_plugins()
    yield folder
    use_plugins()


@pytest.mark.slow
def test_a_module_named_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_tower.py").write_text(TOWER)
    monkeypatch.chdir(tmp_path)
    for arguments, environment in ((["-p", "my_tower"], {}), ([], {"VITA_PLUGINS": "my_tower"})):
        done = vita(*arguments, "towers", "--json", **environment)
        assert done.returncode == 0
        assert {row["name"]: row["distribution"] for row in json.loads(done.stdout)}["mine"] == "my_tower"
    (row,) = [
        row for row in json.loads(vita("-p", "my_twoer", "plugins", "--json").stdout) if row["name"] == "my_twoer"
    ]
    assert row["status"] == "failed"
    assert "in the working directory or on PYTHONPATH" in row["remedy"]


@pytest.mark.slow
def test_what_a_plugin_prints_does_not_stand_in_our_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loud.py").write_text(
        "print('welcome')\n" + TOWER.replace("    return", "    print('asked')\n    return")
    )
    monkeypatch.chdir(tmp_path)
    done = vita("-p", "loud", "towers", "--json")
    assert "mine" in {row["name"] for row in json.loads(done.stdout)}
    assert done.stderr == "welcome\nasked\n"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "my_key",
            "processor, defaults={'selct_layer': -2}",
            "the defaults of its tower 'mine' are not valid: .*selct_layer",
        ),
        (
            "my_value",
            "processor, defaults={'select_layer': 'last'}",
            "the defaults of its tower 'mine' are not valid: .*wrong value: 'last'",
        ),
        ("my_good_one", "processor, defaults={'pool': 2, 'select_layer': -2}", ""),
    ],
)
def test_defaults_that_cannot_be_are_the_plugins_failure(
    modules: Path, tiny_config: Path, name: str, change: str, message: str
) -> None:
    (modules / f"{name}.py").write_text(TOWER.replace("processor)", change + ")"))
    use_plugins(modules=[name])
    (modules / "config.json").write_text("{}")
    config = load_config(tiny_config, ["tower.type=mine", f"tower.weights={modules}"])
    if not message:
        assert make_plan(config).grid == (2, 2)
        return
    with pytest.raises(PluginError, match=f"plugin {name} of {name}: {message}"):
        make_plan(config)


def test_a_shape_of_another_kind_is_the_plugins_failure(modules: Path, tiny_config: Path) -> None:
    (modules / "my_shape.py").write_text(TOWER.replace("shape, processor)", "lambda *_: (4, 4), processor)"))
    use_plugins(modules=["my_shape"])
    (modules / "config.json").write_text("{}")
    with pytest.raises(PluginError, match=r"plugin my_shape of my_shape: the shape of its tower 'mine' is \(4, 4\)"):
        make_plan(load_config(tiny_config, ["tower.type=mine", f"tower.weights={modules}"]))


def test_a_plugin_brings_a_projector(modules: Path, tiny_config: Path, golden: Path) -> None:
    """It knows of no grid and has no rule for its tokens, as before there were any."""
    (modules / "my_projector.py").write_text(PROJECTOR)
    use_plugins(modules=["my_projector"])
    config = tiny_config.with_name("rms.yaml")
    config.write_text(tiny_config.read_text() + "projector: {type: rms_linear}\n")
    model, plan = build_model(config), make_plan(config)
    assert type(model.projector[0]).__name__ == "RMSNorm"
    answer = model.ask(golden / "pictures" / "wide.png", "what is this ?", max_new_tokens=1)
    assert answer.visual_tokens == plan.tokens == model.tower.num_tokens
    assert plan.stages[2].parameters == sum(parameter.numel() for parameter in model.projector.parameters())


def test_a_projector_that_learns_words_by_half_is_told(modules: Path, tiny_config: Path) -> None:
    half = "    class Half(nn.Sequential):\n        undecayed = ()\n\n    return Half("
    text = PROJECTOR.replace("my_projector", "my_half").replace("    return Tokenwise(", half)
    (modules / "my_half.py").write_text(text)
    use_plugins(modules=["my_half"])
    message = (
        r"projector 'rms_linear' of my_half has undecayed but no start_from_words, word_loss, alignment_parameters"
    )
    with pytest.raises(PluginError, match=message):
        build_model(load_config(tiny_config, ["projector.type=rms_linear"]))


def test_a_plugin_brings_a_language_model(modules: Path, tiny_config: Path, golden: Path) -> None:
    (modules / "my_llm.py").write_text(LLM)
    (modules / "my_llm_model.py").write_text(LLM_MODEL)
    use_plugins(modules=["my_llm"])
    text = tiny_config.read_text()
    config = tiny_config.with_name("polite.yaml")
    config.write_text(text.replace("llm: {", "llm: {type: polite, "))
    picture = golden / "pictures" / "wide.png"
    plain, polite = (build_model(file).ask(picture, "what is this ?") for file in (tiny_config, config))
    assert polite.prompt_tokens == plain.prompt_tokens + 1
    assert make_plan(config).stages[3].shape[-1] == 24


def test_a_plugin_of_the_previous_number_is_warned_of(monkeypatch: pytest.MonkeyPatch, modules: Path) -> None:
    (modules / "my_tower.py").write_text(TOWER)
    monkeypatch.setattr(discovery, "VITA_API", 2)
    plugin = load_plugin(Owner("mine", "vita-mine", "1.0"), "my_tower", lambda: __import__("my_tower"))
    assert plugin.status == "loaded"
    assert [spec.name for spec in plugin.specs] == ["mine"]
    with pytest.warns(FutureWarning, match=r"plugin mine of vita-mine 1\.0: `vita_api` is outdated: 1\. .* vita_api 2"):
        warn_notes([plugin])
    monkeypatch.setattr(discovery, "VITA_API", 3)
    plugin = load_plugin(Owner("mine", "vita-mine", "1.0"), "my_tower", lambda: __import__("my_tower"))
    assert plugin.status == "failed"
    assert "`vita_api` is not supported: 1. This vita-core supports 3" in plugin.reason

"""Plugins without packaging (`vita -p MODULE`, VITA_PLUGINS), and what else than towers a plugin may bring."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import vita

from vita_core import build_model, make_plan, plugins
from vita_core.plugins import Owner, load_plugin, warn_notes
from vita_core.registry import use_plugins

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

    return nn.Sequential(nn.RMSNorm(in_features), nn.Linear(in_features, out_features, bias=False))


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


def test_a_plugin_brings_a_projector(modules: Path, tiny_config: Path) -> None:
    (modules / "my_projector.py").write_text(PROJECTOR)
    use_plugins(modules=["my_projector"])
    config = tiny_config.with_name("rms.yaml")
    config.write_text(tiny_config.read_text() + "projector: {type: rms_linear}\n")
    model, plan = build_model(config), make_plan(config)
    assert type(model.projector[0]).__name__ == "RMSNorm"
    assert plan.stages[2].parameters == sum(parameter.numel() for parameter in model.projector.parameters())


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
    monkeypatch.setattr(plugins, "VITA_API", 2)
    plugin = load_plugin(Owner("mine", "vita-mine", "1.0"), "my_tower", lambda: __import__("my_tower"))
    assert plugin.status == "loaded"
    assert [spec.name for spec in plugin.specs] == ["mine"]
    with pytest.warns(FutureWarning, match=r"plugin mine of vita-mine 1\.0 is written for vita_api 1; .* speaks 2"):
        warn_notes([plugin])
    monkeypatch.setattr(plugins, "VITA_API", 3)
    plugin = load_plugin(Owner("mine", "vita-mine", "1.0"), "my_tower", lambda: __import__("my_tower"))
    assert plugin.status == "failed"
    assert "vita_api 1; this vita-core speaks 3" in plugin.reason

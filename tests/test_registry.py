"""Discovery keeps every failure to the plugin that made it; the registry says what it knows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vita_core import TowerSpec, list_towers, register
from vita_core.errors import PluginError
from vita_core.plugins import Owner, Plugin, Selection, load_plugin
from vita_core.registry import Registry, registry, use_plugins
from vita_plugins.clip import processor, shape

BUILTIN = {"clip", "siglip", "eva_clip", "internvit", "timm", "torchvision"}


def spec(name: str, **changes: object) -> TowerSpec:
    return TowerSpec(name=name, summary="s", factory="nowhere:Tower", shape=shape, processor=processor, **changes)


def loaded(distribution: str, *specs: TowerSpec) -> Plugin:
    return Plugin(Owner("p", distribution, "1"), "m", "loaded", specs=specs)


@pytest.fixture
def clean_registry() -> object:
    use_plugins()
    yield
    use_plugins()


def test_the_six_are_there() -> None:
    assert {tower.name for tower in list_towers()} >= BUILTIN
    assert {plugin.status for plugin in registry().plugins} == {"loaded"}


MODULES = {
    "import_error": ("import nothing_of_this_name\n", "ModuleNotFoundError", "pip install nothing_of_this_name"),
    "syntax_error": ("def broken(:\n", "SyntaxError", "uninstall"),
    "exits": ("import sys\nsys.exit('no')\n", "SystemExit: no", "uninstall"),
    "no_api": ("x = 1\n", "vita_api = 1", "update"),
    "wrong_api": ("vita_api = 99\n", "vita_api 99; this vita-core speaks 1", "update"),
    "misspelled": (
        "from vita_core import hookimpl\nvita_api = 1\n@hookimpl\ndef vita_tower():\n    return []\n",
        "vita_tower",
        "update",
    ),
    "signature": (
        "from vita_core import hookimpl\nvita_api = 1\n@hookimpl\ndef vita_towers(callback):\n    return []\n",
        "vita_towers",
        "update",
    ),
    "unmarked": ("vita_api = 1\ndef vita_towers():\n    return []\n", "@hookimpl", "update"),
    "raises": (
        "from vita_core import hookimpl\nvita_api = 1\n@hookimpl\ndef vita_towers():\n    raise OSError('disk')\n",
        "OSError: disk",
        "update",
    ),
    "wrong_spec": (
        "from vita_core import hookimpl\nvita_api = 1\n@hookimpl\ndef vita_towers():\n    return ['clip']\n",
        "must return TowerSpec",
        "update",
    ),
}


@pytest.mark.parametrize("fault", MODULES)
def test_a_broken_plugin_breaks_nothing_else(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_registry: object
) -> None:
    text, reason, remedy = MODULES[fault]
    (tmp_path / f"plugin_{fault}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    use_plugins(modules=[f"plugin_{fault}"])
    assert {tower.name for tower in list_towers()} >= BUILTIN
    failed = [plugin for plugin in registry().plugins if plugin.status == "failed"]
    assert [plugin.module for plugin in failed] == [f"plugin_{fault}"]
    assert reason in failed[0].reason
    assert remedy in failed[0].remedy
    with pytest.raises(PluginError, match=f"plugin_{fault}"):
        registry().find(TowerSpec, "missing")
    sys.modules.pop(f"plugin_{fault}", None)


def test_ctrl_c_is_not_swallowed() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_plugin(Owner("p", "d", "1"), "m", interrupted)


def test_blocking(monkeypatch: pytest.MonkeyPatch, clean_registry: object) -> None:
    use_plugins(block=["clip"])
    assert "clip" not in {tower.name for tower in list_towers()}
    with pytest.raises(PluginError, match="Blocked: clip"):
        registry().find(TowerSpec, "clip")
    monkeypatch.setenv("VITA_PLUGINS_ONLY", "siglip,vita-core:clip")
    assert Selection.from_environment().only == {"siglip", "vita-core:clip"}
    use_plugins()
    assert {tower.name for tower in list_towers()} == {"clip", "siglip"}


def test_two_distributions_of_one_name() -> None:
    both = Registry([loaded("vita-a", spec("same")), loaded("vita-b", spec("same"))])
    with pytest.raises(PluginError, match=r"vita-a 1 and vita-b 1; write one of: vita-a/same, vita-b/same"):
        both.find(TowerSpec, "same")
    assert both.find(TowerSpec, "vita-b/same").owner.distribution == "vita-b"


def test_resolution_never_reads_the_path() -> None:
    found = Registry([loaded("d", spec("clip", model_types=("clip_vision_model",)), spec("eva", hub_ids={"o/n": {}}))])
    assert found.choose(None, {"model_type": "clip_vision_model"}, None, "/eval/sig/eva-clip").tower.spec.name == "clip"
    assert found.choose(None, {}, "o/n", "o/n").rule == "known hub id o/n"
    with pytest.raises(PluginError, match="no tower claims /data/clip-vit; set `type:`"):
        found.choose(None, {}, None, "/data/clip-vit")
    two = Registry([loaded("d", spec("a", model_types=("m",)), spec("b", model_types=("m",)))])
    with pytest.raises(PluginError, match="'a', 'b' all open it"):
        two.choose(None, {"model_type": "m"}, None, "w")


def test_register_in_a_program(clean_registry: object) -> None:
    register(spec("mine"))
    register(spec("mine"))
    assert [tower.name for tower in list_towers()].count("mine") == 1
    with pytest.raises(PluginError, match="takes a TowerSpec"):
        register("mine")  # type: ignore[arg-type]

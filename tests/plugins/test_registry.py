"""Discovery keeps every failure to the plugin that made it; the registry says what it knows."""

from __future__ import annotations

import pytest

from vita_core import ProjectorSpec, TowerSpec, list_towers, register
from vita_core.errors import PluginError
from vita_core.plugins.discovery import Plugin, Selection, load_plugin
from vita_core.plugins.installed import Owner
from vita_core.plugins.references import unresolved
from vita_core.plugins.registry import Registry, registry, use_plugins
from vita_plugins.clip import processor, shape

BUILTIN = {"clip", "siglip", "eva_clip", "internvit", "open_clip", "timm", "torchvision", "transformers"}


def spec(name: str, **changes: object) -> TowerSpec:
    return TowerSpec(name=name, summary="s", factory="nowhere:Tower", shape=shape, processor=processor, **changes)


def loaded(distribution: str, *specs: TowerSpec) -> Plugin:
    return Plugin(Owner("p", distribution, "1"), "m", "loaded", specs=specs)


def test_the_built_in_ones_are_there() -> None:
    assert {tower.name for tower in list_towers()} >= BUILTIN
    assert {plugin.status for plugin in registry().plugins} == {"loaded"}


def test_ctrl_c_is_not_swallowed() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_plugin(Owner("p", "d", "1"), "m", interrupted)


def test_blocking(monkeypatch: pytest.MonkeyPatch, clean_registry: None) -> None:
    use_plugins(block=["clip"])
    assert "clip" not in {tower.name for tower in list_towers()}
    with pytest.raises(PluginError, match=r"Blocked plugins: clip\. Try: "):
        registry().find(TowerSpec, "clip")
    monkeypatch.setenv("VITA_PLUGINS_ONLY", "siglip,vita-core:clip")
    assert Selection.from_environment().only == {"siglip", "vita-core:clip"}
    use_plugins()
    assert {tower.name for tower in list_towers()} == {"clip", "siglip", "fused"}  # vita-core's own cannot be blocked


def test_two_distributions_of_one_name() -> None:
    both = Registry([loaded("vita-a", spec("same")), loaded("vita-b", spec("same"))])
    with pytest.raises(PluginError, match=r"vita-a 1 and vita-b 1\. Try: `type: vita-a/same` or `type: vita-b/same`"):
        both.find(TowerSpec, "same")
    assert both.find(TowerSpec, "vita-b/same").owner.distribution == "vita-b"


def test_one_distribution_that_brings_a_name_twice() -> None:
    both = Registry([loaded("vita-a", spec("same"), spec("same"))])
    with pytest.raises(PluginError, match=r"block one with VITA_PLUGINS_BLOCK=vita-a:p"):
        both.find(TowerSpec, "same")


def test_resolution_never_reads_the_path() -> None:
    found = Registry([loaded("d", spec("clip", model_types=("clip_vision_model",)), spec("eva", hub_ids={"o/n": {}}))])
    assert found.choose(None, {"model_type": "clip_vision_model"}, None, "/eval/sig/eva-clip").tower.spec.name == "clip"
    assert found.choose(None, {}, "o/n", "o/n").rule == "known hub id o/n"
    with pytest.raises(PluginError, match=r"no registered tower opens /data/clip-vit\. Try: set tower.type"):
        found.choose(None, {}, None, "/data/clip-vit")
    two = Registry([loaded("d", spec("a", model_types=("m",)), spec("b", model_types=("m",)))])
    with pytest.raises(PluginError, match=r"2 towers open w, by model_type 'm' .*Try: `type: a` or `type: b`"):
        two.choose(None, {"model_type": "m"}, None, "w")


VIT = {"model_type": "vit"}


def test_a_fallback_is_asked_last() -> None:
    generic = loaded("vita-core", spec("generic", recognises=lambda config: "model_type" in config, fallback=True))
    mine = loaded("vita-mine", spec("mine", model_types=("vit",), hub_ids={"o/n": {}}))
    alone = Registry([generic]).choose(None, VIT, None, "w")
    assert alone.rule == "model_type 'vit' in its config.json, by the fallback of tower 'generic'"
    for plugins in ([generic, mine], [mine, generic]):
        both = Registry(plugins)
        assert both.choose(None, VIT, None, "w").tower.spec.name == "mine"
        assert both.choose(None, VIT, None, "w").rule == "model_type 'vit' in its config.json"
        assert both.choose(None, {"model_type": "beit"}, None, "w").tower.spec.name == "generic"
        assert both.choose(None, {"model_type": "beit"}, "o/n", "w").rule == "known hub id o/n"
        # a fallback may be named although a specific tower opens the checkpoint, and never contradicts a name
        assert both.choose("generic", VIT, None, "w").tower.spec.name == "generic"
        assert both.choose("mine", {"model_type": "beit"}, None, "w").tower.spec.name == "mine"
    with pytest.raises(PluginError, match=r"no registered tower opens w\. Try: "):
        both.choose(None, {}, None, "w")


def test_two_fallbacks_are_an_error() -> None:
    two = Registry([loaded("d", *(spec(name, model_types=("vit",), fallback=True) for name in ("a", "b")))])
    with pytest.raises(
        PluginError, match=r"2 towers open w, by model_type 'vit' in its config.json\. Try: `type: a` or"
    ):
        two.choose(None, VIT, None, "w")
    with pytest.raises(PluginError, match=r"wrong type of fallback: 1\. Try: a bool"):
        spec("a", fallback=1)


def test_tokens_of_a_projector_are_a_function() -> None:
    with pytest.raises(PluginError, match=r"wrong type of tokens: 9\. Try: a Callable or None"):
        ProjectorSpec("p", "s", "m:f", lambda *_: 0, tokens=9)


def test_register_in_a_program(clean_registry: None) -> None:
    register(spec("mine"))
    register(spec("mine"))
    assert [tower.name for tower in list_towers()].count("mine") == 1
    with pytest.raises(PluginError, match=r"a str: 'mine'\. Try: a TowerSpec"):
        register("mine")  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("vita_plugins.clip.tower:ClipTower", ""),
        ("vita_plugins.clip.tower:ClipTower.build_encoder", ""),
        ("vita_core:build_tower", ""),  # made by __getattr__
        ("_ssl:SSLError", ""),  # compiled: only importing it would tell
        ("vita_plugins.clip.tower:ClipTwer", "Did you mean 'ClipTower'"),
        ("vita_plugins.clip.twoer:ClipTower", "does not exist: vita_plugins.clip.twoer"),
        ("no_such_package.tower:T", "does not exist: no_such_package.tower"),
        ("vita_plugins.clip.tower", "'module:name'"),
        ("vita_plugins.clip.tower:", "'module:name'"),
        (TowerSpec, "'module:name'"),
    ],
)
def test_references_are_looked_up_without_importing(reference: object, reason: str) -> None:
    assert reason in unresolved(reference)
    assert bool(reason) == bool(unresolved(reference))

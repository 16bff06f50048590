"""The registry answers the same whatever the order of its plugins, and every field of a spec is checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inputs import FEW, VALUES

from vita_core import ProjectorSpec, TowerSpec, make_plan, register
from vita_core.errors import PluginError, VitaError
from vita_core.plugins.discovery import Plugin
from vita_core.plugins.installed import Owner
from vita_core.plugins.registry import Registry
from vita_core.plugins.specs import LLMSpec
from vita_plugins.clip import processor, shape

GOLDEN = Path(__file__).parent.parent / "fixtures" / "golden"
NAMES, TYPES = ("same", "clip", "other"), ("one", "two", "clip_vision_model")


@st.composite
def plugins(draw: st.DrawFn) -> list[Plugin]:
    """Plugins of two distributions, which may register the same names and open the same checkpoints."""
    found = []
    for place in range(draw(st.integers(1, 4))):
        specs = [
            TowerSpec(
                name=draw(st.sampled_from(NAMES)), summary="s", factory="a:B", shape=shape, processor=processor,
                model_types=tuple(draw(st.lists(st.sampled_from(TYPES), max_size=2))), fallback=draw(st.booleans()),
            )
            for _ in range(draw(st.integers(0, 2)))
        ]  # fmt: skip
        pattern = draw(st.sampled_from([None, "mlp.*", "same"]))
        projector = ProjectorSpec(draw(st.sampled_from(NAMES)), "s", "a:b", lambda *_: 0, pattern=pattern)
        owner = Owner(f"p{place}", draw(st.sampled_from(["vita-a", "vita-b"])), "1")
        found.append(Plugin(owner, "m", "loaded", specs=(*specs, projector)))
    return found


def told(ask: Callable[[], Any]) -> str:
    try:
        return repr(ask())
    except PluginError as error:
        return str(error)


def answers(registry: Registry) -> dict[str, str]:
    """What a registry says to every question about these plugins."""
    found = {f"all {kind.__name__}": repr(registry.all(kind)) for kind in (TowerSpec, ProjectorSpec)}
    for name in (*NAMES, "vita-a/same", "vita-b/clip", "mlp2x_gelu", "unknown"):
        for kind in (TowerSpec, ProjectorSpec):
            found[f"{kind.__name__} {name}"] = told(lambda kind=kind, name=name: registry.find(kind, name))
    for kind_of_model in (*TYPES, None):
        for name in (None, *NAMES):
            config = {} if kind_of_model is None else {"model_type": kind_of_model}
            ask = lambda name=name, config=config: registry.choose(name, config, None, "./w")  # noqa: E731  # asked at once
            found[f"choose {name} {kind_of_model}"] = told(ask)
    return found


@pytest.mark.reliability(
    door="registry of plugins", fault="any plugins in any order", expected="the same answers and errors in every order"
)
@FEW
@given(plugins(), st.randoms(use_true_random=False))
def test_the_order_of_plugins_does_not_matter(found: list[Plugin], chance: Any) -> None:
    shuffled = [*found]
    chance.shuffle(shuffled)
    assert answers(Registry(found)) == answers(Registry(shuffled))


FIELDS = {kind: [field.name for field in dataclasses.fields(kind)] for kind in (TowerSpec, ProjectorSpec, LLMSpec)}
VALID: dict[type, dict[str, Any]] = {
    TowerSpec: {"name": "own", "summary": "s", "factory": "vita_plugins.clip.tower:ClipTower", "shape": shape},
    ProjectorSpec: {"name": "own", "summary": "s", "factory": "a:b", "parameters": lambda *_: 0},
    LLMSpec: {"name": "own", "summary": "s", "factory": "a:B", "geometry": "a:b"},
}
CONFIGS: dict[type, dict[str, Any]] = {
    TowerSpec: {"tower": {"weights": str(GOLDEN / "clip"), "type": "own"}},
    ProjectorSpec: {"tower": {"weights": str(GOLDEN / "clip")}, "projector": {"type": "own"}},
    LLMSpec: {"tower": {"weights": str(GOLDEN / "clip")}},
}


@pytest.mark.reliability(
    door="specs of plugins",
    fault="each field: a wrong type or value",
    expected="a result, or an error of ours",
)
@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind, names in FIELDS.items() for field in names])
def test_each_field_of_a_spec(kind: type, field: str, clean_registry: None, tiny_llm: Path) -> None:
    for value in (value for name, value in VALUES.items() if name != "missing"):
        config = CONFIGS[kind] | ({"llm": {"weights": str(tiny_llm)}} if kind is not TowerSpec else {})
        if kind is LLMSpec:
            config["llm"]["type"] = "own"
        with suppress(VitaError):
            register(kind(**{**VALID[kind], field: value}))
            make_plan(config)

"""Projectors that join tokens: the plan counts what the model then does, for pictures and videos of every kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import golden_settings, vita
from natives import SIZES, picture, saved_timm
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from vita_core import ProjectorSpec, VitaError, build_model, make_plan
from vita_core.config.schema import ProjectorConfig
from vita_core.language.projectors import project
from vita_core.models.model import VisionLanguageModel
from vita_core.planning.plan import Plan
from vita_core.planning.projectors import resolve_projector
from vita_core.plugins.registry import registry

QUESTION = "what is this ?"
GRIDS = [[1, 2], [2, 1], [2, 2], [1, 4]]
JOINING = [found.spec.name for found in registry().all(ProjectorSpec) if found.spec.tokens is not None]
GRIDLESS = ["minigpt", "vanilla"]
OPTIONS: dict[str, Any] = {"ldpv2": {"grid": [3, 2]}}
ROWS, CLS = {"prompt": {"row_tokens": ["what", "is"]}}, {"select_feature": "cls_patch"}
IMAGES: dict[str, dict[str, Any]] = {
    "whole": {},
    "tiles": {"tiles": {"max": 4}},
    "flat": {"anyres": {"grids": GRIDS}},
    "spatial": {"anyres": {"grids": GRIDS, "merge": "spatial"}},
    "unpad": {"anyres": {"grids": GRIDS, "merge": "spatial_unpad"}},
    "shrunk": {"anyres": {"grids": [*GRIDS, [3, 3]], "merge": "spatial_unpad", "shrink_to": 2}},
}


def config(llm: Path, projector: str, tower: dict[str, Any], images: dict[str, Any], **more: Any) -> dict[str, Any]:
    section = {"type": projector, "options": OPTIONS.get(projector, {})}
    return {
        "tower": tower,
        "projector": section,
        "images": images,
        "llm": {"weights": str(llm)},
        "device": "cpu",
    } | more


def compare(plan: Plan, model: VisionLanguageModel, shown: Any) -> None:
    """What is planned for a picture or a video is what happens to it."""
    answer = model.ask(shown, QUESTION, max_new_tokens=1)
    assert (plan.tiles, plan.tokens) == (answer.tiles[0], answer.visual_tokens)
    _, *tower, projector, llm = plan.stages
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        pixels = model.prepare(shown).pixels
        features = model.tower(pixels)
        before = counter.get_total_flops()
        tokens = project(model.projector, features, plan.grid)
    assert tower[-1].shape == features.shape
    assert projector.shape == tokens.shape
    assert torch.equal(tokens, torch.cat(model.encode_each([pixels])))
    counted = counter.get_total_flops() - before
    # without a rule of its own, a projector's biases and norms count as if they were multiplied
    slack = 2 * plan.tiles * tokens.shape[1] * sum(p.numel() for p in model.projector.parameters() if p.ndim == 1)
    assert counted <= projector.flops <= counted + (slack if model.resolved.projector.spec.macs is None else 0)
    assert llm.shape == (answer.visual_tokens, 24)
    assert plan.cache_bytes == model.resolved.llm.shape().cache_values_per_token * answer.visual_tokens * 4


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("name", JOINING)
def test_a_fixed_size(tiny_llm: Path, tmp_path: Path, name: str, images: str) -> None:
    section = IMAGES[images]
    if images in ("unpad", "shrunk"):
        save_file({"image_newline": torch.zeros(24)}, tmp_path / "newline.safetensors")
        section = {"anyres": {**section["anyres"], "newline": str(tmp_path / "newline.safetensors")}}
    settings = config(tiny_llm, name, {**golden_settings("clip"), "pool": [4, 2]}, section)
    if name in GRIDLESS and images not in ("whole", "tiles", "flat"):
        message = f"it needs rows of tokens, but projector '{name}' gives 2 tokens without any. Try: `images.anyres.merge: flat`"
        with pytest.raises(VitaError, match=r"^images\.anyres\.merge: " + message):
            make_plan(settings)
        return
    model = build_model(settings)
    for size in SIZES:
        compare(make_plan(settings, picture=size), model, picture(*size))
    most = make_plan(settings)
    assert most.tokens >= max(make_plan(settings, picture=size).tokens for size in SIZES)
    assert most.projected_grid == (None if name in GRIDLESS else {"ldpv2": (3, 2)}.get(name, (2, 1)))


@pytest.mark.parametrize("name", JOINING)
def test_native_resolution(tiny_llm: Path, tmp_path: Path, name: str) -> None:
    """A picture whose own grid the projector cannot take is refused alike by the plan and by the model."""
    saved_timm(tmp_path)
    settings = config(tiny_llm, name, {"weights": str(tmp_path)}, {"max_tokens": 16})
    model, counts = build_model(settings), set()
    for size in [*SIZES, (150, 100)]:
        planned = attempt(lambda size=size: make_plan(settings, picture=size))
        if isinstance(planned, VitaError):
            asked = attempt(lambda size=size: model.ask(picture(*size), QUESTION, max_new_tokens=1))
            assert str(asked) == str(planned)
            assert str(planned).startswith("projector.")
        else:
            compare(planned, model, picture(*size))
            counts.add(planned.tokens)
    assert len(counts) > (name != "ldpv2")
    odd = {"max_tokens": 1} if name.startswith("spp") else {"max_tokens": 25}
    if not name.startswith("ldp"):
        with pytest.raises(VitaError, match=r"^projector\.(type|options\.spatial_merge_size): "):
            make_plan(config(tiny_llm, name, {"weights": str(tmp_path)}, odd))


def attempt(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or its VitaError."""
    try:
        return call()
    except VitaError as error:
        return error


@pytest.mark.parametrize("images", ["tiles", "spatial"])
@pytest.mark.parametrize("whole", [{}, {"reduce": {"type": "pool", "window": 2}}])
def test_several_encoders_as_one(tiny_llm: Path, whole: dict[str, Any], images: str) -> None:
    towers = [golden_settings("clip"), golden_settings("siglip")]
    settings = config(tiny_llm, "ldp", {"towers": towers, **whole}, IMAGES[images])
    model = build_model(settings)
    for size in SIZES[:3]:
        compare(make_plan(settings, picture=size), model, picture(*size))
    behind = config(tiny_llm, "ldp", {"towers": [towers[0], towers[0]], "combine": "sequence"}, {})
    with pytest.raises(
        VitaError, match=r"^projector\.type: 'ldp' needs tokens on a grid, but the tower's 32 tokens have none"
    ):
        make_plan(behind)


@pytest.mark.parametrize("name", JOINING)
def test_each_step_of_a_video(tiny_llm: Path, vivit: Path, video: Path, name: str) -> None:
    settings = config(tiny_llm, name, {"weights": str(vivit)}, {})
    plan, model = make_plan(settings), build_model(settings)
    compare(plan, model, video)
    steps, rows, cols = plan.grid
    rule, alone = model.resolved.projector.behind, {"ldpv2": (3, 2)}.get(name, (rows // 2, cols // 2))
    assert plan.projected_grid == (None if name in GRIDLESS else (steps, *alone))
    assert plan.tokens == steps * rule((rows, cols), rows * cols)[1]


def test_row_tokens_end_the_rows_behind_the_projector(tiny_llm: Path, tmp_path: Path) -> None:
    saved_timm(tmp_path)
    for tower, sizes in ((golden_settings("clip"), [(60, 60)]), ({"weights": str(tmp_path)}, SIZES[:3])):
        settings = config(tiny_llm, "ldp", tower, {}, **ROWS)
        model = build_model(settings)
        for size in sizes:
            plan = make_plan(settings, picture=size)
            assert plan.projected_grid == tuple((side + 1) // 2 for side in plan.grid)
            assert plan.tokens == plan.projected_grid[0] * (plan.projected_grid[1] + 1)
            assert model.ask(picture(*size), QUESTION, max_new_tokens=1).visual_tokens == plan.tokens


@pytest.mark.parametrize(
    ("projector", "tower", "more", "message"),
    [
        ("minigpt", {}, ROWS, r"^prompt\.row_tokens: it needs rows .*'minigpt' gives 4 tokens without"),
        ("minigpt", {"pool": 3}, {}, r"^projector\.type: .* 3 x 3 = 9, not a multiple of 4\. Try: "),
        ("spp_v2", {"pool": 1}, {}, r"^projector\.type: 'spp' averages 2 x 2 tokens, but the tower gives 1 x 1\. Try: "),
        ("ldp", CLS, {}, r"^projector\.type: 'ldp' needs tokens on a grid, but the tower's 17 tokens have none"),
        ("linear", CLS, {"images": IMAGES["spatial"]}, r"^images\.anyres\.merge: .* a CLS token is kept beside 4 x 4"),
    ],
)  # fmt: skip
def test_what_the_plan_refuses(
    tiny_llm: Path, projector: str, tower: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    settings = config(tiny_llm, projector, {**golden_settings("clip"), **tower}, {}) | more
    with pytest.raises(VitaError, match=message):
        make_plan(settings)


def test_rows_of_a_video_are_refused(tiny_llm: Path, vivit: Path) -> None:
    settings = config(tiny_llm, "linear", {"weights": str(vivit)}, {}, **ROWS)
    with pytest.raises(
        VitaError, match=r"^prompt\.row_tokens: it needs rows of tokens, but these are of a video\. Try: "
    ):
        make_plan(settings)


@pytest.mark.slow
def test_the_command(tiny_llm: Path, tmp_path: Path) -> None:
    saved_timm(tmp_path / "naflex")
    tower, lines = golden_settings("clip"), []
    for weights, projector in (
        (tower["weights"], "spp_v1"),
        (tower["weights"], "vanilla"),
        (tmp_path / "naflex", "ldp"),
    ):
        file = tmp_path / "config.yaml"
        file.write_text(
            f"tower: {{weights: {weights}}}\nprojector: {{type: {projector}}}\nllm: {{weights: {tiny_llm}}}\n"
        )
        lines.append(vita("plan", file).stdout)
    assert "grid 4 x 4 of 16 tokens, grid 2 x 2 of 4 behind the projector" in lines[0]
    assert "grid 4 x 4 of 16 tokens, no grid of 4 behind the projector" in lines[1]
    assert "grid 5 x 5 of 25 tokens, grid 3 x 3 of 9 behind the projector" in lines[2]
    assert "has 1 to 25 tokens before the projector." in lines[2]


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (lambda rows, cols: rows * cols / 4, r"it returned 4\.0"),
        (lambda rows, cols: (rows, cols, 3), r"it returned \(4, 4, 3\)"),
        (lambda rows, cols: (rows, -1), r"it returned \(4, -1\)"),
        (lambda rows, cols: 0, "it returned 0"),
        (lambda rows, cols: rows // 0, "ZeroDivisionError: "),
        (lambda rows: rows, "TypeError: "),
    ],
)
def test_a_rule_that_fails_is_its_plugins_fault(rule: Any, reason: str) -> None:
    resolved = resolve_projector(ProjectorConfig(type="ldp"), 32, 24)
    resolved = replace(resolved, spec=replace(resolved.spec, tokens=rule))
    message = r"^projector\.type: 'ldp' of vita-core.* does not say how many tokens it makes of 4 x 4: " + reason
    with pytest.raises(VitaError, match=message + r".*\. Try: return \(rows, cols\) or a number"):
        resolved.behind((4, 4), 16)


def test_a_rule_gets_the_options_and_its_error_the_key() -> None:
    resolved = resolve_projector(ProjectorConfig(type="ldpv2", options={"grid": [2, 5]}), 32, 24)
    assert resolved.behind((3, 4, 4), 48) == ((3, 2, 5), 30)

    def refuse(rows: int, cols: int) -> int:
        raise VitaError(f"{rows} x {cols} is not square. Try: another tower")

    with pytest.raises(VitaError, match=r"^projector\.type: 3 x 4 is not square\. Try: another tower$"):
        replace(resolved, spec=replace(resolved.spec, tokens=refuse)).behind((3, 4), 12)
    listed = replace(resolved.spec, tokens=lambda rows, cols: [rows, 1])
    assert replace(resolved, spec=listed).behind((3, 4), 12) == ((3, 1), 3)
    assert resolve_projector(ProjectorConfig(type="linear"), 32, 24).behind(None, 7) == (None, 7)

"""`tower.reduce[i].weights`: strict loading with a report, errors of the plan, and what untrained reductions are refused by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from learning import Queries
from safetensors.torch import save_file
from torch import Tensor

from vita_core import ReductionSpec, VitaError, build_model, build_tower, load_config, make_plan
from vita_core.cli import app
from vita_core.config.learned_reductions import ResamplerOptions
from vita_core.config.validation import validate
from vita_core.planning.resolution import resolve
from vita_core.plugins.registry import import_object, registry
from vita_core.testing import CHECKS, open_subject
from vita_core.towers.reducing import freeze_reductions, save_reduction
from vita_core.towers.tower import build_resolved

GOLDEN = Path(__file__).parent.parent / "fixtures" / "golden"
pytestmark = pytest.mark.usefixtures("queries_registered")


def config(**step: Any) -> dict[str, Any]:
    return {"weights": str(GOLDEN / "siglip"), "reduce": {"type": "queries", **step}}


def width() -> int:
    return build_tower({"weights": str(GOLDEN / "siglip")}).hidden_size


def trained(**options: int) -> Queries:
    """The module with random weights, as after a training."""
    torch.manual_seed(3)
    return Queries((4, 4, width()), {"queries": 4, "width": 16, **options}).eval()


def written(folder: Path, suffix: str, state: dict[str, Tensor]) -> str:
    file = folder / f"queries{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    return str(file)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_weights_are_loaded_strictly_and_reported(tmp_path: Path, suffix: str) -> None:
    module = trained()
    state = {f"published.{key}": value for key, value in module.state_dict().items()}
    tower = build_tower(config(weights=written(tmp_path, suffix, {**state, "elsewhere.x": torch.zeros(1)})))
    pixels = torch.randn(2, 3, *tower.shape.image_size)
    plain = build_tower({"weights": str(GOLDEN / "siglip")})
    tower.eval()
    assert torch.equal(tower(pixels), module(plain(pixels), None))
    report = tower.reduction_reports[0]
    assert report is not None
    assert (report.loaded, report.skipped) == (len(state), {"not of the reduction": ["elsewhere.x"]})
    for step, wanted in ((trained(queries=5), r"query"), (torch.nn.Linear(2, 2), r"missing")):
        with pytest.raises(VitaError, match=wanted):
            build_tower(config(weights=written(tmp_path, suffix, step.state_dict())))


def test_a_relative_path_is_relative_to_its_file(tmp_path: Path) -> None:
    written(tmp_path, ".safetensors", trained().state_dict())
    file = tmp_path / "c.yaml"
    for reduce in (
        "{type: queries, weights: queries.safetensors}",
        "[{type: pool, window: 1}, {type: queries, weights: ./queries.safetensors}]",
    ):
        file.write_text(f"tower: {{weights: {GOLDEN / 'siglip'}, reduce: {reduce}}}\n")
        steps = load_config(file).tower.model_dump()["reduce"]
        assert (steps[1] if isinstance(steps, list) else steps)["weights"] == str(tmp_path / "queries.safetensors")
        assert build_resolved(resolve(file).tower, "cpu").num_tokens == 4


def bad_weights(folder: Path) -> dict[str, tuple[str, dict[str, int], str]]:
    """Each case: the file, the options of the config, and what the plan says."""
    made = {"queries": trained(), "narrow": Queries((4, 4, 8), {"queries": 4, "width": 16})}
    made["extra"] = trained()
    made["extra"].register_buffer("more", torch.zeros(1))
    for name, module in made.items():
        save_file(module.state_dict(), folder / f"{name}.safetensors")
    own = resolve({"tower": config()}).tower.geometry.reductions[0]
    save_reduction(folder / "own.safetensors", own, made["queries"])
    save_file({}, folder / "other.safetensors", {"type": "pool", "in_features": "1", "out_features": "1"})
    (folder / "broken.safetensors").write_bytes(b"{}")
    file = str(folder / "queries.safetensors")
    return {
        "other queries": (file, {"queries": 9}, rf"query is 4 x {width()} instead of 9 x {width()}"),
        "another width of the output": (file, {"width": 8}, r"proj\.weight is 16 x \d+ instead of 8 x"),
        "another width of the input": (str(folder / "narrow.safetensors"), {}, r"query is 4 x 8 instead of 4 x"),
        "a tensor too much": (str(folder / "extra.safetensors"), {}, r"unexpected more"),
        "another type": (str(folder / "other.safetensors"), {}, r"holds the weights of 'pool', not of 'queries'"),
        "no file": (str(folder / "querie.safetensors"), {}, r"no such file: .*Did you mean 'queries\.safetensors'"),
        "no safetensors": (str(folder / "broken.safetensors"), {}, r"cannot read .*broken\.safetensors"),
        "no weights in the folder": (str(folder), {}, r"holds no weight file"),
        "its own file": (
            str(folder / "own.safetensors"),
            {"width": 8},
            r"gives 16, but here it gets \d+ and is to give 8",
        ),
    }


def test_the_plan_tells_of_weights_that_do_not_fit(tmp_path: Path) -> None:
    for name, (file, options, message) in bad_weights(tmp_path).items():
        with pytest.raises(VitaError, match=message) as error:
            make_plan({"tower": config(weights=file, **options)})
        assert str(error.value).startswith("tower.reduce[0].weights: "), name
        assert str(error.value).count("Try: ") == 1, name
    assert make_plan({"tower": config(weights=str(tmp_path / "own.safetensors"))}).tokens == 4


def test_untrained_reductions_are_refused_but_planned(tiny_config: Path, captioned: Path, tmp_path: Path) -> None:
    message = r"^tower\.reduce\[1\]\.weights: missing: 'queries' learns.*`vita train CONFIG --data DATA --out DIR`"
    steps = [{"type": "pool", "window": 2}, {"type": "queries"}]
    tower = {"weights": str(GOLDEN / "siglip"), "reduce": steps}
    with pytest.raises(VitaError, match=message):
        build_tower(tower)
    with pytest.raises(VitaError, match=message):
        build_tower({**tower, "delay_load": True})
    changed = f"tower={json.dumps(tower)}"
    with pytest.raises(VitaError, match=message):
        build_model(load_config(tiny_config, [changed]))
    plan = make_plan(load_config(tiny_config, [changed]))
    assert [(stage.what, stage.parameters) for stage in plan.stages if stage.stage == "reduce"] == [
        ("pool", 0),
        ("queries", sum(p.numel() for p in trained().parameters())),
    ]
    picture = str(GOLDEN / "pictures" / "wide.png")
    for command in (
        ["encode", str(tiny_config), picture, "--out", str(tmp_path / "x.safetensors")],
        ["run", str(tiny_config), "--image", picture],
        ["eval", str(tiny_config), "--data", str(captioned)],
    ):
        with pytest.raises(VitaError, match=message):
            app([*command, "--set", changed], standalone_mode=False)


def test_an_untrained_tower_keeps_the_contracts() -> None:
    with open_subject({"tower": config()}) as subject:
        for check in CHECKS:
            if check.name != "plugin_import_is_light":  # which starts a process
                result = check.run(subject)
                assert result.outcome != "failed", (check.name, result.message)


def test_freeze_does_not_touch_them_and_the_mode_follows_their_gradients(tmp_path: Path) -> None:
    file = written(tmp_path, ".safetensors", trained().state_dict())
    for freeze in (True, False):
        tower = build_tower({**config(weights=file), "freeze": freeze}).train()
        assert tower.encoder is not None
        assert all(p.requires_grad for p in tower.reductions.parameters())
        assert all(module.training for module in tower.reductions.modules())
        assert tower.encoder.training is not freeze
        pixels = torch.randn(2, 3, *tower.shape.image_size)
        tower(pixels).square().sum().backward()
        assert all(p.grad is not None for p in tower.reductions.parameters())
        assert any(p.grad is not None for p in tower.encoder.parameters()) is not freeze
        tower.reductions.requires_grad_(False)
        assert not any(module.training for module in tower.train().reductions.modules() if [*module.parameters()])
        assert not any(module.training for module in tower.eval().modules())


def test_they_run_in_the_dtype_of_the_tower(tmp_path: Path) -> None:
    file = written(tmp_path, ".safetensors", trained().state_dict())
    tower = build_tower({**config(weights=file), "dtype": "bfloat16"}).eval()
    assert {p.dtype for p in tower.reductions.parameters()} == {torch.bfloat16}
    assert tower(torch.randn(1, 3, *tower.shape.image_size)).dtype == torch.float32


def test_a_module_whose_own_keys_would_be_renamed_is_not_saved(tmp_path: Path) -> None:
    step = resolve({"tower": config()}).tower.geometry.reductions[0]
    with pytest.raises(VitaError, match=r"tower\.reduce\[0\]: 'queries' cannot be saved: .*'published\.weight'"):
        save_reduction(tmp_path / "x.safetensors", step, torch.nn.ModuleDict({"published": torch.nn.Linear(1, 1)}))
    assert registry().find(type(step.spec), "queries").spec is step.spec


def test_the_plan_tells_of_trained_queries_of_another_number(tmp_path: Path) -> None:
    asked = {"type": "resampler", "width": 16, "heads": 2}
    before = (4, 4, width())
    spec = registry().find(ReductionSpec, "resampler").spec
    options = validate(ResamplerOptions, {"queries": 16, "width": 16, "heads": 2}).model_dump()
    module = import_object(spec.factory, requires=None, owner=registry().find(ReductionSpec, "resampler").owner)
    file = written(tmp_path, ".safetensors", module(before, options).state_dict())
    tower = {"weights": str(GOLDEN / "siglip"), "reduce": {**asked, "queries": 64, "weights": file}}
    with pytest.raises(VitaError, match=r"tower\.reduce\[0\]\.weights: .*query is 16 x 16 instead of 64 x 16"):
        make_plan({"tower": tower})
    assert build_tower({**tower, "reduce": {**asked, "queries": 16, "weights": file}}).num_tokens == 16


def test_a_part_of_a_fused_tower_is_told_by_its_own_key(tmp_path: Path) -> None:
    def fused(**step: Any) -> dict[str, Any]:
        parts = [{"weights": str(GOLDEN / "siglip"), "reduce": {"type": "pool", "window": 2}}, config(**step)]
        parts[1]["reduce"]["width"] = width()
        return {"towers": parts, "combine": "sequence"}

    with pytest.raises(VitaError, match=r"^tower\.towers\.1\.reduce\[0\]\.weights: missing: 'queries' learns"):
        build_tower(fused())
    save_file(trained(width=width()).state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(VitaError, match=r"^tower\.towers\.1\.reduce\[0\]\.weights: .* query is 4 x \d+ instead of 9 x"):
        make_plan({"tower": fused(queries=9, weights=str(tmp_path / "x.safetensors"))})
    tower = build_tower(fused(weights=str(tmp_path / "x.safetensors")))
    assert tower.num_tokens == 8
    freeze_reductions(tower)
    assert not any(p.requires_grad for p in tower.parameters())

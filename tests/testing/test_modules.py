"""The conformance kit passes every registered projector and reduction, and fails each broken one on what it breaks."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

import broken_modules
import pytest
from conftest import vita
from kit import assert_told, run_pytest

from vita_core import ProjectorSpec, ReductionSpec, VitaError, register
from vita_core.errors import PluginError
from vita_core.planning.named import kind_of
from vita_core.plugins.registry import registry, use_plugins
from vita_core.testing import KIT, PROJECTOR_CHECKS, REDUCTION_CHECKS, Check, open_projector, open_reduction

OF_A_PATTERN = {"mlpNx_gelu": "mlp3x_gelu"}
PROJECTORS = [OF_A_PATTERN[r.spec.name] if r.spec.pattern else r.spec.name for r in registry().all(ProjectorSpec)]
REDUCTIONS = [r.spec.name for r in registry().all(ReductionSpec)]
CHECK: dict[str, Check[Any]] = {check.name: check for check in (*PROJECTOR_CHECKS, *REDUCTION_CHECKS)}
SPARED = {
    "runs_on_the_accelerator",  # where there is none
    "tokens_stand_row_by_row",  # without a grid
    "blocks_are_accepted",  # and what a reduction does not state
    "macs_are_as_planned",
    "scores_are_used",
    "tensors_are_as_planned",
}
IDEFICS2 = ["layout=idefics2", "queries=6", "heads=4", "depth=1", "head_width=8", "kv_heads=2"]
VARIANTS = {
    "pool of a grid": ("pool", ["window=null", "grid=3"]),
    "pool of maxima": ("pool", ["kind=max"]),
    "pixel_shuffle of order v1": ("pixel_shuffle", ["order=v1"]),
    "resampler of Idefics2": ("resampler", IDEFICS2),
    "c_abstractor with end tokens": ("c_abstractor", ["end_tokens=2"]),
}
"""Reductions with other options than those of their example."""


@functools.cache
def opened(kind: str, name: str) -> Any:
    name, options = VARIANTS.get(name, (name, []))
    with KIT[kind][1](name, options) as subject:
        return subject


@pytest.mark.parametrize(
    ("kind", "name", "check"),
    [
        pytest.param(
            kind, name, check, id=f"{name}-{check.name}", marks=[pytest.mark.slow] * (check.name == "planning_is_light")
        )
        for kind, names in {"projector": PROJECTORS, "reduction": [*REDUCTIONS, *VARIANTS]}.items()
        for name in names
        for check in KIT[kind][0]
    ],
)
def test_every_registered_one_keeps_every_contract(kind: str, name: str, check: Check[Any]) -> None:
    result = check.run(opened(kind, name))
    transposed = (
        name == "pixel_shuffle of order v1" and check.name == "tokens_stand_row_by_row"
    )  # as in InternVL's code
    fine = {"failed"} if transposed else {"ok", "skipped"} if check.name in SPARED else {"ok"}
    assert result.outcome in fine, result.message


BROKEN = [
    ("LosesAToken", "output_is_as_planned", r"with a grid of 8 x 8 gave \(2, 63, 48\), the rule says \(2, 64, 48\)"),
    (
        "ColumnByColumn",
        "tokens_stand_row_by_row",
        "upper right changed most the token in row 9, column 0 of 12 x 4",
    ),
    ("ParametersNotPlanned", "parameters_are_as_planned", "the spec says 1,584 parameters, the module has 1,585"),
    ("DividesByTheDeviation", "output_is_finite", "values of the output for equal tokens are not finite"),
    ("NoGrad", "gradient_reaches_tokens_and_weights", "the output has no gradient graph"),
    ("DetachesTokens", "gradient_reaches_tokens_and_weights", "no gradient reached the tokens"),
    ("BiasNotUsed", "gradient_reaches_tokens_and_weights", r"no gradient reached 1 of 2 parameters \(bias\)"),
    ("DropsInEvalMode", "deterministic", "a second run differs by"),
    ("BatchStatistics", "batch_equals_one_by_one", "one by one, the output differs by"),
    ("NoEmptyBatch", "empty_batch", "RuntimeError: cannot reshape tensor of 0 elements"),
    ("AlwaysFloat32", "dtype_is_kept", r"torch\.bfloat16 tokens gave torch\.float32"),
    ("TableNotSaved", "saved_and_reloaded", "the output of the second module differs by"),
]

REDUCING = [
    ("SquareRoot", "output_is_as_planned", "RuntimeError", {}),
    ("PlannedGrid", "takes_other_grids", "RuntimeError", {}),
    ("ScoresIgnored", "scores_are_used", "scores in the reverse order gave the same output", {"scores": True}),
    ("Halves", "scores_are_used", "TypeError: .* unexpected keyword argument 'scores'", {"scores": True}),
    (
        "Halves",
        "macs_are_as_planned",
        "for a grid of 8 x 8 the spec says 1 multiply-accumulates, torch counts 65,536",
        {"macs": lambda *_: 1},
    ),
    (
        "Halves",
        "blocks_are_accepted",
        r"2 x 3 blocks of 3 x 3 tokens are refused: reduction: an odd",
        {"block": lambda _: 3},
    ),
    ("Halves", "blocks_are_accepted", r"2 x 3 blocks of 4 x 4 tokens give \(4, 6, 32\)", {"block": lambda _: 4}),
    (
        "Halves",
        "tensors_are_as_planned",
        r"differ in 2 tensors \(\[\('merge.bias', \(32,\)\), \('merge.weight', \(32, 128\)\)\]",
        {"tensors": lambda *_: {"merge.bias": [32]}},
    ),
    ("Halves", "parameters_are_as_planned", "the spec says 0 parameters, the module has 4,096", {"parameters": None}),
]


@pytest.mark.parametrize(("name", "check", "seen", "stated"), REDUCING)
def test_a_broken_reduction_fails_the_contract_it_breaks(
    name: str, check: str, seen: str, stated: dict[str, Any], clean_registry: None
) -> None:
    register(broken_modules.reduction(name, **stated))
    assert_told(CHECK[check].run(open_reduction(name)), seen)


@pytest.mark.parametrize(("name", "check", "seen"), BROKEN)
def test_a_broken_projector_fails_the_contract_it_breaks(
    name: str, check: str, seen: str, clean_registry: None
) -> None:
    register(broken_modules.projector(name))
    assert_told(CHECK[check].run(open_projector(name)), seen)


def test_what_is_not_broken_keeps_every_contract(clean_registry: None) -> None:
    register(broken_modules.projector("Plain"))
    register(broken_modules.reduction("Halves"))
    elsewhere = {"planning_is_light", "runs_on_the_accelerator"}  # by a plugin module below; where there is one
    for subject, spared in (
        (opened("projector", "Plain"), set()),
        (opened("reduction", "Halves"), {"scores_are_used", "tensors_are_as_planned"}),
    ):
        results = [check.run(subject) for check in KIT[subject.kind][0]]
        assert not [result.message for result in results if result.outcome == "failed"]
        assert {r.check.name for r in results if r.outcome == "skipped"} <= elsewhere | spared
    assert (subject.cases[0].tokens, subject.cases[0].after_tokens, subject.cases[0].width) == (64, 16, 32)
    assert {check for _, check, *_ in [*BROKEN, *REDUCING]} | elsewhere == CHECK.keys()


def test_a_wrong_rule_fails_once(clean_registry: None) -> None:
    register(dataclasses.replace(broken_modules.reduction("Halves"), sizes=lambda *_: 7))
    subject = open_reduction("Halves")
    assert_told(CHECK["output_is_as_planned"].run(subject), "the sizes of its reduction 'Halves' are 7")
    assert CHECK["takes_other_grids"].run(subject).outcome == "skipped"


def test_tokens_without_a_grid(clean_registry: None) -> None:
    spec = broken_modules.reduction("Halves", spatial=False, parameters=None, macs=None, block=None)
    register(dataclasses.replace(spec, factory="torch.nn:Identity", sizes=lambda sizes, _: sizes))
    assert [str(case) for case in open_reduction("Halves").cases][-1] == "64 tokens without a grid"


@pytest.mark.slow
def test_a_plugin_that_imports_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_registry: None) -> None:
    (tmp_path / "torchy_options.py").write_text(
        "import pydantic, torch\nclass Options(pydantic.BaseModel):\n    a: int = 1\n"
    )
    (tmp_path / "heavy_options.py").write_text(
        "from vita_core import ProjectorSpec, hookimpl\nvita_api = 1\n@hookimpl\ndef vita_projectors():\n"
        "    options = 'torchy_options:Options'\n"
        "    return [ProjectorSpec('heavy', '', 'broken_modules:Plain', lambda *_: 1, options=options)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    use_plugins(modules=["heavy_options"])
    seen = "import heavy_options, torchy_options imported torch"
    assert_told(CHECK["planning_is_light"].run(open_projector("heavy")), seen)


def test_a_rule_that_accepts_nothing_fails_once(clean_registry: None) -> None:
    def refuse(rows: int, cols: int) -> int:
        raise VitaError(f"{rows} is not 1000. Try: more")

    register(broken_modules.projector("Plain", tokens=refuse))
    subject = open_projector("Plain")
    outcomes = {check.name: check.run(subject) for check in PROJECTOR_CHECKS}
    assert_told(
        outcomes["output_is_as_planned"], "accepts none of the sizes that the kit tries: projector.type: 24 is not 1000"
    )
    assert outcomes["deterministic"].outcome == "skipped"
    assert "fix the check `output_is_as_planned` first" in outcomes["deterministic"].seen


def test_widths_that_are_never_supported(clean_registry: None) -> None:
    def refuse(*arguments: Any) -> int:
        raise VitaError("not prime. Try: a prime")

    register(dataclasses.replace(broken_modules.projector("Plain"), parameters=refuse))
    told = CHECK["output_is_as_planned"].run(open_projector("Plain"))
    assert_told(told, "`parameters` accepts none of the widths that the kit tries: not prime")


def test_a_module_that_cannot_be_built_fails_once(clean_registry: None) -> None:
    register(broken_modules.projector("NotThere"))
    subject = open_projector("NotThere")
    assert_told(CHECK["output_is_as_planned"].run(subject), "cannot import 'broken_modules:NotThere'")
    assert CHECK["deterministic"].run(subject).outcome == "skipped"


def test_what_a_name_is(clean_registry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(broken_modules.projector("Plain"))
    assert kind_of("Plain") == kind_of("mlp7x_gelu") == kind_of("vita-core/linear") == "projector"
    assert kind_of("clip") == kind_of("quickstart") == kind_of("linear.yaml") == kind_of("nothing like it") == "tower"
    assert (kind_of("lineer"), kind_of("clpi")) == ("projector", "tower")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lineer").mkdir()  # a checkpoint
    assert kind_of("lineer") == "tower"
    register(broken_modules.projector("clip"))
    with pytest.raises(
        PluginError, match=r"the name of a tower and of a projector: 'clip'\. Try: `vita check --kind tower"
    ):
        kind_of("clip")
    assert kind_of("clip", "projector") == "projector"


@pytest.mark.slow
def test_vita_check() -> None:
    done = vita("check", "mlp2x_gelu", "--set", "hidden_size=20")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "projector mlp2x_gelu, random weights" in done.stdout
    done = vita("check", "pool", "--set", "window=null", "--set", "grid=3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reduction pool, random weights" in done.stdout
    told = vita("check", "linear", "--kind", "projector", "--json")
    report = json.loads(told.stdout)
    assert (report["projector"], report["weights"]) == ("linear", "random")
    assert [row["check"] for row in report["checks"]] == [check.name for check in PROJECTOR_CHECKS]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lineer"], "unknown projector: 'lineer'. Did you mean 'linear'?"),
        (["clip", "--kind", "projector"], "unknown projector: 'clip'"),
        (["linear", "--set", "hiden_size=1"], "unknown key: 'hiden_size'. Did you mean 'hidden_size'?"),
        (["pol"], "unknown reduction: 'pol'. Did you mean 'pool'?"),
        (["pool", "--set", "grid=3"], "reduction: 'grid' and 'window' exclude each other. Try: one of them"),
        (["minigpt", "--set", "window=1"], "takes no options: window"),
    ],
)
def test_mistakes_exit_with_2(arguments: list[str], message: str) -> None:
    done = vita("check", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def broken_plugin(tmp_path: Path) -> dict[str, str]:
    """The environment of a process with a plugin module that offers `LosesAToken`."""
    (tmp_path / "broken_plugin.py").write_text(
        "from vita_core import hookimpl\nvita_api = 1\n@hookimpl\ndef vita_projectors():\n"
        "    from broken_modules import projector\n    return [projector('LosesAToken')]\n"
    )
    return {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parent.parent}", "VITA_PLUGINS": "broken_plugin"}


@pytest.mark.slow
def test_vita_check_of_a_broken_projector_exits_with_1(broken_plugin: dict[str, str]) -> None:
    done = vita("check", "LosesAToken", **broken_plugin)
    assert done.returncode == 3, done.stderr
    assert "output_is_as_planned failed\ncontract: Built for a grid, square or not" in done.stdout
    assert "fix: Let the rule of the spec and the module compute" in done.stdout


@pytest.mark.slow
def test_pytest_tells_the_contract(tmp_path: Path, broken_plugin: dict[str, str]) -> None:
    chosen = ["--vita-projector", "LosesAToken", "--vita-projector", "linear", "--vita-reduction", "pool"]
    done = run_pytest(tmp_path / "empty", *chosen, "-v", "-k", "output_is_as_planned or empty_batch", **broken_plugin)
    assert done.returncode == 1
    assert "vita-projector[linear]::output_is_as_planned PASSED" in done.stdout
    assert "vita-reduction[pool]::empty_batch PASSED" in done.stdout
    assert "contract: Built for a grid, square or not" in done.stdout
    assert "FAILED vita-projector[LosesAToken]::output_is_as_planned" in done.stdout
    assert "1 failed, 5 passed" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.slow
def test_pytest_refuses_an_unknown_projector(tmp_path: Path) -> None:
    done = run_pytest(tmp_path / "empty", "--vita-projector", "lineer")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--vita-projector lineer: unknown projector: 'lineer'. Did you mean 'linear'" in done.stderr

"""The conformance kit passes every registered projector and reduction, and fails each broken one on what it breaks."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import broken_modules
import pytest
from conftest import vita
from kit import assert_told, run_pytest

from vita_core import ProjectorSpec, VitaError, register
from vita_core.errors import PluginError
from vita_core.planning.named import kind_of
from vita_core.plugins.registry import registry, use_plugins
from vita_core.testing import KIT, PROJECTOR_CHECKS, Check, open_projector

OF_A_PATTERN = {"mlpNx_gelu": "mlp3x_gelu"}
PROJECTORS = [OF_A_PATTERN[r.spec.name] if r.spec.pattern else r.spec.name for r in registry().all(ProjectorSpec)]
CHECK = {check.name: check for check in PROJECTOR_CHECKS}


@functools.cache
def opened(kind: str, name: str) -> Any:
    with KIT[kind][1](name, ()) as subject:
        return subject


@pytest.mark.parametrize(
    ("kind", "name", "check"),
    [
        pytest.param(
            kind, name, check, id=f"{name}-{check.name}", marks=[pytest.mark.slow] * (check.name == "planning_is_light")
        )
        for kind, names in {"projector": PROJECTORS}.items()
        for name in names
        for check in KIT[kind][0]
    ],
)
def test_every_registered_one_keeps_every_contract(kind: str, name: str, check: Check[Any]) -> None:
    result = check.run(opened(kind, name))
    spared = {"runs_on_the_accelerator", "tokens_stand_row_by_row"}
    assert result.outcome == "ok" or (result.outcome == "skipped" and check.name in spared), result.message


@pytest.fixture
def clean_registry() -> Iterator[None]:
    use_plugins()
    yield
    use_plugins()


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


@pytest.mark.parametrize(("name", "check", "seen"), BROKEN)
def test_a_broken_projector_fails_the_contract_it_breaks(
    name: str, check: str, seen: str, clean_registry: None
) -> None:
    register(broken_modules.projector(name))
    assert_told(CHECK[check].run(open_projector(name)), seen)


def test_what_is_not_broken_keeps_every_contract(clean_registry: None) -> None:
    register(broken_modules.projector("Plain"))
    results = [check.run(subject := open_projector("Plain")) for check in PROJECTOR_CHECKS]
    assert not [result.message for result in results if result.outcome == "failed"]
    assert {r.check.name for r in results if r.outcome == "skipped"} <= {"planning_is_light", "runs_on_the_accelerator"}
    assert subject.widths == (32, 48)


def test_every_check_is_seen_to_fail() -> None:
    elsewhere = {"planning_is_light", "runs_on_the_accelerator"}  # by a plugin module below; where there is one
    assert {check for _, check, _ in BROKEN} | elsewhere == CHECK.keys()


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
    assert_told(outcomes["output_is_as_planned"], "accepts none of the sizes that the kit tries: 24 is not 1000")
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
    assert done.returncode == 1, done.stderr
    assert "output_is_as_planned failed\ncontract: Built for a grid, square or not" in done.stdout
    assert "fix: Let the rule of the spec and the module compute" in done.stdout


@pytest.mark.slow
def test_pytest_tells_the_contract(tmp_path: Path, broken_plugin: dict[str, str]) -> None:
    chosen = ["--vita-projector", "LosesAToken", "--vita-projector", "linear", "--vita-tower", "clip"]
    done = run_pytest(tmp_path / "empty", *chosen, "-v", "-k", "output_is_as_planned or empty_batch", **broken_plugin)
    assert done.returncode == 1
    assert "vita-projector[linear]::output_is_as_planned PASSED" in done.stdout
    assert "vita-tower[clip]::empty_batch PASSED" in done.stdout
    assert "contract: Built for a grid, square or not" in done.stdout
    assert "FAILED vita-projector[LosesAToken]::output_is_as_planned" in done.stdout
    assert "1 failed, 4 passed" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.slow
def test_pytest_refuses_an_unknown_projector(tmp_path: Path) -> None:
    done = run_pytest(tmp_path / "empty", "--vita-projector", "lineer")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--vita-projector lineer: unknown projector: 'lineer'. Did you mean 'linear'" in done.stderr

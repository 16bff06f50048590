"""The conformance kit passes every registered tower, and fails each broken one on the contract that it breaks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import broken_towers
import pytest
import torch
from conftest import GOLDEN, vita
from kit import assert_told, run_pytest
from natives import saved_timm

from vita_core import list_towers, register
from vita_core.errors import PluginError, VitaError
from vita_core.plugins.registry import use_plugins
from vita_core.testing import CHECKS, Check, Subject, open_subject
from vita_plugins.clip import shape
from vita_plugins.clip.tower import ClipTower

pytestmark = pytest.mark.slow

TOWERS = [tower.name for tower in list_towers() if tower.example]
CHECK = {check.name: check for check in CHECKS}


@pytest.fixture(scope="module")
def subjects() -> Iterator[dict[str, Subject]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(open_subject(name)) for name in TOWERS}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("tower", TOWERS)
def test_every_registered_tower_keeps_every_contract(tower: str, check: Check, subjects: dict[str, Subject]) -> None:
    result = check.run(subjects[tower])
    # by the machine, and those of native resolution by the example, which takes pictures of one size
    skipped = {"runs_on_the_accelerator", *(name for _, name, _ in NATIVE)}
    assert result.outcome == "ok" or check.name in skipped, result.message


BROKEN = [
    ("LoadsInInit", "init_touches_no_weights", "holds no weight file"),
    ("RenamesItsOwnKeys", "loads", "unexpected"),
    ("GridIsAList", "protocol", r"grid is \[4, 4\], not \(rows, cols\)"),
    (
        "WidthKnownOnlyAfterLoading",
        "metadata_is_right_before_loading",
        "hidden_size was 0 before loading and is 32 after",
    ),
    ("BufferMadeInInit", "built_on_meta_then_loaded", r"1 tensors are still on meta \(unused\)"),
    ("FallsBackToNoWeights", "loading_is_strict", "without embeddings.class_embedding was loaded silently"),
    ("GuessesFromThePath", "saved_and_reloaded", "features of the second tower differ"),
    ("ConfigHoldsAFunction", "sent_to_another_process", "pickle"),
    ("MoreTokens", "tokens_are_as_planned", r"64 tokens of width 32, the output is \(16, 32\)"),
    ("ParametersNotPlanned", "parameters_are_as_planned", "the plan says .* parameters, the encoder has"),
    ("ClsLeftIn", "prefix_tokens_are_dropped", "`select_feature: patch` gave 17 tokens for 4 x 4"),
    ("ClsBehind", "prefix_tokens_are_dropped", "17 tokens for a grid of 4 x 4, 0 prefix tokens and 0 suffix tokens"),
    ("ColumnByColumn", "tokens_stand_row_by_row", "token 3 of a grid of 4 x 4 depends on the lower left"),
    ("GridOfTheConfig", "s2_is_as_planned", ""),
    ("OwnForward", "pixel_shuffle_is_as_planned", r"4 tokens of width 128, the output is \(16, 32\)"),
    ("OwnForward", "pool_is_as_planned", r"4 tokens of width 32, the output is \(16, 32\)"),
    ("AlwaysTheEmbeddings", "layers_are_as_planned", "layers 0 and 2 have the same features"),
    ("BatchStatistics", "batch_equals_one_by_one", "one by one, features differ by"),
    ("ListStacked", "list_gives_a_list", r"a list of 2 pictures gave one tensor \(2, 16, 32\)"),
    ("EmptyOfAnotherShape", "empty_batch", r"gave \(0, 32\), not \(0, 16, 32\)"),
    ("NotDeterministic", "deterministic", "a second run differs by"),
    ("AlwaysFloat32", "output_has_the_inputs_dtype", "torch.float16 pixels gave torch.float32 features"),
    ("IgnoresDtype", "tower_has_the_configured_dtype", "of dtype torch.float16 has parameters of torch.float32"),
    ("NoGradForTheWholeProgram", "frozen_builds_no_graph", "disabled for the whole program"),
    ("NoGrad", "gradient_reaches_the_input", "no gradient graph"),
    ("FrozenAnyway", "training_reaches_the_first_layer", "parameters require no gradient"),
    ("FrozenButInTrainMode", "train_and_eval_modes", "modules of a frozen encoder are in train mode"),
    (
        "WrongProcessor",
        "processor_gives_the_towers_pixels",
        r"\(1, 3, 224, 224\), but the tower takes \(1, 3, 56, 56\)",
    ),
    ("WrongRange", "processor_normalises_as_stated", r"colour \(255, 255, 255\) became"),
]
NATIVE = [
    ("NativeLeaks", "pictures_keep_their_aspect", "pixels alone differs by"),
    ("NativeOneByOne", "pictures_run_in_one_call", "times for 3 pictures, and .* times for one"),
    ("NativeSquare", "sizes_are_as_planned", "640 x 480 pixels became 48 x 48, the plan says 96 x 64"),
]
CHANGES = {
    "MoreTokens": {"factory": "vita_plugins.clip.tower:ClipTower", "shape": broken_towers.more_tokens},
    "ClsBehind": {"shape": lambda config, options: replace(shape(config, options), prefix_tokens=0)},
}


@pytest.mark.parametrize(("name", "check", "seen"), BROKEN)
def test_a_broken_tower_fails_the_contract_it_breaks(name: str, check: str, seen: str, clean_registry: None) -> None:
    register(broken_towers.spec(name, **CHANGES.get(name, {})))
    with open_subject(name) as subject:
        assert_told(CHECK[check].run(subject), seen)


@pytest.mark.parametrize(("name", "check", "seen"), NATIVE)
def test_a_broken_tower_of_native_resolution(name: str, check: str, seen: str, clean_registry: None) -> None:
    register(broken_towers.native_spec(name))
    with open_subject(name) as subject:
        assert_told(CHECK[check].run(subject), seen)


def test_a_tower_of_native_resolution_keeps_every_contract(tmp_path: Path) -> None:
    saved_timm(tmp_path)
    with open_subject({"tower": {"weights": str(tmp_path)}}) as subject:
        results = [check.run(subject) for check in CHECKS]
    assert not [result.message for result in results if result.outcome == "failed"]
    spared = {"s2_is_as_planned", "pool_is_as_planned", "runs_on_the_accelerator"}
    assert {result.check.name for result in results if result.outcome == "skipped"} <= spared


def test_a_cls_token_behind_the_patches(clean_registry: None) -> None:
    register(broken_towers.spec("ClsBehind", shape=broken_towers.cls_behind))
    with open_subject("ClsBehind") as subject:
        for name in ("tokens_are_as_planned", "prefix_tokens_are_dropped", "layers_are_as_planned", "s2_is_as_planned"):
            assert (result := CHECK[name].run(subject)).outcome == "ok", result.message
        pixels = subject.pixels()
        for feature in ("patch", "cls", "cls_patch"):
            plain = ClipTower(subject.resolved(weights=subject.weights, select_feature=feature))
            plain.shape = shape(subject.resolved().source.config, {})
            plain.load_model()
            behind = subject.build(select_feature=feature)
            assert torch.equal(behind(pixels), plain(pixels))
            assert behind.num_tokens == {"patch": 16, "cls": 1, "cls_patch": 17}[feature]


def test_every_check_is_seen_to_fail() -> None:
    elsewhere = {"plugin_import_is_light", "runs_on_the_accelerator"}  # by a plugin module below; where there is one
    assert {check for _, check, _ in [*BROKEN, *NATIVE]} | elsewhere == CHECK.keys()


def test_a_plugin_that_imports_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_registry: None) -> None:
    (tmp_path / "torchy_plugin.py").write_text(
        "import dataclasses, torch\nfrom vita_core import hookimpl\nfrom vita_plugins import clip\n"
        "vita_api = 1\n@hookimpl\ndef vita_towers():\n    return [dataclasses.replace(clip.vita_towers()[0], name='torchy')]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    use_plugins(modules=["torchy_plugin"])
    with open_subject("torchy") as subject:
        assert_told(CHECK["plugin_import_is_light"].run(subject), "import torchy_plugin imported torch")


def test_a_tower_that_cannot_be_built_fails_once(clean_registry: None) -> None:
    register(broken_towers.spec("RenamesItsOwnKeys"))
    with open_subject("RenamesItsOwnKeys") as subject:
        outcomes = {check.name: check.run(subject).outcome for check in CHECKS}
    assert outcomes["loads"] == "failed"
    assert outcomes["deterministic"] == "skipped"


def test_without_an_example_it_says_what_to_give(clean_registry: None) -> None:
    register(broken_towers.spec("NoGrad", example=None))
    with pytest.raises(PluginError, match=r"set TowerSpec\(example="), open_subject("NoGrad"):
        pass


def test_a_config_is_checked_with_its_own_weights(tmp_path: Path) -> None:
    with pytest.raises(VitaError, match=r"holds no weight file"), open_subject(str(config_of(tmp_path, tmp_path))):
        pass
    with open_subject(str(config_of(GOLDEN / "siglip", tmp_path)), ["tower.pool=2"]) as subject:
        assert subject.weights == str(GOLDEN / "siglip")
        assert subject.features.shape == (2, 4, 32)


def config_of(weights: Path, folder: Path) -> Path:
    (folder / "config.json").write_text((GOLDEN / "siglip" / "config.json").read_text())
    file = folder / "tower.yaml"
    file.write_text(f"tower: {{weights: {weights}}}\nllm: {{weights: none/needed}}\n")
    return file


def test_vita_check(tmp_path: Path) -> None:
    done = vita("check", "clip")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(check.name in done.stdout for check in CHECKS)
    config = config_of(GOLDEN / "siglip", tmp_path)
    told = vita("check", config, "--json", "--set", "tower.select_layer=-1")
    assert told.returncode == 0, told.stdout + told.stderr
    report = json.loads(told.stdout)
    assert report["weights"] == str(GOLDEN / "siglip")
    assert [row["check"] for row in report["checks"]] == [check.name for check in CHECKS]


@pytest.fixture
def broken_plugin(tmp_path: Path) -> dict[str, str]:
    """The environment of a process with a plugin module that offers `ListStacked`."""
    (tmp_path / "broken_plugin.py").write_text(
        "from vita_core import hookimpl\nvita_api = 1\n@hookimpl\ndef vita_towers():\n"
        "    from broken_towers import spec\n    return [spec('ListStacked')]\n"
    )
    return {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parent.parent}", "VITA_PLUGINS": "broken_plugin"}


def test_vita_check_of_a_broken_tower_exits_with_1(broken_plugin: dict[str, str]) -> None:
    done = vita("check", "ListStacked", **broken_plugin)
    assert done.returncode == 3, done.stderr
    assert "list_gives_a_list failed\ncontract: A list of (3, H, W)" in done.stdout
    assert "fix: Return one (1, N, C) tensor per picture" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clpi"], "Did you mean 'clip'"),
        (["nowhere.yaml"], "no such config: 'nowhere.yaml'"),
        (["clip", "--set", "tower.slect_layer=1"], "Did you mean 'select_layer'"),
    ],
)
def test_mistakes_exit_with_2(arguments: list[str], message: str) -> None:
    done = vita("check", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "workers",
    [pytest.param([], id="alone"), pytest.param(["-n", "2"], id="xdist", marks=pytest.mark.extras)],
)
def test_pytest_runs_the_kit_where_there_are_no_tests(workers: list[str], tmp_path: Path) -> None:
    chosen = "empty_batch or list_gives_a_list"
    done = run_pytest(tmp_path / "empty", "--vita-tower", "clip", "-v", "-k", chosen, *workers)
    assert done.returncode == 0, done.stdout
    assert (
        "vita-tower[clip]::empty_batch PASSED" in done.stdout or "PASSED vita-tower[clip]::empty_batch" in done.stdout
    )
    assert "2 passed" in done.stdout
    assert workers or f"collected {len(CHECKS)} items / {len(CHECKS) - 2} deselected" in done.stdout


@pytest.mark.extras  # tests/testing/test_modules.py runs pytest on one that is not an encoder
def test_pytest_tells_the_contract(tmp_path: Path, broken_plugin: dict[str, str]) -> None:
    config = config_of(GOLDEN / "siglip", tmp_path)
    towers = ["--vita-tower", "ListStacked", "--vita-tower", config]
    done = run_pytest(tmp_path, *towers, "-k", "list_gives_a_list", **broken_plugin)
    assert done.returncode == 1
    assert "contract: A list of (3, H, W) gives a list of (1, N, C)" in done.stdout
    assert "FAILED vita-tower[ListStacked]::list_gives_a_list" in done.stdout
    assert "1 failed, 1 passed" in done.stdout
    assert "Traceback" not in done.stdout


def test_pytest_refuses_an_unknown_tower(tmp_path: Path) -> None:
    done = run_pytest(tmp_path / "empty", "--vita-tower", "clpi")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "Did you mean 'clip'" in done.stderr


def test_pytest_stays_light_without_the_option(tmp_path: Path) -> None:
    file = tmp_path / "test_light.py"
    file.write_text(
        "import sys\ndef test_light():\n    assert not {'torch', 'vita_core.plugins.registry'} & sys.modules.keys()\n"
    )
    done = run_pytest(tmp_path, file)
    assert done.returncode == 0, done.stdout

"""The conformance kit on several encoders: the contracts of the whole hold, those of one encoder are skipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from vita_core.cli import app
from vita_core.errors import CheckpointError
from vita_core.testing import CHECKS, open_subject

Examples = dict[str, dict[str, Any]]
OF_ONE = "it is a contract of one encoder; check each part of `towers` alone"


@pytest.mark.slow
@pytest.mark.parametrize("combine", ["channel", "sequence"])
def test_the_contracts_of_the_whole_hold(combine: str, tower_examples: Examples) -> None:
    parts = [tower_examples["clip"], tower_examples["siglip"] | {"dtype": "bfloat16", "freeze": False}]
    with open_subject({"tower": {"towers": parts, "combine": combine}}) as subject:
        results = {check.name: check.run(subject) for check in CHECKS}
    assert {name: result.message for name, result in results.items() if result.outcome == "failed"} == {}
    held = {name for name, result in results.items() if result.outcome == "ok"}
    assert held >= {
        "loads", "protocol", "metadata_is_right_before_loading", "built_on_meta_then_loaded", "sent_to_another_process",
        "tokens_are_as_planned", "batch_equals_one_by_one", "list_gives_a_list", "empty_batch", "deterministic",
        "output_has_the_inputs_dtype", "tower_has_the_configured_dtype", "frozen_builds_no_graph", "train_and_eval_modes",
        "training_reaches_the_first_layer", "init_touches_no_weights",
    }  # fmt: skip
    assert ("pool_is_as_planned" in held) == (combine == "channel")
    assert results["layers_are_as_planned"].seen == OF_ONE


@pytest.mark.slow
def test_the_command(tower_examples: Examples, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(yaml.safe_dump({"tower": {"towers": [tower_examples["clip"], tower_examples["siglip"]]}}))
    done = CliRunner().invoke(app, ["check", str(file), "--json"])
    assert done.exit_code == 0, done.output
    made = json.loads(done.stdout)
    assert made["weights"] == " + ".join(tower_examples[name]["weights"] for name in ("clip", "siglip"))
    assert {row["outcome"] for row in made["checks"]} == {"ok", "skipped"}


def test_weights_of_a_part_that_are_missing(tower_examples: Examples, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((Path(tower_examples["clip"]["weights"]) / "config.json").read_bytes())
    parts = [tower_examples["siglip"], {"weights": str(tmp_path)}]
    with pytest.raises(CheckpointError, match=str(tmp_path)), open_subject({"tower": {"towers": parts}}):
        pass

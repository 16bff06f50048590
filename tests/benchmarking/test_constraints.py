"""The environment of lmms-eval: the project's versions, but for a few."""

from __future__ import annotations

import re

from conftest import REPOSITORY


def pins(name: str) -> dict[str, str]:
    lines = (line.split("==") for line in (REPOSITORY / name).read_text().split())
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in lines}


def test_the_environment_differs_only_where_lmms_eval_demands_it() -> None:
    ours, theirs = pins("constraints.txt"), pins("constraints-lmms-eval.txt")
    demanded = {"av", "wandb", "protobuf"}  # av<16, one version of wandb, and what that wants
    assert {name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]} == demanded
    assert theirs["av"].startswith("15.")

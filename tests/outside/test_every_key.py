"""Each key of each file that describes a checkpoint, with each kind of wrong value: a result, or an error with the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import GOLDEN
from inputs import VALUES, changed, keys
from law import law

pytestmark = pytest.mark.slow
CONFIGS = ("clip", "siglip", "eva_clip", "internvit", "internvit_6b", "open_clip", "timm", "transformers")
PROCESSORS = ("clip", "siglip", "internvit")


@pytest.fixture(scope="session")
def checkpoints(tower_examples: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A directory for each tower that a ``config.json`` describes. Torchvision's weights have none."""
    import timm

    folder = tmp_path_factory.mktemp("described")
    timm.models.save_for_hf(
        timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1), folder / "timm", model_args={"img_size": 64, "depth": 1}
    )  # fmt: skip
    found = {name: Path(tower_examples[name]["weights"]) for name in ("open_clip", "transformers")}
    found |= {name: GOLDEN / name for name in ("clip", "siglip", "eva_clip", "internvit", "internvit_6b", "vita15")}
    return found | {"timm": folder / "timm"}


def broken_keys(directory: Path, file: str, value: Any, function: str, folder: Path) -> list[str]:
    """The keys of a file in a checkpoint whose value, replaced by this one, breaks the law, each with how it does."""
    work = Path(shutil.copytree(directory, folder / directory.name))
    data = json.loads((directory / file).read_text(encoding="utf-8"))
    found = []
    for key in keys(data):
        (work / file).write_text(json.dumps(changed(data, key, value)), encoding="utf-8")
        outcome = law(function, work, warm=(directory,))
        # or the keys of the user's config that say which checkpoint it is, or what made pixels of a wrong size
        names = [file, str(work), "tower.weights", "tower.options", "the tower's image_processor"]
        if broken := outcome.broken(names):
            found.append(f"{'.'.join(map(str, key))}: {broken}")
    return found


def faults(door: str) -> list[Any]:
    """The kinds of wrong values, each with its row of docs/reliability.md."""
    expected = "a result, or an error that names the file"
    return [
        pytest.param(
            value, id=name, marks=pytest.mark.reliability(door=door, fault=f"each key: {name}", expected=expected)
        )
        for name, value in VALUES.items()
    ]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("value", faults("config.json of a checkpoint"))
def test_each_key_of_a_config(name: str, value: Any, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    file = "open_clip_config.json" if name == "open_clip" else "config.json"
    assert broken_keys(checkpoints[name], file, value, "doors:plan_and_encode", tmp_path) == []


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("value", faults("preprocessor_config.json"))
def test_each_key_of_a_processor(name: str, value: Any, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    assert broken_keys(checkpoints[name], "preprocessor_config.json", value, "doors:encode_checkpoint", tmp_path) == []


@pytest.mark.parametrize("value", faults("config.json of a VITA or LLaVA checkpoint"))
def test_each_key_of_a_whole_model(value: Any, vita15: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    shutil.copytree(vita15.parent / "internvit", tmp_path / "work" / "internvit")
    assert broken_keys(vita15, "config.json", value, "doors:plan_model", tmp_path / "work") == []


@pytest.mark.reliability(
    door="config.json of a checkpoint", fault="keys that nobody knows", expected="a result, as without them"
)
@pytest.mark.parametrize("name", CONFIGS)
def test_unknown_keys_do_no_harm(name: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    file = "open_clip_config.json" if name == "open_clip" else "config.json"
    work = Path(shutil.copytree(checkpoints[name], tmp_path / name))
    data = json.loads((work / file).read_text(encoding="utf-8"))
    for extra in ({"more": 7}, {"also": {"more": [1, None]}}, {"\0": None}, {"a" * 10_000: []}):
        (work / file).write_text(json.dumps({**data, **extra}), encoding="utf-8")
        outcome = law("doors:plan_checkpoint", work, warm=(checkpoints[name],))
        assert outcome.kind == "result", outcome

"""`vita probe`: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import GOLDEN, vita

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("feature_cache")]


def config(folder: Path, name: str, tower: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.yaml"
    file.write_text(f"tower: {{weights: {GOLDEN / tower}}}\ndevice: cpu\n")
    return file


def test_a_table_for_people_and_json_for_programs(photos: Path, tmp_path: Path) -> None:
    first, second = config(tmp_path, "one", "clip"), config(tmp_path, "two", "siglip")
    done = vita("probe", first, second, "--data", photos, "--every-layer", "--seed", "1")
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert shown[0] == "48 pictures of 3 labels (folder): 34 for training, 7 for validation, 7 for the test"
    assert shown[1].startswith(
        "On the test pictures (RankMe, sinks and patch mAP: on all); the most frequent label alone gives "
    )
    assert shown[2].split("  ")[0] == "config"
    assert [line.split()[:2] for line in shown[3:5]] == [["one", "clip"], ["two", "siglip"]]
    assert "The test is small; about 660 pictures would make the intervals ±10 points or narrower" in shown
    assert sum("<- chosen" in line for line in shown) == 2
    assert any(line.startswith("`tower.select_layer: ") and " on the test" in line for line in shown)
    assert "Linear CKA of the mean features" in shown
    assert any(line.startswith("one: 48 pictures encoded in ") for line in shown)
    done = vita("probe", first, "--data", photos, "--seed", "1", "--limit", "45", "--json")
    found = json.loads(done.stdout)
    assert found["configs"][0]["config"] == "one"
    assert found["settings"] == {"k": 20, "seed": 1, "limit": 45, "every_layer": False}
    assert found["data"]["pictures"] == 45


def test_what_is_rejected_and_left_out_is_printed(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for label in photos.iterdir():
        (folder / label.name).symlink_to(label)
    (folder / "rare").mkdir()
    (folder / "rare" / "0.png").write_bytes((photos / "sea" / "03.png").read_bytes())
    (folder / "rare" / "1.png").write_bytes(b"none")
    rows = [
        f'{{"image": "{file.relative_to(folder)}", "label": "{file.parent.name}"}}\n' for file in folder.glob("*/*")
    ]
    (folder / "rows.jsonl").write_text("".join(rows))
    done = vita("probe", config(tmp_path, "one", "clip"), "--data", folder / "rows.jsonl", "--set", "tower.pool=2")
    assert done.returncode == 0, done.stderr
    assert "left out: 1 pictures, whose labels have too few (1 of the labels)" in done.stdout
    assert "rejected: 1 with 'a picture cannot be opened'; --json lists them" in done.stdout
    assert "48 pictures of 3 labels (label)" in done.stdout
    assert " 4 x 32 " in done.stdout


def test_mistakes_are_told_in_one_line(photos: Path, tmp_path: Path) -> None:
    first = config(tmp_path / "a", "same", "clip")
    for arguments, told in {
        (first, first, "--data", photos): f"{first}: this config is given twice. Try: leave one of them out",
        (first, "--data", photos, "--labels", "colour"): "--labels: unknown: 'colour'. Try: label, folder or caption",
        (first, "--data", photos / "sea"): "have one label (folder): 'sea'. Try: pictures of at least two labels",
        (first, "--data", tmp_path / "gone"): "no such file or directory",
        (tmp_path / "no.yaml", "--data", photos): "no.yaml",
    }.items():
        done = vita("probe", *arguments)
        assert done.returncode == 2, arguments
        assert told in done.stderr
        assert "Traceback" not in done.stderr


def test_configs_of_one_name_are_named_with_their_folders(photos: Path, tmp_path: Path) -> None:
    first, second = config(tmp_path / "a", "same", "clip"), config(tmp_path / "b", "same", "siglip")
    done = vita("probe", first, second, "--data", photos, "--json")
    assert done.returncode == 0, done.stderr
    assert [one["config"] for one in json.loads(done.stdout)["configs"]] == ["a-same", "b-same"]

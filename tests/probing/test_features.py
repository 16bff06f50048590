"""Features are those of the tower's tokens, and are encoded once."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import golden_settings
from labelled import folders
from PIL import Image, ImageOps

from vita_core import build_tower
from vita_core.errors import VitaError
from vita_core.models.pictures import prepare
from vita_core.planning.resolution import Resolved, resolve
from vita_core.probing.features import FeatureReader, cells
from vita_core.probing.layers import TowerReader
from vita_core.probing.pictures import Labelled, read_labelled
from vita_core.training.data import SampleError

pytestmark = pytest.mark.usefixtures("feature_cache")


@pytest.fixture
def few(tmp_path: Path) -> Labelled:
    return read_labelled(folders(tmp_path / "few", 2))


def opened(**tower: Any) -> Resolved:
    return resolve({"tower": {**golden_settings("clip"), **tower}, "device": "cpu"}, tower_only=True)


def reader(resolved: Resolved, data: Labelled) -> FeatureReader:
    return FeatureReader(TowerReader(resolved, [resolved.tower]), data, "clip")


def test_features_are_those_of_the_tokens(few: Labelled) -> None:
    (found,) = reader(opened(select_layer=1), few).features([2])
    tower = build_tower({**golden_settings("clip"), "select_layer": 1}).eval()
    images = opened().config.images
    with torch.inference_mode():
        for place, item in enumerate(few.items):
            shown = Image.open(few.source.pictures[item.index])  # type: ignore[attr-defined]  # of a folder
            tokens = tower(prepare(tower, images, shown).pixels)[0]
            assert torch.equal(found.pooled[place], tokens.mean(0))
            assert torch.equal(found.norms[place], tokens.norm(dim=-1))
            if place == 2:
                turned = tower(prepare(tower, images, ImageOps.mirror(shown)).pixels)[0]
                assert found.patches is not None
                assert found.mirrored is not None
                assert torch.equal(found.patches[0], tokens)  # 4 x 4: all of them
                assert torch.equal(found.mirrored[0], turned)
                assert found.columns == [4]


def test_a_picture_is_encoded_once(few: Labelled, feature_cache: Path) -> None:
    first = reader(opened(), few)
    (made,) = first.features([0, 3])
    again = reader(opened(), few)
    (kept,) = again.features([0, 3])
    assert (first.timing.encoded, first.timing.kept) == (6, 6)
    assert (again.timing.encoded, again.timing.encoding) == (0, 0)
    assert torch.equal(made.pooled, kept.pooled)
    assert made.mirrored is not None
    assert kept.mirrored is not None
    assert all(map(torch.equal, made.mirrored, kept.mirrored))
    assert [*feature_cache.glob("features-*.safetensors")]
    more = reader(opened(), few)
    more.features([1])  # was not mirrored yet
    assert more.timing.encoded == 1


def test_what_the_tokens_depend_on_is_in_the_key(few: Labelled) -> None:
    reader(opened(), few).features([])
    for changed in ({"select_layer": 1}, {"pool": 2}):
        other = reader(opened(**changed), few)
        other.features([])
        assert other.timing.encoded == 6, changed
    tower = TowerReader(opened(), [opened().tower])
    with torch.no_grad():
        next(tower.tower.parameters()).add_(1)
    other = FeatureReader(tower, few, "clip")
    other.features([])
    assert other.timing.encoded == 6


def test_features_do_not_need_to_fit_into_the_cache(few: Labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    (expected,) = reader(opened(), few).features([1])
    small = reader(opened(), few)
    monkeypatch.setattr(small.store, "get", lambda key: None)
    (found,) = small.features([1])
    assert torch.equal(found.pooled, expected.pooled)
    assert found.columns == [4]


def test_tokens_without_a_grid_have_no_patches(few: Labelled) -> None:
    (found,) = reader(opened(select_feature="cls"), few).features([0])
    assert found.patches is None
    assert found.pooled.shape[0] == 6


@pytest.mark.reliability(
    door="features of a probe",
    fault="a full disk",
    expected="an error with the file and the space",
)
def test_no_space_for_features(few: Labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(VitaError, match=r"cache/features/features-.*: no space is left on the disk.*VITA_CACHE set to"):
        reader(opened(), few).features([])


def test_a_picture_that_went_away_is_told(few: Labelled) -> None:
    opened_first = reader(opened(), few)
    few.source.pictures[3].unlink()  # type: ignore[attr-defined]  # of a folder
    with pytest.raises(SampleError, match="a picture is missing"):
        opened_first.features([])


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (4, 4), (5, 7), (16, 16), (24, 10), (37, 37)])
def test_the_mirror_of_a_cell_is_a_cell(grid: tuple[int, int]) -> None:
    places, columns = cells(grid)
    rows, cols = grid
    across = [place % cols for place in places[:columns]]
    assert [cols - 1 - col for col in across] == [*reversed(across)]
    assert across == sorted(set(across))
    assert len(places) == min(rows, 6) * min(cols, 6) == len(set(places))
    assert max(places) < rows * cols

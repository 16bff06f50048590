"""``images.frames``, and what a tower of videos refuses before its weights are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from vita_core import VitaError
from vita_core.planning.resolution import resolve
from vita_core.planning.videos import refuse_stills


def test_the_number_of_frames_is_the_encoders(vivit: Path) -> None:
    tower = {"tower": {"weights": str(vivit)}}
    assert resolve(tower).config.images.frames == 4
    assert resolve({**tower, "images": {"frames": 4}}).config.images.frames == 4
    with pytest.raises(VitaError, match=r"images\.frames: .* videos of 4 frames, not of 8\. Try: `images\.frames: 4`"):
        resolve({**tower, "images": {"frames": 8}})


@pytest.mark.parametrize("images", [{"tiles": {}}, {"anyres": {"grids": [[1, 2]]}}])
def test_frames_are_not_cut_into_tiles(vivit: Path, images: dict[str, object]) -> None:
    (key,) = images
    with pytest.raises(VitaError, match=rf"images\.{key}: .* whose frames are not cut\. Try: `images\.{key}: null`"):
        resolve({"tower": {"weights": str(vivit)}, "images": images})


def test_still_pictures_are_refused(vivit: Path, golden: Path) -> None:
    with pytest.raises(
        VitaError, match=r"x\.png: a picture, but tower 'transformers' takes videos of 4 frames\. Try: "
    ):
        refuse_stills(resolve({"tower": {"weights": str(vivit)}}).tower, "x.png: a picture")
    refuse_stills(resolve({"tower": {"weights": str(golden / "clip")}}).tower, "x.png: a picture")


def test_a_tower_of_pictures_takes_any_number_of_frames(golden: Path) -> None:
    tower = {"tower": {"weights": str(golden / "clip")}}
    assert resolve(tower).config.images.frames is None
    assert resolve({**tower, "images": {"frames": 3}}).config.images.frames == 3

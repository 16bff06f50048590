"""What the config of a processor may be."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vita_core import build_tower
from vita_core.errors import CheckpointError
from vita_core.planning.plan import make_plan
from vita_core.planning.resolution import resolve
from vita_core.planning.towers import resolve_tower
from vita_core.untrusted.processors import check_preparation, check_processor, check_sides
from vita_core.untrusted.sizes import check_sizes

GOOD: dict[str, Any] = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 56},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 56, "width": 56},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_convert_rgb": True,
}
NAN, INF = float("nan"), float("inf")
WRONG: dict[str, list[Any]] = {
    "image_mean": [None, "text", "0.5", [], [0.5], [0.5] * 4, [0.5, 0.5, "x"], [NAN] * 3, INF, {}, True, [[0.5] * 3]],
    "image_std": [None, "text", [], [0.5] * 2, [0, 0, 0], [0.5, 0.5, 0], [INF] * 3, [NAN] * 3, -0.5, 1e-300, {"a": 1}, False],
    "resample": [None, -1, 6, 10**7, 3.0, "bicubic", [3], {}, True],
    "rescale_factor": [None, "text", [1], NAN, INF, 0, -1, 1e300, {}, True],
    "size": [None, 0, -1, 10**7, [], [56], [56] * 3, 56.0, "56", {}, {"height": 56}, {"shortest_edge": 0}, True,
             {"shortest_edge": None}, {"height": 56, "width": 10**7}, {"longest_edge": 10**9}, {"edge": 56}, [56, "56"], NAN],
    "crop_size": [None, 0, -1, 10**7, [], 56.5, "56", {"width": 56}, {"height": 56, "width": -1}, {"height": [], "width": 56}],
    "do_resize": [1, "true", [], {}],
    "do_center_crop": [0, "yes", 1.0],
    "do_rescale": ["false"],
    "do_normalize": [1],
    "do_convert_rgb": ["no"],
    "image_processor_type": [3, [], {}, True],
    "data_format": ["channels_last", 3],
    "patch_size": [0, "14", 10**9, [], {"height": 0, "width": 14}],
    "merge_size": [0, 10**9, 2.5],
    "max_num_patches": [0, 10**9, "all"],
    "crop_pct": [0, "x", NAN],
    "fill_color": [[0, 0, 256], "red"],
    "keep_aspect": ["outside"],
}  # fmt: skip


@pytest.fixture(scope="module")
def clip(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(golden / "clip", tmp_path_factory.mktemp("processor") / "clip"))


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in WRONG.items() for value in values], ids=repr
)
def test_a_wrong_value_names_file_key_and_value_before_a_weight_is_read(clip: Path, key: str, value: Any) -> None:
    file = clip / "preprocessor_config.json"
    file.write_text(json.dumps({**GOOD, key: value}))
    start = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        resolve_tower({"weights": str(clip)})
    assert str(caught.value).startswith(f"{file}: {key}: ")
    assert ("null" if value is None else repr(value)[:8]) in str(caught.value)
    assert time.process_time() - start < 1


@pytest.mark.reliability(
    door="preprocessor_config.json", fault="a key with the name of a method", expected="an error that names the key"
)
@pytest.mark.parametrize("key", ["center_crop", "normalize", "preprocess", "to_dict"])
def test_a_key_that_would_hide_a_method(clip: Path, key: str) -> None:
    """transformers makes an attribute of every key, and would call `true` when a picture comes."""
    (clip / "preprocessor_config.json").write_text(json.dumps({**GOOD, key: True}))
    with pytest.raises(CheckpointError, match=rf"preprocessor_config\.json: {key}: it is the name of a method"):
        _ = build_tower({"weights": str(clip)}).image_processor


def test_the_plan_refuses_it_too(clip: Path, tmp_path: Path) -> None:
    (clip / "preprocessor_config.json").write_text(json.dumps({**GOOD, "size": 10_000_000}))
    (tmp_path / "c.yaml").write_text(f"tower: {{weights: {clip}}}\n")
    with pytest.raises(
        CheckpointError, match=r"size: 10000000 is not prepared: height 10,000,000 takes 1,200,000,000,000,000 "
    ):
        make_plan(resolve(tmp_path / "c.yaml"))


def test_a_picture_far_larger_than_the_encoders_is_refused_with_its_bytes(clip: Path) -> None:
    for key, value in {"size": {"shortest_edge": 3000}, "crop_size": [3000, 56]}.items():
        (clip / "preprocessor_config.json").write_text(json.dumps({**GOOD, key: value}))
        with pytest.raises(
            CheckpointError,
            match=rf"{key}: .* is too large: 108,000,000 bytes a picture, but the encoder takes 56 x 56",
        ):
            resolve_tower({"weights": str(clip)})


def test_a_part_of_another_file_is_named_by_its_keys(clip: Path) -> None:
    (clip / "preprocessor_config.json").unlink(missing_ok=True)
    file = clip / "processor_config.json"
    try:
        file.write_text(json.dumps({"image_processor": {**GOOD, "image_std": 0}}))
        with pytest.raises(
            CheckpointError, match=r"processor_config\.json: image_processor\.image_std: 0 is not 3 numbers above 0"
        ):
            resolve_tower({"weights": str(clip)})
        file.write_text(json.dumps({"image_processor": {**GOOD, "image_std": None}}))
        with pytest.raises(
            CheckpointError, match=r"processor_config\.json: image_processor\.image_std: null, but do_normalize is"
        ):
            resolve_tower({"weights": str(clip)})
        file.write_text(json.dumps({"image_processor": [GOOD]}))
        with pytest.raises(CheckpointError, match=r"processor_config\.json: image_processor: \[.* is not an object"):
            resolve_tower({"weights": str(clip)})
    finally:
        file.unlink()


ALLOWED: list[dict[str, Any]] = [
    {"size": 56, "crop_size": 56},
    {"size": [56, 60], "crop_size": [56, 56]},
    {"size": {"height": 56, "width": 56}},
    {"size": {"shortest_edge": 56, "longest_edge": 100}},
    {"size": {"shortest_edge": 800, "longest_edge": 1333}},
    {"image_mean": 0.5, "image_std": 1},
    {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]},
    {"do_normalize": False, "image_mean": None, "image_std": None},
    {"do_rescale": None, "rescale_factor": None},
    {
        "do_center_crop": None,
        "crop_size": None,
        "data_format": "channels_first",
        "device": None,
        "return_tensors": None,
    },
    {"do_resize": False, "size": None, "resample": None},
    {"a key of a newer version": {"x": [None]}, "processor_class": None, "pad_size": None, "do_pad": None},
]


@pytest.mark.parametrize("more", ALLOWED, ids=repr)
def test_what_libraries_write_is_taken(more: dict[str, Any]) -> None:
    check_processor({**GOOD, **more}, "x.json")
    check_sides({**GOOD, **more}, (56, 56), "x.json")


def kinds() -> Iterator[str]:
    import transformers

    for name in dir(transformers):
        ends = ("ImageProcessor", "ImageProcessorPil", "VideoProcessor")
        if name.endswith(ends) and not name.startswith(("Auto", "Base")):
            yield name


@pytest.mark.slow
def test_every_processor_of_transformers_is_taken(tmp_path: Path) -> None:
    """As `save_pretrained` writes it, and with the nulls that versions before 5 wrote for what is not set."""
    import transformers

    seen = 0
    for kind in kinds():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = getattr(transformers, kind)()
                made.save_pretrained(tmp_path / kind)
        except Exception:  # noqa: S112  # some need arguments, or files from a hub
            continue
        for file in (tmp_path / kind).glob("*.json"):
            stored = json.loads(file.read_text())
            nulls = dict.fromkeys(("crop_size", "do_center_crop", "pad_size", "do_pad", "input_data_format", "device"))
            check_processor({**nulls, **stored}, str(file))
            seen += 1
    assert seen > 200


@pytest.mark.slow
def test_what_timm_and_open_clip_write_is_taken() -> None:
    import open_clip
    import timm

    for name in timm.list_models(pretrained=True):
        check_preparation("pretrained_cfg", timm.models.get_pretrained_cfg(name).to_dict(), "config.json")
    for name, tag in open_clip.list_pretrained():
        check_preparation("preprocess_cfg", open_clip.get_pretrained_cfg(name, tag), "open_clip_config.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [("pretrained_cfg", {"mean": None, "std": [0, 0, 0]}), ("pretrained_cfg", {"interpolation": "cubic"}),
     ("pretrained_cfg", {"crop_pct": -1}), ("pretrained_cfg", {"input_size": [3, 10**9, 10**9]}), ("pretrained_cfg", [1]),
     ("preprocess_cfg", {"std": "x"}), ("preprocess_cfg", {"resize_mode": 3}), ("preprocess_cfg", {"size": 10**7})],
)  # fmt: skip
def test_wrong_preparations_of_timm_and_open_clip_are_refused(key: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=rf"^f\.json: {key}"):
        check_sizes({"architecture": "x", key: value}, "f.json")

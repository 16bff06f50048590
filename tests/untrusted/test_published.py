"""What published checkpoints state is taken: their figures, in the files that their own library writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from published import NULLS, PUBLISHED, REMOTE

from vita_core.errors import VitaError
from vita_core.planning.towers import resolve_tower
from vita_core.untrusted.processors import check_processor
from vita_core.untrusted.sizes import check_sizes


def save(name: str, folder: Path) -> None:
    import transformers

    config, figures, processor, settings = PUBLISHED[name]
    for needed in filter(None, (config, processor)):
        if not hasattr(transformers, needed):
            pytest.skip(f"transformers {transformers.__version__} has no {needed}: a newer version has")
    getattr(transformers, config)(**figures).save_pretrained(folder)
    if processor is not None:
        getattr(transformers, processor)(**settings).save_pretrained(folder)


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_files_are_taken(name: str, tmp_path: Path) -> None:
    import transformers

    save(name, tmp_path)
    config, figures, _, _ = PUBLISHED[name]
    check_sizes(json.loads((tmp_path / "config.json").read_text()), name)
    check_sizes(json.loads(getattr(transformers, config)(**figures).to_json_string(use_diff=False)), name)
    for file in tmp_path.glob("*preprocessor_config.json"):
        stored = json.loads(file.read_text())
        check_processor(stored, name)
        check_processor({**{key: None for key in NULLS if key != "size" or "size" not in stored}, **stored}, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [("swin-large-4096", (4096, 4096)), ("donut-4096", (4096, 3072)), ("idefics3", (1820, 1820)), ("mask2former", (224, 224)),
     ("siglip2-naflex", (512, 512))],
)  # fmt: skip
def test_its_encoder_is_planned(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    save(name, tmp_path)
    assert resolve_tower({"weights": str(tmp_path)}).shape.image_size == size


@pytest.mark.parametrize("config", REMOTE, ids=repr)
def test_other_published_configs_are_taken(config: dict[str, Any]) -> None:
    check_sizes(config, "config.json")


def test_arias_own_processor_is_told_apart(tmp_path: Path) -> None:
    """Its `max_image_size` is a number, and not the size that the encoder's processor has."""
    import transformers

    transformers.AriaConfig().save_pretrained(tmp_path)
    transformers.AriaImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(VitaError, match=r"AriaImageProcessor\w* cuts pictures into tiles, which is not supported"):
        resolve_tower({"weights": str(tmp_path)})

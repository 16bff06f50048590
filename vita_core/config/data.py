"""The section ``data`` of a config: the data sets of a training. No torch."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from vita_core.config.validation import Section

__all__ = ["DataSetConfig", "HubName", "expand_data", "expand_path", "hub_name"]

HUB = re.compile(r"(?:hf://)?(?:datasets/)?([A-Za-z0-9][\w.-]*/[\w.-]+?)(?:@([\w.-]+))?")
FILES = (".json", ".jsonl", ".parquet", ".tar")
HubName = tuple[str, str | None]
"""The name of a data set on a hub, and its revision or None."""


class DataSetConfig(Section):
    """One data set. `path` is a folder, a file, or shards such as ``shards/{000..099}.tar``.

    `format: auto` finds the format from the files. `pictures` is the folder that pictures are relative to, by default that of
    the file; a picture outside of it is rejected. `split` is the part of a Hugging Face data set. `weight` is how often a
    sample of this set is drawn, relative to the other sets of a stage. `held_out` is the share that is kept for the score.
    `licence` goes to the provenance.
    """

    path: str
    format: Literal["auto", "folder", "jsonl", "llava", "sharegpt", "datasets", "parquet", "webdataset"] = "auto"
    pictures: str | None = None
    split: str | None = None
    weight: PositiveFloat = 1.0
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    licence: str | None = None


def hub_name(path: str, base: Path) -> HubName | None:
    """Return name and revision if `path`, relative to `base`, is that of a data set on a hub (``owner/name``) and no file."""
    found = HUB.fullmatch(path)
    if found is None or (not path.startswith("hf://") and ((base / path).exists() or path.endswith(FILES))):
        return None
    return found[1], found[2]


def expand_data(path: str, base: Path) -> str:
    """Return `path`, as written in a file in directory `base`, made absolute. Names on a hub stay unchanged."""
    if hub_name(path, base) is not None:
        return path
    return expand_path(path, base)


def expand_path(path: str, base: Path) -> str:
    """Return `path`, as written in a file in directory `base`, made absolute."""
    return os.path.abspath(base / Path(path).expanduser())  # noqa: PTH100  # resolve() would follow the user's links

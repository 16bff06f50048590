"""Read a whole data set of captioned pictures at once, for a training without stages and for the score."""

from __future__ import annotations

from pathlib import Path

from vita_core.config.data import DataSetConfig
from vita_core.errors import ConfigError
from vita_core.training.data.folders import FolderSource
from vita_core.training.data.opening import open_source
from vita_core.training.data.samples import Sample, Source
from vita_core.training.processes import tell

__all__ = ["answered", "read_samples"]


def answered(path: Path) -> Source:
    """Open a data set for ``--data``: of a folder of pictures, those that have a caption, and tell how many have none.

    Raises ConfigError if none has one.
    """
    source = open_source(DataSetConfig(path=str(path)), absolute=True)
    if not isinstance(source, FolderSource):
        return source
    found = source.captioned("--data")
    if found.left_out:
        tell(f"{path}: {found.left_out:,} of {len(source):,} pictures have no caption, and are left out")
    return found


def read_samples(path: Path) -> list[Sample]:
    """Return all samples of a data set, each with one picture. Picture paths in a file are relative to the file.

    Raises SampleError, with its place, for the first sample that is not right. Raises ConfigError if a picture does not exist,
    or if there are no samples.
    """
    source = answered(path)
    samples = [source.sample(index) for index in range(len(source))]
    missing = [sample.image for sample in samples if not sample.image.is_file()]
    if missing:
        raise ConfigError(
            f"--data: {len(missing)} of {len(samples)} pictures are missing, such as {missing[0]}. "
            f"Try: copy them there, or correct their paths in {path}"
        )
    return samples

"""Read data sets of pictures and conversations. A sample is read when it is asked for, and its pictures after that."""

from vita_core.training.data.folders import SUFFIXES
from vita_core.training.data.opening import open_source
from vita_core.training.data.pictures import picture_of
from vita_core.training.data.reading import answered, read_samples
from vita_core.training.data.samples import PictureRef, Sample, SampleError, Source, Turn, UnansweredError

__all__ = [
    "SUFFIXES",
    "PictureRef",
    "Sample",
    "SampleError",
    "Source",
    "Turn",
    "UnansweredError",
    "answered",
    "open_source",
    "picture_of",
    "read_samples",
]

"""Read data sets of pictures and conversations. Samples are read one by one; pictures are not decoded here."""

from vita_core.training.data.reading import SUFFIXES, read_samples
from vita_core.training.data.samples import PictureRef, Sample, SampleError, Turn

__all__ = ["SUFFIXES", "PictureRef", "Sample", "SampleError", "Turn", "read_samples"]

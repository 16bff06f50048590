"""Videos whose frames tell their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image

LEVELS = 4
"""Grey steps between the frames of neighbouring numbers: more than the codecs change."""


def write_video(
    path: Path, count: int, *, rate: int = 10, times: Sequence[float] | None = None, size: tuple[int, int] = (32, 32),
    codec: str = "libx264", **options: str,
) -> Path:  # fmt: skip
    """A video whose frame i is grey level 4 i (modulo 256); at 1 / `rate` s each, or at `times` (seconds)."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"g": "12"} | options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(count):
            frame = av.VideoFrame.from_image(Image.new("RGB", size, (number * LEVELS % 256,) * 3))
            frame.time_base = Fraction(1, 1000)
            frame.pts = round(1000 * (number / rate if times is None else times[number]))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path

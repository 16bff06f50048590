"""Videos whose frames tell their numbers, and a small tower of videos."""

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


def save_vivit(folder: Path) -> Path:
    """A ViViT of 4 frames of 56 pixels, with a CLS token and 2 x 4 x 4 patches, and its processor."""
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.VivitConfig(**sizes, image_size=56, num_frames=4, tubelet_size=[2, 14, 14])
    transformers.VivitModel(config).save_pretrained(folder)
    crop = {"height": 56, "width": 56}
    transformers.VivitImageProcessor(size={"shortest_edge": 60}, crop_size=crop).save_pretrained(folder)
    return folder

"""Video frames as pictures, by PyAV. One pass reads the packets' times, a second decodes what is asked for."""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from vita_core.errors import PictureError, VitaError
from vita_core.pixels.images import MAX_PIXELS

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["read_frames"]

_SLACK = 1.0
"""Seconds that a header's duration may be longer than its stream before the file counts as cut short."""


@dataclass(frozen=True)
class _Timeline:
    """Times in units of `unit` seconds: of the first frame, of the end of the last, of the key frames (ascending)."""

    unit: Fraction
    start: int
    end: int
    keys: Sequence[int]

    @property
    def seconds(self) -> Fraction:
        return (self.end - self.start) * self.unit


def read_frames(path: str | os.PathLike[str], max_frames: int = 16) -> list[Image.Image]:
    """The frames on screen at second 0, 1, 2, ... of a video, upright RGB; more than `max_frames` are thinned evenly.

    The first and the last of them are kept (of one, the first). Only the chosen frames are kept in memory. Raises
    PictureError for a file that is missing, no video, without a video stream, cut short or damaged, with frames above
    `images.MAX_PIXELS` or without times; VitaError where PyAV is not installed.
    """
    if max_frames < 1:
        raise VitaError(f"max_frames must be 1 or more, not {max_frames}")
    with _opened(Path(path).expanduser()) as (container, stream):
        line = _timeline(container, stream)
        moments = math.ceil(line.seconds)
        chosen = np.linspace(0, moments - 1, min(moments, max_frames)).round().astype(int).tolist()
        targets = [line.start + second / line.unit for second in chosen]
        return [_upright(frame) for frame in _frames_at(container, stream, line, targets)]


@contextmanager
def _opened(file: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first video stream (a cover picture is none); PyAV's errors become PictureError."""
    try:
        import av
        from av.stream import Disposition
    except ImportError as error:
        raise VitaError(f"reading a video needs PyAV ({error}): pip install 'vita-core[video]'") from error
    if not file.is_file():
        raise PictureError(f"no such video: {file}")
    try:
        with av.open(file) as container:
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no streams"
                raise PictureError(f"{file} has no video stream; it holds {kinds}")
            width, height = streams[0].width, streams[0].height
            if width * height > MAX_PIXELS:
                raise PictureError(f"{file} has frames of {width} x {height}, more than {MAX_PIXELS} pixels")
            yield container, streams[0]
    except av.FFmpegError as error:
        raise PictureError(f"cannot read {file}: it is cut short, damaged or no video ({error.strerror})") from error


def _timeline(container: InputContainer, stream: VideoStream) -> _Timeline:
    """Read every packet's time, decoding nothing. Raises PictureError when the file holds less than its header says."""
    start = end = None
    keys = []
    for packet in container.demux(stream):
        time = packet.dts if packet.pts is None else packet.pts
        if time is None:  # the empty packet at the end, or a raw stream's
            continue
        start = time if start is None else min(start, time)
        end = max(time + (packet.duration or 1), start if end is None else end)
        if packet.is_keyframe:
            keys.append(time)
    if start is None or end is None or stream.time_base is None:
        raise PictureError(
            f"{container.name} has no frames with times; put it into a container: ffmpeg -i IN -c copy OUT.mp4"
        )
    line = _Timeline(stream.time_base, start, end, sorted(keys))
    stated = _stated_seconds(container, stream)
    if line.seconds + _SLACK < stated:
        raise PictureError(
            f"{container.name} is cut short: it holds {float(line.seconds):.1f} s, its header says {stated:.1f} s"
        )
    return line


def _stated_seconds(container: InputContainer, stream: VideoStream) -> float:
    """The stream's length by the file's header, 0 where it says none that is surely the video's own."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / 1_000_000  # FFmpeg's AV_TIME_BASE
    return 0.0


def _frames_at(
    container: InputContainer, stream: VideoStream, line: _Timeline, targets: Sequence[Fraction]
) -> Iterator[VideoFrame]:
    """The last frame at or before each of `targets` (ascending), decoded from the nearest key frame before it."""
    frames: Iterator[VideoFrame] = iter(())
    shown: VideoFrame | None = None
    ahead: VideoFrame | None = None  # the first frame after `shown`
    for target in targets:
        last = ahead or shown
        key = line.keys[max(0, bisect_right(line.keys, target) - 1)] if line.keys else line.start
        if last is None or key > _time(last):
            container.seek(key, stream=stream)
            frames, shown, ahead = container.decode(stream), None, None
        while ahead is None or _time(ahead) <= target:
            shown, ahead = ahead or shown, next(frames, None)
            if ahead is None:
                break
        found = shown or ahead
        if found is None:
            raise PictureError(f"{container.name}: nothing can be decoded at {float(target * line.unit):.1f} s")
        yield found


def _time(frame: VideoFrame) -> int:
    time = frame.dts if frame.pts is None else frame.pts
    assert time is not None  # `_timeline` has refused streams without times
    return time


def _upright(frame: VideoFrame) -> Image.Image:
    """The frame as RGB, turned by the angle (counter-clockwise) that its display matrix says."""
    picture: Image.Image = frame.to_image()
    return picture.convert("RGB").rotate(frame.rotation, expand=True)

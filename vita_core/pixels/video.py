"""Read the frames of a video as pictures with PyAV.

A first pass reads the times of the packets; a second pass decodes only the frames that are needed.
"""

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

__all__ = ["Clip", "is_still", "read_clip", "read_frames"]

_SLACK = 1.0
"""How many seconds longer than the stream the header's duration may be before the file counts as cut short."""


@dataclass(frozen=True)
class Clip:
    """The frames of a video, as one input of a tower of videos."""

    frames: Sequence[Image.Image]


@dataclass(frozen=True)
class _Timeline:
    """The times of a video in units of `unit` seconds: start and end, and in ascending order of the frames and key frames."""

    unit: Fraction
    start: int
    end: int
    times: Sequence[int]
    keys: Sequence[int]

    @property
    def seconds(self) -> Fraction:
        return (self.end - self.start) * self.unit


def read_frames(path: str | os.PathLike[str], max_frames: int = 16) -> list[Image.Image]:
    """Return the frames of a video at the seconds 0, 1, 2, ... as upright RGB pictures.

    If there are more than `max_frames`, evenly spaced ones are returned, among them the first and the last (a single one
    is the first). Only these frames are kept in memory.

    Raises PictureError if the file is missing, cut short, damaged or not a video, and if it has no video stream, no frame
    times, or frames of more than `images.MAX_PIXELS` pixels. Raises VitaError if PyAV is not installed.
    """
    if max_frames < 1:
        raise VitaError(f"max_frames: {max_frames} is too small. Try: --max-frames 1 or more")
    with _opened(Path(path).expanduser()) as (container, stream):
        line = _timeline(container, stream)
        moments = math.ceil(line.seconds)
        chosen = np.linspace(0, moments - 1, min(moments, max_frames)).round().astype(int).tolist()
        targets = [line.start + second / line.unit for second in chosen]
        return [_upright(frame) for frame in _frames_at(container, stream, line, targets)]


def read_clip(path: str | os.PathLike[str], frames: int) -> Clip:
    """Return `frames` frames of a video as upright RGB pictures, evenly spaced from the first one.

    Frame i is the ``i * n // frames``-th of the n frames of the video, as in transformers' processors of videos. Frames of
    a video that has fewer are repeated. Raises as `read_frames` does.
    """
    with _opened(Path(path).expanduser()) as (container, stream):
        line = _timeline(container, stream)
        chosen = [Fraction(line.times[number * len(line.times) // frames]) for number in range(frames)]
        return Clip([_upright(frame) for frame in _frames_at(container, stream, line, chosen)])


def is_still(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is a picture that does not move. FFmpeg would open it as a video of one frame."""
    try:
        with Image.open(Path(path).expanduser()) as picture:
            return getattr(picture, "n_frames", 1) == 1
    except Exception:  # PIL's decoders raise many types
        return False


@contextmanager
def _opened(file: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Yield the container and its first video stream that is not a cover picture. PyAV's errors become PictureErrors."""
    try:
        import av
        from av.stream import Disposition
    except ImportError as error:
        raise VitaError(
            f"reading a video needs PyAV, which cannot be imported: {error}. Try: `pip install 'vita-core[video]'`"
        ) from error
    if not file.is_file():
        raise PictureError(f"{file}: no such video file. Try: check the path")
    try:
        with av.open(file) as container:
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no streams"
                raise PictureError(f"{file}: no video stream; it has {kinds}. Try: a file with a video stream")
            width, height = streams[0].width, streams[0].height
            if width * height > MAX_PIXELS:
                raise PictureError(
                    f"{file}: the frames are {width} x {height}, more than {MAX_PIXELS:,} pixels. "
                    "Try: scale the video down with `ffmpeg -i IN -vf scale=1280:-2 OUT.mp4`"
                )
            yield container, streams[0]
    except av.FFmpegError as error:
        raise PictureError(
            f"{file}: cannot be read: {error.strerror}. It is cut short, damaged or not a video. "
            "Try: download it again, or convert it to MP4"
        ) from error


def _timeline(container: InputContainer, stream: VideoStream) -> _Timeline:
    """Read the time of every packet without decoding it. Raises PictureError if the file is shorter than its header says."""
    start = end = None
    times, keys = [], []
    for packet in container.demux(stream):
        time = packet.dts if packet.pts is None else packet.pts
        if time is None:  # the empty packet at the end, or a packet of a raw stream
            continue
        times.append(time)
        start = time if start is None else min(start, time)
        end = max(time + (packet.duration or 1), start if end is None else end)
        if packet.is_keyframe:
            keys.append(time)
    if start is None or end is None or stream.time_base is None:
        raise PictureError(
            f"{container.name}: its frames have no times. Try: put it into a container with `ffmpeg -i IN -c copy OUT.mp4`"
        )
    line = _Timeline(stream.time_base, start, end, sorted(times), sorted(keys))
    stated = _stated_seconds(container, stream)
    if line.seconds + _SLACK < stated:
        raise PictureError(
            f"{container.name}: cut short: it holds {float(line.seconds):.1f} s, but its header says {stated:.1f} s. "
            "Try: copy or download it again"
        )
    return line


def _stated_seconds(container: InputContainer, stream: VideoStream) -> float:
    """Return the stream's duration in seconds from the file's header, or 0 if the header does not state it for certain."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and len(container.streams) == 1:
        return container.duration / 1_000_000  # FFmpeg's AV_TIME_BASE
    return 0.0


def _frames_at(
    container: InputContainer, stream: VideoStream, line: _Timeline, targets: Sequence[Fraction]
) -> Iterator[VideoFrame]:
    """Yield the last frame at or before each of `targets` (ascending), decoded from the nearest key frame before it."""
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
            raise PictureError(
                f"{container.name}: no frame can be decoded at {float(target * line.unit):.1f} s. "
                "Try: convert it with `ffmpeg -i IN OUT.mp4`"
            )
        yield found


def _time(frame: VideoFrame) -> int:
    time = frame.dts if frame.pts is None else frame.pts
    assert time is not None  # `_timeline` raises for streams without times
    return time


def _upright(frame: VideoFrame) -> Image.Image:
    """Return the frame as RGB, turned counter-clockwise by the angle in its display matrix."""
    picture: Image.Image = frame.to_image()
    return picture.convert("RGB").rotate(frame.rotation, expand=True)

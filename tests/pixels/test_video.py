"""Frames of real small videos, written here with PyAV: which ones, upright, in bounded memory; what is refused."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import vita
from PIL import Image
from videos import LEVELS, write_video

from vita_core.errors import PictureError, VitaError
from vita_core.pixels.video import is_still, read_clip, read_frames


def numbers(frames: Sequence[Image.Image]) -> list[int]:
    """Which frame numbers were read, by their grey level."""
    return [round(float(np.asarray(frame).mean()) / LEVELS) for frame in frames]


@pytest.mark.parametrize(
    ("name", "codec"), [("v.mp4", "libx264"), ("v.mkv", "libx264"), ("v.webm", "libvpx-vp9"), ("v.avi", "mpeg4")]
)
def test_one_frame_a_second(tmp_path: Path, name: str, codec: str) -> None:
    """35 frames at 10 a second, with B-frames and several groups of pictures: seconds 0, 1, 2 and 3."""
    file = write_video(tmp_path / name, 35, codec=codec)
    frames = read_frames(file)
    assert numbers(frames) == [0, 10, 20, 30]
    assert {(frame.mode, frame.size) for frame in frames} == {("RGB", (32, 32))}


@pytest.mark.parametrize(
    ("most", "expected"), [(4, [0, 20, 30, 50]), (2, [0, 50]), (1, [0]), (6, [0, 10, 20, 30, 40, 50])]
)
def test_thinned_evenly(tmp_path: Path, most: int, expected: list[int]) -> None:
    assert numbers(read_frames(write_video(tmp_path / "v.mp4", 60), most)) == expected


def test_variable_frame_rate(tmp_path: Path) -> None:
    """Frame 1 stays on screen from 0.4 s to 2.5 s, so it is what seconds 1 and 2 show."""
    file = write_video(tmp_path / "v.mkv", 5, times=[0, 0.4, 2.5, 2.6, 4.0])
    assert numbers(read_frames(file)) == [0, 1, 1, 3, 4]


def test_a_single_frame(tmp_path: Path) -> None:
    assert numbers(read_frames(write_video(tmp_path / "v.mp4", 1))) == [0]


def test_rotation(tmp_path: Path) -> None:
    """A phone's portrait video is stored lying, with a display matrix that says a quarter turn clockwise."""
    file = tmp_path / "v.mp4"
    picture = Image.new("RGB", (64, 32))
    picture.paste((255, 255, 255), (0, 0, 32, 32))  # white on the left
    with av.open(file, "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    data = file.read_bytes()
    plain = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    turned = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 32 * 0x10000, 0, 0x40000000)
    track = data.index(b"tkhd")
    assert data.count(plain, track) == 1
    file.write_bytes(data[:track] + data[track:].replace(plain, turned))
    frame = np.asarray(read_frames(file)[0].convert("L"))
    assert frame.shape == (64, 32)
    assert frame[:28].min() > 200  # left has become top
    assert frame[36:].max() < 50


@pytest.mark.slow
def test_memory_is_that_of_the_chosen_frames(tmp_path: Path) -> None:
    """Three minutes at 10 frames a second of 320 x 240 are 415 MB as RGB; 16 of them are 4 MB."""
    file = write_video(tmp_path / "v.mp4", 1800, size=(320, 240), preset="ultrafast")
    code = (
        "import sys\nfrom vita_core.pixels.video import read_frames\n"
        "def used():\n"
        "    return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('RssAnon'))\n"
        "read_frames(sys.argv[2])\nbefore = used()\nframes = read_frames(sys.argv[1])\nprint(len(frames), used() - before)\n"
    )
    short = write_video(tmp_path / "short.mp4", 5)
    done = subprocess.run([sys.executable, "-c", code, file, short], capture_output=True, text=True, check=True)
    count, kilobytes = map(int, done.stdout.split())
    assert count == 16
    assert kilobytes < 40_000


def test_what_is_refused(tmp_path: Path) -> None:
    good = write_video(tmp_path / "v.mp4", 60, movflags="faststart")
    cut = {"end": tmp_path / "cut.mp4", "head": tmp_path / "head.mp4"}
    cut["end"].write_bytes(good.read_bytes()[: -good.stat().st_size // 3])
    cut["head"].write_bytes(good.read_bytes()[:200])
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    sound = tmp_path / "sound.wav"
    with av.open(sound, "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    for file, message in (
        (tmp_path / "none.mp4", "no such video"),
        (text, "cannot be read"),
        (cut["head"], "cut short"),
        (cut["end"], "cut short"),
        (sound, "no video stream; it has audio"),
    ):
        with pytest.raises(PictureError, match=message):
            read_frames(file)
    with pytest.raises(VitaError, match=r"max_frames: 0 is too small\. Try: --max-frames 1 or more"):
        read_frames(good, 0)


@pytest.mark.parametrize(("count", "frames"), [(35, 4), (60, 16), (7, 7), (20, 3)])
def test_a_clip_has_the_frames_that_transformers_samples(tmp_path: Path, count: int, frames: int) -> None:
    from transformers import VideoMAEVideoProcessor
    from transformers.video_utils import VideoMetadata

    expected = VideoMAEVideoProcessor().sample_frames(VideoMetadata(total_num_frames=count), num_frames=frames)
    clip = read_clip(write_video(tmp_path / "v.mp4", count), frames)
    assert numbers(clip.frames) == list(expected)


def test_a_clip_of_a_short_video_repeats_its_frames(tmp_path: Path) -> None:
    assert numbers(read_clip(write_video(tmp_path / "v.mp4", 3), 8).frames) == [0, 0, 0, 1, 1, 1, 2, 2]


def test_a_still_picture_is_told_from_a_video(tmp_path: Path) -> None:
    picture = Image.new("RGB", (32, 32))
    picture.save(tmp_path / "still.png")
    picture.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", (32, 32), (200, 0, 0))])
    assert is_still(tmp_path / "still.png")
    assert not is_still(tmp_path / "moving.gif")
    assert not is_still(write_video(tmp_path / "v.mp4", 3))
    assert not is_still(tmp_path / "none.mp4")


@pytest.mark.slow
def test_run_asks_about_the_frames(tiny_config: Path, tmp_path: Path) -> None:
    file = write_video(tmp_path / "v.mp4", 60)
    done = vita("run", tiny_config, "--video", file, "--max-frames", 3, "--json", "-q", "what is this ?")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tiles"] == [1, 1, 1]
    both = vita("run", tiny_config, "--video", file, "--image", file)
    assert both.returncode == 2
    assert "--image and --video exclude each other" in both.stderr
    assert "no such video" in vita("run", tiny_config, "--video", tmp_path / "none.mp4").stderr


@pytest.mark.slow
def test_without_pyav_the_error_says_what_to_install(tmp_path: Path, tiny_config: Path) -> None:
    """A PyAV that cannot be imported stands first on the path."""
    (tmp_path / "av.py").write_text("raise ImportError('not here')\n")
    done = vita("run", tiny_config, "--video", "v.mp4", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "pip install 'vita-core[video]'" in done.stderr

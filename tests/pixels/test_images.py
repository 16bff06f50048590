from __future__ import annotations

import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from safetensors.torch import load_file

from vita_core.errors import PictureError
from vita_core.pixels.images import (
    MAX_PIXELS,
    arrange,
    cut_tiles,
    open_picture,
    pad_to_square,
)
from vita_core.planning.tiling import count_tiles

GOLDEN = Path(__file__).parent.parent / "fixtures" / "golden"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
RED, GREEN = (204, 51, 0), (20, 180, 60)

pytestmark = pytest.mark.filterwarnings("error")


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def close(picture: Image.Image, colour: tuple[int, int, int], tolerance: int = 1) -> bool:
    return picture.mode == "RGB" and bool((abs(np.asarray(picture).astype(int) - colour) <= tolerance).all())


# --- open_picture: modes


@pytest.mark.parametrize("mode", ["RGB", "RGBX", "RGBA", "RGBa", "YCbCr", "HSV", "CMYK", "LAB", "P", "PA"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_colour_modes_keep_their_colour(mode: str, orientation: int) -> None:
    picture = Image.new("RGB", (8, 6), RED)
    picture = picture.convert("RGBA").convert("RGBa") if mode == "RGBa" else picture.convert(mode)
    picture.getexif()[274] = orientation
    opened = open_picture(picture)
    assert close(opened, RED, tolerance=6)  # 8-bit HSV and LAB round
    assert opened.size == ((8, 6) if orientation == 1 else (6, 8))


@pytest.mark.parametrize(("mode", "value", "level"), [("1", 1, 255), ("L", 77, 77), ("LA", (77, 255), 77)])
def test_grey_modes_keep_their_level(mode: str, value: Any, level: int) -> None:
    assert close(open_picture(Image.new(mode, (4, 4), value)), (level,) * 3, tolerance=0)


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La"])
@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_alpha_is_laid_over_white(mode: str, alpha: int) -> None:
    level = 40
    picture = Image.new(mode.upper(), (4, 4), (level,) * (len(mode) - 1) + (alpha,))
    if mode != mode.upper():
        picture = picture.convert(mode)
    expected = round(level * alpha / 255 + 255 * (255 - alpha) / 255)
    assert close(open_picture(picture), (expected,) * 3, tolerance=1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_a_transparent_colour_in_a_png_becomes_white(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.array([[0, 30000], [0, 0]], dtype=np.uint16))
    else:
        picture = Image.new("L" if mode == "P" else mode, (2, 2), 0)
        picture.putpixel((1, 0), 90 if mode in "LP" else 1 if mode == "1" else (90, 90, 90))
        picture = picture.convert(mode)
    picture.save(tmp_path / "a.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    with Image.open(tmp_path / "a.png") as reopened:
        assert "transparency" in reopened.info
    opened = open_picture(tmp_path / "a.png")
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((1, 0)) == {"1": (255,) * 3, "I;16": (117,) * 3}.get(mode, (90,) * 3)


def test_a_palette_with_alpha_per_entry(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 2))
    picture.putpalette([*RED, *GREEN])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "a.png", transparency=bytes([255, 51]))
    opened = open_picture(tmp_path / "a.png")
    assert (opened.getpixel((0, 0)), opened.getpixel((1, 0))) == (RED, (208, 240, 216))


# --- open_picture: deep modes


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 255, 257, 32768], [40000, 65000, 65535, 128]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    grey = np.asarray(open_picture(tmp_path / f"a.{suffix}"))[..., 0]
    assert grey.tolist() == [[0, 1, 1, 128], [156, 253, 255, 0]]


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_every_order_of_bytes(mode: str) -> None:
    picture = Image.frombytes(mode, (2, 2), struct.pack(">4H" if mode.endswith("B") else "<4H", 0, 257, 25700, 65535))
    assert np.asarray(open_picture(picture))[..., 1].ravel().tolist() == [0, 1, 100, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0, 0.2], [0, 128, 255, 51]),
        ([0.0, 10.0, 200.0, 255.0], [0, 10, 200, 255]),
        ([0.0, 257.0, 25700.0, 65535.0], [0, 1, 100, 255]),
        ([-1.0, 0.0, 1.0, 0.5], [0, 128, 255, 191]),
        ([0.0, float("nan"), float("inf"), 1.0], [0, 0, 255, 255]),
        ([-3.0, -3.0, -3.0, -3.0], [0, 0, 0, 0]),
        ([float("nan")] * 4, [0, 0, 0, 0]),
    ],
)
def test_floats_are_scaled_from_their_range(values: list[float], expected: list[int]) -> None:
    picture = Image.fromarray(np.array(values, dtype=np.float32).reshape(2, 2))
    assert np.asarray(open_picture(picture))[..., 0].ravel().tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 100, 255], [0, 1, 100, 255]),
        ([0, 257, 25700, 65535], [0, 1, 100, 255]),
        ([0, 0, 2**30, 2**31 - 1], [0, 0, 128, 255]),
        ([-100, 0, 100, 50], [0, 128, 255, 191]),
    ],
)
def test_integers_are_scaled_from_their_range(values: list[int], expected: list[int]) -> None:
    picture = Image.fromarray(np.array(values, dtype=np.int32).reshape(2, 2))
    assert np.abs(np.asarray(open_picture(picture))[..., 0].ravel().astype(int) - expected).max() <= 1


def tiff(bits: int, photometric: int, data: bytes, width: int, height: int) -> bytes:
    """A one-strip grey little-endian TIFF, of kinds that PIL reads and cannot write."""
    entries = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric)]
    entries += [(273, 8), (277, 1), (278, height), (279, len(data))]
    fields = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(entries)) + fields + bytes(4)


@pytest.mark.parametrize(
    ("bits", "photometric", "data", "expected"),
    [
        (12, 1, bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x10]), [0, 255, 128, 1]),
        (16, 1, struct.pack("<4H", 0, 65535, 32896, 257), [0, 255, 128, 1]),
        (16, 0, struct.pack("<4H", 0, 65535, 32896, 257), [255, 0, 127, 254]),
    ],
    ids=["12 bits", "16 bits", "white is zero"],
)
def test_scientific_tiffs(tmp_path: Path, bits: int, photometric: int, data: bytes, expected: list[int]) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(bits, photometric, data, 2, 2))
    assert np.asarray(open_picture(tmp_path / "a.tif"))[..., 0].ravel().tolist() == expected


# --- open_picture: files


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "gif", "ppm"])
def test_a_file_and_its_picture_are_the_same(tmp_path: Path, kind: Callable[[Path], Any], suffix: str) -> None:
    picture = Image.new("RGB", (9, 7), RED)
    picture.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert open_picture(kind(tmp_path / f"a.{suffix}")).tobytes() == open_picture(picture).tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    """The corner that the tag calls "first row, first column" ends up at the top left."""
    exif = Image.Exif()
    exif[274] = orientation
    picture = Image.new("RGB", (6, 4))
    stored_at = {1: (0, 0), 2: (5, 0), 3: (5, 3), 4: (0, 3), 5: (0, 0), 6: (0, 3), 7: (5, 3), 8: (5, 0)}
    picture.putpixel(stored_at[orientation], RED)
    picture.save(tmp_path / "a.png", exif=exif)
    opened = open_picture(tmp_path / "a.png")
    assert opened.getpixel((0, 0)) == RED
    assert opened.size == ((6, 4) if orientation < 5 else (4, 6))


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_the_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), GREEN)
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second])
    assert close(open_picture(tmp_path / f"a.{suffix}"), RED, tolerance=3)


def test_the_callers_picture_is_left_as_it_is() -> None:
    picture = Image.new("RGBA", (8, 6), (*RED, 10))
    picture.getexif()[274] = 6
    before = picture.tobytes()
    open_picture(picture).putpixel((0, 0), GREEN)
    assert (picture.mode, picture.size, picture.tobytes()) == ("RGBA", (8, 6), before)


# --- open_picture: what is refused


def refused(source: Any, *words: str, **options: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PIL's words about a damaged TIFF, beside the error
        with pytest.raises(PictureError) as caught:
            open_picture(source, **options)
    message = str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__, "a traceback of PIL would show"
    for word in words:
        assert word in message, message
    assert message.count("Try: ") == 1, message
    assert not message.endswith("."), message
    return message


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "kitten.png").touch()
    refused(tmp_path / "kiten.png", str(tmp_path / "kiten.png"), "no such file", "Did you mean 'kitten.png'?")
    assert "Did you mean" not in refused(tmp_path / "zebra.jpeg", "no such file")
    refused(tmp_path / "nowhere" / "a.png", "its folder does not exist")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("folder", None, ["a directory"]),
        ("empty.png", b"", ["0 bytes"]),
        ("notes.txt", b"These are words.\n" * 50, ["not a picture"]),
        ("words.png", b"These are words.\n" * 50, ["not a picture"]),
        ("page.jpg", b"<html><body>404</body></html>", ["not a picture"]),
    ],
)
def test_what_is_no_picture(tmp_path: Path, name: str, content: bytes | None, words: list[str]) -> None:
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    refused(path, str(path), *words)


@pytest.mark.parametrize("source", [None, 3, b"a.png", np.zeros((4, 4, 3), np.uint8), torch.zeros(3, 4, 4)])
def test_what_is_neither_a_path_nor_a_picture(source: Any) -> None:
    refused(source, type(source).__name__)


@pytest.mark.parametrize("source", ["a\0b.png", "~nobody-of-that-name/a.png", "x" * 5000, "http://host/a.png"])
def test_strange_paths(source: str) -> None:
    refused(source)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "pipe")


SAVED = [
    ("png", {}),
    ("jpg", {}),
    ("jpg", {"progressive": True}),
    ("gif", {}),
    ("bmp", {}),
    ("webp", {}),
    ("tif", {}),
    ("tif", {"compression": "tiff_lzw"}),
    ("ppm", {}),
    ("ico", {}),
]


@pytest.mark.parametrize("tolerant", [False, True], ids=["", "LOAD_TRUNCATED_IMAGES"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("saved", SAVED, ids=lambda saved: " ".join(map(str, saved)))
def test_a_file_cut_short_is_never_half_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: tuple[str, dict[str, Any]], share: float, tolerant: bool
) -> None:
    suffix, options = saved
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    path = tmp_path / f"a.{suffix}"
    noise(64, 64).save(path, **options)
    assert open_picture(path).size == (64, 64)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(path, str(path))
    assert tolerant == ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_damaged_file(tmp_path: Path) -> None:
    noise(64, 64).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "a.png").write_bytes(content)
    refused(tmp_path / "a.png", "damaged")


def test_a_lazy_picture_whose_file_is_cut_short(tmp_path: Path) -> None:
    noise(64, 64).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with Image.open(tmp_path / "a.png") as picture:
        refused(picture, "a.png", "cut short")


def claim(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims `width` x `height` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_000, 10_001), (13_000, 13_000), (20_000, 20_000), (2_000_000, 2_000_000)])
def test_too_many_pixels_are_refused_by_the_header(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "bomb.png").write_bytes(claim(*size))
    before = Image.MAX_IMAGE_PIXELS
    refused(tmp_path / "bomb.png", f"more than {MAX_PIXELS:,} pixels", "max_pixels")
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_bomb_inside_an_icon(tmp_path: Path) -> None:
    inner = claim(20_000, 20_000)
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    (tmp_path / "a.ico").write_bytes(struct.pack("<HHH", 0, 1, 1) + entry + inner)
    refused(tmp_path / "a.ico", f"more than {MAX_PIXELS:,} pixels")


@pytest.mark.parametrize("as_file", [True, False])
def test_the_limit_of_pixels_is_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_file: bool) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # PIL itself would raise for 900 pixels, and warn for 150
    picture = noise(30, 30)
    picture.save(tmp_path / "a.png")
    source = tmp_path / "a.png" if as_file else picture
    assert open_picture(source, max_pixels=900).size == (30, 30)
    refused(source, "30 x 30", "899", max_pixels=899)


@pytest.mark.parametrize(
    ("size", "words"),
    [((1, 1), "under 2 pixels"), ((1, 9), "under 2 pixels"), ((9, 1), "under 2 pixels"), ((401, 2), "200:1")],
)
@pytest.mark.parametrize("as_file", [True, False])
def test_nothing_to_see(tmp_path: Path, size: tuple[int, int], words: str, as_file: bool) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    refused(tmp_path / "a.png" if as_file else Image.new("RGB", size), f"{size[0]} x {size[1]}", words)


@pytest.mark.parametrize("size", [(2, 2), (400, 2), (2, 400)])
def test_the_smallest_and_the_longest_picture(size: tuple[int, int]) -> None:
    assert open_picture(Image.new("RGB", size)).size == size


def test_threads_leave_the_settings_of_pil_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    noise(64, 64).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    outcomes: list[str] = []

    def work(name: str) -> None:
        for _ in range(20):
            try:
                outcomes.append(f"{name} {open_picture(tmp_path / name).size}")
            except PictureError:
                outcomes.append(f"{name} refused")

    threads = [threading.Thread(target=work, args=(name,)) for name in ("whole.png", "cut.png") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes) == {"whole.png (64, 64)", "cut.png refused"}
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


# --- pad, tiles, arrange


@pytest.mark.parametrize(
    ("size", "place"), [((10, 4), (0, 3)), ((4, 10), (3, 0)), ((5, 10), (2, 0)), ((10, 7), (0, 1)), ((6, 6), (0, 0))]
)
def test_padding_centres_the_picture(size: tuple[int, int], place: tuple[int, int]) -> None:
    picture = noise(*size)
    square = pad_to_square(picture, RED)
    left, top = place
    assert square.size == (max(size), max(size))
    assert square.crop((left, top, left + size[0], top + size[1])).tobytes() == picture.tobytes()
    border = np.ones((max(size), max(size)), bool)
    border[top : top + size[1], left : left + size[0]] = False
    assert (np.asarray(square)[border] == RED).all()


def test_padding_does_not_fill_the_memory() -> None:
    with pytest.raises(PictureError, match="10000 or less"):
        pad_to_square(Image.new("RGB", (10_001, 60)), RED)


def test_tiles_are_internvls() -> None:
    expected = load_file(GOLDEN / "tiling_pixels.safetensors")["wide_tiles"].numpy()
    tiles = cut_tiles(open_picture(GOLDEN / "pictures" / "wide.png"), tile=28, max_tiles=6, thumbnail=True)
    assert np.array_equal(np.stack([np.asarray(tile) for tile in tiles]), expected)


@pytest.mark.parametrize("name", ["square", "tall", "wide"])
@pytest.mark.parametrize(("least", "most", "thumbnail"), [(1, 1, True), (1, 12, True), (1, 12, False), (3, 6, True)])
def test_the_count_is_what_is_cut(name: str, least: int, most: int, thumbnail: bool) -> None:
    picture = open_picture(GOLDEN / "pictures" / f"{name}.png")
    tiles = cut_tiles(picture, tile=28, min_tiles=least, max_tiles=most, thumbnail=thumbnail)
    count = count_tiles(*picture.size, tile=28, min_tiles=least, max_tiles=most, thumbnail=thumbnail)
    assert (len(tiles), {tile.size for tile in tiles}) == (count, {(28, 28)})


def test_arranging() -> None:
    picture = noise(60, 30)
    assert arrange(picture, aspect="square", tile=28, tiles=None, fill=RED) == [picture]
    (padded,) = arrange(picture, aspect="pad", tile=28, tiles=None, fill=RED)
    assert padded.tobytes() == pad_to_square(picture, RED).tobytes()
    tiles = arrange(picture, aspect="pad", tile=28, tiles=(2, 4, True), fill=RED)
    assert [tile.tobytes() for tile in tiles] == [
        tile.tobytes() for tile in cut_tiles(picture, tile=28, min_tiles=2, max_tiles=4, thumbnail=True)
    ]

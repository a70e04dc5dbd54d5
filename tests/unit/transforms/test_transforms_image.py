"""Encoded pictures to tensors: formats, orientation, depth, sizes, and hostile bytes."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as pillow

from windlass import errors
from windlass.transforms import image

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def encode(pixels: Any, kind: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    picture = pillow.fromarray(pixels) if mode is None else pillow.fromarray(pixels).convert(mode)
    made = io.BytesIO()
    picture.save(made, kind, **options)
    return made.getvalue()


def run(data: Any, **parameters: Any) -> Any:
    transform = image.Image.load({"width": 6, "height": 4, "scale": 1.0, "layout": "NHWC", **parameters}, {})
    column = np.empty(1, object)
    column[0] = data
    return transform.apply({"image": column})["image"][0]


def test_pixels_of_the_same_size_are_untouched() -> None:
    np.testing.assert_array_equal(run(encode(PIXELS)), PIXELS)
    np.testing.assert_array_equal(run(encode(PIXELS), layout="NCHW"), PIXELS.transpose(2, 0, 1))
    np.testing.assert_array_equal(run(encode(PIXELS, "WEBP", lossless=True)), PIXELS)


def test_values_are_scaled_and_normalized() -> None:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    made = run(encode(PIXELS), scale=1 / 255, mean=mean, std=std)
    np.testing.assert_allclose(made, (PIXELS / 255 - mean) / std, rtol=1e-6)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(run(encode(PIXELS), invert=True), 255 - PIXELS.astype(int))


def test_one_channel_is_pillows_grey() -> None:
    grey = np.asarray(pillow.fromarray(PIXELS).convert("L"))
    np.testing.assert_array_equal(run(encode(PIXELS), channels=1)[:, :, 0], grey)
    np.testing.assert_array_equal(run(encode(grey))[:, :, 1], grey)


@pytest.mark.parametrize("resample", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_stretching_is_pillows(resample: str) -> None:
    expected = pillow.fromarray(PIXELS).resize((5, 9), pillow.Resampling[resample.upper()])
    np.testing.assert_array_equal(run(encode(PIXELS), width=5, height=9, resample=resample), np.asarray(expected))


def test_cropping_covers_and_takes_the_centre() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    made = run(encode(wide), width=10, height=10, resize="crop")
    assert (made == 200).all()
    bigger = run(encode(wide), width=4, height=4, resize="crop", shortest_edge=10)
    assert (bigger == 200).all()


def test_a_letterbox_keeps_the_shape_and_fills_the_rest() -> None:
    made = run(encode(np.full((10, 20, 3), 9, np.uint8)), width=8, height=8, resize="letterbox", fill=114)
    assert (made[:2] == 114).all()
    assert (made[6:] == 114).all()
    assert (made[2:6] == 9).all()


def test_the_exif_orientation_is_applied() -> None:
    exif = pillow.Exif()
    exif[0x0112] = 6
    data = encode(PIXELS, "PNG", exif=exif)
    np.testing.assert_array_equal(run(data, width=4, height=6), np.rot90(PIXELS, -1))


def test_transparency_is_laid_over_white() -> None:
    clear = np.zeros((4, 6, 4), np.uint8)
    clear[:2, :, 3] = 255
    made = run(encode(clear))
    assert (made[:2] == 0).all()
    assert (made[2:] == 255).all()


def test_sixteen_bits_keep_the_high_byte() -> None:
    deep = (np.arange(24, dtype=np.uint16).reshape(4, 6) * 2500).astype(np.uint16)
    np.testing.assert_array_equal(run(encode(deep), channels=1)[:, :, 0], deep >> 8)


@pytest.mark.parametrize("mode", ["P", "1", "L", "LA", "RGBA", "CMYK"])
def test_every_mode_gives_three_channels(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert run(encode(PIXELS, kind, mode)).shape == (4, 6, 3)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


@pytest.mark.parametrize(
    "size", [(5000, 5000), (11_810, 11_810), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (1, 20_000_000)]
)
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    data = png_header(*size) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    with pytest.raises(errors.InvalidInput, match=r"pixels|decoded"):
        run(data)


def test_a_thin_picture_cannot_be_blown_up() -> None:
    with pytest.raises(errors.InvalidInput, match="too narrow"):
        run(encode(np.zeros((2, 9000, 3), np.uint8)), width=224, height=224, resize="crop")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_not_decoded(kind: str) -> None:
    with pytest.raises(errors.InvalidInput, match="not a PNG, JPEG or WebP"):
        run(encode(PIXELS, kind))


@pytest.mark.parametrize("data", [b"", b"x", None, "text", 3, encode(PIXELS)[:48], encode(PIXELS, "JPEG")[:200]])
def test_what_is_no_picture_is_refused_without_inner_words(data: Any) -> None:
    with pytest.raises(errors.InvalidInput, match="field 'image', row 0") as caught:
        run(data)
    assert "object at" not in str(caught.value)


SEEDS = [encode(PIXELS), encode(PIXELS, "JPEG"), encode(PIXELS, "WEBP"), encode(PIXELS, "PNG", "P")]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_damaged_pictures_are_read_or_refused(seed: bytes, data: st.DataObject) -> None:
    damaged = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    for candidate in (bytes(damaged), bytes(damaged[:cut])):
        try:
            assert run(candidate).shape == (4, 6, 3)
        except errors.InvalidInput:
            continue


@pytest.mark.parametrize(
    "parameters",
    [
        {"width": 0},
        {"channels": 2},
        {"mean": [1, 2]},
        {"std": [0]},
        {"shortest_edge": 9},
        {"resize": "crop", "shortest_edge": 5},
        {"max_pixels": 10**9},
        {"hieght": 3},
    ],
)
def test_wrong_parameters_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidInput):
        run(encode(PIXELS), **parameters)

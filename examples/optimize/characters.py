"""A data set of real difficulty, drawn on the spot: characters in this machine's fonts, warped, cluttered and noisy.

Used by `train.py` and by the benchmarks; needs numpy, Pillow and TrueType fonts (Debian: fonts-dejavu-core). The same
seed and fonts give the same bytes. Must never fetch anything.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Array: TypeAlias = npt.NDArray[Any]

# The 47 classes of EMNIST "balanced" (Cohen et al., 2017): look-alikes stay (0 O, 1 I, 2 Z, 5 S, 9 g q), those that
# differ from their capital by size only do not.
NAMES = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")
SIZE = 32
_FONTS = Path("/usr/share/fonts")
_CANVAS = 64
_POINTS = 40
_BLOCK = 1024
_LEAST_FONTS = 4


def make(rows: int, *, seed: int) -> tuple[Array, Array]:
    """Images `[rows, 1, 32, 32]` (float32, 0 to 1) and their classes `[rows]` (int64, an index of `NAMES`)."""
    bank = glyphs()
    images = np.empty((rows, 1, SIZE, SIZE), np.float32)
    labels = np.empty(rows, np.int64)
    for number, start in enumerate(range(0, rows, _BLOCK)):
        count = min(_BLOCK, rows - start)
        # A block has a seed of its own, so that its rows do not depend on how many are asked for before it.
        random = np.random.default_rng((seed, number))
        labels[start : start + count] = random.integers(len(NAMES), size=_BLOCK)[:count]
        images[start : start + count, 0] = _drawn(bank, labels[start : start + count], random)
    return images, labels


def cached(rows: int, *, seed: int, folder: Path = Path("build/optimize")) -> tuple[Array, Array]:
    """`make`, kept in a file under `folder` by what it depends on."""
    source = Path(__file__).read_bytes() + glyphs().tobytes()
    path = folder / f"characters-{rows}-{seed}-{hashlib.sha256(source).hexdigest()[:12]}.npz"
    if not path.exists():
        images, labels = make(rows, seed=seed)
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, images=np.round(images * 255).astype(np.uint8), labels=labels)
        partial.replace(path)
    with np.load(path) as kept:
        return kept["images"].astype(np.float32) / np.float32(255), kept["labels"]


def glyphs() -> Array:
    """Every class in every font that has them all, `[fonts, classes, 64, 64]` (float32, 0 to 1).

    `SystemExit` with what to install if there are too few fonts: one font would be another, easier task.
    """
    found = [drawn for path in sorted(_FONTS.rglob("*.[to]tf")) if (drawn := _font(path)) is not None]
    if len(found) < _LEAST_FONTS:
        raise SystemExit(
            f"{len(found)} fonts under {_FONTS} have all {len(NAMES)} characters: {_LEAST_FONTS} are needed. "
            "Install some, for example: apt-get install fonts-dejavu-core fonts-dejavu-extra"
        )
    return np.stack(found)


def _font(path: Path) -> Array | None:
    """One font's characters, centred; None where it lacks some (it draws the same box for each)."""
    font = ImageFont.truetype(str(path), _POINTS)
    drawn = []
    for name in NAMES:
        image = Image.new("L", (_CANVAS, _CANVAS))
        # By the middle of the line, so that a g hangs lower than an A.
        ImageDraw.Draw(image).text((_CANVAS / 2, _CANVAS / 2), name, fill=255, font=font, anchor="mm")
        drawn.append(np.asarray(image, np.float32) / 255)
    distinct = {image.tobytes() for image in drawn}
    return np.stack(drawn) if len(distinct) == len(NAMES) and all(image.any() for image in drawn) else None


def _drawn(bank: Array, labels: Array, random: np.random.Generator) -> Array:
    """One block of images: a character, pieces of others beside it, a line across, ink, paper, blur, noise."""
    count = len(labels)
    image = _warped(bank[random.integers(len(bank), size=_BLOCK)[:count], labels], random)
    for side in (-1, 1):
        other = bank[random.integers(len(bank), size=_BLOCK)[:count], random.integers(len(NAMES), size=_BLOCK)[:count]]
        shift = side * random.uniform(21, 28, _BLOCK)[:count]
        shown = random.random(_BLOCK)[:count] < 0.5
        image = np.maximum(image, _warped(other, random, shift) * shown[:, None, None])
    image = np.clip(image + _lines(random)[:count], 0, 1)
    image = _blurred(image, random)
    grey = _smooth(random, 4)[:count] * random.uniform(0, 0.25, (_BLOCK, 1, 1))[:count]
    ink = random.uniform(0.5, 1.0, (_BLOCK, 1, 1))[:count]
    image = grey + image * (ink * (1 - grey))
    noise = random.uniform(0.02, 0.2, (_BLOCK, 1, 1))[:count] * ink
    image = image + noise * random.normal(0, 1, (_BLOCK, SIZE, SIZE))[:count]
    inverted = random.random((_BLOCK, 1, 1))[:count] < 0.5
    return np.clip(np.where(inverted, 1 - image, image), 0, 1).astype(np.float32)


def _warped(glyph: Array, random: np.random.Generator, shift: Array | float = 0.0) -> Array:
    """Each glyph rotated, sheared, scaled, shifted and bent (elastic distortion: Simard et al., 2003)."""
    count = len(glyph)
    turn = random.normal(0, 0.1, _BLOCK)[:count]
    shear = random.normal(0, 0.15, _BLOCK)[:count]
    scale = np.exp(random.normal(0, 0.1, _BLOCK))[:count] * 1.4
    wide = np.exp(random.normal(0, 0.1, _BLOCK))[:count]
    moved = random.normal(0, 1.2, (2, _BLOCK))[:, :count]
    bend = random.uniform(0.3, 1.8, (_BLOCK, 1, 1))[:count]
    ys, xs = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    across = xs[None] - (moved[0] + shift)[:, None, None] + bend * _smooth(random, 5)[:count]
    down = ys[None] - moved[1][:, None, None] + bend * _smooth(random, 5)[:count]
    cos, sin = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    u = (cos * across + sin * down + shear[:, None, None] * down) * (scale / wide)[:, None, None]
    v = (cos * down - sin * across) * (scale * wide)[:, None, None]
    return _sampled(glyph, v + (_CANVAS - 1) / 2, u + (_CANVAS - 1) / 2)


def _sampled(glyph: Array, rows: Array, columns: Array) -> Array:
    """Bilinear interpolation; outside there is nothing."""
    top, left = np.floor(rows).astype(np.int64), np.floor(columns).astype(np.int64)
    below, right = rows - top, columns - left
    each = np.arange(len(glyph))[:, None, None]
    answer = np.zeros(rows.shape)
    for down in (0, 1):
        for across in (0, 1):
            r, c = top + down, left + across
            inside = (r >= 0) & (r < _CANVAS) & (c >= 0) & (c < _CANVAS)
            weight = (below if down else 1 - below) * (right if across else 1 - right)
            answer += weight * inside * glyph[each, r.clip(0, _CANVAS - 1), c.clip(0, _CANVAS - 1)]
    return answer


def _smooth(random: np.random.Generator, knots: int) -> Array:
    """Smooth random fields `[block, 32, 32]` of about unit size: a coarse grid of normals, interpolated."""
    coarse = random.normal(0, 1, (_BLOCK, knots, knots))
    at = np.linspace(0, knots - 1, SIZE)
    hat = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(knots)[None]))
    return np.einsum("ij,bjk,lk->bil", hat, coarse, hat, optimize=True)


def _lines(random: np.random.Generator) -> Array:
    """One thin line in three images of ten."""
    angle, distance = random.uniform(0, np.pi, (_BLOCK, 1, 1)), random.normal(0, 9, (_BLOCK, 1, 1))
    ys, xs = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    away = np.abs(xs * np.cos(angle) + ys * np.sin(angle) - distance)
    strength = random.uniform(0.3, 1.0, (_BLOCK, 1, 1)) * (random.random((_BLOCK, 1, 1)) < 0.3)
    return np.clip(1.2 - away, 0, 1) * strength


def _blurred(image: Array, random: np.random.Generator) -> Array:
    """Out of focus by a Gaussian of 0 to 1 pixel, through the Fourier transform."""
    sigma = random.uniform(0, 1.0, (_BLOCK, 1, 1))[: len(image)]
    fy, fx = np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None]
    kernel = np.exp(-2 * (np.pi * sigma) ** 2 * (fy**2 + fx**2)[None])
    return np.fft.irfft2(np.fft.rfft2(image) * kernel, s=(SIZE, SIZE))

"""An encoded picture to a float tensor: decode, orient, resize, normalize.

Loaded through the catalogue. The size is read from the header and refused before a pixel is decoded, and only PNG,
JPEG and WebP decoders are ever reached. Must never follow an address: a picture is its bytes.

What becomes of a picture: its EXIF orientation is applied; transparency is laid over white; palettes and CMYK become
RGB; 16-bit channels keep their high byte; of an animation the first frame counts; colour profiles are ignored.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from PIL import Image as pillow  # noqa: N813 -- the plugin is called Image here
from PIL import ImageOps, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

from windlass import errors
from windlass.transforms import parameters as params
from windlass.types import fields, tensor

# Our own bound is asked as soon as the header is read; Pillow's would only warn, into a server's log.
pillow.MAX_IMAGE_PIXELS = None

# The decoders' modules are imported above, so that Pillow never looks for others.
_FORMATS = ("PNG", "JPEG", "WEBP")
_RESAMPLE = {
    "nearest": pillow.Resampling.NEAREST,
    "bilinear": pillow.Resampling.BILINEAR,
    "bicubic": pillow.Resampling.BICUBIC,
    "lanczos": pillow.Resampling.LANCZOS,
}
Side = Annotated[int, msgspec.Meta(ge=1, le=16_384)]


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value is `(pixel * scale - mean) / std`, pixel being 0..255 (255 minus it with `invert`).

    `resize`: `stretch` to the size; `crop` to cover it (or to `shortest_edge`), then the centre; `letterbox` to fit in
    it, the rest filled with the grey level `fill`.
    """

    width: Side
    height: Side
    input: Annotated[str, msgspec.Meta(min_length=1)] = "image"
    field: Annotated[str, msgspec.Meta(min_length=1)] = "image"
    channels: Literal[1, 3] = 3
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    invert: bool = False
    resize: Literal["stretch", "crop", "letterbox"] = "stretch"
    shortest_edge: Annotated[int, msgspec.Meta(ge=0, le=16_384)] = 0
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    fill: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    max_pixels: Annotated[int, msgspec.Meta(ge=1, le=89_478_485)] = 16_777_216


class Image:
    """Takes the column `field` (object array of bytes), gives `input` FP32 `[rows, C, H, W]` or `[rows, H, W, C]`."""

    name: ClassVar[str] = "image"
    stage: Literal["pre", "post"] = "pre"
    media = ("image/png", "image/jpeg", "image/webp")
    needs: tuple[str, ...] = ()
    # A hundred bytes may decode to max_pixels, so no picture is decoded on an event loop.
    inline_bytes = 0

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self.reads = (fields.Field(parameters.field, "image", meaning="A PNG, JPEG or WebP picture"),)
        pixel = np.arange(256, dtype=np.float64)[:, None]
        if parameters.invert:
            pixel = 255 - pixel
        ones = np.ones(parameters.channels)
        values = (pixel * parameters.scale - ones * parameters.mean) / (ones * parameters.std)
        # One table a channel: what each pixel value becomes, rounded to FP32 once.
        self._tables = values.astype(np.float32)

    @classmethod
    def load(cls, parameters: Mapping[str, Any], files: Mapping[str, bytes]) -> Image:
        """The transform; `InvalidInput` on wrong parameters or any file."""
        params.require_files(files, (), transform=cls.name)
        known = params.decode(Parameters, parameters, transform=cls.name)
        for values in (known.mean, known.std):
            if len(values) not in (1, known.channels):
                raise errors.InvalidInput(f"transform 'image' needs 1 or {known.channels} values for mean and for std")
        if 0 in known.std:
            raise errors.InvalidInput("transform 'image' has a std of 0")
        if known.shortest_edge and known.resize != "crop":
            raise errors.InvalidInput("transform 'image' uses shortest_edge only with resize 'crop'")
        if 0 < known.shortest_edge < max(known.width, known.height):
            raise errors.InvalidInput("transform 'image' has a shortest_edge below its width or height")
        return cls(known)

    def apply(self, columns: fields.Columns) -> fields.Columns:
        """Columns with the pictures replaced by the tensor; `InvalidInput` names the row that is not a picture."""
        known = self._parameters
        pictures = columns.get(known.field)
        if pictures is None:
            raise errors.InvalidInput(f"missing field '{known.field}'")
        items = pictures.ravel().tolist()
        result = np.empty((len(items), known.height, known.width, known.channels), np.float32)
        for row, data in enumerate(items):
            try:
                pixels = self._pixels(data)
            except errors.InvalidInput as e:
                raise errors.InvalidInput(f"field '{known.field}', row {row}: {e.message}") from None
            for channel in range(known.channels):
                result[row, :, :, channel] = self._tables[:, channel][pixels[:, :, channel]]
        answer = {name: column for name, column in columns.items() if name != known.field}
        answer[known.input] = np.ascontiguousarray(result.transpose(0, 3, 1, 2)) if known.layout == "NCHW" else result
        return answer

    def _pixels(self, data: object) -> tensor.Array:
        """UINT8 `[height, width, channels]` of one encoded picture."""
        known = self._parameters
        if not isinstance(data, bytes | bytearray | memoryview):
            raise errors.InvalidInput("the bytes of a picture are expected")
        try:
            with pillow.open(io.BytesIO(data), formats=_FORMATS) as picture:
                width, height = picture.size
                if width * height > known.max_pixels:
                    raise errors.InvalidInput(f"{width} x {height} pixels, at most {known.max_pixels} are decoded")
                flat = _flatten(ImageOps.exif_transpose(picture), "L" if known.channels == 1 else "RGB")
                return np.asarray(self._fit(flat)).reshape(known.height, known.width, known.channels)
        except errors.InvalidInput:
            raise
        except UnidentifiedImageError:
            raise errors.InvalidInput("not a PNG, JPEG or WebP picture") from None
        except Exception:  # noqa: BLE001 -- a decoder given hostile bytes raises anything; its words name addresses
            raise errors.InvalidInput("the picture cannot be decoded: it is cut short or damaged") from None

    def _fit(self, picture: pillow.Image) -> pillow.Image:
        """The picture at the model's size."""
        known = self._parameters
        size = (known.width, known.height)
        resample = _RESAMPLE[known.resample]
        if known.resize == "stretch":
            return picture.resize(size, resample)
        if known.resize == "letterbox":
            ratio = min(known.width / picture.width, known.height / picture.height)
            inside = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
            canvas = pillow.new(picture.mode, size, (known.fill,) * known.channels)
            corner = ((known.width - inside[0]) // 2, (known.height - inside[1]) // 2)
            canvas.paste(picture.resize(inside, resample), corner)
            return canvas
        # As torchvision's Resize (the long edge is cut to a whole pixel) and CenterCrop.
        if known.shortest_edge:
            edge, short = known.shortest_edge, min(picture.size)
            covering = (edge * picture.width // short, edge * picture.height // short)
        else:
            ratio = max(known.width / picture.width, known.height / picture.height)
            covering = (
                max(known.width, round(picture.width * ratio)),
                max(known.height, round(picture.height * ratio)),
            )
        if covering[0] * covering[1] > known.max_pixels:
            raise errors.InvalidInput(f"{picture.width} x {picture.height} is too narrow to be cropped to {size}")
        left = round((covering[0] - known.width) / 2.0)
        top = round((covering[1] - known.height) / 2.0)
        return picture.resize(covering, resample).crop((left, top, left + known.width, top + known.height))


def _flatten(picture: pillow.Image, mode: str) -> pillow.Image:
    """The picture as `RGB` or `L`, 8 bits a channel, opaque."""
    if picture.mode.startswith("I"):
        deep = np.asarray(picture).clip(0, 65_535)
        picture = pillow.fromarray((deep >> 8).astype(np.uint8))
    elif picture.has_transparency_data:
        coloured = picture.convert("RGBA")
        white = pillow.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = pillow.alpha_composite(white, coloured)
    return picture.convert(mode)

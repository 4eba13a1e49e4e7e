"""Images on the host: bytes to pixels, and what the training pixels look like on average."""

import contextlib
import io
import struct
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from dlx.data.splits import Corrupt, Split, intact, length

BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
    Image.DecompressionBombError,
)  # how Pillow complains
UPRIGHT = {  # orientation noted by a camera (Exif 2.3, tag 274) -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    data: bytes,
    size: int | tuple[int, int] | None = None,
    *,
    channels: int | None = None,
    crop: bool = False,
    name: str = "image",
) -> UInt8[np.ndarray, "h w c"]:
    """Decodes a JPEG or PNG, upright, to pixels in 0..255.

    `size` is (height, width), or one number for both; the image is resized to it, antialiased and without
    keeping its proportions, or with `crop` the largest part of these proportions in its middle. A JPEG of
    twice that or more is scaled down inside the decoder, by a power of two, which makes a photograph far
    cheaper to read. `channels` is 1 (grey) or 3
    (RGB); None takes 1 for grey images and 3 for all others. The camera's note of which side is up is heeded.
    Bytes that are no intact image raise `Corrupt`, a ValueError, that says `name`.
    """
    if channels not in (None, 1, 3):
        raise ValueError(f"channels={channels}; an image decodes to 1 (grey) or 3 (RGB)")
    height, width = (size, size) if isinstance(size, int) else size or (0, 0)
    try:
        header = _jpeg_header(data)
        if header is None:
            image: Image.Image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
            if image.mode[0] in "IF":
                raise ValueError(f"its pixels, of mode {image.mode}, have more than 8 bits")
            image = ImageOps.exif_transpose(image)
            mode = {1: "L", 3: "RGB"}[channels or (1 if image.mode in ("1", "L", "LA") else 3)]
            image = image if image.mode == mode else image.convert(mode)
        else:
            image = _jpeg(data, header, channels, max(height, width))
        if size is not None and image.size != (width, height):
            box = _middle(image.size, width / height) if crop else None
            image = image.resize((width, height), Image.Resampling.BILINEAR, box)
        pixels = np.asarray(image)
    except BROKEN as error:  # of which one names an address in memory, another in every process
        reason = "its head is of neither" if isinstance(error, UnidentifiedImageError) else error
        raise Corrupt(f"{name} is no intact JPEG or PNG ({len(data):,} bytes): {reason}") from error
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _middle(size: tuple[int, int], aspect: float) -> tuple[float, float, float, float]:
    """Returns the largest centred box (left, top, right, bottom) with that width over height."""
    width, height = min(size[0], size[1] * aspect), min(size[1], size[0] / aspect)
    return (size[0] - width) / 2, (size[1] - height) / 2, (size[0] + width) / 2, (size[1] + height) / 2


class Header(NamedTuple):
    """What the head of a JPEG tells, sizes in pixels."""

    height: int
    width: int
    bands: int
    orientation: int


def _jpeg(data: bytes, header: Header, channels: int | None, size: int) -> Image.Image:
    """Decodes a JPEG upright, no smaller than `size` each way where it can choose (0: in full size).

    `Image.open` spends as long on the metadata of a small JPEG as on its pixels and holds the interpreter
    lock meanwhile. Calling Pillow's decoder itself is faster and threads scale (experiments/LOG.md).
    """
    mode = "L" if (channels or header.bands) == 1 else "RGB"
    scale = 1
    while size and scale < 8 and min(header.height, header.width) // (2 * scale) >= size:
        scale *= 2
    shape = (-(-header.width // scale), -(-header.height // scale))
    image = Image.frombytes(mode, shape, data, "jpeg", mode, "", scale, 0)
    return image.transpose(UPRIGHT[header.orientation]) if header.orientation in UPRIGHT else image


def _jpeg_header(data: bytes) -> Header | None:
    """Reads the head of a grey or colour JPEG of 8 bits; None for all else, which Pillow must look at."""
    if data[:2] != b"\xff\xd8":
        return None
    orientation, start = 1, 2
    while start + 10 <= len(data) and data[start] == 0xFF:
        marker, extent = data[start + 1], int.from_bytes(data[start + 2 : start + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2):
            bits, height, width, bands = struct.unpack_from(">BHHB", data, start + 4)
            plain = bits == 8 and bands in (1, 3) and height and width
            if plain and height * width <= (Image.MAX_IMAGE_PIXELS or height * width):
                return Header(height, width, bands, orientation)
            return None
        if marker == 0xE1 and data[start + 4 : start + 10] == b"Exif\0\0":
            orientation = _orientation(data[start + 10 : start + 2 + extent])
        if marker == 0xDA or extent < 2:
            return None
        start += 2 + extent
    return None


def _orientation(exif: bytes) -> int:
    """Returns the orientation that Exif data notes, 1 (upright) where they note none or are broken."""
    order = "<" if exif[:2] == b"II" else ">"
    with contextlib.suppress(struct.error):
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for tag, _, _, value in struct.iter_unpack(
            order + "HHIH2x", exif[start + 2 : start + 2 + 12 * count]
        ):
            if tag == 274:
                return value
    return 1


def statistics(split: Split, key: str = "image") -> tuple[Float32[np.ndarray, "c"], Float32[np.ndarray, "c"]]:
    """Returns mean and standard deviation of each channel, in the units of the stored pixels.

    Give it the training split only: numbers learned from held-out images are a leak. `split[key]` ends in a
    channel axis; sums run in float64 over chunks, so the result depends on no batch size and little memory
    is needed. A channel that never varies gets standard deviation 1, so that it can be divided by.
    """
    count, total, square = 0, np.float64(0), np.float64(0)
    for pixels in _chunks(split, key):
        values = pixels.reshape(-1, pixels.shape[-1]).astype(np.float64)
        count += len(values)
        total = total + values.sum(axis=0)
        square = square + np.einsum("nc,nc->c", values, values)
    mean = total / count
    deviation = np.sqrt(np.maximum(square / count - mean**2, 0))
    constant = deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-6)
    return np.asarray(mean, np.float32), np.where(constant, 1, deviation).astype(np.float32)


def _chunks(split: Split, key: str):
    """Yields arrays that together hold every example of `split[key]` once."""
    if isinstance(split, dict):
        for start in range(0, length(split), 512):
            yield split[key][start : start + 512]
    else:
        for _, example in intact(split):
            yield example[key]

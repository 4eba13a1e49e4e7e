"""Decoding gives the pixels that Pillow gives, upright; statistics are those of all pixels."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from dlx.data.image import decode, statistics


@pytest.fixture
def picture():
    """A smooth picture of 203 x 301 pixels, different in every corner."""
    y, x = np.mgrid[:203, :301]
    pixels = np.stack([y, x // 2, 128 + 100 * np.sin(y / 30) * np.cos(x / 40)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def encode(image, kind="JPEG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_decodes_as_pillow_decodes_it(picture, mode, options):
    data = encode(picture.convert(mode), **options)
    expected = Image.open(io.BytesIO(data))
    expected = np.asarray(expected.convert("RGB") if mode == "CMYK" else expected)
    pixels = decode(data)
    assert pixels.shape == (203, 301, 1 if mode == "L" else 3)
    assert np.array_equal(pixels.reshape(expected.shape), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1"])
def test_a_png_decodes_to_grey_or_colour(picture, mode):
    pixels = decode(encode(picture.convert(mode), "PNG"))
    grey = mode in ("L", "LA", "1")
    assert pixels.shape == (203, 301, 1 if grey else 3)
    reference = picture.convert(mode).convert("L" if grey else "RGB")
    assert np.array_equal(pixels.reshape(np.asarray(reference).shape), np.asarray(reference))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_come_upright(picture, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    data = encode(picture, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(decode(data), expected)


@pytest.mark.parametrize("size", [(40, 60), (203, 301), 100, (300, 100)])
def test_a_resized_image_is_close_to_the_full_one_resized(picture, size):
    height, width = (size, size) if isinstance(size, int) else size
    for kind in ("JPEG", "PNG"):
        pixels = decode(encode(picture, kind), size)
        assert pixels.shape == (height, width, 3)
        expected = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), float)
        assert np.abs(pixels - expected).mean() < 2


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_can_be_chosen(picture, channels):
    for mode in ("RGB", "L", "P", "RGBA"):
        assert decode(encode(picture.convert(mode), "PNG"), channels=channels).shape[-1] == channels
    for mode in ("RGB", "L", "CMYK"):
        pixels = decode(encode(picture.convert(mode)), channels=channels)
        assert pixels.shape[-1] == channels
        reference = picture.convert("L" if channels == 1 or mode == "L" else "RGB")
        assert np.abs(pixels - np.asarray(reference, float).reshape(203, 301, -1)).mean() < 4
    with pytest.raises(ValueError, match="channels=2"):
        decode(b"", channels=2)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("part", [0, 3, 30, 0.3, 0.9])
def test_a_truncated_image_is_named(picture, kind, part):
    data = encode(picture, kind)
    cut = data[: part if isinstance(part, int) else int(part * len(data))]
    with pytest.raises(ValueError, match=r"cat 7 is no intact JPEG or PNG"):
        decode(cut, name="cat 7")


def test_other_bytes_are_named():
    deep = encode(Image.fromarray(np.full((4, 4), 40_000, np.uint16)), "PNG")
    for data in (deep, b"not an image at all", b"\xff\xd8" + bytes(100), b"\xff\xd8\xff\xc0" + bytes(4)):
        with pytest.raises(ValueError, match="no intact"):
            decode(data)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_statistics_are_those_of_all_pixels(dtype):
    image = np.random.default_rng(0).integers(0, 256, (1100, 5, 4, 3)).astype(dtype)
    mean, deviation = statistics({"image": image})
    assert mean.dtype == deviation.dtype == np.float32
    np.testing.assert_allclose(mean, image.mean(axis=(0, 1, 2), dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(deviation, image.std(axis=(0, 1, 2), dtype=np.float64), rtol=1e-6)
    one_by_one = [{"image": example} for example in image[:100]]
    again = statistics(one_by_one)
    np.testing.assert_allclose(again, statistics({"image": image[:100]}), rtol=1e-6)


def test_a_constant_channel_can_be_divided_by():
    image = np.full((4, 2, 2, 2), 7, np.uint8)
    image[0, ..., 1] = 9
    mean, deviation = statistics({"image": image})
    assert mean[0] == 7 and deviation[0] == 1 and 0 < deviation[1] < 1


@pytest.mark.parametrize("size", [(40, 40), (20, 60), (60, 20)])
def test_a_cropped_image_is_the_resized_middle(picture, size):
    """The largest middle part of the wanted proportions, cut by hand, then resized."""
    height, width = size
    left, top = (301 - min(301, 203 * width / height)) / 2, (203 - min(203, 301 * height / width)) / 2
    box = (left, top, 301 - left, 203 - top)
    expected = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box))
    assert np.array_equal(decode(encode(picture, "PNG"), size, crop=True), expected)
    jpeg = decode(encode(picture, quality=95), size, crop=True)
    assert np.abs(jpeg.astype(int) - expected).mean() < 3
    stretched = decode(encode(picture, "PNG"), size)
    assert np.abs(stretched.astype(int) - expected).mean() > 5

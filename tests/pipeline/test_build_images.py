import io

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from bioclip_jax.errors import UsageError
from bioclip_jax.images import ImageError, decode
from bioclip_jax.pipeline.build_images import ImageOptions, look, resized, storable_image
from bioclip_jax.pipeline.prepare import Prepared, Rejected, prepare

pytestmark = pytest.mark.core

HEADER = ImageOptions(check="header")


def smooth(height, width):
    """Waves that every way of shrinking keeps: float [height, width, 3], 0..255."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return np.stack([127 + 100 * np.sin(5 * x + k) * np.cos(4 * y + k) for k in range(3)], axis=-1)


def jpeg(pixels, **options):
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels, np.uint8), 95, "RGB", "420", **options)


def opened(data):
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize(
    ("size", "geometry", "expected"),
    [
        ((300, 200), "shorter_side", (96, 64)),
        ((200, 300), "shorter_side", (64, 96)),
        ((300, 60), "shorter_side", (300, 60)),
        ((70, 65), "shorter_side", (69, 64)),
        ((300, 200), "squash", (64, 64)),
        ((30, 200), "squash", (64, 64)),
    ],
)
def test_images_get_the_size_that_is_asked_for_and_look_the_same(size, geometry, expected):
    data = storable_image(jpeg(smooth(*size)), ImageOptions(resize=64, geometry=geometry))
    image = opened(data)
    assert (image.height, image.width, image.format, image.mode) == (*expected, "JPEG", "RGB")
    y, x = np.mgrid[: expected[0], : expected[1]] + 0.5
    map_x, map_y = x * size[1] / expected[1] - 0.5, y * size[0] / expected[0] - 0.5
    truth = cv2.remap(
        smooth(*size).astype(np.float32),
        map_x.astype(np.float32),
        map_y.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    assert np.abs(np.asarray(image, float) - truth).mean() < 3


def test_what_has_the_size_already_goes_in_untouched():
    data = jpeg(smooth(64, 64))
    for geometry in ("shorter_side", "squash"):
        assert storable_image(data, ImageOptions(resize=64, geometry=geometry)) is data
    wide = jpeg(smooth(64, 96))
    assert storable_image(wide, ImageOptions(resize=64)) is wide


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "BMP"])
def test_images_of_other_formats_are_resized_too(photo, file_format):
    image = opened(storable_image(photo(0, size=(120, 80), file_format=file_format), ImageOptions(resize=32)))
    assert (image.size, image.format) == ((48, 32), "JPEG")


def test_quality_and_subsampling_are_those_asked_for():
    pixels = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    sizes = [len(storable_image(pixels, ImageOptions(quality=quality))) for quality in (30, 75, 95)]
    assert sizes == sorted(set(sizes))
    assert simplejpeg.decode_jpeg_header(storable_image(pixels))[2:] == ("YCbCr", "420")


def test_pixels_without_an_encoding_become_a_jpeg():
    pixels = smooth(60, 90).astype(np.uint8)
    stored = storable_image(pixels)
    assert opened(stored).format == "JPEG"
    assert np.abs(decode(stored).astype(float) - pixels).mean() < 2
    assert opened(storable_image(pixels, ImageOptions(resize=30))).size == (45, 30)
    reversed_columns = storable_image(pixels[:, ::-1])  # not contiguous
    assert np.array_equal(decode(reversed_columns), decode(storable_image(pixels[:, ::-1].copy())))


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((4, 4, 3), np.float32), "image is not uint8 [height, width, 3]"),
        (np.zeros((4, 4), np.uint8), "image is not uint8 [height, width, 3]"),
        (np.zeros((0, 4, 3), np.uint8), "image empty"),
        (np.broadcast_to(np.uint8(0), (70_000, 20, 3)), "image too large"),
        (np.broadcast_to(np.uint8(0), (30_000, 30_000, 3)), "image too large"),
    ],
)
def test_pixels_that_are_no_image_are_rejected_with_the_reason(record, list_source, pixels, reason):
    rejected = prepare(list_source([record(0, image=pixels)]), 0)
    assert isinstance(rejected, Rejected)
    assert (rejected.key, rejected.reason) == ("photo 0", reason)


def test_a_look_at_the_header_passes_bytes_through_and_refuses_what_has_no_end(photo):
    whole = photo(0, size=(64, 64))
    assert storable_image(whole, HEADER) is whole
    padded = whole + bytes(100)
    assert storable_image(padded, HEADER) is padded
    with pytest.raises(ImageError) as caught:
        storable_image(whole[:-40], HEADER)
    assert caught.value.reason == "truncated"
    damaged = whole[:700] + bytes(60) + whole[760:]
    assert storable_image(damaged, HEADER) is damaged  # which only decoding shows


@pytest.mark.parametrize(("mode", "file_format"), [("CMYK", "JPEG"), ("P", "PNG"), ("RGB", "PNG")])
def test_with_a_look_at_the_header_other_formats_are_decoded_all_the_same(photo, mode, file_format):
    data = photo(0, mode=mode, file_format=file_format)
    assert storable_image(data, HEADER) == storable_image(data)
    with pytest.raises(ImageError):
        storable_image(data[: len(data) // 2], HEADER)


@pytest.mark.parametrize("check", ["decode", "header"])
@pytest.mark.parametrize("resize", [None, 16])
def test_a_look_foretells_what_goes_in_as_it_is(photo, check, resize):
    options = ImageOptions(resize=resize, check=check)
    images = [photo(1, mode=mode, file_format=kind) for mode, kind in (("RGB", "JPEG"), ("L", "PNG"), ("P", "GIF"))]
    images += [photo(2, size=(16, 16)), photo(1)[:2] + b"\xff\xe2\x00\x0eICC_PROFILE\0" + photo(1)[2:]]
    for image in images:
        assert look(image, options).as_is == (storable_image(image, options) is image)
        assert look(image, options, pixels=True).as_is == look(image, options).as_is
        assert look(image, options, pixels=True).pixels.shape[2] == 3


@pytest.mark.parametrize("check", ["decode", "header"])
def test_a_truncated_jpeg_is_not_resized_into_a_grey_one(photo, check):
    data = photo(0, size=(200, 160))
    with pytest.raises(ImageError) as caught:
        storable_image(data[: len(data) // 2], ImageOptions(resize=32, check=check))
    assert caught.value.reason == "truncated"


def test_images_that_were_looked_at_before_go_in_without_another_look(record, list_source):
    odd = record(0, image=b"looked at before")
    prepared = prepare(list_source([odd]), 0, as_is=True)
    assert isinstance(prepared, Prepared)
    assert b"looked at before" in prepared.example


def test_shrinking_averages_all_pixels():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.array_equal(resized(stripes, 16, 16), np.full((16, 16, 3), 100))


@pytest.mark.parametrize(
    "options", [{"resize": 0}, {"resize": 10**6}, {"quality": 0}, {"quality": 101}, {"geometry": "crop"}, {"check": ""}]
)
def test_options_that_make_no_sense_are_usage_errors(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        ImageOptions(**options)


def test_a_geometry_without_a_size_is_refused():
    with pytest.raises(UsageError, match="--geometry squash: says how to --resize"):
        ImageOptions(geometry="squash")

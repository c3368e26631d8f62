import copy
import hashlib
import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from bioclip_jax.errors import UsageError
from bioclip_jax.images import (
    CROP_DRAWS,
    MAX_FILE_BYTES,
    ImageError,
    centre_crop_geometry,
    decode,
    evaluation_image,
    open_image,
    random_resized_crop_box,
    resized_crop,
    squash,
    training_image,
)
from bioclip_jax.pipeline.photo_table import read_image
from bioclip_jax.pipeline.record import BadRecord

pytestmark = pytest.mark.core

GOLDENS = Path(__file__).parent / "goldens" / "text_image"
GOLDEN = json.loads((GOLDENS / "preprocess.json").read_text(encoding="utf-8"))
ARRAYS = np.load(GOLDENS / "preprocess.npz", allow_pickle=False)
FILES = [image["file"] for image in GOLDEN["images"]]
JPEGS = [GOLDENS / "images" / file for file in FILES if file.endswith(".jpg")]
# A folder with photos of one's own widens the truncation test.
if photos := os.environ.get("BIOCLIP_JAX_PHOTOS"):
    JPEGS += sorted(Path(photos).rglob("*.jpg"))[:2000:100]


def digest(pixels):
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def png(width, height, content=b""):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("golden", GOLDEN["images"], ids=FILES)
def test_pixels_are_those_of_the_reference(golden):
    path = GOLDENS / "images" / golden["file"]
    assert digest(decode(path.read_bytes())) == golden["decoded_rgb"]
    for size in (96, 93, 224):
        assert digest(evaluation_image(path, size)) == golden[f"eval_{size}"]


@pytest.mark.parametrize("file", FILES)
def test_squash_is_that_of_pybioclip(file):
    path = GOLDENS / "images" / file
    reference = ARRAYS[f"squash_40/{file}"].transpose(1, 2, 0)
    np.testing.assert_allclose(squash(path, 40), reference, atol=1e-5)
    rounded = evaluation_image(path, 40, "squash", "bilinear")
    assert rounded.dtype == np.uint8
    assert np.abs(rounded - 255.0 * reference).max() < 0.501


def test_paths_bytes_and_opened_images_give_the_same_pixels():
    path = GOLDENS / "images" / "photo_baseline.jpg"
    expected = evaluation_image(path, 32)
    for source in (str(path), path.read_bytes(), Image.open(path), open_image(path)):
        np.testing.assert_array_equal(evaluation_image(source, 32), expected)


def test_bicubic_squash_stays_within_uint8():
    checks = Image.fromarray(np.kron(np.indices((5, 5)).sum(0) % 2 * 255, np.ones((3, 3))).astype(np.uint8))
    squashed = evaluation_image(checks, 40, "squash")
    assert squashed.min() == 0
    assert squashed.max() == 255


def test_decode_gives_the_pixels_of_pillow_for_rgb_jpeg_and_transparent_palettes():
    photo = Image.open(GOLDENS / "images" / "photo_baseline.jpg")
    for data in (
        encoded(photo, "JPEG", keep_rgb=True),
        encoded(photo.quantize(16), "PNG", transparency=3),
        encoded(photo.convert("F"), "TIFF"),
    ):
        np.testing.assert_array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        assert evaluation_image(data, 16).shape == (16, 16, 3)


@pytest.mark.parametrize("path", JPEGS, ids=lambda path: path.name)
def test_a_truncated_jpeg_is_never_taken_for_a_picture(path):
    data = path.read_bytes()
    whole = decode(data)
    assert whole.shape == (*Image.open(io.BytesIO(data)).size[::-1], 3)
    for length in {*range(2, len(data), len(data) // 12 + 1), len(data) - 30, len(data) - 3}:
        with pytest.raises(ImageError) as caught:
            decode(data[:length])
        assert caught.value.reason == "truncated", length


@pytest.mark.parametrize("path", JPEGS, ids=lambda path: path.name)
def test_a_jpeg_without_its_end_marker_is_whole_or_refused(path):
    data = path.read_bytes()
    try:
        pixels = decode(data[:-2])
    except ImageError as error:
        reason = error.reason
    else:
        reason = "truncated"
        np.testing.assert_array_equal(pixels, decode(data))
    assert reason == "truncated"


@pytest.mark.parametrize("file", ["rgba.png", "gray16.png", "animated.gif", "lossy.webp", "photo_lossless.webp"])
def test_other_formats_cut_short_are_truncated(file):
    data = (GOLDENS / "images" / file).read_bytes()
    for length in (12, len(data) // 8):
        with pytest.raises(ImageError) as caught:
            decode(data[:length])
        assert caught.value.reason == "truncated"


HUGE_JPEG = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
HUGE_JPEG[HUGE_JPEG.index(b"\xff\xc0") + 5 : HUGE_JPEG.index(b"\xff\xc0") + 9] = struct.pack(">HH", 65500, 65500)


# pytest shows the warnings that the module silences.
@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (png(0, 5), "empty"),
        (b"<html>404</html>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"\x00" * 5000, "not an image"),
        (png(30_000, 30_000), "too large"),
        (png(10_000, 10_000), "too large"),
        (bytes(HUGE_JPEG), "too large"),
        (png(1, 80_000, bytes(4 * 80_000)), "too large"),  # 14 million pixels tall when 224 wide
        (png(9, 9, bytes(28 * 9)).replace(b"IDAT", b"IDAX"), "corrupt"),
        (png(9, 9, bytes(28 * 9))[:50] + b"\xff" * 20 + b"IEND", "corrupt"),
    ],
    ids=range(11),
)
def test_what_is_no_usable_image_gets_one_line_and_a_fixed_reason(data, reason):
    with pytest.raises(ImageError) as caught:
        evaluation_image(data, 224)
    assert caught.value.reason == reason
    assert str(caught.value).startswith(f"image: {reason} (")
    assert "\n" not in str(caught.value)


def test_paths_that_cannot_be_read_are_named(tmp_path):
    for path, reason in ((tmp_path / "no.jpg", "no such file"), (tmp_path, "unreadable"), ("a\0b.jpg", "unreadable")):
        with pytest.raises(ImageError) as caught:
            open_image(path)
        assert caught.value.reason == reason
        assert str(caught.value).startswith(f"{path}: {reason} (")


def test_the_largest_image_read_is_the_callers_choice():
    data = (GOLDENS / "images" / "photo_baseline.jpg").read_bytes()  # 256 x 171
    assert decode(data, max_pixels=256 * 171).shape == (171, 256, 3)
    with pytest.raises(ImageError, match="256 x 171 pixels; at most 43,775"):
        decode(data, max_pixels=256 * 171 - 1)


def test_an_empty_opened_image_is_refused():
    with pytest.raises(ImageError, match="empty"):
        evaluation_image(Image.new("RGB", (0, 5)), 8)


def test_image_errors_cross_process_boundaries():
    error = ImageError("corrupt", "x.jpg", "two\nlines")
    rebuilt = copy.deepcopy(error)  # by the same protocol as pickling
    assert (str(rebuilt), rebuilt.reason, rebuilt.exit_code) == ("x.jpg: corrupt (two lines)", "corrupt", 1)


def test_unknown_geometry_and_interpolation_are_usage_errors():
    image = Image.new("RGB", (4, 4))
    with pytest.raises(UsageError, match="geometry 'stretch'"):
        evaluation_image(image, 4, "stretch")
    with pytest.raises(UsageError, match="interpolation 'cubic'"):
        evaluation_image(image, 4, "squash", "cubic")


def test_resized_size_and_crop_offset_are_rounded_as_in_torchvision():
    for case in GOLDEN["resize_and_centre_crop"]:
        expected = tuple(case[key] for key in ("resized_width", "resized_height", "top", "left"))
        assert centre_crop_geometry(case["width"], case["height"], case["size"]) == expected


@pytest.mark.parametrize(
    "golden", GOLDEN["random_resized_crop_distribution"], ids=lambda g: f"{g['width']}x{g['height']}"
)
def test_random_resized_crops_have_the_distribution_of_torchvision(golden):
    generator, draws = np.random.default_rng(11), golden["draws"]
    height, width = golden["height"], golden["width"]
    boxes = np.array([random_resized_crop_box(row, height, width) for row in generator.random((draws, CROP_DRAWS))])
    standard_error = np.sqrt((boxes.var(0) + np.square(golden["std"])) / draws)
    assert np.all(np.abs(boxes.mean(0) - golden["mean"]) < 4 * standard_error)
    np.testing.assert_allclose(boxes.std(0), golden["std"], rtol=0.05)
    quantiles = np.quantile(boxes, (0.05, 0.25, 0.5, 0.75, 0.95), axis=0).T
    np.testing.assert_allclose(quantiles, golden["quantiles_5_25_50_75_95"], atol=1)
    whole = np.mean((boxes[:, 2] == golden["height"]) & (boxes[:, 3] == golden["width"]))
    assert abs(whole - golden["whole_image"]) < 4 * np.sqrt(2 * 0.12 / draws)


def test_random_resized_crop_falls_back_to_the_centre():
    draws = np.random.default_rng(0).random(CROP_DRAWS)
    for case in GOLDEN["random_resized_crop_fallback"]:
        box = random_resized_crop_box(draws, case["height"], case["width"])
        assert box == tuple(case["box_top_left_height_width"])


@pytest.mark.parametrize("golden", GOLDEN["crops"], ids=lambda golden: f"{golden['kind']}-{golden['file']}")
def test_training_crops_stay_close_to_antialiased_bicubic(golden):
    image = decode((GOLDENS / "images" / golden["file"]).read_bytes())
    cropped = resized_crop(image, tuple(golden["box_top_left_height_width"]), 64)
    assert cropped.shape == (64, 64, 3)
    assert cropped.dtype == np.uint8
    reference = ARRAYS[f"crop_64_horizontal_first_{golden['kind'].replace(' ', '_')}/{golden['file']}"]
    assert np.sqrt(np.mean((cropped - reference.astype(float)) ** 2)) < 5


def jpeg(height, width, seed=0):
    """A smooth picture, as photos are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    pixels = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return simplejpeg.encode_jpeg(pixels, quality=95)


@pytest.mark.parametrize("shape", [(64, 64), (480, 720), (720, 330), (1600, 1200)], ids=str)
def test_training_image_is_the_crop_of_the_photo_also_where_it_is_decoded_smaller(shape):
    data, draws = jpeg(*shape), np.random.default_rng(2).random(CROP_DRAWS)
    out = np.empty((64, 64, 3), np.uint8)
    training_image(data, draws, out)
    whole = resized_crop(decode(data), random_resized_crop_box(draws, *shape), 64)
    assert np.sqrt(np.mean((out - whole.astype(float)) ** 2)) < (2 if min(shape) > 256 else 1e-9)


def test_training_image_of_pixels_is_that_of_the_same_photo_encoded():
    data, draws = jpeg(70, 90), np.random.default_rng(3).random(CROP_DRAWS)
    encoded, pixels = np.empty((2, 64, 64, 3), np.uint8)
    training_image(data, draws, encoded)
    training_image(decode(data), draws, pixels)
    np.testing.assert_array_equal(encoded, pixels)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "CMYK"])
def test_training_image_takes_what_is_no_plain_jpeg(file_format):
    image, buffer = Image.open(io.BytesIO(jpeg(96, 96))), io.BytesIO()
    if file_format == "CMYK":
        image.convert("CMYK").save(buffer, "JPEG")
    else:
        image.save(buffer, file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    out = np.empty((64, 64, 3), np.uint8)
    training_image(buffer.getvalue(), [0.5] * CROP_DRAWS, out)
    expected = np.empty((64, 64, 3), np.uint8)
    training_image(decode(jpeg(96, 96)), [0.5] * CROP_DRAWS, expected)
    assert np.abs(out.astype(int) - expected).mean() < (3 if file_format == "CMYK" else 1e-9)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8\xff nothing", jpeg(96, 96)[:900], np.zeros((4, 4), np.uint8)], ids=repr
)
def test_training_image_refuses_what_is_none(data):
    with pytest.raises(ImageError):
        training_image(data, [0.5] * CROP_DRAWS, np.empty((64, 64, 3), np.uint8))


def test_a_crop_of_its_own_size_is_cut_out_unchanged():
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    cropped = resized_crop(image, (3, 5, 32, 32), 32)
    np.testing.assert_array_equal(cropped, image[3:35, 5:37])
    assert cropped.flags.c_contiguous


def test_a_small_file_that_would_take_minutes_is_refused():
    buffer = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    bomb = data[:-2] + data[last:-2] * 100 + data[-2:]
    for refuse in (decode, open_image):
        with pytest.raises(ImageError, match=r"too large \(9000 x 9000 pixels in 1\d\d scans\)"):
            refuse(bomb)


def test_a_file_larger_than_any_photo_is_not_read(tmp_path):
    path = tmp_path / "scan.tif"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ImageError, match=r"scan\.tif: too large \(a file of more than 1,073,741,824 bytes\)"):
        open_image(path)
    with pytest.raises(BadRecord, match="file has more than"):
        read_image(tmp_path, "scan.tif", "scan")


def test_what_lies_behind_a_photo_or_inside_as_a_thumbnail_is_no_scan():
    buffer = io.BytesIO()
    Image.new("RGB", (7000, 7000)).save(buffer, "JPEG")
    photo = buffer.getvalue()
    thumbnail = b"\xff\xe1" + (2 + 60_000).to_bytes(2, "big") + b"\xff\xda" * 30_000
    behind = np.random.default_rng(0).bytes(2_000_000)
    assert behind.count(b"\xff\xda") > 20
    assert decode(photo[:2] + thumbnail + photo[2:] + behind).shape == (7000, 7000, 3)

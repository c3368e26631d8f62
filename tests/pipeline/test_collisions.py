import hashlib
import io
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from bioclip_jax.errors import UsageError
from bioclip_jax.images import decode
from bioclip_jax.pipeline.collisions import PDQ_DISTANCE, Collisions, read_collisions
from bioclip_jax.pipeline.pdq import pdq_hash

pytestmark = pytest.mark.core

QUIET = Console(file=io.StringIO())
OTHER_FILE = bytes(16)


def flipped(code, bits):
    number = int.from_bytes(code, "big")
    for bit in bits:
        number ^= 1 << bit
    return number.to_bytes(32, "big")


def distance(one, other):
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()


def md5(data):
    return hashlib.md5(data, usedforsecurity=False).digest()


def collisions_of(codes):
    return Collisions(
        [str(i) for i in range(len(codes))], [i.to_bytes(16, "big") for i in range(1, len(codes) + 1)], codes
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_the_search_finds_what_comparing_with_every_hash_finds(data):
    centres = data.draw(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=4))
    near = st.builds(flipped, st.sampled_from(centres), st.sets(st.integers(0, 255), max_size=14))
    codes = data.draw(st.lists(near, max_size=12))
    query = data.draw(near)
    found = collisions_of(codes).find(OTHER_FILE, query)
    distances = [distance(code, query) for code in codes if code != bytes(32)]
    if min(distances, default=256) < PDQ_DISTANCE:
        assert distance(codes[int(found)], query) == min(distances)
    else:
        assert found == ""


@pytest.mark.parametrize("bits", [range(0, 256, 29), range(9), range(247, 256), range(25, 250, 25)])
def test_nine_bits_wherever_they_lie_are_a_collision_and_ten_are_not(bits):
    bits = list(bits)
    code = np.random.default_rng(0).bytes(32)
    collisions = collisions_of([code])
    assert len(bits) == PDQ_DISTANCE - 1
    assert collisions.find(OTHER_FILE, flipped(code, bits)) == "0"
    assert collisions.find(OTHER_FILE, flipped(code, [*bits, 128])) == ""


def test_pictures_too_small_for_a_hash_do_not_collide_with_each_other():
    collisions = collisions_of([bytes(32)])
    assert not collisions.needs_pdq
    assert collisions.find(OTHER_FILE, bytes(32)) == ""


@pytest.fixture
def folder(tmp_path, photo):
    """Two evaluation sets: three photos, a damaged one, and files that are no images."""
    (tmp_path / "birds" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "plants").mkdir()
    (tmp_path / "birds" / "a.jpg").write_bytes(photo(1, size=(80, 60)))
    (tmp_path / "birds" / "deep" / "er" / "b.PNG").write_bytes(photo(2, size=(64, 64), file_format="PNG"))
    (tmp_path / "birds" / "labels.csv").write_text("a.jpg,0")
    (tmp_path / "plants" / "c.webp").write_bytes(photo(3, size=(90, 90), file_format="WEBP"))
    (tmp_path / "plants" / "broken.jpg").write_bytes(photo(4)[:200])
    return tmp_path


def test_the_same_bytes_and_the_same_picture_are_found_and_named(folder, photo):
    collisions = read_collisions([folder / "birds", folder / "plants"], console=QUIET)
    assert len(collisions) == 4
    assert collisions.needs_pdq
    data = photo(3, size=(90, 90), file_format="WEBP")
    assert collisions.find(md5(data)) == str(folder / "plants" / "c.webp")
    copy = io.BytesIO()
    Image.fromarray(decode(photo(2, size=(64, 64), file_format="PNG"))).save(copy, "JPEG", quality=60)
    assert collisions.find(OTHER_FILE, pdq_hash(decode(copy.getvalue()))) == str(
        folder / "birds" / "deep" / "er" / "b.PNG"
    )
    assert collisions.find(OTHER_FILE, pdq_hash(decode(photo(9, size=(64, 64))))) == ""


def test_an_image_that_cannot_be_decoded_is_named_and_still_found_by_its_bytes(folder, photo):
    collisions = read_collisions([folder], console=QUIET)
    assert collisions.unreadable == (f"{folder / 'plants' / 'broken.jpg'}: truncated",)
    assert collisions.find(md5(photo(4)[:200])).endswith("broken.jpg")
    assert f"  {folder / 'plants' / 'broken.jpg'}: truncated" in collisions.lines()


def test_a_pickled_copy_finds_the_same_and_the_fingerprint_tells_other_sets_apart(folder):
    collisions = read_collisions([folder / "birds", folder / "plants"], threads=1, console=QUIET)
    copy = pickle.loads(pickle.dumps(collisions))  # noqa: S301 our own
    digest = md5((folder / "birds" / "a.jpg").read_bytes())
    assert copy.find(digest) == str(folder / "birds" / "a.jpg")
    assert copy.fingerprint == read_collisions([folder / "plants", folder / "birds"], console=QUIET).fingerprint
    assert copy.fingerprint != read_collisions([folder / "birds"], console=QUIET).fingerprint


def test_a_folder_that_is_missing_or_holds_no_images_is_refused(folder):
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        read_collisions([folder / "nowhere"], console=QUIET)
    (folder / "empty").mkdir()
    with pytest.raises(UsageError, match="empty: no image files below it"):
        read_collisions([folder, folder / "empty"], console=QUIET)

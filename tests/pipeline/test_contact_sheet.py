import numpy as np
import pytest

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.contact_sheet import contact_sheet
from bioclip_jax.pipeline.record import BadRecord

pytestmark = pytest.mark.core


@pytest.fixture
def splits(list_source, record):
    return {"train": list_source([record(i) for i in range(9)]), "test": list_source([record(i) for i in range(2)])}


def test_the_sheet_grows_with_its_rows_and_columns_and_shows_the_photos(splits):
    small = contact_sheet(splits, title="wagtails", columns=2, rows=1, cell=96)
    large = contact_sheet(splits, title="wagtails", columns=3, rows=3, cell=96)
    assert large.width > small.width
    assert large.height > 2 * small.height
    photos = np.asarray(large)[100:]
    assert len(np.unique(photos.reshape(-1, 3), axis=0)) > 1000


def test_the_same_seed_draws_the_same_sheet_and_another_one_another(splits):
    sheets = [contact_sheet(splits, title="t", columns=2, rows=2, cell=64, seed=seed).tobytes() for seed in (1, 1, 2)]
    assert sheets[0] == sheets[1] != sheets[2]


def test_a_small_split_fills_what_it_can(splits):
    assert contact_sheet(splits, title="t", split="test", columns=8, rows=5, cell=64).height < 64 * 4


def test_names_in_any_alphabet_and_photos_of_any_shape_are_drawn(list_source, record, photo):
    records = [
        record(0, scientific_name="Ōkarito 鸟 🐦 \x00\u202e ذئب", common_name="x" * 500, image=photo(0, size=(400, 4))),
        record(1, **dict.fromkeys(("kingdom", "class", "genus", "species", "scientific_name", "common_name"), "")),
        record(2, image=photo(2, mode="CMYK", size=(4, 400))),
    ]
    sheet = contact_sheet({"train": list_source(records)}, title="\n".join(["a title"] * 50), cell=64)
    assert sheet.mode == "RGB"


def test_records_that_cannot_be_used_are_passed_over(list_source, record):
    bad = [BadRecord("gone", "file is missing"), record(1, image=b"no image")]
    shown = contact_sheet({"train": list_source([*bad, record(2)])}, title="t", columns=3, rows=1, cell=64)
    assert shown.size == contact_sheet({"train": list_source([record(2)])}, title="t", cell=64).size
    with pytest.raises(UserError, match="no record of the split can be shown"):
        contact_sheet({"train": list_source(bad)}, title="t")


def test_wrong_arguments_say_what_there_is(splits):
    with pytest.raises(UsageError, match="no such split; there are train, test"):
        contact_sheet(splits, title="t", split="validation")
    with pytest.raises(UsageError, match="--columns 0"):
        contact_sheet(splits, title="t", columns=0)

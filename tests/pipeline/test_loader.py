"""Which record stands where is a pure function of (seed, step, row)."""

import dataclasses

import numpy as np
import pytest
import simplejpeg

from bioclip_jax.config import DataConfig
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.loader import make_loader, order, token_bucket
from bioclip_jax.text.captions import TEXT_TYPES, caption, text_type_of_step
from bioclip_jax.text.taxonomy import Taxon
from bioclip_jax.text.tokenizer import Tokenizer

pytestmark = pytest.mark.core

BATCH = 8


@pytest.fixture
def source(list_source, record):
    """Twenty records, each with a photo and a name of its own."""
    return list_source([record(i, species=f"species{i}", scientific_name=f"Motacilla species{i}") for i in range(20)])


def loader(source, *, data=DataConfig(), seed=0, tokens=40, **process):
    return make_loader(
        source,
        data,
        image_size=16,
        context_length=77,
        global_batch_size=BATCH,
        seed=seed,
        token_lengths=dict.fromkeys(TEXT_TYPES, tokens),
        **process,
    )


def batches(loader, first, last):
    return list(loader.batches(first, last))


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["tokens"], b["tokens"])


def test_each_epoch_holds_every_record_once_in_another_order():
    places = order(20, seed=3)
    first, second = [[int(places[20 * epoch + i]) for i in range(20)] for epoch in range(2)]
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second != list(range(20))


def test_order_of_a_billion_records_takes_no_memory():
    places = order(10**9, seed=0)
    assert len({int(places[i]) for i in range(1000)}) == 1000


def test_restart_in_the_middle_gives_the_same_batches(source):
    assert_equal(batches(loader(source), 0, 6)[3:], batches(loader(source), 3, 6))


def test_threads_do_not_change_the_batches(source):
    one = dataclasses.replace(DataConfig(), threads=1, prefetch_batches=1)
    assert_equal(batches(loader(source, data=one), 0, 5), batches(loader(source), 0, 5))


def test_another_seed_is_another_order(source):
    a, b = (batches(loader(source, seed=seed), 0, 1)[0]["tokens"] for seed in (0, 1))
    assert (a != b).any()


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_hold_the_rows_that_one_host_holds(source, hosts):
    whole = batches(loader(source), 2, 5)
    parts = [batches(loader(source, process_index=i, process_count=hosts), 2, 5) for i in range(hosts)]
    joined = [
        {name: np.concatenate([part[step][name] for part in parts]) for name in ("image", "tokens")}
        for step in range(3)
    ]
    assert_equal(joined, whole)


def test_whole_batch_has_the_text_type_of_its_step(source):
    tokenizer, places = Tokenizer(), order(20, seed=0)
    for step, batch in enumerate(batches(loader(source), 0, 4)):
        taxa = [Taxon.from_record(source[int(places[step * BATCH + row])]) for row in range(BATCH)]
        expected = tokenizer([caption(taxon, text_type_of_step(step)) for taxon in taxa])
        np.testing.assert_array_equal(batch["tokens"], expected[:, : batch["tokens"].shape[1]])


def test_text_type_per_sample_mixes_types_within_a_batch(source):
    data = DataConfig(text_type_per_sample=True, text_types=("sci", "taxonTag"))
    lengths = {
        int(row.argmax()) for batch in batches(loader(source, data=data, tokens=77), 0, 2) for row in batch["tokens"]
    }
    assert len(lengths) > 1


def test_captions_are_cut_to_the_bucket_of_the_longest_one_in_the_manifest(source):
    assert batches(loader(source, tokens=20), 0, 1)[0]["tokens"].shape == (BATCH, 32)
    assert [token_bucket(n) for n in (1, 16, 17, 48, 49, 76, 90)] == [16, 16, 32, 48, 64, 77, 77]


def test_batch_is_uint8_photos_and_int32_tokens(source):
    batch = batches(loader(source), 0, 1)[0]
    assert (batch["image"].dtype, batch["image"].shape) == (np.uint8, (BATCH, 16, 16, 3))
    assert batch["tokens"].dtype == np.int32


def test_flip_mirrors_about_half_of_the_photos(list_source, record):
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, :8] = 255
    image = simplejpeg.encode_jpeg(stripes)
    source = list_source([record(i, image=image) for i in range(BATCH)])
    data = DataConfig(horizontal_flip=True, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    left = [
        bool(image[8, 2, 0] > 127) for batch in batches(loader(source, data=data), 0, 8) for image in batch["image"]
    ]
    assert 16 <= sum(left) <= 48  # 64 throws


def test_batch_larger_than_the_data_is_refused_with_both_numbers(list_source, record):
    with pytest.raises(UserError, match="global_batch_size 8 is larger than the 3 records"):
        loader(list_source([record(i) for i in range(3)]))


def test_unknown_caption_type_is_refused(source):
    with pytest.raises(UsageError, match="'latin'; the caption types are sci, com"):
        loader(source, data=DataConfig(text_types=("latin",)))


def test_unreadable_photo_names_its_record(list_source, record):
    source = list_source([record(i, image=b"\xff\xd8\xff nothing") for i in range(BATCH)])
    with pytest.raises(UserError, match=r"record 'photo [0-9]': .*data verify"):
        batches(loader(source), 0, 1)

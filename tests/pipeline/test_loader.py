"""Which record stands where is a pure function of (seed, step, row)."""

import dataclasses
import threading

import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bioclip_jax.config import DataConfig
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.bad_samples import BadSamples, Replaced
from bioclip_jax.pipeline.loader import Batch, make_loader
from bioclip_jax.pipeline.order import Order
from bioclip_jax.pipeline.record import BadRecord
from bioclip_jax.pipeline.token_lengths import token_bucket
from bioclip_jax.text.captions import TEXT_TYPES, caption, text_type_of_step
from bioclip_jax.text.taxonomy import Taxon
from bioclip_jax.text.tokenizer import END_OF_TEXT, Tokenizer

pytestmark = pytest.mark.core

BATCH = 8
NAMELESS = dict.fromkeys(("species", "genus", "class", "kingdom", "scientific_name", "common_name"), "")


@pytest.fixture
def source(list_source, record):
    """Twenty records, each with a photo and a name of its own."""
    return list_source([record(i, species=f"species{i}", scientific_name=f"Motacilla species{i}") for i in range(20)])


def loader(*sources, data=DataConfig(), seed=0, tokens=40, batch=BATCH, **more):
    return make_loader(
        sources,
        data,
        image_size=16,
        context_length=77,
        global_batch_size=batch,
        seed=seed,
        token_lengths=[dict.fromkeys(TEXT_TYPES, tokens)] * len(sources),
        **more,
    )


def batches(loader, first, last):
    return list(loader.batches(first, last))


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.tokens, b.tokens)


def test_restart_in_the_middle_gives_the_same_batches(source):
    assert_equal(batches(loader(source), 0, 6)[3:], batches(loader(source), 3, 6))


def test_threads_do_not_change_the_batches(source):
    one = dataclasses.replace(DataConfig(), threads=1, prefetch_batches=1)
    assert_equal(batches(loader(source, data=one), 0, 5), batches(loader(source), 0, 5))


def test_another_seed_is_another_order(source):
    a, b = (batches(loader(source, seed=seed), 0, 1)[0].tokens for seed in (0, 1))
    assert (a != b).any()


def joined(parts):
    """The batches that several hosts make, as one."""
    return [
        Batch(np.concatenate([p.image for p in step]), np.concatenate([p.tokens for p in step]), ()) for step in parts
    ]


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hosts=st.sampled_from([1, 2, 4, 8]),
    threads=st.integers(1, 3),
    first=st.integers(0, 50),
    block_size=st.sampled_from([1, 3, 7]),
    weights=st.sampled_from([(1.0,), (1.0, 2.5)]),
    seed=st.integers(0, 3),
)
def test_same_global_order_for_any_hosts_workers_and_restart(source, hosts, threads, first, block_size, weights, seed):
    sources = [source] * len(weights)
    plain = DataConfig(threads=2, block_size=block_size)
    whole = batches(loader(*sources, data=plain, seed=seed, weights=weights), 0, first + 2)[first:]
    data = DataConfig(threads=threads, prefetch_batches=threads, block_size=block_size)
    rows = [range(host * BATCH // hosts, (host + 1) * BATCH // hosts) for host in range(hosts)]
    parts = [loader(*sources, data=data, seed=seed, weights=weights, rows=some) for some in rows]
    steps = list(zip(*(batches(part, first, first + 2) for part in parts), strict=True))
    assert_equal(joined(steps), whole)


def test_whole_batch_has_the_text_type_of_its_step(source):
    tokenizer, order = Tokenizer(), Order(20, seed=0)
    for step, batch in enumerate(batches(loader(source), 0, 4)):
        taxa = [Taxon.from_record(source[order[step * BATCH + row]]) for row in range(BATCH)]
        expected = tokenizer([caption(taxon, text_type_of_step(step)) for taxon in taxa])
        np.testing.assert_array_equal(batch.tokens, expected[:, : batch.tokens.shape[1]])


def test_text_type_per_sample_mixes_types_within_a_batch(source):
    data = DataConfig(text_type_per_sample=True, text_types=("sci", "taxonTag"))
    lengths = {
        int(row.argmax()) for batch in batches(loader(source, data=data, tokens=77), 0, 2) for row in batch.tokens
    }
    assert len(lengths) > 1


def test_captions_are_cut_to_the_bucket_of_the_longest_one_in_the_manifest(source):
    assert batches(loader(source, tokens=20), 0, 1)[0].tokens.shape == (BATCH, 32)
    assert [token_bucket(n) for n in (1, 16, 17, 48, 49, 76, 90)] == [16, 16, 32, 48, 64, 77, 77]


def test_batch_is_uint8_photos_and_int32_tokens(source):
    batch = batches(loader(source), 0, 1)[0]
    assert (batch.image.dtype, batch.image.shape) == (np.uint8, (BATCH, 16, 16, 3))
    assert batch.tokens.dtype == np.int32


def test_flip_mirrors_about_half_of_the_photos(list_source, record):
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, :8] = 255
    image = simplejpeg.encode_jpeg(stripes)
    source = list_source([record(i, image=image) for i in range(BATCH)])
    data = DataConfig(horizontal_flip=True, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    left = [bool(image[8, 2, 0] > 127) for batch in batches(loader(source, data=data), 0, 8) for image in batch.image]
    assert 16 <= sum(left) <= 48  # 64 throws


def test_batch_larger_than_the_data_is_refused_with_both_numbers(list_source, record):
    with pytest.raises(UserError, match="global_batch_size 8 is larger than the 3 records"):
        loader(list_source([record(i) for i in range(3)]))


def test_unknown_caption_type_is_refused(source):
    with pytest.raises(UsageError, match="'latin'; the caption types are sci, com"):
        loader(source, data=DataConfig(text_types=("latin",)))


def test_a_records_own_caption_is_read_and_where_it_has_none_its_taxon(list_source, record):
    source = list_source([record(i, caption="a bird, wet" if i % 2 else "") for i in range(BATCH)])
    batch = batches(loader(source, data=DataConfig(text_types=("caption",)), tokens=77), 0, 1)[0]
    texts = {tuple(row) for row in batch.tokens.tolist()}
    captions = ["a bird, wet", *(caption(Taxon.from_record(source[i]), "taxon_com") for i in (0, 2, 4, 6))]
    assert texts == {tuple(row) for row in Tokenizer()(captions).tolist()}


def test_pixels_are_taken_as_they_are(list_source, record):
    source = list_source([record(i, image=np.full((20, 30, 3), i, np.uint8)) for i in range(BATCH)])
    batch = batches(loader(source), 0, 1)[0]
    assert sorted(int(image[0, 0, 0]) for image in batch.image) == list(range(BATCH))


def test_a_bad_record_is_replaced_by_its_neighbour_and_named(list_source, record):
    good = [record(i, image=np.full((16, 16, 3), i, np.uint8)) for i in range(BATCH)]
    entries = list(good)
    entries[2] = record(2, image=b"\xff\xd8\xff nothing")
    entries[5] = BadRecord("photo 5", "no name at any rank")
    entries[6] = record(6, image=b"")
    bad = batches(loader(list_source(entries)), 0, 2)
    plain = batches(loader(list_source(good)), 0, 2)
    for ours, theirs in zip(bad, plain, strict=True):
        shown, whole = (batch.image[:, 0, 0, 0].tolist() for batch in (ours, theirs))
        assert shown == [{2: 3, 5: 7, 6: 7}.get(value, value) for value in whole]
        assert sorted(ours.replaced) == [
            ("photo 2", "image truncated"),
            ("photo 5", "no name at any rank"),
            ("photo 6", "image empty"),
        ]


def test_data_without_any_usable_record_are_refused_with_the_first_ones_name(list_source, record):
    source = list_source([record(i, image=b"\xff\xd8\xff nothing") for i in range(BATCH)])
    with pytest.raises(
        UserError, match=r"record 'photo [0-9]' \(image truncated\) and 3 others near it cannot be used; [^\n]*$"
    ):
        batches(loader(source), 0, 1)


def test_a_source_that_fails_ends_the_run(list_source, record):
    source = list_source([record(i) for i in range(BATCH - 1)] + [UserError("shard 7 is gone")])
    with pytest.raises(UserError, match="shard 7 is gone"):
        batches(loader(source), 0, 1)


def test_too_many_bad_samples_stop_the_run_and_a_few_do_not():
    bad = BadSamples(0.02)
    for place in range(8):
        bad.add(1, [Replaced(f"photo {place}", "image truncated: at byte 3")])
    bad.add(1000, [])
    bad.add(0, [Replaced("photo 9", "image corrupt")] * 12)
    with pytest.raises(UserError, match=r"21 of 1,008 samples .*13 image corrupt, 8 image truncated; first 'photo 0'"):
        bad.add(0, [Replaced("photo 9", "image corrupt")])


def test_a_caption_that_stands_in_for_a_missing_one_keeps_its_end(list_source, record):
    source = list_source([record(i, caption="wet" if i % 2 else "") for i in range(BATCH)])
    lengths = [{"caption": 3, "taxon_com": 20}]
    options = {"image_size": 16, "context_length": 77, "global_batch_size": BATCH, "seed": 0, "token_lengths": lengths}
    batch = batches(make_loader([source], DataConfig(text_types=("caption",)), **options), 0, 1)[0]
    assert (batch.tokens == END_OF_TEXT).any(axis=1).all()


@pytest.mark.parametrize(
    ("changes", "reason"), [({"image": None}, "no image"), (NAMELESS, "no name at any rank")], ids=["image", "name"]
)
def test_a_record_of_a_careless_recipe_is_replaced(list_source, record, changes, reason):
    source = list_source([record(0, **changes)] + [record(i) for i in range(1, BATCH)])
    (replaced,) = batches(loader(source), 0, 1)[0].replaced
    assert replaced.key == "photo 0"
    assert replaced.reason.startswith(reason)


def test_a_recipe_that_fails_is_one_line(list_source, record):
    source = list_source([record(i) for i in range(BATCH - 1)] + [ValueError("oops")])
    with pytest.raises(UserError, match=r"^record 7: the source raised ValueError: oops$"):
        batches(loader(source), 0, 1)


def test_whoever_stops_does_not_wait_for_batches_that_nobody_takes(source):
    """Three hundred records of a slow source are begun; the first few are all that is read once it is closed."""
    read, go = [], threading.Event()

    class Slow:
        def __len__(self):
            return 20

        def __getitem__(self, index):
            if len(read) >= BATCH:
                go.wait(60)
            read.append(index)
            return source[index]

    data = DataConfig(threads=1, prefetch_batches=40)
    made = loader(Slow(), data=data).batches(0, 40)
    next(made)
    closing = threading.Thread(target=made.close)
    closing.start()
    go.set()
    closing.join(60)
    assert not closing.is_alive()
    assert len(read) < 40 * BATCH

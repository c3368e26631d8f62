"""What a plan takes from the user's data, and from a user's price list."""

import dataclasses

import pytest

from bioclip_jax.config import CLIPConfig, DataConfig, TrainConfig
from bioclip_jax.errors import UsageError
from bioclip_jax.pipeline.manifest import Manifest, ShardFile, write_manifest
from bioclip_jax.planning.inputs import Rates, Stream, streams_of
from bioclip_jax.planning.price import read_prices

pytestmark = pytest.mark.core

CHIPS = ("v5e", "v5p", "h100")


@pytest.fixture
def dataset(tmp_path):
    """A dataset directory as far as a plan looks at it: a manifest, and files of the sizes that it says."""
    lengths = {name: 24 + len(name) for name in DataConfig().text_types}
    files = tuple(ShardFile(f"photos-train.array_record-{i:05}-of-00002", 8, 4096 + i, "0" * 64) for i in range(2))
    for file in files:
        (tmp_path / file.name).write_bytes(bytes(file.bytes))
    write_manifest(tmp_path, Manifest("photos", {"train": files}, lengths, "none"))
    return tmp_path


def test_data_that_are_here_say_how_long_captions_are_and_how_large_records(dataset):
    # However large the batch: the plan is for a larger dataset than the one at hand.
    data = DataConfig(dataset=str(dataset))
    found = streams_of(TrainConfig(model=CLIPConfig.tiny(), data=data, global_batch_size=65_536), {})
    assert found == {"bio": Stream(48, "by the data", (4096 + 4097) / 16)}  # the longest have 33: taxon_com
    whole = dataclasses.replace(data, trim_text=False)
    assert streams_of(TrainConfig(model=CLIPConfig.tiny(), data=whole), {})["bio"].tokens == 77


def test_without_data_captions_are_as_given_or_the_whole_context(config):
    found = streams_of(config, {"bio": 30})
    assert found["bio"] == Stream(32, "--tokens bio=30")  # cut to a length that the trainer has
    assert found["replay"] == Stream(77, "the whole context: the data are not here")


def test_captions_are_cut_to_the_lengths_that_a_run_has(config):
    lengths = {2: 16, 16: 16, 17: 32, 64: 64, 65: 77, 77: 77}
    assert {length: streams_of(config, {"bio": length})["bio"].tokens for length in lengths} == lengths


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"birds": 32}, "--tokens birds=32: the config's streams are bio, replay"),
        ({"bio": 78}, "--tokens bio=78: the model's captions have 2 to 77 tokens"),
        ({"replay": 0}, "--tokens replay=0: "),
    ],
)
def test_lengths_that_make_no_sense_are_refused(config, given, message):
    with pytest.raises(UsageError) as caught:
        streams_of(config, given)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("field", ["decode", "record_bytes", "storage"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_rates_are_numbers_above_zero(field, value):
    with pytest.raises(UsageError, match=r"--(decode-rate|record-bytes|storage-rate) is .*; it has to be"):
        Rates(**{field: value})


def test_a_price_list_is_a_currency_and_prices(tmp_path):
    file = tmp_path / "prices.yaml"
    file.write_text("# what we pay\ncurrency: EUR\nv5e: 1.25\nh100: 3\n")
    prices = read_prices(file, CHIPS)
    assert (prices.currency, prices.of("v5e"), prices.of("h100")) == ("EUR", 1.25, 3.0)
    with pytest.raises(UsageError, match=r"prices.yaml has no price of v5p; add a line `v5p: PRICE`"):
        prices.of("v5p")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("currency: USD\nv5f: 1\n", "line 2: 'v5f' is no chip that is known; the chips are v5e, v5p, h100"),
        ("v5e: 1\n", "has no line `currency: ...`"),
        ("currency: USD\nv5e: cheap\n", "line 2: v5e is 'cheap'; expected a number"),
        ("currency: USD\n\nv5e: -1\n", "line 3: v5e is '-1'; expected a number"),
        ("currency: USD\nv5e: .nan\n", "line 2: v5e is '.nan'"),
        ("currency: USD\nv5e: 1\nv5e: 2\n", "line 3: v5e stands there twice"),
        ("currency: USD\nv5e: {hour: 1}\n", "line 2: expected a name and one value"),
        ("currency: USD\nv5e: !!python/object/apply:os.getcwd []\n", "line 2: expected a name and one value"),
        ("- v5e\n", "expected lines such as `currency: USD`"),
        ("", "has no line `currency: ...`"),
        ("currency: USD\n  v5e: [\n", ", line "),
    ],
)
def test_a_bad_price_list_is_refused_by_line_and_key(tmp_path, text, message):
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_prices(file, CHIPS)
    assert str(caught.value).startswith(f"--prices {file}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_price_list_that_cannot_be_read_is_refused(tmp_path):
    for content, reason in (
        (None, "No such file"),
        (b"\xff\xfe\x00", "is not a text file"),
        (b"#" * 2**20 + b"#", "too large"),
    ):
        file = tmp_path / "prices.yaml"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(UsageError, match=reason):
            read_prices(file, CHIPS)

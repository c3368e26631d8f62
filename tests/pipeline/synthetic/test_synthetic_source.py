"""Records of the synthetic tree of life: pure functions of (seed, split, index), at the stated rates."""

import hashlib
import json
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import simplejpeg

from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.record import REQUIRED_TEXT_FIELDS
from bioclip_jax.pipeline.synthetic import synthetic_splits
from bioclip_jax.pipeline.synthetic.phylogeny import RANKS

pytestmark = pytest.mark.core
DEFAULTS = {
    "num_images": 10**9,
    "num_species": 120,
    "image_size": 32,
    "seed": 0,
    "missing_ranks": 0.11,
    "missing_common_names": 0.3,
    "tail": 1.0,
    "unseen_share": 0.1,
    "test_images_per_species": 10,
    "variation": 1.0,
}


def splits(**changes):
    return synthetic_splits(**(DEFAULTS | changes))


@pytest.fixture(scope="module")
def train():
    return splits()["train"]


@pytest.fixture(scope="module")
def sample(train):
    """2,400 records far into the split, past the first showing of each species."""
    return [train[500_000_000 + i] for i in range(2400)]


def truth(record):
    return json.loads(record["attributes"])


def test_a_record_is_the_same_in_any_order_and_after_pickling(train):
    forward = [train[i] for i in (5, 10**9 - 1, 77, 123_456_789)]
    backward = [splits()["train"][i] for i in (123_456_789, 77, -1, 5)]
    assert forward == backward[::-1]
    assert pickle.loads(pickle.dumps(train))[77] == forward[2]  # noqa: S301 (our own bytes)
    assert len(pickle.dumps(train)) < 20_000


def test_a_record_is_the_same_in_another_process(train):
    code = (
        "import hashlib\nfrom bioclip_jax.pipeline.synthetic import synthetic_splits\n"
        f"r = synthetic_splits(**{DEFAULTS!r})['train'][999]\n"
        "print(hashlib.sha256(r['image'] + r['attributes'].encode()).hexdigest())"
    )
    record = train[999]
    expected = hashlib.sha256(record["image"] + record["attributes"].encode()).hexdigest()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_seeds_splits_and_indices_differ():
    one = splits()
    images = {one[split][i]["image"] for split in one for i in range(3)} | {splits(seed=1)["train"][0]["image"]}
    assert len(images) == 10


def test_a_billion_records_cost_no_time_or_memory(train):
    start = time.perf_counter()
    assert len(train) == 10**9
    train[len(train) - 1]
    assert time.perf_counter() - start < 2.0
    with pytest.raises(IndexError):
        train[10**9]


def test_records_follow_the_schema_and_keys_are_unique(sample):
    for record in sample[:50]:
        for field in REQUIRED_TEXT_FIELDS:
            assert isinstance(record[field], str)
        described = truth(record)
        assert set(described["taxonomy"]) == set(RANKS)
        assert {"traits", "habitat", "life_stage", "sex", "pose", "light", "body_plan"} <= set(described)
        for rank in RANKS:
            assert record[rank] in ("", described["taxonomy"][rank])
    assert len({record["key"] for record in sample}) == len(sample)


@pytest.mark.parametrize("image_size", [16, 64, 97, 224])
def test_images_decode_at_the_size_asked_for(image_size):
    image = simplejpeg.decode_jpeg(splits(image_size=image_size)["test"][3]["image"], strict=True)
    assert image.shape == (image_size, image_size, 3)
    assert image.std() > 5


def test_ranks_are_missing_at_the_given_rate_as_holes_and_at_the_fine_end(sample):
    missing = [[not record[rank] for rank in RANKS] for record in sample]
    rate = np.mean([any(row) for row in missing])
    assert abs(rate - 0.11) < 4 * np.sqrt(0.11 * 0.89 / len(sample))
    cut = [row for row in missing if row[-1]]
    holes = [row for row in missing if any(row) and not row[-1]]
    assert all(row == sorted(row) for row in cut)
    assert all(sum(row) == 1 for row in holes)
    assert 0.1 < len(holes) / (len(holes) + len(cut)) < 0.4
    for record in sample:
        if not record["species"]:
            assert record["common_name"] == ""
            assert record["scientific_name"] == next(record[rank] for rank in RANKS[::-1] if record[rank])
        else:
            assert record["scientific_name"].endswith(" " + record["species"])


def test_evaluation_splits_have_complete_labels_and_every_species_equally_often():
    for name in ("test", "test_unseen"):
        split = splits()[name]
        counts = {}
        for i in range(0, len(split), 3):
            record = split[i]
            assert all(record[rank] for rank in RANKS)
        for i in range(len(split)):
            species = split.species_of(i, 0.5)
            counts[species] = counts.get(species, 0) + 1
        assert set(counts.values()) == {10}


def test_unseen_species_are_never_in_train_but_their_relatives_are():
    one = splits()
    seen, unseen = set(one["train"].species), set(one["test_unseen"].species)
    assert set(one["test"].species) == seen
    assert not seen & unseen
    assert (len(seen), len(unseen)) == (108, 12)
    ancestors = one["train"].world.ancestors
    genus = {ancestors[s, 5] for s in seen}
    assert np.mean([ancestors[s, 5] in genus for s in unseen]) > 0.5
    family = {ancestors[s, 4] for s in seen}
    assert np.mean([ancestors[s, 4] in family for s in unseen]) > 0.9


def test_images_per_species_have_a_long_tail_and_each_species_appears_first(sample, train):
    counts = np.bincount([truth(record)["species_index"] for record in sample], minlength=120)
    counts = np.sort(counts[counts > 0])[::-1]
    assert counts[: len(counts) // 5].sum() > 0.45 * counts.sum()
    assert sorted(train.species_of(i, 0.0) for i in range(len(train.species))) == sorted(train.species)


def test_stage_sex_pose_and_light_are_independent_of_the_species(sample):
    described = [truth(record) for record in sample]
    plan = np.array([d["body_plan"] for d in described])
    juvenile = np.array([d["life_stage"] == "juvenile" for d in described])
    male = np.array([d["sex"] == "male" for d in described])
    lightness = np.array([d["traits"]["lightness"] for d in described])
    bright = np.array([d["light"]["brightness"] for d in described])
    n = len(sample)
    for flag, rate in ((juvenile, 0.4), (male, 0.5)):
        assert abs(flag.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / n)
        groups = [flag[plan == name] for name in np.unique(plan)]
        chi2 = sum((g.sum() - len(g) * rate) ** 2 / (len(g) * rate * (1 - rate)) for g in groups)
        assert chi2 < len(groups) + 4 * np.sqrt(2 * len(groups))
        assert abs(np.corrcoef(flag, lightness)[0, 1]) < 4 / np.sqrt(n)
    assert abs(np.corrcoef(male, juvenile)[0, 1]) < 4 / np.sqrt(n)
    assert abs(np.corrcoef(bright, lightness)[0, 1]) < 4 / np.sqrt(n)


def test_individuals_are_mostly_seen_in_the_habitat_of_their_species(sample):
    described = [truth(record) for record in sample]
    share = np.mean([d["habitat"] == d["species_habitat"] for d in described])
    assert 0.65 < share < 0.85


@pytest.mark.parametrize(
    "change",
    [
        {"num_images": 0},
        {"image_size": 4},
        {"missing_ranks": 1.5},
        {"tail": -1.0},
        {"variation": 9.0},
        {"num_species": 1},
        {"seed": -3},
    ],
)
def test_impossible_arguments_are_refused_by_name(change):
    with pytest.raises(UserError, match=next(iter(change))):
        splits(**change)

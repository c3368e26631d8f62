"""Records of the synthetic tree of life: pure functions of (seed, split, index), at the stated rates."""

import hashlib
import json
import pickle
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import simplejpeg

from bioclip_jax.errors import UsageError
from bioclip_jax.pipeline.record import REQUIRED_TEXT_FIELDS
from bioclip_jax.pipeline.synthetic import synthetic_splits
from bioclip_jax.pipeline.synthetic.plans import PLANS
from bioclip_jax.pipeline.synthetic.source import HABITAT_FIDELITY
from bioclip_jax.text.taxonomy import RANKS

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
TRUTH = {"species_index", "taxonomy", "body_plan", "species_habitat", "traits", "habitat", "life_stage", "sex", "pose"}
TRUTH |= {"placement", "light"}
PLAN_OF_NAME = {plan.name: plan for plan in PLANS}


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
        assert set(described) == TRUTH
        assert tuple(described["traits"]) == PLAN_OF_NAME[described["body_plan"]].traits
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


def relatives(species, others, ancestors, rank):
    """Share of species that have another one of their taxon among `others`."""
    nodes = ancestors[:, RANKS.index(rank)]
    return np.mean([any(nodes[s] == nodes[o] for o in others if o != s) for s in species])


@pytest.mark.parametrize(("num_species", "num_unseen"), [(48, 5), (120, 12), (1000, 100)])
@pytest.mark.parametrize("seed", [0, 1])
def test_unseen_species_have_relatives_in_train_and_among_themselves(num_species, num_unseen, seed):
    one = splits(num_species=num_species, seed=seed)
    seen, unseen = set(one["train"].species), set(one["test_unseen"].species)
    assert set(one["test"].species) == seen
    assert not seen & unseen
    assert (len(seen), len(unseen)) == (num_species - num_unseen, num_unseen)
    ancestors = one["train"].world.ancestors
    assert relatives(unseen, seen, ancestors, "genus") == 1
    if num_species >= 120:
        assert relatives(unseen, unseen, ancestors, "genus") == 1
    assert relatives(unseen, unseen, ancestors, "family") >= 0.8


def test_a_share_of_unseen_species_that_leaves_a_family_nothing_is_refused_with_the_largest_that_does_not():
    with pytest.raises(UsageError, match=r"^unseen_share: 0.9 of 120 species .* use 0\.\d+ or less$") as refused:
        splits(unseen_share=0.9)
    most = float(str(refused.value).split()[-3])
    one = splits(unseen_share=most)
    ancestors = one["train"].world.ancestors
    assert relatives(one["test_unseen"].species, one["train"].species, ancestors, "family") == 1
    assert len(one["test_unseen"].species) == round(120 * most)
    with pytest.raises(UsageError, match="unseen_share"):
        splits(unseen_share=most + 0.02)


def test_images_per_species_have_a_long_tail_and_each_species_appears_first(sample, train):
    counts = np.bincount([truth(record)["species_index"] for record in sample], minlength=120)
    counts = np.sort(counts[counts > 0])[::-1]
    assert counts[: len(counts) // 5].sum() > 0.45 * counts.sum()
    assert sorted(train.species_of(i, 0.0) for i in range(len(train.species))) == sorted(train.species)


def draws_of(described):
    """Every number of pose and light, and sex, of one record."""
    pose, light = described["pose"], described["light"]
    red, green, blue = light["cast"]
    return {
        **{f"pose {name}": float(value) for name, value in pose.items()},
        **{f"light {name}": light[name] for name in ("brightness", "contrast", "direction")},
        "cast red": red,
        "cast green": green,
        "cast blue": blue,
        "male": float(described["sex"] == "male"),
    }


def assert_groups_agree(values, groups, name):
    """Means of groups differ no more than by chance: one-way analysis of variance by its large-sample chi squared."""
    kinds = np.unique(groups)
    chi2 = sum((groups == kind).sum() * (values[groups == kind].mean() - values.mean()) ** 2 for kind in kinds)
    assert chi2 / values.var() < len(kinds) - 1 + 5 * np.sqrt(2 * (len(kinds) - 1)), name


def test_pose_light_and_sex_are_independent_of_body_plan_size_and_life_stage(sample):
    described = [truth(record) for record in sample]
    plan = np.array([d["body_plan"] for d in described])
    juvenile = np.array([d["life_stage"] == "juvenile" for d in described])
    sizes = np.array([d["traits"]["size"] for d in described])
    draws = {name: np.array([draws_of(d)[name] for d in described]) for name in draws_of(described[0])}
    assert len(draws) == 15
    for name, drawn in draws.items():
        # The mean could agree where the range does not, so the distance from the middle is compared too.
        for values in (drawn, np.abs(drawn - drawn.mean())):
            if values.std() < 0.01:  # of a coin's two sides
                continue
            assert_groups_agree(values, plan, name)
            assert_groups_agree(values, juvenile, name)
            assert_groups_agree(values, np.digitize(sizes, np.quantile(sizes, [0.2, 0.4, 0.6, 0.8])), name)
            assert abs(np.corrcoef(values, sizes)[0, 1]) < 4 / np.sqrt(len(sample)), name


def test_life_stage_and_sex_have_their_rates_in_every_body_plan(sample):
    described = [truth(record) for record in sample]
    plan = np.array([d["body_plan"] for d in described])
    lightness = np.array([d["traits"]["lightness"] for d in described])
    for field, value, rate in (("life_stage", "juvenile", 0.4), ("sex", "male", 0.5)):
        flag = np.array([float(d[field] == value) for d in described])
        assert abs(flag.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / len(flag))
        assert abs(np.corrcoef(flag, lightness)[0, 1]) < 4 / np.sqrt(len(flag))
        assert_groups_agree(flag, plan, field)


def test_pose_is_standardised_and_makes_the_placement_with_the_body_plan(sample):
    for record in sample[:600]:
        described = truth(record)
        pose, placement = described["pose"], described["placement"]
        assert all(-1 <= pose[name] <= 1 for name in ("x", "y", "scale", "rotation", "bend"))
        assert 0 <= pose["squash"] <= 1
        assert pose["posture"] in range(4)
        largest = {"side": 8, "above": 45, "afloat": 20}[PLAN_OF_NAME[described["body_plan"]].view]
        assert abs(placement["rotation"] - largest * pose["rotation"]) < 0.01
        standing = 0.43 + 0.07 * pose["scale"] + 0.03 * np.tanh(0.5 * described["traits"]["size"])
        scale = standing * (0.84 if described["life_stage"] == "juvenile" else 1)
        assert abs(placement["scale"] - scale) < 2e-4
        assert abs(placement["x"] - 0.5 - (0.45 - 0.7 * scale) * pose["x"]) < 2e-4
    assert all(truth(splits(variation=0.0)["train"][i])["pose"]["rotation"] == 0 for i in range(5))


def test_individuals_are_in_the_habitat_of_their_species_at_the_stated_rate_and_else_where_their_plan_can_live(sample):
    described = [truth(record) for record in sample]
    share = np.mean([d["habitat"] == d["species_habitat"] for d in described])
    assert abs(share - HABITAT_FIDELITY) < 3 * np.sqrt(HABITAT_FIDELITY * (1 - HABITAT_FIDELITY) / len(sample))
    assert all(d["habitat"] in PLAN_OF_NAME[d["body_plan"]].habitats for d in described)


def test_drawing_turns_off_the_threads_of_opencv_also_after_unpickling(train):
    copy = pickle.loads(pickle.dumps(train))  # noqa: S301 (our own bytes)
    cv2.setNumThreads(2)
    copy[0]
    assert cv2.getNumThreads() == 1


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
        {"seed": 2**63},
        {"missing_common_names": -0.1},
        {"unseen_share": 1.0},
        {"test_images_per_species": 0},
    ],
)
def test_impossible_arguments_are_refused_by_name(change):
    with pytest.raises(UsageError, match=next(iter(change))):
        splits(**change)

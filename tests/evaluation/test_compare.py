"""Two models beside each other, in every protocol that left predictions."""

from dataclasses import replace

import numpy as np
import pytest

from bioclip_jax.evaluation.compare import compare, compare_all
from bioclip_jax.evaluation.rows import Prediction

pytestmark = pytest.mark.core


def answers(right, *, protocol="zero_shot", variant="mean", split="seen", rank="species", clusters=None):
    """One answer per entry of `right`; classes a and b in turn."""
    return [
        Prediction(
            learner="model",
            protocol=protocol,
            variant=variant,
            split=split,
            rank=rank,
            key=str(number),
            cluster=clusters[number] if clusters else "",
            true="ab"[number % 2],
            predicted="ab"[number % 2] if correct == 1 else "c",
            correct=float(correct),
            score=None,
        )
        for number, correct in enumerate(right)
    ]


def test_every_protocol_variant_and_rank_of_both_is_compared():
    right = np.array([1, 1, 1, 0] * 10)
    first = [*answers(right), *answers(right, protocol="svm", variant="paper"), *answers(right, variant="only here")]
    second = [*answers(1 - right), *answers(right, protocol="svm", variant="paper"), *answers(right, rank="genus")]
    found = {(d.protocol, d.variant, d.metric): d for d in compare_all(first, second, resamples=200)}
    assert set(found) == {
        (*place, metric)
        for place in (("zero_shot", "mean"), ("svm", "paper"))
        for metric in ("balanced_accuracy", "micro_accuracy")
    }
    clear, none = found["zero_shot", "mean", "micro_accuracy"], found["svm", "paper", "micro_accuracy"]
    assert clear.value == pytest.approx(0.5)
    assert 0 < clear.low < clear.value < clear.high
    assert clear.p_value < 0.05
    assert (none.value, none.low, none.high, none.p_value) == (0, 0, 0, 1)


def test_photos_of_probes_have_several_labels_and_no_balanced_accuracy():
    (found,) = compare_all(answers([1, 0.5], protocol="probe"), answers([0, 0.5], protocol="probe"), resamples=20)
    assert (found.metric, found.value) == ("micro_accuracy", 0.5)


def test_shares_of_right_answers_count_as_shares():
    first, second = answers([0.75] * 8), answers([0.25] * 8)
    (balanced, micro) = compare_all(first, second, resamples=20)
    assert (balanced.value, micro.value) == (0.5, 0.5)


def test_photos_of_one_species_are_drawn_together():
    right = np.repeat([1, 0, 1, 0, 1, 0, 1, 1], 20)
    alone = compare_all(answers(right), answers(1 - right), resamples=300)[1]
    species = [str(number // 20) for number in range(160)]
    together = compare_all(answers(right, clusters=species), answers(1 - right, clusters=species), resamples=300)[1]
    assert together.value == alone.value
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_a_photo_asked_about_twice_is_two_answers():
    first = [*answers([1, 1]), *answers([0, 0])]
    second = [*answers([0, 0]), *answers([0, 0])]
    assert compare_all(first, second, resamples=20)[1].value == 0.5


def test_zero_shot_is_compared_whatever_the_way_of_making_candidates():
    first = [*answers([1, 1]), *answers([0, 0], protocol="simple_shot")]
    found = compare(first, answers([0, 0], variant="sum"), "seen", resamples=20)
    assert found["species"].value == 1
    strangers = [replace(p, true="changed") for p in first]
    assert compare(first, strangers, "seen") == {}
    assert compare_all(first, strangers) == []

"""Zero-shot accuracy at every rank of one split, the baseline's beside it.

The candidates at a rank are the taxa that occur in the split. Photos without a name at a rank are left out there and
counted; a rank with fewer than two taxa is not measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bioclip_jax.evaluation.baseline import Baseline
from bioclip_jax.evaluation.features import Samples
from bioclip_jax.evaluation.labels import Labels
from bioclip_jax.evaluation.methods import METHODS
from bioclip_jax.evaluation.metrics import METRICS, chance, sample_weights
from bioclip_jax.evaluation.rows import Figure, Prediction
from bioclip_jax.evaluation.scores import Scores
from bioclip_jax.evaluation.zero_shot import Ranking, summed_top_k, top_k
from bioclip_jax.heads import EncodeText, RankGroups, TaxonHead, class_text, species_name, text_features
from bioclip_jax.text.taxonomy import Taxon

WITHIN = (3, 5)
"""Besides the first answer (micro accuracy), the first so many, wherever there are more candidates than that."""


@dataclass(frozen=True)
class RankTask:
    """What is asked at one rank of one split."""

    split: str
    groups: RankGroups
    """The candidates; `groups.index` counts the head's taxa."""
    true: np.ndarray
    """int32 `[n]`: the candidate that is right, -1 where unknown."""

    def figure(self, learner: str, variant: str, metric: str, guess: float, majority: float | None) -> Figure:
        """A figure of this task that has no value yet."""
        return Figure(
            learner=learner,
            protocol="zero_shot",
            variant=variant,
            split=self.split,
            rank=self.groups.rank,
            metric=metric,
            value=float("nan"),
            low=float("nan"),
            high=float("nan"),
            spread=None,
            chance=guess,
            majority=majority,
            samples=int((self.true >= 0).sum()),
            classes=len(self.groups),
            clusters=0,
            left_out=int((self.true < 0).sum()),
        )

    def add(self, scores: Scores, learner: str, variant: str, predicted: np.ndarray, metrics: tuple[str, ...]) -> None:
        """Adds the accuracy of `predicted` int `[n]` in each of `metrics`."""
        guess = chance(self.true)
        for metric in metrics:
            majority = guess.majority if metric == "micro_accuracy" else None
            weights = sample_weights(metric, self.true)
            scores.add(self.figure(learner, variant, metric, guess.uniform, majority), predicted == self.true, weights)

    def predictions(
        self, learner: str, variant: str, samples: Samples, predicted: np.ndarray, score: np.ndarray | None
    ) -> list[Prediction]:
        """One row per photo that has a name at this rank."""
        labels = self.groups.labels
        return [
            Prediction(
                learner=learner,
                protocol="zero_shot",
                variant=variant,
                split=self.split,
                rank=self.groups.rank,
                key=samples.keys[row],
                cluster=species_name(samples.taxa[row]),
                true=labels[self.true[row]],
                predicted=labels[predicted[row]] if predicted[row] >= 0 else "",
                correct=float(predicted[row] == self.true[row]),
                score=None if score is None else round(float(score[row]), 6),
            )
            for row in np.flatnonzero(self.true >= 0)
        ]


@dataclass(frozen=True)
class Prompts:
    """How taxa become text features."""

    encode_text: EncodeText
    logit_scale: float
    text_types: tuple[str, ...]
    rank_text_types: tuple[str, ...]
    templates: tuple[str, ...]

    def head(self, taxa: Sequence[Taxon]) -> TaxonHead:
        """A head over species, or over the most specific taxon known."""
        return TaxonHead.from_text(
            self.encode_text,
            taxa,
            logit_scale=self.logit_scale,
            text_types=self.text_types,
            templates=self.templates,
        )

    def rank_features(self, groups: RankGroups) -> np.ndarray:
        """Text features of the taxa at one rank, from their own names: float32 `[groups, d]`.

        At species rank they have the texts of the head.
        """
        text_types = self.text_types if groups.rank == "species" else self.rank_text_types
        texts = [[class_text(taxon, text_type) for text_type in text_types] for taxon in groups.taxa]
        return text_features(self.encode_text, texts, templates=self.templates)


def split_tasks(
    name: str, samples: Samples, labels: Labels, ranks: tuple[str, ...]
) -> tuple[list[Taxon], list[RankTask], list[str]]:
    """The tasks of a split: the taxa that occur in it, a task for each rank, and a line for each rank left out."""
    present, member = np.unique(labels.member[samples.split], return_inverse=True)
    tasks, notes = [], []
    for rank in ranks:
        groups = labels.groups[rank].select(present)
        if len(groups) < 2:
            found = f"only one taxon ({groups.labels[0]})" if len(groups) else "no photo with a name"
            notes.append(f"{name}: {rank} is not measured, the split has {found} there")
        else:
            tasks.append(RankTask(name, groups, groups.index[member]))
    return [labels.taxa[row] for row in present], tasks, notes


def best_candidates(
    way: str, image_features: np.ndarray, ranks: Sequence[RankGroups], head: TaxonHead, prompts: Prompts, k: int
) -> list[Ranking]:
    """The k best candidates at each of `ranks` for each of `image_features` `[n, d]`, made in one of `METHODS`."""
    if way in ("mean", "sum"):
        return summed_top_k(image_features, head, ranks, k, mean=way == "mean")
    features = [head.prototypes(groups) if way == "prototype" else prompts.rank_features(groups) for groups in ranks]
    return [top_k(image_features, one, head.logit_scale, k, width=len(head.taxa)) for one in features]


def measure_model(
    scores: Scores,
    tasks: list[RankTask],
    samples: Samples,
    head: TaxonHead,
    prompts: Prompts,
    method: str,
    ways: Sequence[str] = METHODS,
) -> tuple[list[Prediction], list[Ranking]]:
    """Adds the model's figures at every rank in all `ways` of making candidates; `method` is one of them.

    Predictions, accuracies within the first few and what is returned for each task are those of `method`.
    """
    groups = [task.groups for task in tasks]
    rankings = {way: best_candidates(way, samples.features, groups, head, prompts, max(WITHIN)) for way in ways}
    predictions = []
    for number, task in enumerate(tasks):
        for way in ways:
            ranking = rankings[way][number]
            predicted = ranking.top[:, 0]
            task.add(scores, "model", way, predicted, METRICS)
            if way == method:
                predictions += task.predictions("model", way, samples, predicted, np.exp(ranking.log_probability))
                for k in (k for k in WITHIN if k < len(task.groups)):
                    figure = task.figure("model", way, f"top{k}_accuracy", k / len(task.groups), None)
                    within = (ranking.top[:, :k] == task.true[:, None]).any(axis=1)
                    scores.add(figure, within, sample_weights("micro_accuracy", task.true))
    return predictions, rankings[method]


def measure_baseline(
    scores: Scores, tasks: list[RankTask], samples: Samples, baselines: Mapping[str, Baseline]
) -> list[Prediction]:
    """Adds the baseline's figures for the ranks of `baselines`; `samples.features` are its standardised features.

    A split without any species of the training photos has no baseline at species rank: nothing could be answered.
    """
    predictions = []
    for task in tasks:
        baseline = baselines.get(task.groups.rank)
        if baseline is None or not set(baseline.labels) & set(task.groups.labels):
            continue
        balanced = baseline.predict(samples.features, task.groups.labels, balanced=True)
        by_logits = baseline.predict(samples.features, task.groups.labels, balanced=False)
        task.add(scores, "baseline", "regression", balanced, ("balanced_accuracy",))
        task.add(scores, "baseline", "regression", by_logits, ("micro_accuracy",))
        predictions += task.predictions("baseline", "regression", samples, balanced, None)
        predictions += task.predictions("baseline_micro", "regression", samples, by_logits, None)
    return predictions

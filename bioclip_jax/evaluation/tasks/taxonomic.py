"""Zero-shot classification at all seven ranks with one head, and everything that follows from its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.features import Samples
from bioclip_jax.evaluation.labels import Labels
from bioclip_jax.evaluation.measures.beyond import RankAnswers, add_hierarchy, probability_figures
from bioclip_jax.evaluation.methods import DEFAULT_METHOD, METHODS
from bioclip_jax.evaluation.ranks import Prompts, measure_model, split_tasks
from bioclip_jax.evaluation.rows import Figure
from bioclip_jax.evaluation.scores import Scores
from bioclip_jax.evaluation.task import Context, Outcome, TaskSamples
from bioclip_jax.evaluation.tasks.retrieval import retrieval_figures
from bioclip_jax.heads import TaxonHead
from bioclip_jax.text.taxonomy import RANKS
from bioclip_jax.text.templates import TEMPLATES


def measure_split(
    name: str,
    samples: Samples,
    labels: Labels,
    ranks: tuple[str, ...],
    prompts: Prompts,
    scores: Scores,
    *,
    head: TaxonHead | None = None,
    method: str = DEFAULT_METHOD,
    ways: tuple[str, ...] = METHODS,
) -> Outcome:
    """Measures the answers of one model on a split, at all ranks from one head.

    Args:
        name: the split's, in the results.
        samples: the photos.
        labels: of all splits.
        ranks: those to measure.
        prompts: how taxa become text features.
        scores: of the samples; accuracies are added to it, to be finished by the caller, all else is returned.
        head: over the taxa of the split, where it is there already.
        method: the way of making candidates that leads.
        ways: all that are measured.
    """
    taxa, tasks, notes = split_tasks(name, samples, labels, ranks)
    found = Outcome(notes=notes)
    if not tasks:
        return found
    head = head or prompts.head(taxa)
    found.predictions, rankings = measure_model(scores, tasks, samples, head, prompts, method, ways)
    answers = RankAnswers(
        tasks=tasks,
        head=head,
        member=np.unique(labels.member[samples.split], return_inverse=True)[1],
        features=samples.features,
        variant=method,
        predicted=np.stack([ranking.top[:, 0] for ranking in rankings], axis=1),
        probability=np.exp(np.stack([ranking.log_probability for ranking in rankings], axis=1)),
    )
    found.notes += add_hierarchy(scores, answers)
    clusters = scores.clusters
    found.figures += probability_figures(answers, clusters, scores.resamples, scores.seed)
    if tasks[-1].groups.rank == "species":
        found.figures += _retrieval(answers, clusters, scores)
    return found


def _retrieval(answers: RankAnswers, clusters: np.ndarray, scores: Scores) -> list[Figure]:
    task = answers.tasks[-1]
    known = task.true >= 0
    return retrieval_figures(
        task.figure("model", "", "", float("nan"), None),
        answers.features[known],
        answers.head.prototypes(task.groups),
        task.true[known],
        clusters[known],
        resamples=scores.resamples,
        seed=scores.seed,
    )


@dataclass(frozen=True)
class Taxonomic:
    """Accuracy at all seven ranks of a split with a taxonomy, distances of mistakes, calibration, retrieval.

    Candidates are the taxa of photos that can be used, so a partial download is asked less: a note on the split counts
    the species that are missing. Those above species are made from the species' probabilities alone, so one head serves
    all ranks.
    """

    quick: ClassVar[bool] = True
    name: str
    split: str
    text_types: tuple[str, ...] = ("taxon_com",)
    templates: tuple[str, ...] = TEMPLATES
    method: str = DEFAULT_METHOD
    """`mean` or `sum`: see `zero_shot`."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The split."""
        return (self.split,)

    def measure(self, samples: Mapping[str, TaskSamples], context: Context) -> Outcome:
        """Measures features; see `Task.measure`."""
        part = samples[self.split]
        if len(part.taxa) != len(part):
            has = f"{len(part.taxa)} taxa for {len(part)} photos" if part.taxa else "no taxonomy"
            raise UserError(f"task {self.name}: split {self.split} has {has}")
        if not np.isfinite(part.features).all():
            raise UserError(f"task {self.name}: features of split {self.split} are not finite")
        photos = Samples(
            self.split, np.arange(len(part)), part.keys, part.taxa, part.unit_features, dict(part.unreadable)
        )
        labels = Labels.of({self.split: part.taxa}, RANKS)
        prompts = Prompts(context.encode_text, context.logit_scale, self.text_types, ("taxon",), self.templates)
        scores = Scores(labels.clusters([self.split]), context.resamples, context.seed)
        ways = (self.method,)
        found = measure_split(self.name, photos, labels, RANKS, prompts, scores, method=self.method, ways=ways)
        figures, _ = scores.finish("")
        if not figures:
            raise UserError(f"task {self.name}: nothing can be measured; {'; '.join(found.notes)}")
        return replace(found, figures=figures + found.figures)

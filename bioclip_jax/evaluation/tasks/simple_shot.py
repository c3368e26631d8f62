"""Few-shot accuracy on a pool of photos: SimpleShot, its folds drawn as both versions of BioCLIP 2's scripts do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.few_shot import pool_folds, simple_shot
from bioclip_jax.evaluation.scores import Scores
from bioclip_jax.evaluation.task import Context, Outcome, TaskSamples, task_figure
from bioclip_jax.evaluation.tasks.answers import Answers, add_accuracies, checked, cluster_numbers, prediction_rows

PROTOCOL = "simple_shot"


@dataclass(frozen=True)
class SimpleShot:
    """k photos of each class are shown, all others are asked about; the mean over folds.

    Variants: `paper` draws every fold from the order of the data (main of the reference implementation), `paper v1`
    from the order that the fold before left (its v1.0.0). Each is followed by the shots.
    """

    quick: ClassVar[bool] = True
    name: str
    split: str
    column: str = "class"
    """Of the classes; they are taken in order of first appearance."""
    shots: tuple[int, ...] = (1, 5)
    folds: int = 5

    @property
    def splits(self) -> tuple[str, ...]:
        """The one pool."""
        return (self.split,)

    def measure(self, samples: Mapping[str, TaskSamples], context: Context) -> Outcome:
        """Balanced and micro accuracy of both variants at every number of shots."""
        found, scores = self.scored(samples, context)
        found.figures, _ = scores.finish("")
        return found

    def scored(self, samples: Mapping[str, TaskSamples], context: Context) -> tuple[Outcome, Scores]:
        """What `measure` gives without its figures, and these in scores, which can be resampled with others."""
        part = checked(self.name, samples, self.split, self.column)
        true, names = part.classes(self.column)
        found = Outcome()
        if unlabelled := int((true < 0).sum()):
            found.notes.append(f"{self.name}: {unlabelled} photos have no label and were left out")
        absent = len(names) - len(set(true.tolist()) - {-1})  # classes without a usable photo
        scores = Scores(cluster_numbers(part.clusters(self.column)), context.resamples, context.seed)
        for variant in ("paper", "paper v1"):
            folds_of = pool_folds(true, self.shots, self.folds, compounding=variant == "paper v1")
            for shots, folds in folds_of.items():
                left_out = folds.left_out + absent
                if left_out and variant == "paper":
                    found.notes.append(self._shortage(shots, left_out, len(names)))
                if len(folds.classes) < 2:
                    continue
                figure = task_figure(
                    self, PROTOCOL, f"{variant}, {shots}-shot", "", rank=self.column, left_out=left_out
                )
                predicted = simple_shot(part.unit_features, part.unit_features, folds)
                answers = Answers.of(true, folds.query, predicted)
                add_accuracies(scores, figure, true, answers, len(folds.classes))
                found.predictions += prediction_rows(figure, part, self.column, names, answers)
        if not scores.figures:
            raise UserError(f"task {self.name}: fewer than two classes have enough photos; {'; '.join(found.notes)}")
        found.notes.append(
            f"{self.name}: paper v1: lists are shuffled in place: a fold depends on the folds and shots before it"
        )
        return found, scores

    def _shortage(self, shots: int, left_out: int, classes: int) -> str:
        """Why classes are missing, or the whole number of shots."""
        why = f"{self.name}: {shots}-shot: {left_out} of {classes} classes have no more than {shots} photos"
        if classes - left_out < 2:
            return f"{why}; not measured"
        return f"{why} and were left out; the reference implementation stops with an error there"

"""Zero-shot accuracy over the classes of a labelled pool: the protocol of BioCLIP 2's `zero_shot_classifier`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.head_cache import head_keeper
from bioclip_jax.evaluation.metrics import chance, sample_weights
from bioclip_jax.evaluation.scores import Scores
from bioclip_jax.evaluation.task import Context, Outcome, TaskSamples, task_figure
from bioclip_jax.evaluation.tasks.answers import Answers, checked, cluster_numbers, prediction_rows
from bioclip_jax.evaluation.zero_shot import top_k
from bioclip_jax.heads import PLAIN_TEMPLATES, text_features
from bioclip_jax.text.templates import OPENAI_IMAGENET_TEMPLATES, TEMPLATES

PROTOCOL = "zero_shot"
VARIANT = "paper"
WITHIN = (3, 5)
"""Besides the first answer: capped by the number of classes, and so is the metric's name."""
_TEMPLATES = {len(templates): templates for templates in (PLAIN_TEMPLATES, OPENAI_IMAGENET_TEMPLATES, TEMPLATES)}


@dataclass(frozen=True)
class ZeroShot:
    """Photos against one unit vector per class, the mean over prompt templates of the class's own name.

    The classes are the labels as they stand, in order of first appearance, those without a usable photo too; the logits
    are `logit_scale * image @ text.T` in float32. There is one variant, `paper`, which nothing needs to correct.
    """

    quick: ClassVar[bool] = True
    name: str
    split: str
    column: str = "class"
    templates: int = 81
    """81: BioCLIP's own and the 80 of CLIP's ImageNet evaluation; 80: those alone; 1: `a photo of {}.` alone."""

    def __post_init__(self) -> None:
        if self.templates not in _TEMPLATES:
            known = ", ".join(map(str, _TEMPLATES))
            raise UsageError(f"task {self.name}: {self.templates} templates are not one of {known}")

    @property
    def splits(self) -> tuple[str, ...]:
        """The one pool."""
        return (self.split,)

    def measure(self, samples: Mapping[str, TaskSamples], context: Context) -> Outcome:
        """Micro accuracy of the first answer and within the first 3 and 5, and balanced accuracy."""
        found, scores = self.scored(samples, context)
        found.figures, _ = scores.finish(VARIANT)
        return found

    def scored(self, samples: Mapping[str, TaskSamples], context: Context) -> tuple[Outcome, Scores]:
        """What `measure` gives without its figures, and these in scores, which can be resampled with others."""
        part = checked(self.name, samples, self.split, self.column)
        true, classes = part.classes(self.column)
        if len(classes) < 2:
            raise UserError(f"task {self.name}: {len(classes)} classes in split {self.split}; at least two are needed")
        templates = _TEMPLATES[self.templates]
        head = text_features(
            context.encode_text,
            [[name] for name in classes],
            templates=templates,
            keep=head_keeper(context.cache, context.fingerprint, templates),
        )
        width = part.features.shape[1]
        if head.shape[1] != width:
            raise UserError(f"task {self.name}: text features have {head.shape[1]} numbers, photos' features {width}")
        ranking = top_k(part.unit_features, head, context.logit_scale, max(WITHIN))
        found = Outcome()
        left_out = int((true < 0).sum())
        if left_out:
            found.notes.append(f"{self.name}: {left_out} photos have no label and were left out")
        figure = task_figure(
            self,
            PROTOCOL,
            VARIANT,
            "micro_accuracy",
            rank=self.column,
            chance=1 / len(classes),
            samples=len(part) - left_out,
            classes=len(classes),
            left_out=left_out,
        )
        scores = Scores(cluster_numbers(part.clusters(self.column)), context.resamples, context.seed)
        hits = ranking.top == true[:, None]
        weights = {metric: sample_weights(metric, true) for metric in ("micro_accuracy", "balanced_accuracy")}
        scores.add(replace(figure, majority=chance(true).majority), hits[:, 0], weights["micro_accuracy"])
        for k in sorted({min(k, len(classes)) for k in WITHIN}):
            within = replace(figure, metric=f"top{k}_accuracy", chance=k / len(classes))
            scores.add(within, hits[:, :k].any(axis=1), weights["micro_accuracy"])
        scores.add(replace(figure, metric="balanced_accuracy"), hits[:, 0], weights["balanced_accuracy"])
        labelled = np.flatnonzero(true >= 0)
        answers = Answers.of(true, labelled[None], ranking.top[labelled, 0][None])
        probability = np.round(np.exp(ranking.log_probability.astype(np.float64)), 6)
        found.predictions = prediction_rows(figure, part, self.column, classes, answers, probability)
        if len(classes) < max(WITHIN):
            found.notes.append(
                f"{self.name}: paper: with {len(classes)} classes the last accuracy is top-{len(classes)}"
            )
        return found, scores

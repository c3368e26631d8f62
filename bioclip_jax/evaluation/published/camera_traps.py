"""IDLE-OO Camera Traps: five balanced sets of camera-trap photos that LILA BC publishes, for naming species.

Their tables have a column `scientific_name`, at which the reference implementation's reader of taxa stops with an
error; here it is one of the taxon's names. The paper's column "Camera Trap" is presumably the plain mean of the five
(its code does not say).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from bioclip_jax.evaluation.bootstrap import interval
from bioclip_jax.evaluation.published.annotations import Annotated
from bioclip_jax.evaluation.published.layouts import Layout
from bioclip_jax.evaluation.task import Context, Outcome, TaskSamples
from bioclip_jax.evaluation.tasks.class_zero_shot import VARIANT, ZeroShot
from bioclip_jax.evaluation.tasks.simple_shot import SimpleShot

CITATION = (
    "Campolongo, Gu and Zhang, IDLE-OO Camera Traps, Hugging Face, doi:10.57967/hf/5764; images from LILA BC "
    "(https://lila.science), whose collections are to be cited as their pages say"
)
LICENSE = (
    "per collection, listed on the data set's card; LILA BC gives ENA24 and Orinoquia under the Community Data License "
    "Agreement (permissive variant)"
)
SOURCE = "https://huggingface.co/datasets/imageomics/IDLE-OO-Camera-Traps"
SINGLETONS = (
    "two of the 33 class texts are of a single photo (domestic chicken, petrel chick), and photos of 16 classes lack "
    "ranks; what the paper did with them is not known"
)
TREE = """
{subset}-balanced.csv              {photos:,} rows: filepath, kingdom ... species, common_name
data/test/{subset}/<uuid>.{suffix}      or images/{subset}/<uuid>.{suffix}
"""
SUBSETS = {
    "desert_lion": ("desert-lion", "Desert Lion Conservation, Namibia", 352, 32, "png"),
    "ena24": ("ENA24", "ENA24-detection, eastern North America", 1120, 20, "png"),
    "island": ("island", "Island Conservation, islands worldwide", 310, 33, "png"),
    "orinoquia": ("orinoquia", "Orinoquia, Colombia", 336, 28, "png"),
    "ohio_small_animals": ("ohio-small-animals", "Ohio Small Animals", 468, 39, "jpg"),
}
"""Name of the benchmark -> name of the subset, where its cameras stand, photos, class texts, kind of file."""


def camera_trap(name: str) -> Annotated:
    """One of the five sets; `name` is a key of `SUBSETS`."""
    subset, place, photos, classes, suffix = SUBSETS[name]
    return Annotated(
        layout=Layout(name, SOURCE, TREE.format(subset=subset, photos=photos, suffix=suffix)),
        description=f"Camera-trap photos of animals: {place}. Balanced by species.",
        license=LICENSE,
        citation=CITATION,
        tables=(f"{subset}-balanced.csv", f"CameraTrap/{subset}-balanced.csv"),
        images=(
            *(f"{folder}/{subset}" for folder in ("data/test", "images", "CameraTrap/images")),
            *("data/test", "images", "CameraTrap/images", subset, ""),
        ),
        text_type="taxon_com",
        counts={"photos": photos, "classes": classes},
        notes=(SINGLETONS,) if name == "island" else (),
    )


@dataclass(frozen=True)
class MeanOf:
    """The same task on several sets, each among its own classes: every set's figures, and their plain means."""

    quick: ClassVar[bool] = True
    name: str
    tasks: tuple[ZeroShot, ...] | tuple[SimpleShot, ...]
    """One for each set."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The sets."""
        return tuple(task.split for task in self.tasks)

    def measure(self, samples: Mapping[str, TaskSamples], context: Context) -> Outcome:
        """The means of the accuracies, then the figures and predictions of every set."""
        return _together(self.name, self.tasks, samples, context)


def _together(
    name: str, tasks: Sequence[ZeroShot | SimpleShot], samples: Mapping[str, TaskSamples], context: Context
) -> Outcome:
    """What `tasks` find, after the means of those figures that each of them has.

    A mean's interval draws the species of every set among themselves, independently of other sets', so that every set
    counts the same in every resample.
    """
    parts = [task.scored(samples, context) for task in tasks]
    found = Outcome()
    columns = [
        {(f.protocol, f.variant, f.metric): column for column, f in enumerate(scores.figures)} for _, scores in parts
    ]
    resampled = [scores.resampled(context.seed + 1 + place) for place, (_, scores) in enumerate(parts)]
    for what in columns[0]:
        if not all(what in column for column in columns):
            found.notes.append(f"{name}: no mean of {what[-1]} ({what[1]}): not every set has it")
            continue
        figures = [scores.figures[column[what]] for (_, scores), column in zip(parts, columns, strict=True)]
        drawn = [values[:, column[what]] for values, column in zip(resampled, columns, strict=True)]
        bounds = interval(np.mean(drawn, axis=0))
        mean = replace(figures[0], split=name, majority=None, spread=None, low=bounds.low, high=bounds.high)
        found.figures.append(
            replace(
                mean,
                value=round(float(np.mean([f.value for f in figures])), 12),
                chance=float(np.mean([f.chance for f in figures])),
                **{
                    count: sum(getattr(f, count) for f in figures)
                    for count in ("samples", "classes", "clusters", "left_out")
                },
            )
        )
    for part, scores in parts:
        part.figures, _ = scores.finish(VARIANT)
        found.extend(part)
    return found

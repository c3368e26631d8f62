r"""How the arrangement of features develops with scale: model size x species x images x loss, on the synthetic tree.

The whole grid, one variant after the other, and again where it was stopped; `docs/emergence.md` holds the figures:

for species in 24 96; do
    for images in 500 2000 6000; do
        bioclip-jax data build synthetic sweep/data/${species}x$images --num-species $species --num-images $images \
            --image-size 48 --missing-ranks 0 --test-images-per-species 60
    done
done
bioclip-jax launch local scaling_emergence --processes 1 --work-dir sweep/runs
bioclip-jax report sweep/runs --out sweep/report.html --csv sweep/runs.csv
for variant in $(python configs/scaling_emergence.py); do
    bioclip-jax emergence sweep/runs/$variant --root sweep/data/${variant##*-} \
        --traits size lightness hue --permutations 499 --resamples 500 --results sweep/results.sqlite
done
python configs/scaling_emergence.py sweep/results.sqlite docs/images/emergence.png

Models of as many species are measured on the same test photos, of species that they have seen. Every run takes as many
steps, so that more images mean fewer passes over them (`long` is `base` for four times as many). Worlds of other
numbers of species are other worlds. `hierarchical` learns from captions that name all seven ranks, `flat` the same
species by cross-entropy, without captions; both see the same images in the same order.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bioclip_jax.config import (
    CheckpointConfig,
    CLIPConfig,
    DataConfig,
    LossConfig,
    OptimizerConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
)

IMAGES = (500, 2000, 6000)
SPECIES = (24, 96)
TEXT = TextConfig(width=64, layers=2, heads=1)
MODELS = {
    "small": CLIPConfig(64, VisionConfig(image_size=48, patch_size=8, width=64, layers=2, heads=1), TEXT),
    "base": CLIPConfig(64, VisionConfig(image_size=48, patch_size=8, width=128, layers=4, heads=2), TEXT),
    "long": CLIPConfig(64, VisionConfig(image_size=48, patch_size=8, width=128, layers=4, heads=2), TEXT),
}
STEPS = {"small": 300, "base": 300, "long": 1200}
LOSSES = {
    # A batch of 64 has every species several times: equal captions are not each other's negatives.
    "hierarchical": LossConfig(several_positives=True),
    "flat": LossConfig(kind="species"),
}
PANELS = {
    ("phylogeny", "mantel"): "alignment with the tree (Mantel)",
    ("habitat", "partial_mantel"): "alignment with habitat (partial Mantel)",
    ("lightness", "partial_mantel"): "alignment with lightness (partial Mantel)",
    ("life_stage, 90 % energy", "explained_variance"): "life stage: explained variance, as measured",
    ("life_stage, 90 % energy", "explained_variance_corrected"): "life stage: explained variance, noise removed",
    ("life_stage", "fisher_ratio"): "life stage: Fisher ratio",
    ("sex, 90 % energy", "explained_variance"): "sex: explained variance, as measured",
    ("life_stage", "overlap"): "life stage: overlap of spans",
    ("sex", "fisher_ratio"): "sex: Fisher ratio",
}
"""What the picture shows, by (variant, metric) of the figures."""


def _config(model: str, loss: str, species: int, images: int) -> TrainConfig:
    return TrainConfig(
        model=MODELS[model],
        data=DataConfig(dataset=f"sweep/data/{species}x{images}", text_types=("taxon",), threads=2),
        loss=LOSSES[loss],
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=30, weight_decay=0.1),
        checkpoint=CheckpointConfig(every_steps=STEPS[model], keep=1),
        global_batch_size=64,
        total_steps=STEPS[model],
        dtype="float32",
        log_every=100,
    )


configs = {
    f"{model}-{loss}-{species}x{images}": _config(model, loss, species, images)
    for model in MODELS
    for species in SPECIES
    for images in IMAGES
    for loss in LOSSES
    if model != "long" or species == max(SPECIES)
}


def draw(results: Path, picture: Path, species: int = max(SPECIES)) -> Path:
    """The figures of the models of `species` species as curves over images."""
    from bioclip_jax.evaluation.emergence.figures import Point, draw_scaling
    from bioclip_jax.evaluation.results import Results
    from bioclip_jax.evaluation.rows import Figure

    panels: dict[str, dict[str, list[Point]]] = {title: {} for title in PANELS.values()}
    with Results(results) as database:
        for number, run in database.runs().items():
            name = Path(run.model).name
            if name not in configs or not name.endswith(tuple(f"-{species}x{images}" for images in IMAGES)):
                continue
            model, loss, of = name.split("-")
            images = float(of.partition("x")[2])
            for figure in database.rows(Figure, number):
                if title := PANELS.get((figure.variant, figure.metric)):
                    point = Point(images, *(_number(x) for x in (figure.value, figure.low, figure.high, figure.chance)))
                    panels[title].setdefault(f"{loss}, {model}", []).append(point)
    return draw_scaling(panels, picture)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print("\n".join(configs))
    else:
        print(draw(*map(Path, sys.argv[1:3]), *map(int, sys.argv[3:4])))

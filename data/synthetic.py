"""The synthetic tree of life: drawn organisms of a random phylogeny whose truth is known. Needs no files.

    bioclip-jax data show synthetic
    bioclip-jax data build synthetic OUT --num-images 30000

Splits: `train` (long-tailed, some ranks missing), `test` (other individuals of the same species, as many of each,
labels complete) and `test_unseen` (species that `train` lacks, though it mostly has their genus; many share a genus or
family among themselves).

The truth is the JSON object in each record's `attributes`. Of the species: `species_index`, the full `taxonomy`,
`body_plan`, `species_habitat` and `traits`, those that the body plan expresses. Of the individual: `habitat` (the
species' own in 65 % of the pictures, else another that its body plan can live in), `life_stage`, `sex`, `pose` and
`light`, of which the last four depend neither on the species nor on each other. `pose` holds standardised draws. Where
they put the individual in the picture also depends on its body plan, size and stage; that is `placement`: `x` and `y`
of its middle and `scale` (half its longest side) as shares of the picture, `rotation` in degrees, `squash` and `bend`.

One installation draws a record with the same bytes every time. Every installation draws it with the same key, labels
and truth, and the same picture up to the rounding of OpenCV's and the JPEG encoder's versions.
"""

from bioclip_jax.pipeline.record import RecordSource
from bioclip_jax.pipeline.synthetic import synthetic_splits


def source(
    *,
    num_images: int = 1_000_000,
    num_species: int = 120,
    image_size: int = 64,
    seed: int = 0,
    missing_ranks: float = 0.11,
    missing_common_names: float = 0.3,
    tail: float = 1.0,
    unseen_share: float = 0.1,
    test_images_per_species: int = 10,
    variation: float = 1.0,
) -> dict[str, RecordSource]:
    """The splits of one synthetic world.

    Args:
        num_images: images in `train`; any number, they are drawn when asked for.
        num_species: species in the whole world.
        image_size: width and height in pixels.
        seed: another seed is another world.
        missing_ranks: share of `train` images without a full seven-rank label (TreeOfLife-200M: 11 %).
        missing_common_names: share of species without a common name.
        tail: standard deviation of the logarithm of the images per species in `train`; 0 for as many of each.
        unseen_share: share of the species that are only in `test_unseen`; `train` keeps one of every family.
        test_images_per_species: images of each species in `test` and in `test_unseen`.
        variation: how much pose and light differ between individuals: 0 not at all, 1 as much as in photographs.
    """
    return synthetic_splits(
        num_images=num_images,
        num_species=num_species,
        image_size=image_size,
        seed=seed,
        missing_ranks=missing_ranks,
        missing_common_names=missing_common_names,
        tail=tail,
        unseen_share=unseen_share,
        test_images_per_species=test_images_per_species,
        variation=variation,
    )

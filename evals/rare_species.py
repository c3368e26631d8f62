"""Rare Species: 400 species, near threatened to extinct in the wild (IUCN); zero-shot, few-shot, all ranks.

    bioclip-jax eval MODEL rare_species --root DIR

DIR holds `metadata.csv` (11,983 rows, 400 species with all seven ranks and a common name;
data/annotation/rare_species of github.com/Imageomics/bioclip-2) and the photos of
https://huggingface.co/datasets/imageomics/rare-species under the paths in it,
`2024-03-20/<content>_<page>_eol-full-size-copy.jpg`; a folder `images` or `dataset` above them will do.

Labels: taxonomic and common name (`taxon_com`), the paper's; other text types are measured beside it. Protocol: 81
templates, top 1, 3 and 5; SimpleShot with 1 and 5 shots, 5 folds; all seven ranks from one head.
Licence: the compilation CC0 1.0, each photo its own. Citation: doi:10.57967/hf/1981; Stevens et al., CVPR 2024.
Known faults: only these photos were kept out of TreeOfLife-200M, not the species, so that it does not measure unseen
species for BioCLIP 2. Two common names belong to two species each.
"""

from __future__ import annotations

from bioclip_jax.evaluation.published.annotations import Annotated
from bioclip_jax.evaluation.published.layouts import Layout
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark

LAYOUT = Layout(
    "rare_species",
    "https://huggingface.co/datasets/imageomics/rare-species, and data/annotation/rare_species/metadata.csv of "
    "github.com/Imageomics/bioclip-2",
    """
metadata.csv                                               11,983 rows: kingdom ... species, common_name, filepath
2024-03-20/<content>_<page>_eol-full-size-copy.jpg
""",
)


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the files in `root`."""
    return Annotated(
        layout=LAYOUT,
        description="Photographs of 400 threatened species from the Encyclopedia of Life, about 30 of each.",
        license="compilation CC0 1.0; each photo as the data set's metadata/licenses.csv says",
        citation="Imageomics Institute, Rare Species Dataset, doi:10.57967/hf/1981; Stevens et al., BioCLIP: A Vision "
        "Foundation Model for the Tree of Life, CVPR 2024",
        tables=("metadata.csv", "annotation/rare_species/metadata.csv"),
        images=("", "images", "dataset"),
        text_type="taxon_com",
        counts={"photos": 11_983, "classes": 400},
        notes=(
            "TreeOfLife-200M leaves out these photos, not these species: for BioCLIP 2 they are not unseen species",
        ),
    ).benchmark(root)

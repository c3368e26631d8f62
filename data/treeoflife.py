"""TreeOfLife-200M: photos of organisms that BioCLIP 2 was trained on. The images must be on this machine already.

What is published (https://huggingface.co/datasets/imageomics/TreeOfLife-200M) is a catalog of 214 million (first
version) or 233 million (second) images and where they were found, `dataset/catalog.parquet`, and their licences,
`metadata/provenance.parquet`. The images have to be crawled, with Imageomics/distributed-downloader for example. Then
either of

    bioclip-jax data build treeoflife OUT --catalog catalog.parquet --provenance provenance.parquet --images crawl
    bioclip-jax data build treeoflife OUT --tars 'shards/shard-{00000..24235}.tar' --catalog catalog.parquet

`--images` takes what the downloader leaves (`source=S/server=H/data_*.parquet` or
`server_name=X/partition_id=N/successes.parquet`), or image files called by their uuid, in any folders. Parquet files
can only be read in order with any speed: build a dataset from them first, and mix or train on that. `--tars` takes
webdataset tars, made by the TreeOfLife-toolbox for example: samples of 11 files, or of 6, which have no common names;
those come from the catalog if it is given.

Photos of one occurrence share their `source_id`; keep them in one split.
"""

from __future__ import annotations

from pathlib import Path

from bioclip_jax.errors import UsageError
from bioclip_jax.pipeline.about import About
from bioclip_jax.pipeline.catalog_source import open_crawl
from bioclip_jax.pipeline.record import RecordSource
from bioclip_jax.pipeline.tars import open_tars

about = About(
    description="TreeOfLife-200M: photos of organisms from GBIF, EOL, BIOSCAN-5M and FathomNet, of some 950 thousand "
    "taxa, with their place in the tree of life and a common name.",
    homepage="https://huggingface.co/datasets/imageomics/TreeOfLife-200M",
    version="doi:10.57967/hf/6786",
    license="compilation CC0-1.0; each image has its own licence, see provenance.parquet",
    citation="""\
@misc{treeoflife_200m,
  title = {{TreeOfLife-200M}},
  author = {Gu, Jianyang and others},
  publisher = {Hugging Face},
  year = {2025},
  doi = {10.57967/hf/6786}
}
@inproceedings{gu2025bioclip2,
  title = {{BioCLIP} 2: Emergent Properties from Scaling Hierarchical Contrastive Learning},
  author = {Gu, Jianyang and Stevens, Samuel and Campolongo, Elizabeth G and Thompson, Matthew J and Zhang, Net and
    Wu, Jiaman and Kopanev, Andrei and Mai, Zheda and White, Alexander E. and Balhoff, James and Dahdul, Wasila and
    Rubenstein, Daniel and Lapp, Hilmar and Berger-Wolf, Tanya and Chao, Wei-Lun and Su, Yu},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {38},
  year = {2025},
  eprint = {2505.23883},
  archivePrefix = {arXiv}
}
""",
)


def source(
    *,
    images: Path | None = None,
    tars: tuple[str, ...] = (),
    catalog: str | None = None,
    provenance: Path | None = None,
    fathomnet: Path | None = None,
    index_folder: Path | None = None,
    allow_damaged: bool = False,
    list_missing: bool = False,
    processes: int = 1,
) -> dict[str, RecordSource]:
    """The split `train` of TreeOfLife-200M.

    Args:
      images: the folder of a crawl: Parquet files of the distributed-downloader, or image files called by their uuid.
      tars: instead of images: paths, folders of *.tar, or patterns such as 'shard-{00000..24235}.tar' (in quotes);
        also gs:// and s3://.
      catalog: catalog.parquet; needed with images, and goes before the tars' own texts.
      provenance: provenance.parquet, for the licences of images.
      fathomnet: fathom_metadata.csv, for images that were crawled whole: of them only the box counts.
      index_folder: where indexes of the images or tars lie, for data in a read-only place; beside them if not given.
      allow_damaged: leave out what cannot be read of damaged files, instead of refusing them.
      list_missing: also list the rows of the catalog that have no image, as records that cannot be used.
      processes: how many make the indexes of tars that are missing.
    """
    provenance, fathomnet = (path and Path(path).expanduser() for path in (provenance, fathomnet))
    if bool(tars) == (images is not None):
        raise UsageError("give --images (the folder of a crawl) or --tars (webdataset tars), one of the two")
    if images is None:
        if given := [flag for flag, value in (("provenance", provenance), ("fathomnet", fathomnet)) if value]:
            raise UsageError(f"--{given[0]} goes with --images; tars are taken as they are")
        options = {"index_folder": index_folder, "allow_damaged": allow_damaged, "processes": processes}
        return {"train": open_tars(tars, taxonomy=catalog, source_name="treeoflife_200m", **options)}
    if catalog is None:
        raise UsageError("--images needs --catalog catalog.parquet, which says what they show")
    records = open_crawl(
        Path(catalog).expanduser(),
        Path(images).expanduser(),
        provenance=provenance,
        boxes=fathomnet,
        index_folder=index_folder and Path(index_folder).expanduser(),
        allow_damaged=allow_damaged,
        list_missing=list_missing,
    )
    return {"train": records}

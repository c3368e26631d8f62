"""BioCAP's data: TreeOfLife-10M with a written caption for each photo, as webdataset tars.

    bioclip-jax data build biocap OUT --root 224x224

The tars are those of `treeoflife_10m`, with one more member for each sample, `caption.txt`. The captions, written by a
model that sees the photo, are published as https://huggingface.co/datasets/imageomics/TreeOfLife-10M-Captions, and
Imageomics/biocap has the scripts that put them into the tars. A record has them in `caption`.
"""

from __future__ import annotations

from pathlib import Path

from bioclip_jax.pipeline.about import About
from bioclip_jax.pipeline.tar_splits import open_split_folders
from bioclip_jax.pipeline.tars import TarSource

about = About(
    description="TreeOfLife-10M with a caption for each photo, written by a multimodal language model.",
    homepage="https://huggingface.co/datasets/imageomics/TreeOfLife-10M-Captions",
    license="see the homepage; each image has its own licence, see licenses.csv of TreeOfLife-10M",
    citation="""\
@article{zhang2025biocap,
  title = {{BioCAP}: Exploiting Synthetic Captions Beyond Labels in Biological Foundation Models},
  author = {Zhang, Ziheng and Ma, Xinyue and Chowdhury, Arpita and Campolongo, Elizabeth G and Thompson, Matthew J and
    Zhang, Net and Stevens, Samuel and Lapp, Hilmar and Berger-Wolf, Tanya and Su, Yu and Chao, Wei-Lun and
    Gu, Jianyang},
  journal = {arXiv preprint arXiv:2510.20095},
  year = {2025}
}
""",
)


def source(
    *,
    root: Path,
    splits: tuple[str, ...] = ("train", "val"),
    index_folder: Path | None = None,
    allow_damaged: bool = False,
    processes: int = 1,
) -> dict[str, TarSource]:
    """The splits of TreeOfLife-10M with captions.

    Args:
      root: the folder that holds the folders train and val of tars.
      splits: which of its folders are read.
      index_folder: where the indexes of the tars lie, for tars in a read-only place; beside them if not given.
      allow_damaged: use what lies before the break of a damaged tar, instead of refusing it.
      processes: how many make the indexes that are missing.
    """
    return open_split_folders(
        Path(root),
        splits,
        source_name="treeoflife_10m",
        index_folder=index_folder,
        allow_damaged=allow_damaged,
        processes=processes,
    )

"""TreeOfLife-10M: the photos that BioCLIP was trained on, as the webdataset tars that its own scripts make.

    bioclip-jax data build treeoflife_10m OUT --root dataset/evobio10m-CVPR-2024/224x224

Published are photos of EOL and metadata (https://huggingface.co/datasets/imageomics/TreeOfLife-10M); iNat21 and
BIOSCAN-1M come from their own sites. `make_wds_reproduce.py` of Imageomics/bioclip joins them to the tars that this
reads: `train/shard-000000.tar` and on, `val/shard-000000.tar` to 000031, and `train_small`, a tenth of `train`.
"""

from __future__ import annotations

from pathlib import Path

from bioclip_jax.pipeline.about import About
from bioclip_jax.pipeline.tar_splits import open_split_folders
from bioclip_jax.pipeline.tars import TarSource

about = About(
    description="TreeOfLife-10M: 10.4 million photos of organisms from EOL, iNat21 and BIOSCAN-1M, of 454 thousand "
    "taxa, at 224 x 224 pixels, with their place in the tree of life and a common name.",
    homepage="https://huggingface.co/datasets/imageomics/TreeOfLife-10M",
    version="doi:10.57967/hf/1972",
    license="compilation CC0-1.0; each image has its own licence, see licenses.csv",
    citation="""\
@misc{treeoflife_10m,
  title = {{TreeOfLife-10M}},
  author = {Stevens, Samuel and others},
  publisher = {Hugging Face},
  doi = {10.57967/hf/1972}
}
@inproceedings{stevens2024bioclip,
  title = {{BioCLIP}: A Vision Foundation Model for the Tree of Life},
  author = {Stevens, Samuel and Wu, Jiaman and Thompson, Matthew J and Campolongo, Elizabeth G and Song, Chan Hee and
    Carlyn, David Edward and Dong, Li and Dahdul, Wasila M and Stewart, Charles and Berger-Wolf, Tanya and
    Chao, Wei-Lun and Su, Yu},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2024},
  eprint = {2311.18803},
  archivePrefix = {arXiv}
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
    """The splits of TreeOfLife-10M.

    Args:
      root: the folder that holds the folders train and val of tars.
      splits: which of its folders are read, such as train_small.
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

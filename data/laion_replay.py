"""LAION replay: pairs of a web image and its text, which BioCLIP 2 saw beside the organisms so as not to forget.

    bioclip-jax data build laion_replay OUT --tars 'laion/{00000..03999}.tar'

BioCLIP 2 took the first 4,000 tars that img2dataset makes of the first three metadata files of laion2B-en: 26 million
pairs, for many addresses are dead. Its options are not published; those of img2dataset itself give 256 x 256 pixels.
Fetch them with `img2dataset --output_format webdataset`; each sample is `KEY.jpg`, `KEY.txt` (the text) and `KEY.json`.
A record has the text in `caption`, and no names. Keys are unique within one run of img2dataset only.
"""

from __future__ import annotations

from pathlib import Path

from bioclip_jax.pipeline.about import About
from bioclip_jax.pipeline.tars import TarSource, open_tars

about = About(
    description="Images of the web with their texts: a part of LAION-2B-en, by which a model keeps what it knows.",
    homepage="https://laion.ai/blog/laion-5b/",
    license="metadata CC-BY-4.0; each image has its own licence",
    citation="""\
@inproceedings{schuhmann2022laion5b,
  title = {{LAION-5B}: An open large-scale dataset for training next generation image-text models},
  author = {Schuhmann, Christoph and Beaumont, Romain and Vencu, Richard and others},
  booktitle = {Advances in Neural Information Processing Systems, Datasets and Benchmarks Track},
  year = {2022},
  eprint = {2210.08402},
  archivePrefix = {arXiv}
}
""",
)


def source(
    *,
    tars: tuple[str, ...] | str,
    index_folder: Path | None = None,
    allow_damaged: bool = False,
    processes: int = 1,
) -> dict[str, TarSource]:
    """The split `train` of image-text pairs.

    Args:
      tars: paths, folders of *.tar, or patterns such as '{00000..03999}.tar' (in quotes); also gs:// and s3://.
      index_folder: where the indexes of the tars lie, for tars in a read-only place; beside them if not given.
      allow_damaged: use what lies before the break of a damaged tar, instead of refusing it.
      processes: how many make the indexes that are missing.
    """
    records = open_tars(
        tars, source_name="laion", index_folder=index_folder, allow_damaged=allow_damaged, processes=processes
    )
    return {"train": records}

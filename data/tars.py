"""Webdataset tars as they lie: TreeOfLife-10M and -200M, BioCAP, and what img2dataset writes (LAION).

    bioclip-jax data show tars --tars 'shards/shard-{00000..00009}.tar'
    bioclip-jax data build tars OUT --tars 'shards/shard-{00000..00009}.tar'

The tars must not be compressed. Each gets a small index, made once in one pass over its headers, beside it or in
`--index-folder`. Names are read from the text members that a sample has (`taxonTag.txt`, `scientific_name.txt`,
`common_name.txt`, ...), or by key from a table such as the `catalog.parquet` of TreeOfLife-200M.
"""

from __future__ import annotations

from pathlib import Path

from bioclip_jax.pipeline.tars import TarSource, open_tars


def source(
    *,
    tars: tuple[str, ...] | str,
    taxonomy: str | None = None,
    index_folder: Path | None = None,
    split: str = "train",
    source_name: str = "",
    allow_damaged: bool = False,
    processes: int = 1,
    read_ahead: int = 0,
    cache: Path | None = None,
) -> dict[str, TarSource]:
    """One split of records from webdataset tars.

    Args:
      tars: paths, folders of *.tar, or patterns such as 'shard-{00000..00009}.tar' (in quotes); also gs:// and s3://.
      taxonomy: Parquet or CSV with a column uuid or key and those of the ranks; its rows go before the tars' own texts.
      index_folder: where the indexes of the tars lie, for tars in a read-only place; beside them if not given.
      split: what the split is called.
      source_name: where the photos come from, if no table says it for each.
      allow_damaged: use what lies before the break of a damaged tar, instead of refusing it.
      processes: how many make the indexes that are missing.
      read_ahead: bytes that are read at once and kept, where the order keeps neighbours together (data.block_size);
        8388608 is a good choice for object storage.
      cache: local folder that keeps whole tars of an object store.
    """
    records = open_tars(
        tars,
        taxonomy=taxonomy,
        index_folder=index_folder,
        source_name=source_name,
        allow_damaged=allow_damaged,
        processes=processes,
        read_ahead=read_ahead,
        cache=cache,
    )
    return {split: records}

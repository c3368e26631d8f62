"""Webdataset tars with a folder for each split, as TreeOfLife-10M has them: `train/*.tar`, `val/*.tar`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bioclip_jax.errors import UsageError
from bioclip_jax.pipeline.shards import check_name
from bioclip_jax.pipeline.tars import TarSource, open_tars


def open_split_folders(root: Path, splits: Sequence[str], **options: Any) -> dict[str, TarSource]:
    """Opens the tars of each split.

    Args:
      root: the folder that holds a folder of tars for each split.
      splits: the names of the folders.
      options: keyword arguments of `tars.open_tars`.

    Raises:
      UsageError: a folder is not there, holds no tars, or is called as no split can be.
      UserError: a tar is damaged or compressed, or there is no sample in them.
    """
    root = root.expanduser()
    if not splits:
        raise UsageError("--splits: name at least one folder, such as train")
    for split in splits:
        check_name("split", split)
        if not (root / split).is_dir():
            there = ", ".join(sorted(entry.name for entry in root.iterdir() if entry.is_dir())) if root.is_dir() else ""
            raise UsageError(f"folder {root} has no folder {split!r} of tars; it has: {there or 'none'}")
    return {split: open_tars(root / split, **options) for split in splits}

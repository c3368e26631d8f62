"""A published catalog and the images that were crawled for it, joined by key, as random access to records.

    source = open_crawl(Path("catalog.parquet"), Path("images"))

The records are the images that the catalog has, in the order in which they lie; read them in order. Images that it
lacks are left out, and of several images with one key the first counts.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console

from bioclip_jax.errors import UserError
from bioclip_jax.images import ImageError, decode
from bioclip_jax.pipeline.catalog import Box, Catalog, read_boxes, read_catalog
from bioclip_jax.pipeline.crawl_index import open_images
from bioclip_jax.pipeline.crawled import CACHE_BYTES, Crawled, Images
from bioclip_jax.pipeline.record import BadRecord, Record
from bioclip_jax.pipeline.taxonomy_table import TaxonomyTable
from bioclip_jax.text.taxonomy import RANKS

_NAMES = (*RANKS, "scientific_name", "common_name")


class CatalogSource:
    """The records of a catalog whose image is there; picklable, safe to use from many threads.

    `record["image"]` is uint8 [height, width, 3], RGB, where the crawler kept pixels, else the bytes of the file.

    Args:
      images: by file and row.
      kept: for each file which of its rows are records, bool [rows].
      table: the catalog's fields by key.
      missing: keys without an image; they come last, as bad records.
      boxes: by key the part of the image that counts.
    """

    def __init__(
        self,
        images: Images,
        kept: Sequence[np.ndarray],
        table: TaxonomyTable,
        missing: pa.Array,
        boxes: Mapping[str, Box],
    ):
        self._images, self._table, self._missing, self._boxes = images, table, missing, dict(boxes)
        self._bits = [(len(rows), np.packbits(rows)) for rows in kept]  # an eighth of a byte for each image
        self._ends = list(accumulate(int(np.count_nonzero(rows)) for rows in kept))
        self._rows: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return self._images_count + len(self._missing)

    @property
    def _images_count(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Record:
        """The record at `index`, from 0 to `len(self) - 1`.

        Raises:
          IndexError: there is no such place.
          BadRecord: its image is missing or damaged, or the catalog has no name for it.
          UserError: a file of images is gone or has changed.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        if index >= self._images_count:
            key = self._missing[index - self._images_count].as_py()
            raise BadRecord(key, "image is missing: it is not among the crawled images")
        file = bisect_right(self._ends, index)
        crawled = self._images.read(file, self._row(file, index - (self._ends[file - 1] if file else 0)))
        fields = self._table.get(crawled.key)
        if fields is None:
            raise BadRecord(crawled.key, "not in the catalog")
        if not any(fields.get(name) for name in _NAMES):
            raise BadRecord(crawled.key, "no name at any rank")
        box = self._boxes.get(crawled.key)
        return {"key": crawled.key, "image": crawled.image if box is None else crop(crawled, box), **fields}

    def _row(self, file: int, place: int) -> int:
        known, rows = self._rows
        if known != file:
            count, bits = self._bits[file]
            rows = np.flatnonzero(np.unpackbits(bits, count=count))
            self._rows = file, rows
        return int(rows[place])


def crop(crawled: Crawled, box: Box) -> np.ndarray:
    """The part of an image within a box, uint8 [height, width, 3].

    The box is in pixels of the published image; it shrinks with an image that the crawler made smaller, and ends at its
    edges (as in Imageomics/TreeOfLife-toolbox, `tol200m_fathom_net_crop`, which does not let it shrink).

    Raises:
      BadRecord: nothing of the image is within the box, or it cannot be decoded.
    """
    try:
        image = decode(crawled.image) if isinstance(crawled.image, bytes) else crawled.image
    except ImageError as error:
        raise BadRecord(crawled.key, f"image {error.reason}: {error}") from None
    height, width = image.shape[:2]
    full_height, full_width = crawled.original_size or (height, width)
    x, y, box_width, box_height = box
    left, right = (min(width, max(0, math.floor(at * width / full_width + 0.5))) for at in (x, x + box_width))
    top, bottom = (min(height, max(0, math.floor(at * height / full_height + 0.5))) for at in (y, y + box_height))
    if left >= right or top >= bottom:
        raise BadRecord(crawled.key, f"box is outside the image: {box} of {full_width} x {full_height}")
    return np.ascontiguousarray(image[top:bottom, left:right])


def open_crawl(
    catalog: Path,
    images: Path,
    *,
    provenance: Path | None = None,
    boxes: Path | None = None,
    index_folder: Path | None = None,
    allow_damaged: bool = False,
    list_missing: bool = False,
    cache_bytes: int = CACHE_BYTES,
    console: Console | None = None,
) -> CatalogSource:
    """Joins a catalog with the images that were crawled for it.

    Args:
      catalog: Parquet or CSV with a column `uuid` and those of the ranks.
      images: the folder of the crawl; see `crawl_index.open_images`.
      provenance: Parquet or CSV with `uuid` and the licence of each image.
      boxes: CSV with `uuid`, `x`, `y`, `width`, `height`: of these images only that part counts.
      index_folder: where the index of the crawl lies; with the images if not given.
      allow_damaged: leave out Parquet files that cannot be read, instead of refusing them.
      list_missing: rows of the catalog whose image is not there are records, too, which raise `BadRecord`.
      cache_bytes: of decoded images that are kept.
      console: for the progress; standard error if not given.

    Raises:
      UsageError: a file or folder is not there, or lacks a column.
      UserError: it cannot be read, or no image is in the catalog.
    """
    console = console or Console(stderr=True)
    crawl = open_images(images, index_folder, allow_damaged=allow_damaged, cache_bytes=cache_bytes, console=console)
    everything = np.concatenate(crawl.hashes)
    found = read_catalog(catalog, everything, provenance=provenance, list_missing=list_missing, console=console)
    kept, repeated = _kept(crawl.hashes, found.hashes)
    count = sum(int(np.count_nonzero(rows)) for rows in kept)
    if not count:
        raise UserError(
            f"catalog {catalog} has {found.rows:,} rows, and {images} {len(everything):,} images, but no key is in "
            "both; images must have the uuid of their row, in a column uuid or as the name of the file"
        )
    console.print(_summary(found, count, len(everything), repeated, crawl.notes), highlight=False, markup=False)
    return CatalogSource(crawl.images, kept, found.table, found.missing, read_boxes(boxes) if boxes is not None else {})


def _kept(files: Sequence[np.ndarray], wanted: np.ndarray) -> tuple[list[np.ndarray], int]:
    """For each file which rows are records, bool; and how many are not because their key was there before."""
    seen = np.zeros(len(wanted), bool)
    kept, repeated = [], 0
    for hashes in files:
        rows = np.zeros(len(hashes), bool)
        if len(wanted) and len(hashes):
            place = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
            found = np.flatnonzero(wanted[place] == hashes)
            _, first = np.unique(place[found], return_index=True)
            first = found[first]
            new = first[~seen[place[first]]]
            rows[new] = True
            seen[place[new]] = True
            repeated += len(found) - len(new)
        kept.append(rows)
    return kept, repeated


def _summary(catalog: Catalog, count: int, images: int, repeated: int, notes: Sequence[str]) -> str:
    parts = [f"{count:,} images of {catalog.rows:,} rows in the catalog"]
    parts += [f"{images - count - repeated:,} other images left out"] if images - count - repeated else []
    parts += [f"{repeated:,} images with a key seen before"] if repeated else []
    parts += [f"{catalog.repeated:,} rows with a key seen before"] if catalog.repeated else []
    return "; ".join([*parts, *notes])

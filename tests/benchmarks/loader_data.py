"""What the benchmark of the loader and the tests of scale read: photos, tars in upstream's layout, datasets, and links.

A set of as many files as TreeOfLife-200M has is one real file under many names (hard links), which each reader opens,
maps and closes as if they were different ones. Their bytes lie in the page cache once.
"""

from __future__ import annotations

import dataclasses
import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from bioclip_jax.pipeline.manifest import Manifest, write_manifest
from bioclip_jax.pipeline.record import Record, RecordSource
from bioclip_jax.pipeline.shards import ShardWriter, encode_example, shard_name
from bioclip_jax.pipeline.tar_index_file import index_path
from bioclip_jax.pipeline.tars import open_tars
from bioclip_jax.recipes import load_recipe
from bioclip_jax.text.captions import ALL_TEXT_TYPES, caption
from bioclip_jax.text.taxonomy import Taxon

SHARDS = 24_236  # of TreeOfLife-200M
RECORDS = 8_830  # in each
TARS = 10
CORRUPT_ONE_IN = 100


class Unlike:
    """The records of a source under a new genus at every read, as if no caption ever came twice."""

    def __init__(self, source: RecordSource):
        self._source, self._reads = source, 0

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        self._reads += 1
        record = self._source[index]
        return record | {"genus": f"Genus{self._reads:x}", "scientific_name": "", "common_name": ""}


def photo_records(folder: Path | None, size: int, most: int) -> list[Record]:
    """Photos as JPEGs of quality 95 by OpenCV: squashed to a square as TreeOfLife-200M's, or with 720 the longest side.

    Args:
      folder: with `metadata.csv` and the photos it names; None for drawn ones.
      size: 224 for the square, 720 for the longest side.
      most: how many at most.
    """
    if folder is None:
        sources = [load_recipe("data", "synthetic").source(num_images=most, image_size=256)["train"]]
    else:
        sources = list(load_recipe("data", "photo_table").source(table=folder / "metadata.csv").values())
    places = [(source, index) for source in sources for index in range(len(source))][:most]
    return [_resized(source[index], size) for source, index in places]


def _resized(record: Record, size: int) -> Record:
    pixels = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_COLOR)
    height, width = pixels.shape[:2]
    share = size / max(height, width)
    shape = (224, 224) if size == 224 else (round(width * share), round(height * share))
    pixels = cv2.resize(pixels, shape, interpolation=cv2.INTER_CUBIC)
    return record | {"image": cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()}


def tiny_records(count: int) -> list[Record]:
    """Records with one photo of 16 x 16 pixels."""
    image = cv2.imencode(".jpg", np.full((16, 16, 3), 99, np.uint8))[1].tobytes()
    names = {"kingdom": "Animalia", "class": "Aves", "genus": "Corvus", "species": "corax", "source": "benchmark"}
    return [{"key": f"{index:032x}", "image": image, **names} for index in range(count)]


def write_tar(
    path: Path, records: Sequence[Record], corrupt: bool = False, kinds: Sequence[str] = ALL_TEXT_TYPES
) -> Path:
    """A tar in upstream's layout: 11 members a sample, each with a PAX header for its time of change.

    Args:
      path: of the tar.
      records: its samples.
      corrupt: in turn one of a hundred samples has half a photo, no text at all, or a photo of no bytes.
      kinds: of texts; upstream's ten if not given.
    """
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for place, record in enumerate(records):
            image, taxon = record["image"], Taxon.from_record(record)
            texts = {f"{kind}.txt": caption(taxon, kind).encode() for kind in kinds}
            turn, rest = divmod(place, CORRUPT_ONE_IN)
            if corrupt and rest == CORRUPT_ONE_IN // 2:
                image = (image[: len(image) // 2], image, b"")[turn % 3]
                texts = {} if turn % 3 == 1 else texts
            for suffix, data in sorted({"jpg": image, **texts}.items()):
                info = tarfile.TarInfo(f"{place:08x}-{path.stem}.{suffix}")
                info.size, info.mtime = len(data), 1700000000.123456
                tar.addfile(info, io.BytesIO(data))
    return path


def write_tars(folder: Path, records: Sequence[Record], corrupt: bool = False) -> list[Path]:
    """Ten tars with the records dealt out in runs."""
    folder.mkdir()
    each = -(-len(records) // TARS)
    return [
        write_tar(folder / f"shard-{tar:05}.tar", records[tar * each : (tar + 1) * each], corrupt)
        for tar in range(TARS)
    ]


def many_tars(
    folder: Path, records: Sequence[Record], shards: int = SHARDS, kinds: Sequence[str] = ALL_TEXT_TYPES
) -> str:
    """A tar of `RECORDS` samples and its index under so many names; returns their pattern."""
    folder.mkdir()
    first = write_tar(folder / "shard-00000.tar", _repeated(records), kinds=kinds)
    open_tars(first)
    for tar in range(1, shards):
        path = folder / f"shard-{tar:05}.tar"
        os.link(first, path)
        os.link(index_path(first), index_path(path))
    return f"{folder}/shard-{{00000..{shards - 1}}}.tar"


def many_shards(folder: Path, records: Sequence[Record], shards: int = SHARDS) -> str:
    """A dataset directory whose files are one ArrayRecord file of `RECORDS` records under so many names."""
    folder.mkdir()
    first = folder / shard_name("many", "train", 0, shards)
    with ShardWriter(first, folder / "temporary") as writer:
        for record in _repeated(records):
            writer.write(encode_example(record))
        file = writer.finish()
    files = [dataclasses.replace(file, name=shard_name("many", "train", shard, shards)) for shard in range(shards)]
    for other in files[1:]:
        os.link(first, folder / other.name)
    write_manifest(folder, Manifest("many", {"train": tuple(files)}, {}, "none"))
    return str(folder)


def _repeated(records: Sequence[Record]) -> list[Record]:
    return [records[place % len(records)] for place in range(RECORDS)]

"""Features of photos in one Parquet file: `bioclip-jax embed`.

Rows come in the order of the photos, those that cannot be read with null features and the reason. Finished rows are
kept in a folder of parts beside the file, so that an interrupted command continues; the file itself appears whole or
not at all, and says in its metadata whose features it holds.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from bioclip_jax import __version__
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.inference.model import Model
from bioclip_jax.inference.photos import Encoded, Photos, encode_photos, reasons
from bioclip_jax.pipeline.lock import exclusive
from bioclip_jax.pipeline.progress import RecordProgress

METADATA = b"bioclip_jax"
"""The key of the file's own metadata, a JSON object."""
PART_ROWS, PART_SECONDS = 4096, 60.0
"""A part is written when it has so many rows or is so old: what a killed process loses at most."""
_RUN = "run.json"


@dataclass
class Embedded:
    """What became of the photos."""

    photos: int
    unreadable: Counter[str]
    """How many could not be read, by reason."""
    computed: int
    """Photos that were not done before."""


def embed(
    model: Model,
    photos: Photos,
    out: Path,
    *,
    batch_size: int = 64,
    overwrite: bool = False,
    console: Console | None = None,
) -> Embedded:
    """Writes the features of `photos` to the Parquet file `out`, or completes what an earlier call has begun.

    Columns: `key`, `features` (a list of d float32, L2-normalised; null where the photo cannot be read), `error`
    (null where it can).

    Args:
        model: whose features.
        photos: in the order of the rows.
        out: the file to write.
        batch_size: photos encoded at once.
        overwrite: replace a file, or unfinished parts, of another model or of other photos.
        console: for the progress; standard error if not given.

    Raises:
        UsageError: `out` is there and holds something else.
        UserError: no photo can be read, a feature is not finite, or another process writes the same file.
    """
    if out.suffix != ".parquet":
        raise UsageError(f"--out {out}: the features are written as Parquet; end the name in .parquet")
    about = _about(model, photos)
    if out.exists() and not overwrite:
        _require_same(out, about)
        return Embedded(len(photos), _errors(out), 0)
    if out.exists():
        read_about(out)  # never replaces another file
    parts = out.with_name(f"{out.name}.parts")
    parts.mkdir(parents=True, exist_ok=True)
    with exclusive(parts / ".lock", f"{out} is being written by another process"):
        _prepare(parts, about, overwrite)
        schema = _schema(model.config.embed_dim, about)
        done = _finished_rows(parts)
        with RecordProgress(len(photos), "embedding", console, unit="photos") as progress:
            progress.skip(done)
            batches = encode_photos(model, photos, start=done, batch_size=batch_size)
            _write_parts(parts, done, batches, schema, progress)
        unreadable: Counter[str] = Counter()
        for part in _parts(parts):
            unreadable += _errors(part)
        if unreadable.total() == len(photos):
            _remove(parts)
            raise UserError(f"none of the {len(photos):,} photos can be read: {reasons(unreadable)}")
        _join(parts, out, schema)
        _remove(parts)
    return Embedded(len(photos), unreadable, len(photos) - done)


def read_about(path: Path) -> dict[str, Any]:
    """What a file of features says of itself.

    Raises:
        UsageError: it is no file of features.
    """
    try:
        return dict(json.loads(pq.read_schema(path).metadata[METADATA]))
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError):
        raise UsageError(f"{path} is there and was not written by `bioclip-jax embed`; give another name") from None


def read_features(path: Path, batch_size: int, rows: int) -> Iterator[Encoded]:
    """The first `rows` rows of a file of features, in batches.

    Raises:
        UserError: the file is damaged.
    """
    done = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=batch_size):
                batch = batch.slice(0, rows - done)
                done += batch.num_rows
                features = batch.column("features").drop_null()
                width = features.type.list_size
                if batch.num_rows:
                    yield Encoded(
                        batch.column("key").to_pylist(),
                        features.flatten().to_numpy(zero_copy_only=False).reshape(-1, width),
                        [error or "" for error in batch.column("error").to_pylist()],
                    )
    except (pa.ArrowException, OSError, LookupError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}); embed the photos again") from None


def _about(model: Model, photos: Photos) -> dict[str, Any]:
    return {
        "format": 1,
        "model": model.name,
        "weights": model.fingerprint,
        "preprocessing": asdict(model.preprocessing),
        "image_size": model.config.vision.image_size,
        "normalized": True,
        "photos": photos.digest(),
        "version": __version__,
    }


def _schema(width: int, about: dict[str, Any]) -> pa.Schema:
    fields = [("key", pa.string()), ("features", pa.list_(pa.float32(), width)), ("error", pa.string())]
    return pa.schema(fields, metadata={METADATA: json.dumps(about)})


def _require_same(path: Path, about: dict[str, Any]) -> None:
    found = read_about(path)
    _same(found, about, f"{path} is there and")


def _same(found: dict[str, Any], about: dict[str, Any], what: str) -> None:
    """Raises `UsageError` where `found` is of another model or of other photos."""
    for field, whose in (
        ("weights", "another model"),
        ("photos", "other photos, or of photos that have changed since"),
    ):
        if found.get(field) != about[field]:
            name = f" ({found['model']})" if field == "weights" and found.get("model") else ""
            raise UsageError(f"{what} holds features of {whose}{name}; --overwrite replaces it, --out names another")


def _prepare(parts: Path, about: dict[str, Any], overwrite: bool) -> None:
    """Takes up the folder of parts if it is of the same model and photos, or begins anew."""
    note = parts / _RUN
    if note.is_file():
        try:
            found = json.loads(note.read_text(encoding="utf-8"))
            _same(found, about, f"{parts}, an unfinished file,")
            return
        except UsageError:
            if not overwrite:
                raise
        except (ValueError, AttributeError):
            pass  # cut off while it was written: no part can be there
    elif _parts(parts):
        raise UsageError(f"{parts} holds files that are not of `bioclip-jax embed`; move them away")
    for part in _parts(parts):
        part.unlink()
    note.write_text(json.dumps(about), encoding="utf-8")


def _parts(parts: Path) -> list[Path]:
    return sorted(parts.glob("*.parquet"))


def _remove(parts: Path) -> None:
    """Removes what this module wrote, and the folder if nothing else is in it."""
    for path in (*_parts(parts), *parts.glob(".*.tmp"), parts / _RUN, parts / ".lock"):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        parts.rmdir()


def _finished_rows(parts: Path) -> int:
    """How many rows the parts hold without a gap; a damaged part, and those behind it, are removed."""
    done = 0
    whole = True
    for part in _parts(parts):
        if whole:
            try:
                rows = pq.read_metadata(part).num_rows
                whole = int(part.stem) == done
                done += rows if whole else 0
            except (pa.ArrowException, OSError, ValueError):
                whole = False
        if not whole:
            part.unlink()
    return done


def _write_parts(
    parts: Path, done: int, batches: Iterator[Encoded], schema: pa.Schema, progress: RecordProgress
) -> None:
    """Writes batches as parts, each called by its first row; what is waiting when something fails is written too."""
    waiting: list[pa.Table] = []
    first, since = done, time.monotonic()

    def write() -> None:
        nonlocal first, since
        if waiting:
            table = pa.concat_tables(waiting)
            temporary = parts / f".{first:012}.tmp"
            pq.write_table(table, temporary, use_dictionary=["error"])
            temporary.replace(parts / f"{first:012}.parquet")
            first, since = first + table.num_rows, time.monotonic()
            waiting.clear()

    unreadable = 0
    try:
        for batch in batches:
            waiting.append(_table(batch, schema))
            unreadable += sum(map(bool, batch.errors))
            progress.advance(len(batch.keys), f"{unreadable:,} unreadable" if unreadable else "")
            if sum(table.num_rows for table in waiting) >= PART_ROWS or time.monotonic() - since > PART_SECONDS:
                write()
    finally:
        write()


def _table(batch: Encoded, schema: pa.Schema) -> pa.Table:
    bad = np.array([bool(error) for error in batch.errors])
    values = np.zeros((len(bad), schema.field("features").type.list_size), np.float32)
    if len(batch.features):
        values[~bad] = batch.features
    features = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1], mask=pa.array(bad))
    errors = pa.array([error or None for error in batch.errors], pa.string())
    return pa.Table.from_arrays([pa.array(batch.keys, pa.string()), features, errors], schema=schema)


def _errors(path: Path) -> Counter[str]:
    """How many rows of a file have an error, by reason."""
    found: Counter[str] = Counter()
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["error"]):
            found.update(error for error in batch.column("error").to_pylist() if error)
    return found


def _join(parts: Path, out: Path, schema: pa.Schema) -> None:
    """Writes the parts as one file, in row groups of one size."""
    temporary = parts / ".whole.tmp"
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(temporary, schema, use_dictionary=["error"]) as writer:
        for part in _parts(parts):
            with pq.ParquetFile(part) as file:
                waiting.append(file.read())
            if sum(table.num_rows for table in waiting) >= PART_ROWS:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
                waiting.clear()
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())
    temporary.replace(out)

"""Features of a data set's photos and of texts, computed once for each (weights, preprocessing, data)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.cache import ArrayCache, digest
from bioclip_jax.evaluation.encoder import Encoder, ImageEncoder, require_finite
from bioclip_jax.images import ImageError
from bioclip_jax.pipeline.manifest import read_manifest
from bioclip_jax.pipeline.record import BadRecord, RecordSource
from bioclip_jax.recipes import load_recipe
from bioclip_jax.text.taxonomy import Taxon

THREADS = 4
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Samples:
    """The usable photos of one split."""

    split: str
    rows: np.ndarray
    """int64 `[n]`: their places in the split's source."""
    keys: tuple[str, ...]
    taxa: tuple[Taxon, ...]
    features: np.ndarray
    """float32 `[n, d]`."""
    unreadable: Mapping[str, int]
    """How many photos could not be used, by reason. They are in no figure."""

    def __len__(self) -> int:
        return len(self.keys)

    def only(self, rows: np.ndarray, reason: str) -> Samples:
        """Those at `rows` of the source; the others are counted as unreadable for `reason`."""
        kept = np.flatnonzero(np.isin(self.rows, rows))
        lost = len(self) - len(kept)
        if not lost:
            return self
        return replace(
            self,
            rows=self.rows[kept],
            keys=tuple(self.keys[place] for place in kept),
            taxa=tuple(self.taxa[place] for place in kept),
            features=self.features[kept],
            unreadable={**self.unreadable, reason: lost},
        )


def has_manifest(dataset: str) -> bool:
    """Whether `dataset` is a directory whose manifest says what is in it, and not a recipe that is read live."""
    return not dataset.endswith(".py") and Path(dataset).is_dir()


def dataset_hash(dataset: str, arguments: Mapping[str, Any], splits: Mapping[str, RecordSource]) -> str:
    """Stands for the data in the results.

    Of a dataset directory it is the manifest's hash. Of a recipe that is read live: its text, arguments, and the
    number of records and first record of each of `splits`. That cannot show every change, so features of live data
    are not kept.
    """
    if has_manifest(dataset):
        return read_manifest(dataset).hash
    file = load_recipe("data", dataset).__file__
    text = Path(file).read_bytes() if file else b""
    first = {name: [len(source), _record_hash(source)] for name, source in splits.items()}
    return digest("recipe", hashlib.sha256(text).hexdigest(), dict(arguments), first)


def _record_hash(source: RecordSource) -> str:
    try:
        return hashlib.sha256(repr(sorted(source[0].items())).encode()).hexdigest() if len(source) else ""
    except BadRecord as error:
        return error.reason


def chosen_rows(records: int, limit: int | None, seed: int = 0) -> np.ndarray:
    """int64: every row, or a random choice of `limit` rows in their order; a pure function of its arguments."""
    if limit is None or limit >= records:
        return np.arange(records)
    return np.sort(np.random.default_rng(seed).choice(records, limit, replace=False))


def image_features(
    encoder: ImageEncoder,
    source: RecordSource,
    split: str,
    *,
    data: str,
    limit: int | None = None,
    cache: ArrayCache,
    batch_size: int = 256,
    advance: Callable[[int], None] = lambda records: None,
) -> Samples:
    """Features of the photos of `source`, read from the cache where they are known; names come from the source.

    Args:
        encoder: gives the features.
        source: the records of the split.
        split: its name in the data set.
        data: hash of the data set.
        limit: at most so many photos, chosen at random.
        cache: where features are kept; one without a folder for data that may change.
        batch_size: photos encoded at once; the next batch is read meanwhile.
        advance: is called with the number of records done.

    Raises:
        UserError: none of the photos can be used, or a feature is not finite.
    """
    key = digest("images", encoder.fingerprint, data, split, limit, len(source))
    chosen = chosen_rows(len(source), limit)
    kept = cache.get(key, {"features", "rows", "unreadable"})
    if kept is None:
        samples = _encode_images(encoder, source, split, chosen, batch_size, advance)
        unreadable = np.frombuffer(json.dumps(samples.unreadable).encode(), np.uint8)
        cache.put(key, {"features": samples.features, "rows": samples.rows, "unreadable": unreadable})
        return samples
    names = _named(source, kept["rows"])
    advance(len(chosen))
    return Samples(
        split=split,
        rows=kept["rows"],
        keys=tuple(key for key, _ in names),
        taxa=tuple(taxon for _, taxon in names),
        features=kept["features"],
        unreadable=json.loads(kept["unreadable"].tobytes()),
    )


def _named(source: RecordSource, rows: np.ndarray) -> list[tuple[str, Taxon]]:
    def read(row: int) -> tuple[str, Taxon]:
        record = source[row]
        return str(record["key"]), Taxon.from_record(record)

    batches = [rows[start : start + 1024].tolist() for start in range(0, len(rows), 1024)]
    return [name for answers in _read_ahead(read, batches) for name in answers]


def _encode_images(
    encoder: ImageEncoder,
    source: RecordSource,
    split: str,
    rows: np.ndarray,
    batch_size: int,
    advance: Callable[[int], None],
) -> Samples:
    def read(row: int) -> tuple[int, str, Taxon, np.ndarray] | str:
        try:
            record = source[row]
            return row, str(record["key"]), Taxon.from_record(record), encoder.preprocess(record["image"])
        except (BadRecord, ImageError) as error:
            return error.reason

    batches = [rows[start : start + batch_size].tolist() for start in range(0, len(rows), batch_size)]
    read_photos: list[tuple[int, str, Taxon]] = []
    features: list[np.ndarray] = []
    unreadable = Counter[str]()
    for answers in _read_ahead(read, batches):
        good = [answer for answer in answers if not isinstance(answer, str)]
        unreadable.update(answer for answer in answers if isinstance(answer, str))
        if good:
            found = np.asarray(encoder.encode_image(np.stack([image for *_, image in good])), np.float32)
            features.append(require_finite(found, [key for _, key, _, _ in good], encoder.name))
            read_photos += [(row, key, taxon) for row, key, taxon, _ in good]
        advance(len(answers))
    if not read_photos:
        reasons = ", ".join(f"{count} {reason}" for reason, count in unreadable.items()) or "it is empty"
        raise UserError(f"split {split!r} has no photo that can be used: {reasons}")
    return Samples(
        split=split,
        rows=np.array([row for row, _, _ in read_photos], np.int64),
        keys=tuple(key for _, key, _ in read_photos),
        taxa=tuple(taxon for _, _, taxon in read_photos),
        features=np.concatenate(features),
        unreadable=dict(unreadable),
    )


def _read_ahead(function: Callable[[Item], Result], batches: list[list[Item]]) -> Iterator[list[Result]]:
    """The results of each batch, while the next one is computed by threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            waiting = iter(batches)
            ahead = [[pool.submit(function, item) for item in batch] for batch in islice(waiting, 1)]
            while ahead:
                ahead += [[pool.submit(function, item) for item in batch] for batch in islice(waiting, 1)]
                yield [future.result() for future in ahead.pop(0)]
        finally:
            pool.shutdown(cancel_futures=True)


def cached_encode_text(encoder: Encoder, cache: ArrayCache) -> Callable[[list[str]], np.ndarray]:
    """`encoder.encode_text` that looks into the cache first; raises `UserError` for features that are not finite."""

    def encode(texts: list[str]) -> np.ndarray:
        key = digest("texts", encoder.fingerprint, texts)
        kept = cache.get(key, {"features"})
        if kept is None:
            features = require_finite(np.asarray(encoder.encode_text(texts), np.float32), texts, encoder.name)
            kept = {"features": features}
            cache.put(key, kept)
        return kept["features"]

    return encode

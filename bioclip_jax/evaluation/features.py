"""Features of a data set's photos and of texts, computed once for each (weights, preprocessing, data)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.cache import ArrayCache, digest
from bioclip_jax.evaluation.encoder import Encoder, ImageEncoder, raw_features, require_finite
from bioclip_jax.evaluation.file_stamps import MISSING, UNREADABLE, FileStamp, chunks_of_files
from bioclip_jax.evaluation.head_cache import kept_texts
from bioclip_jax.heads import KeptTexts
from bioclip_jax.images import ImageError, ImageSource
from bioclip_jax.pipeline.manifest import read_manifest
from bioclip_jax.pipeline.readers import DAMAGED
from bioclip_jax.pipeline.record import BadRecord, RecordSource
from bioclip_jax.recipes import load_recipe
from bioclip_jax.text.taxonomy import Taxon

THREADS = 4
CHUNK = 2048
"""Photos whose features are kept at a time: a run that is killed loses no more."""
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


class NoUsablePhoto(UserError):
    """No photo of a split can be used; `unreadable` has the number of them by reason."""

    def __init__(self, message: str, unreadable: Mapping[str, int]):
        super().__init__(message)
        self.unreadable = unreadable


class Photo(NamedTuple):
    """A record of a split."""

    row: int
    key: str
    taxon: Taxon
    image: np.ndarray
    """uint8 `[size, size, 3]`, preprocessed."""


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
    data: str | Sequence[FileStamp],
    limit: int | None = None,
    cache: ArrayCache,
    batch_size: int = 256,
    normalize: bool = True,
    advance: Callable[[int], None] = lambda records: None,
    skip: Callable[[int], None] | None = None,
) -> Samples:
    """Features of the photos of `source`; those that the cache has are not computed again.

    They are kept in chunks, each as soon as it is done, so that a run that was killed goes on where it stopped.

    Args:
        encoder: gives the features.
        source: the records of the split.
        split: its name in the data set.
        data: hash of the data set; or the stamps of the files of its records. Then features are kept by file, whatever
            the data set and split are called, and no record has a taxon, since one file can have several.
        limit: at most so many photos, chosen at random.
        cache: where features are kept; one without a folder for data that may change.
        batch_size: photos encoded at once; the next batch is read meanwhile.
        normalize: whether features are as the encoder gives them, or not normalised if it has such.
        advance: is called with the number of records done.
        skip: is called instead with the number of those that the cache had.

    Raises:
        NoUsablePhoto: as it says.
        UserError: a feature is not finite.
    """
    chosen = chosen_rows(len(source), limit)
    kind = "images" if normalize else "images, not normalised"
    if isinstance(data, str):
        chunks = [chosen[start : start + CHUNK] for start in range(0, len(chosen), CHUNK)]
        keys = [digest(kind, encoder.fingerprint, data, split, rows) for rows in chunks]
    else:
        chunks = chunks_of_files(data, chosen, CHUNK)
        # Files of two data sets can agree in names, sizes and times, where all are as large: so one of them is read.
        keys = [
            digest("files", kind, encoder.fingerprint, [data[row] for row in rows], _image_hash(source, rows[0]))
            for rows in chunks
        ]
    kept = [_kept(cache, key, rows) for key, rows in zip(keys, chunks, strict=True)]
    for rows, known in zip(chunks, kept, strict=True):
        if known:
            (skip or advance)(len(rows))
    missing = [place for place, known in enumerate(kept) if known is None]
    encoded = _encode_images(encoder, source, [chunks[place] for place in missing], batch_size, normalize, advance)
    for place, chunk in zip(missing, encoded, strict=True):
        names = [name if isinstance(name, str) else (*name[:2], astuple(name[2])) for name in chunk.names]
        about = np.frombuffer(json.dumps(names).encode(), np.uint8)
        if _will_stay(chunk, chunks[place], data):
            cache.put(keys[place], {"features": chunk.features, "names": about})
        kept[place] = chunk
    done = [chunk for chunk in kept if chunk]
    samples = samples_of(split, [name for chunk in done for name in chunk.names])
    if not isinstance(data, str):
        samples = replace(samples, taxa=(Taxon(),) * len(samples))
    return replace(samples, features=np.concatenate([chunk.features for chunk in done if len(chunk.features)]))


class _Chunk(NamedTuple):
    """What became of some records, in their order."""

    names: list[tuple[int, str, Taxon] | str]
    """Row, key and taxon, or the reason why a photo cannot be used."""
    features: np.ndarray
    """Of the usable ones."""


def _kept(cache: ArrayCache, key: str, rows: np.ndarray) -> _Chunk | None:
    """Of the records at `rows`; where another list of the same files was encoded, theirs are other rows."""
    kept = cache.get(key, {"features", "names"})
    if kept is None:
        return None
    names = zip(rows.tolist(), json.loads(kept["names"].tobytes()), strict=True)
    return _Chunk([n if isinstance(n, str) else (row, n[1], Taxon(*n[2])) for row, n in names], kept["features"])


def _will_stay(chunk: _Chunk, rows: np.ndarray, data: str | Sequence[FileStamp]) -> bool:
    """Not where a file could not be read that is there, and whole, by all that the key of the chunk says.

    Next time it may be. A photo that is damaged within its record stays so.
    """
    failed = [
        row
        for row, name in zip(rows.tolist(), chunk.names, strict=True)
        if isinstance(name, str) and name.startswith((MISSING, UNREADABLE, DAMAGED))
    ]
    return all(not isinstance(data, str) and data[row].size < 0 for row in failed)


def _image_hash(source: RecordSource, row: int) -> str:
    try:
        image = source[int(row)]["image"]
    except BadRecord as error:
        return error.reason
    return hashlib.sha256(image if isinstance(image, bytes) else repr(image).encode()).hexdigest()


def _encode_images(
    encoder: ImageEncoder,
    source: RecordSource,
    chunks: Sequence[np.ndarray],
    batch_size: int,
    normalize: bool,
    advance: Callable[[int], None],
) -> Iterator[_Chunk]:
    """Encodes the records of `chunks` of rows, one chunk after the other."""
    encode = encoder.encode_image if normalize else partial(raw_features, encoder)
    starts = [range(0, len(rows), batch_size) for rows in chunks]
    batches = [
        rows[start : start + batch_size].tolist() for rows, of in zip(chunks, starts, strict=True) for start in of
    ]
    ahead = read_ahead(partial(read_photo, source, encoder.preprocess), batches)
    for of in starts:
        names: list[tuple[int, str, Taxon] | str] = []
        features: list[np.ndarray] = []
        for answers in islice(ahead, len(of)):
            good = [answer for answer in answers if isinstance(answer, Photo)]
            if good:
                found = np.asarray(encode(np.stack([photo.image for photo in good])), np.float32)
                features.append(require_finite(found, [photo.key for photo in good], encoder.name))
            names += [answer if isinstance(answer, str) else answer[:3] for answer in answers]
            advance(len(answers))
        yield _Chunk(names, np.concatenate(features) if features else np.zeros((0, 0), np.float32))


def read_photo(source: RecordSource, preprocess: Callable[[ImageSource], np.ndarray], row: int) -> Photo | str:
    """A record as a model is to see it, or the reason why it cannot be used.

    Raises:
        UserError: the source fails.
    """
    try:
        record = source[row]
        return Photo(row, str(record["key"]), Taxon.from_record(record), preprocess(record["image"]))
    except (BadRecord, ImageError) as error:
        return error.reason


def samples_of(split: str, names: Sequence[tuple[int, str, Taxon] | str]) -> Samples:
    """The samples of a split, without features yet, from (row, key, taxon) or the reason why a photo cannot be used.

    Raises:
        NoUsablePhoto: as it says.
    """
    usable = [name for name in names if not isinstance(name, str)]
    unreadable = Counter(name for name in names if isinstance(name, str))
    if not usable:
        reasons = ", ".join(f"{count} {reason}" for reason, count in unreadable.items()) or "it is empty"
        raise NoUsablePhoto(f"split {split!r} has no photo that can be used: {reasons}", dict(unreadable))
    return Samples(
        split=split,
        rows=np.array([row for row, _, _ in usable], np.int64),
        keys=tuple(key for _, key, _ in usable),
        taxa=tuple(taxon for _, _, taxon in usable),
        features=np.zeros((len(usable), 0), np.float32),
        unreadable=dict(unreadable),
    )


def read_ahead(function: Callable[[Item], Result], batches: list[list[Item]]) -> Iterator[list[Result]]:
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


def cached_encode_text(encoder: Encoder, cache: ArrayCache) -> KeptTexts:
    """`encoder.encode_text`; heads made with it are kept. Raises `UserError` for features that are not finite."""

    def encode(texts: list[str]) -> np.ndarray:
        return require_finite(np.asarray(encoder.encode_text(texts), np.float32), texts, encoder.name)

    return kept_texts(encode, cache, encoder.fingerprint)

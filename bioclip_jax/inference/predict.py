"""Names of photos with probabilities: `bioclip-jax predict`.

The probabilities are a softmax over the labels at the model's own scale. Where labels have a taxonomy, a taxon at a
higher rank has the sum of its members' probabilities, so that at every rank they add up to 1, less what belongs to
labels without a name there.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Array, Float, Int
from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.cache import ArrayCache
from bioclip_jax.evaluation.encoder import Encoder
from bioclip_jax.evaluation.head_cache import head_keeper
from bioclip_jax.heads import (
    PLAIN_TEMPLATES,
    RankGroups,
    class_text,
    log_sum_of_members,
    logits,
    rank_groups,
    text_features,
)
from bioclip_jax.inference.embed import read_about, read_features
from bioclip_jax.inference.label_files import LabelSet
from bioclip_jax.inference.photos import Encoded, Photos, encode_photos, open_photos, reasons
from bioclip_jax.pipeline.progress import RecordProgress

LABEL = "label"
"""In the place of a rank: the labels as they were given."""
_MOST_LOGITS = 2**24  # held at once; 64 MiB


class Name(NamedTuple):
    """One answer."""

    name: str
    common_name: str
    score: float
    """Its probability."""


@dataclass(frozen=True)
class Predicted:
    """What is said of one photo."""

    photo: str
    names: Mapping[str, Sequence[Name]]
    """By rank, the most probable first; empty where there is an error."""
    error: str = ""


class Predictor:
    """A model with its labels.

    Args:
        encoder: the model.
        labels: the candidates.
        ranks: at which ranks to answer; all that the labels know if not given. Labels without a taxonomy, and those
            where one is no species, are also given as they are, as rank `label`.
        top: how many names at each rank.
        text_types: caption types of a taxon; several are averaged. A plain label is its own text.
        templates: prompts, each with one `{}`, that are averaged.
        cache: where the features of the labels are kept.
        console: for the progress; standard error if not given.

    Raises:
        UsageError: the labels do not know a rank, or `top` is not positive.
        UserError: the model's features are not finite.
    """

    def __init__(
        self,
        encoder: Encoder,
        labels: LabelSet,
        *,
        ranks: Sequence[str] = (),
        top: int = 5,
        text_types: Sequence[str] = ("taxon_com",),
        templates: Sequence[str] = PLAIN_TEMPLATES,
        cache: ArrayCache | None = None,
        console: Console | None = None,
    ):
        if top < 1:
            raise UsageError(f"--top {top}: must be at least 1")
        known = labels.ranks
        if unknown := [rank for rank in ranks if rank not in (*known, LABEL)]:
            has = f"they have {', '.join(known)}" if known else "they have no taxonomy"
            raise UsageError(f"--rank {unknown[0]}: the labels have no names at that rank; {has}")
        whole = bool(known) and all(taxon.species for taxon in labels.taxa)
        self.ranks = tuple(dict.fromkeys(ranks)) or (known if whole else (*known, LABEL))
        self.labels, self._top, self._scale = labels, top, encoder.logit_scale
        self._groups: dict[str, RankGroups] = {
            rank: rank_groups(labels.taxa, rank) for rank in self.ranks if rank != LABEL
        }
        texts = [[class_text(taxon, text_type) for text_type in text_types] for taxon in labels.taxa]
        texts = texts or [[name] for name in labels.names]
        distinct = len({text for of_label in texts for text in of_label})
        with RecordProgress(distinct, "reading the labels", console, unit="texts") as progress:
            keep = head_keeper(cache or ArrayCache(None), encoder.fingerprint, templates, progress.advance)
            features = text_features(encoder.encode_text, texts, templates=templates, keep=keep)
        self._features = jnp.asarray(features)

    def __call__(self, batch: Encoded) -> list[Predicted]:
        """What is said of the photos of a batch, in their order."""
        rows = iter(self._names(batch.features))
        return [
            Predicted(key, {}, error) if error else Predicted(key, next(rows))
            for key, error in zip(batch.keys, batch.errors, strict=True)
        ]

    def _names(self, features: np.ndarray) -> Iterator[dict[str, list[Name]]]:
        """The names of each photo, from features float32 `[n, d]`; so many at once as memory is meant for."""
        most = max(1, _MOST_LOGITS // len(self.labels))
        for start in range(0, len(features), most):
            part = features[start : start + most]
            padded = np.zeros((1 << (len(part) - 1).bit_length(), part.shape[1]), np.float32)
            padded[: len(part)] = part
            members = _log_probabilities(padded, self._features, self._scale)
            found = {}
            for rank in self.ranks:
                if rank == LABEL:
                    found[rank] = _best(members, min(self._top, len(self.labels)))
                else:
                    sums = log_sum_of_members(members, self._groups[rank].index)
                    found[rank] = _best(sums, min(self._top, len(self._groups[rank])))
            by_rank = {rank: (np.asarray(scores), np.asarray(top)) for rank, (scores, top) in found.items()}
            for row in range(len(part)):
                yield {
                    rank: [
                        self._name(rank, int(place), float(score))
                        for score, place in zip(scores[row], top[row], strict=True)
                    ]
                    for rank, (scores, top) in by_rank.items()
                }

    def _name(self, rank: str, place: int, score: float) -> Name:
        if rank == LABEL:
            common = self.labels.taxa[place].common_name if self.labels.taxa else ""
            return Name(self.labels.names[place], common, score)
        groups = self._groups[rank]
        return Name(groups.labels[place], groups.taxa[place].common_name, score)


@jax.jit
def _log_probabilities(
    features: Float[Array, "n d"], labels: Float[Array, "labels d"], scale: float
) -> Float[Array, "n labels"]:
    return jax.nn.log_softmax(logits(features, labels, scale), axis=-1)


@partial(jax.jit, static_argnames="k")
def _best(log_probabilities: Float[Array, "n labels"], k: int) -> tuple[Float[Array, "n k"], Int[Array, "n k"]]:
    """The k largest probabilities and their places; equal ones in order of the labels."""
    best, places = jax.lax.top_k(log_probabilities, k)
    return jnp.exp(best), places


class PhotoSource:
    """Photos that are still to be encoded."""

    def __init__(self, photos: Photos):
        self._photos, self.notes = photos, photos.notes

    def __len__(self) -> int:
        return len(self._photos)

    def batches(self, encoder: Encoder, batch_size: int, limit: int | None = None) -> Iterator[Encoded]:
        """Their features, of the first `limit` if it is given."""
        return encode_photos(encoder, self._photos, end=limit, batch_size=batch_size)


class FeatureFile:
    """Features that `bioclip-jax embed` has written."""

    notes: Sequence[str] = ()

    def __init__(self, path: Path):
        self._path, self._about = path, read_about(path)

    def __len__(self) -> int:
        return pq.read_metadata(self._path).num_rows

    def batches(self, encoder: Encoder, batch_size: int, limit: int | None = None) -> Iterator[Encoded]:
        """The features; raises `UsageError` if they are of another model."""
        if self._about["weights"] != encoder.fingerprint:
            raise UsageError(f"{self._path} holds features of another model ({self._about['model']})")
        most = len(self) if limit is None else limit
        return read_features(self._path, min(batch_size, most), most)


def open_source(
    given: Sequence[str], *, images: Path | None = None, columns: Sequence[str] = ()
) -> PhotoSource | FeatureFile:
    """Photos as `open_photos` takes them, or one file of features."""
    path = Path(given[0]).expanduser() if len(given) == 1 else None
    if path and path.suffix == ".parquet" and path.is_file():
        with contextlib.suppress(UsageError):
            return FeatureFile(path)
    return PhotoSource(open_photos(given, images=images, columns=columns))


class Predictions:
    """Everything that is said, photo by photo, while it is computed; counts what could not be read.

    Args:
        predictor: names photos.
        batches: of photos.
        progress: of photos.
    """

    def __init__(self, predictor: Predictor, batches: Iterator[Encoded], progress: RecordProgress):
        self._predictor, self._batches, self._progress = predictor, batches, progress
        self.photos = 0
        self.unreadable: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Predicted]:
        """Raises `UserError` at the end if no photo could be read."""
        for batch in self._batches:
            self.photos += len(batch.keys)
            self.unreadable.update(error for error in batch.errors if error)
            yield from self._predictor(batch)
            self._progress.advance(len(batch.keys))
        if self.photos == self.unreadable.total():
            raise UserError(f"none of the {self.photos:,} photos can be read: {reasons(self.unreadable)}")

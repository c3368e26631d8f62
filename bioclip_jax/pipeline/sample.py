"""What a record becomes: a cropped photo and the tokens of one caption, both a function of the seed and the place."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bioclip_jax import images
from bioclip_jax.config import DataConfig
from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.bad_samples import Replaced
from bioclip_jax.pipeline.order import neighbours, uniforms
from bioclip_jax.pipeline.record import BadRecord, Record, RecordSource
from bioclip_jax.text.captions import ALL_TEXT_TYPES, caption, text_type_of_step
from bioclip_jax.text.taxonomy import Taxon
from bioclip_jax.text.tokenizer import Tokenizer

FREE_CAPTION = "caption"
"""The text type that reads a record's own `caption` (BioCAP, LAION); where it has none, its `taxon_com`."""
TEXT_TYPES_OF_RECORDS = (*ALL_TEXT_TYPES, FREE_CAPTION)
_NAMELESS = Taxon()
_FLIP, _TEXT_TYPE = images.CROP_DRAWS, images.CROP_DRAWS + 1
_DRAWS = images.CROP_DRAWS + 2


class Row(NamedTuple):
    """A row of a batch, to be written."""

    text_type: str
    """What `Sample.text_type` gives for the step."""
    draws: Sequence[float]
    """Random numbers of its place."""
    image: np.ndarray
    """uint8 [size, size, 3]."""
    tokens: np.ndarray
    """int32 [tokens]."""
    species: np.ndarray | None = None
    """int32 [1]: the class."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Turns (record, its place) into model input: decoded, cropped, captioned, tokenised.

    Attributes:
      data: the settings.
      image_size: side of the square photo, in pixels.
      tokens: ids that a caption is cut to.
      context_length: ids that a caption is cut to before that, with the last one end of text.
      seed: of the crops.
      species: class of each scientific name, where samples have classes.
    """

    data: DataConfig
    image_size: int
    tokens: int
    context_length: int
    seed: int
    species: Mapping[str, int] | None = None

    def draws(self, places: Sequence[int]) -> list[list[float]]:
        """All random numbers that the samples at these places take."""
        drawn: list[list[float]] = uniforms(self.seed, np.asarray(places), _DRAWS).tolist()
        return drawn

    def text_type(self, step: int) -> str:
        """The caption type of a step's whole batch; '' where each sample draws its own."""
        return "" if self.data.text_type_per_sample else text_type_of_step(step, self.data.text_types)

    def write(self, source: RecordSource, index: int, row: Row) -> Replaced | None:
        """Writes one sample into its row of a batch; where its record cannot be used, the next of its `neighbours`.

        Args:
          source: of the record.
          index: of the record.
          row: of the batch.

        Returns:
          the record that was replaced, if it was.

        Raises:
          UserError: the source fails, or no neighbour can be used either.
        """
        replaced = self._write(source, index, row)
        if replaced is None:
            return None
        others = neighbours(index, len(source))
        if not any(self._write(source, other, row) is None for other in others):
            raise UserError(
                f"record {replaced.key!r} ({replaced.reason}) and {len(others)} others near it cannot be used; look at "
                "the data (`bioclip-jax data build` lists what cannot be used)"
            )
        return replaced

    def _write(self, source: RecordSource, index: int, row: Row) -> Replaced | None:
        try:
            record = source[index]
        except BadRecord as error:
            return Replaced(error.key, error.reason)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"record {index}: the source raised {type(error).__name__}: {error}") from error
        photo, taxon, key = record.get("image"), Taxon.from_record(record), str(record.get("key", index))
        if not isinstance(photo, bytes | np.ndarray):
            return Replaced(key, "no image")
        if taxon == _NAMELESS and not record.get("caption"):
            return Replaced(key, "no name at any rank")
        if self.species is not None and row.species is not None:
            if (name := scientific_name(record)) not in self.species:
                return Replaced(key, "of a species that the training data lack")
            row.species[0] = self.species[name]
        try:
            images.training_image(photo, row.draws, row.image, self.data.crop_scale, self.data.crop_ratio)
        except images.ImageError as error:
            return Replaced(key, f"image {error.reason}")
        if self.data.horizontal_flip and row.draws[_FLIP] < 0.5:
            row.image[:] = row.image[:, ::-1].copy()
        types = self.data.text_types
        text_type = row.text_type or types[int(row.draws[_TEXT_TYPE] * len(types))]
        row.tokens[:] = self._tokens(record, taxon, text_type)
        return None

    def _tokens(self, record: Record, taxon: Taxon, text_type: str) -> np.ndarray:
        if text_type == FREE_CAPTION:
            if text := record.get("caption", ""):
                return _tokenizer(self.context_length)([text])[0, : self.tokens]
            text_type = "taxon_com"
        return _caption_tokens(taxon, text_type, self.context_length, self.tokens)


def scientific_name(record: Record) -> str:
    """What a record's class is called; the most specific rank where its species is not known."""
    return _scientific_name(Taxon.from_record(record))


@functools.lru_cache(maxsize=2**17)
def _scientific_name(taxon: Taxon) -> str:
    return caption(taxon, "scientific_name")


@functools.lru_cache(maxsize=2**17)  # of 300 bytes and a taxon each
def _caption_tokens(taxon: Taxon, text_type: str, context_length: int, tokens: int) -> np.ndarray:
    """Captions repeat: a taxon has many photos."""
    return _tokenizer(context_length)([caption(taxon, text_type)])[0, :tokens].copy()


@functools.lru_cache(maxsize=4)
def _tokenizer(context_length: int) -> Tokenizer:
    return Tokenizer(context_length)

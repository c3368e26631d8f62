"""Features by weights where they lie: photos and texts shared among all devices of all processes of a run.

Every process decodes its devices' rows of each batch, the compiled program gathers the features, and every process
has all of them. Calls are collective: all processes make the same ones in the same order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from bioclip_jax import images
from bioclip_jax.config import TrainConfig
from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.features import Photo, Samples, read_ahead, read_photo, samples_of
from bioclip_jax.models import clip
from bioclip_jax.models.functions import l2_normalize, normalize_pixels
from bioclip_jax.parallel.agreement import gather, together
from bioclip_jax.parallel.sharding import batch_sharding, replicated, rows_here
from bioclip_jax.pipeline.record import RecordSource
from bioclip_jax.pipeline.token_lengths import token_bucket
from bioclip_jax.text.taxonomy import Taxon
from bioclip_jax.text.tokenizer import Tokenizer
from bioclip_jax.training.feed import place
from bioclip_jax.training.objective import SPECIES

MOST_ROWS = 64
"""Photos or texts on a device at once, at most."""


class SplitPhotos:
    """The photos of a split that this process decodes.

    Args:
        split: its name.
        source: its records.
        chosen: int64 `[n]`, the rows of `source` that are looked at.
        config: of the run, whose preprocessing photos get.
        mesh: whose devices share a batch.
        batch_size: photos encoded at once, over all devices.
    """

    def __init__(
        self, split: str, source: RecordSource, chosen: np.ndarray, config: TrainConfig, mesh: Mesh, batch_size: int
    ):
        self.split, self._chosen, self._size = split, chosen, config.model.vision.image_size
        batches = -(-len(chosen) // batch_size)
        places = np.arange(batches * batch_size).reshape(batches, batch_size)
        self._places = places[:, rows_here(batch_sharding(mesh), batch_size)]  # [batches, rows of this process]
        p = config.preprocessing
        preprocess = functools.partial(
            images.evaluation_image, size=self._size, geometry=p.geometry, interpolation=p.interpolation
        )
        self._read_photo = functools.partial(read_photo, source, preprocess)
        self._kept: np.ndarray | None = None
        self.used = np.zeros(len(chosen), bool)
        """Which of the chosen photos can be used; known after `first_look`."""
        self.failure: UserError | None = None

    @property
    def nbytes(self) -> int:
        """What this process's photos take in memory, decoded."""
        return self._places.size * self._size**2 * 3

    def first_look(self, *, keep: bool) -> Samples:
        """Reads this process's photos, learns of the other processes' what they are called, and keeps them or not.

        Returns:
            the photos of all processes that can be used, without features.

        Raises:
            UserError: the source fails, or no photo can be used.
        """
        if keep:
            self._kept = np.zeros((*self._places.shape, self._size, self._size, 3), np.uint8)
        named = together(self._look)
        taxa = {int(place): name for part in gather(named) for place, name in part}
        names = [taxa[place] for place in range(len(self._chosen))]
        self.used[:] = [not isinstance(name, str) for name in names]
        return samples_of(
            self.split,
            [
                name if isinstance(name, str) else (int(row), name[0], Taxon(*name[1]))
                for row, name in zip(self._chosen, names, strict=True)
            ],
        )

    def batches(self) -> Iterator[UInt8[np.ndarray, "rows size size 3"]]:
        """This process's rows of each batch; zeros where a photo cannot be used. `failure` says if one no longer can.

        The generator does not raise: the other processes would wait for this one.
        """
        if self._kept is not None:
            yield from self._kept
            return
        for batch, answers in enumerate(self._read()):
            photos = np.zeros((self._places.shape[1], self._size, self._size, 3), np.uint8)
            for row, answer in enumerate(answers):
                if isinstance(answer, Photo):
                    photos[row] = answer.image
                elif self.used[self._places[batch, row]]:
                    self.failure = UserError(f"split {self.split!r}: a photo can no longer be read ({answer})")
            yield photos

    def _look(self) -> list[tuple[int, Any]]:
        named: list[tuple[int, Any]] = []
        for batch, answers in enumerate(self._read()):
            for row, answer in enumerate(answers):
                if isinstance(answer, UserError):
                    raise answer
                if isinstance(answer, Photo) and self._kept is not None:
                    self._kept[batch, row] = answer.image
                name = answer if isinstance(answer, str) else [answer.key, astuple(answer.taxon)]
                named.append((int(self._places[batch, row]), name))
        return named

    def _read(self) -> Iterator[list[Photo | str | UserError]]:
        """For each batch what became of this process's rows; those beyond the last photo are left out."""
        rows = [[int(self._chosen[place]) for place in batch if place < len(self._chosen)] for batch in self._places]
        return read_ahead(self._try, rows)

    def _try(self, row: int) -> Photo | str | UserError:
        try:
            return self._read_photo(row)
        except UserError as error:
            return error
        except Exception as error:
            return UserError(f"split {self.split!r}, record {row}: the source raised {type(error).__name__}: {error}")


class MeshEncoder:
    """Features in the arithmetic of the run's `dtype`, by the parameters as training has placed them.

    Photos are normalised as the model's own preprocessing says, as whoever uses the exported model does it.

    Args:
        config: of the run.
        mesh: of its devices.
        photos: how many there are in the largest split: batches are no larger than that.
    """

    def __init__(self, config: TrainConfig, mesh: Mesh, photos: int):
        self._mesh, self._context = mesh, config.model.text.context_length
        self._width = config.model.embed_dim
        self._most = min(MOST_ROWS, max(1, config.global_batch_size // config.micro_batches // mesh.size))
        self.batch_size = mesh.size * min(self._most, max(1, -(-photos // mesh.size)))
        self._tokenizer = Tokenizer(self._context)
        parameter_type = "float64" if config.dtype == "float64" else config.parameter_dtype
        definition, _, _ = clip.abstract(
            config.model, dtype=config.dtype, param_dtype=parameter_type, attention=config.attention, mesh=mesh
        )
        p = config.preprocessing

        def model(weights: clip.Parameters) -> clip.CLIP:
            return clip.merge(definition, {name: part for name, part in weights.items() if name != SPECIES})

        def raw_features(weights: clip.Parameters, photos: jax.Array) -> jax.Array:
            pixels = normalize_pixels(photos, p.mean, p.std, jnp.dtype(config.dtype))
            return model(weights).encode_image(pixels).astype(jnp.float32)

        def image_features(weights: clip.Parameters, photos: jax.Array) -> jax.Array:
            return l2_normalize(raw_features(weights, photos))

        def text_features(weights: clip.Parameters, tokens: jax.Array) -> jax.Array:
            return l2_normalize(model(weights).encode_text(tokens)).astype(jnp.float32)

        precision = None if config.dtype == "bfloat16" else "highest"
        self._image_features = self._compiled(image_features, precision)
        self._raw_features = self._compiled(raw_features, precision)
        self._text_features = self._compiled(text_features, precision)

    def encode_images(
        self,
        weights: clip.Parameters,
        photos: SplitPhotos,
        before_batch: Callable[[], None] = lambda: None,
        *,
        normalize: bool = True,
    ) -> Float[np.ndarray, "n d"]:
        """float32 features of those photos of a split that can be used, L2-normalised or as the projector gives them.

        Raises:
            UserError: a photo that was there at the first look can no longer be read.
        """
        features, program = [], self._image_features if normalize else self._raw_features
        for batch in photos.batches():
            before_batch()
            features.append(self._encode(program, weights, batch))
        together(functools.partial(_raise, photos.failure))
        return np.concatenate(features)[: len(photos.used)][photos.used]

    def encode_texts(self, weights: clip.Parameters, texts: Sequence[str]) -> Float[np.ndarray, "m d"]:
        """L2-normalised float32 features of texts, cut to the context length."""
        tokens = self._tokenizer(list(texts))
        tokens = tokens[:, : token_bucket(int(np.argmax(tokens, axis=1).max()) + 1, self._context)]
        each = -(-len(texts) // self._mesh.size)
        size = self._mesh.size * min(self._most, 1 << (each - 1).bit_length())
        padded = np.concatenate([tokens, np.repeat(tokens[-1:], -len(tokens) % size, axis=0)])
        here = rows_here(batch_sharding(self._mesh), size)
        batches = [padded[start : start + size][here] for start in range(0, len(padded), size)]
        features = [self._encode(self._text_features, weights, batch) for batch in batches]
        return np.concatenate(features)[: len(texts)]

    def no_features(self, texts: Sequence[str]) -> Float[np.ndarray, "m d"]:
        """Zeros in the place of texts' features."""
        return np.zeros((len(texts), self._width), np.float32)

    def _encode(self, program: Any, weights: clip.Parameters, rows: np.ndarray) -> np.ndarray:
        # Fetched at once: on CPU a second program that exchanges data must not begin before the first has ended.
        return np.asarray(jax.device_get(program(weights, place(rows, batch_sharding(self._mesh)))))

    def _compiled(self, function: Callable[..., jax.Array], precision: str | None) -> Any:
        def with_precision(weights: clip.Parameters, rows: jax.Array) -> jax.Array:
            with jax.default_matmul_precision(precision):
                return function(weights, rows)

        return jax.jit(with_precision, out_shardings=replicated(self._mesh))


def _raise(failure: UserError | None) -> None:
    if failure is not None:
        raise failure

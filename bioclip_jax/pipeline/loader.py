"""Records to batches, in an order that is a pure function of (seed, step, row).

Which record stands at which place, its crop and its caption depend on nothing else: not on the number of hosts,
threads, processes or restarts. The pipeline is a Grain `MapDataset` of steps, and its whole state is the step.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import os
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import grain
import numpy as np
from absl import flags

from bioclip_jax.config import DataConfig
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.bad_samples import Replaced
from bioclip_jax.pipeline.order import Mixture, Order, place_of
from bioclip_jax.pipeline.record import RecordSource
from bioclip_jax.pipeline.sample import FREE_CAPTION, TEXT_TYPES_OF_RECORDS, Row, Sample
from bioclip_jax.pipeline.token_lengths import token_bucket
from bioclip_jax.text.tokenizer import VOCABULARY_SIZE

_PART = 32  # samples that a thread makes before it looks for more work


class Batch(NamedTuple):
    """Some rows of one step."""

    image: np.ndarray
    """uint8 [rows, size, size, 3], RGB."""
    tokens: np.ndarray
    """int32 [rows, tokens]."""
    replaced: tuple[Replaced, ...]
    """The records that could not be used; others stand in their rows."""
    species: np.ndarray | None = None
    """int32 [rows]: each photo's class, where the loader knows classes."""


@dataclasses.dataclass(frozen=True)
class Loader:
    """All that a process needs to produce its rows of any step.

    Attributes:
      sources: the datasets.
      order: which record of which of them stands at each place.
      sample: what becomes of it.
      global_batch_size: rows of a step, over all processes.
      rows: which of them this process makes; all if not given.
    """

    sources: Sequence[RecordSource]
    order: Mixture
    sample: Sample
    global_batch_size: int
    rows: Sequence[int] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(self.rows) or tuple(range(self.global_batch_size)))

    @property
    def tokens(self) -> int:
        """The length of its captions."""
        return self.sample.tokens

    def batch(self, step: int, pool: ThreadPoolExecutor | None = None) -> Batch:
        """This process's rows of a step, made by the threads of `pool`, or by some that stay for later batches."""
        size, rows = self.sample.image_size, len(self.rows)
        species = np.empty(rows, np.int32) if self.sample.species is not None else None
        tokens = np.empty((rows, self.sample.tokens), np.int32)
        batch = Batch(np.empty((rows, size, size, 3), np.uint8), tokens, (), species)
        part = max(1, min(_PART, rows // self.sample.data.threads))
        fill = functools.partial(self._fill, int(step), batch, self.sample.text_type(int(step)))
        parts = [range(start, min(start + part, rows)) for start in range(0, rows, part)]
        replaced = [one for some in (pool or _threads(self.sample.data.threads)).map(fill, parts) for one in some]
        return batch._replace(replaced=tuple(replaced))

    def _attempt(self, step: int, pool: ThreadPoolExecutor | None = None) -> Batch | UserError:
        # Grain would add lines of its own to the message of an exception, and lose its type between processes.
        try:
            return self.batch(step, pool)
        except UserError as error:
            return error

    def _fill(self, step: int, batch: Batch, text_type: str, part: range) -> list[Replaced]:
        places = self._places(step, part)
        draws = self.sample.draws(places)
        if restart := self.sample.data.restart_every_steps:
            places = self._places(step % restart, part)  # the same records, but not the same crops
        replaced = []
        for row, place, drawn in zip(part, places, draws, strict=True):
            dataset, record = self.order[place]
            source = self.sources[dataset]
            species = None if batch.species is None else batch.species[row : row + 1]
            target = Row(text_type, drawn, batch.image[row], batch.tokens[row], species)
            one = self.sample.write(source, record, target)
            if one is not None:
                replaced.append(one)
        return replaced

    def _places(self, step: int, part: range) -> list[int]:
        size, block_size = self.global_batch_size, self.sample.data.block_size
        return [place_of(step, self.rows[row], size, block_size) for row in part]

    def batches(self, first_step: int, last_step: int) -> Generator[Batch]:
        """This process's rows of steps first_step .. last_step - 1, prefetched.

        A generator: closing it ends the threads and processes that work ahead.
        """
        data = self.sample.data
        steps: Any = grain.MapDataset.range(first_step, last_step)
        if data.processes:
            yield from self._by_processes(steps)
            return
        pool = _new_threads(data.threads)
        # A second batch is begun while the last samples of the first are made.
        ahead = data.prefetch_batches
        options = grain.ReadOptions(num_threads=min(2, ahead), prefetch_buffer_size=ahead)
        iterator = iter(steps.map(functools.partial(self._attempt, pool=pool)).to_iter_dataset(options))
        try:
            for item in iterator:
                if isinstance(item, UserError):
                    raise item
                yield item
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # whoever stops does not wait for batches that nobody takes
            iterator.close()

    def _by_processes(self, steps: Any) -> Generator[Batch]:
        data = self.sample.data
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers ask for flags that only absl's own `app.run` parses
        workers = min(data.processes, len(steps))
        each = max(1, data.prefetch_batches // workers)
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=each)
        made = steps.map(self._attempt).to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
        iterator = iter(made.mp_prefetch(options, _start_worker))
        try:
            for item in iterator:
                if isinstance(item, UserError):
                    raise item
                yield item
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"a worker process of the loader ended ({reason}); start again, it will go on") from error
        finally:
            iterator.close()


def _new_threads(count: int) -> ThreadPoolExecutor:
    # OpenCV's own threads would compete with these.
    return ThreadPoolExecutor(count, "sample", initializer=cv2.setNumThreads, initargs=(1,))


_threads = functools.lru_cache(maxsize=4)(_new_threads)


def _start_worker(worker: int, workers: int) -> None:
    """Grain imports JAX in its workers, too; should anything there start it, it must not take an accelerator."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for ever for somebody to take its batch."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def require_vocabulary(vocab_size: int) -> None:
    """Raises `UsageError` where a model's token table lacks ids that the tokenizer gives."""
    if vocab_size < VOCABULARY_SIZE:
        raise UsageError(f"text.vocab_size is {vocab_size}, but CLIP's tokenizer has {VOCABULARY_SIZE} tokens")


def make_loader(
    sources: Sequence[RecordSource],
    data: DataConfig,
    *,
    image_size: int,
    context_length: int,
    global_batch_size: int,
    seed: int,
    token_lengths: Sequence[Mapping[str, int]],
    weights: Sequence[float] = (1.0,),
    rows: Sequence[int] = (),
    species: Mapping[str, int] | None = None,
    names: tuple[str, str] = ("data", "global_batch_size"),
) -> Loader:
    """A loader for a training split, or for a mixture of several.

    Args:
      sources: the records of each dataset.
      data: the settings.
      image_size: side of the photos, in pixels.
      context_length: ids of a whole caption.
      global_batch_size: rows of a step, over all processes.
      seed: of order and crops.
      token_lengths: of each dataset the longest caption per text type as its manifest has it; types it lacks get the
        whole context. What every process reads from the manifest decides the length, never one process's own batch.
      weights: share of each dataset in the batches.
      rows: that this process makes; all if not given.
      species: class of each scientific name, if batches are to have classes.
      names: of the settings and of the batch size in a config, for messages.

    Raises:
      UsageError: a text type is none, or a weight is not above 0.
      UserError: there are fewer records than rows.
    """
    unknown = [name for name in data.text_types if name not in TEXT_TYPES_OF_RECORDS]
    if unknown:
        known = ", ".join(TEXT_TYPES_OF_RECORDS)
        raise UsageError(f"{names[0]}.text_types has {unknown[0]!r}; the caption types are {known}")
    records = sum(len(source) for source in sources)
    if records < global_batch_size:
        raise UserError(
            f"{names[1]} {global_batch_size} is larger than the {records} records of the data; choose a smaller batch"
        )
    types = {*data.text_types, *(["taxon_com"] if FREE_CAPTION in data.text_types else [])}  # which stands in for it
    longest = max(lengths.get(name, context_length) for lengths in token_lengths for name in types)
    orders = [
        Order(len(source), seed + 2**32 * place, data.block_size, data.with_replacement)
        for place, source in enumerate(sources)
    ]
    tokens = token_bucket(longest, context_length) if data.trim_text else context_length
    sample = Sample(data, image_size, tokens, context_length, seed, species)
    return Loader(tuple(sources), Mixture(tuple(orders), tuple(weights)), sample, global_batch_size, rows)

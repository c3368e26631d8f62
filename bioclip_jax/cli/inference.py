"""What a model does for people who have photos: `embed` and `predict`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from bioclip_jax.cli.models import PreprocessingFlags
from bioclip_jax.cli.parsing import parse
from bioclip_jax.errors import UsageError

if TYPE_CHECKING:
    from bioclip_jax.inference.model import Model

SHOWN = 10
"""Photos whose names are printed where no file is asked for."""
Rank = Literal["kingdom", "phylum", "class", "order", "family", "genus", "species", "label"]


def embed(arguments: Sequence[str]) -> None:
    """Write the features of photos, in a folder or listed in a table, to a Parquet file."""

    def embed(
        model: tyro.conf.Positional[str],
        photos: tyro.conf.Positional[tuple[str, ...]],
        /,
        *,
        out: Path = Path("features.parquet"),
        overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
        images: Path | None = None,
        columns: tuple[str, ...] = (),
        batch_size: int = 64,
        preprocessing: tyro.conf.OmitArgPrefixes[PreprocessingFlags] = PreprocessingFlags(),
    ) -> None:
        """Write the features of photos to a Parquet file: columns key, features (null if unreadable) and error.

        The same command again continues where an interrupted one stopped.

        Args:
            model: work directory, checkpoint, folder of OpenCLIP, Hugging Face or `convert`, or hf-hub:owner/name.
            photos: folders, patterns such as 'trip/**/*.jpg', photos, or tables (CSV or Parquet) that list them.
            out: file to write.
            overwrite: replace features of another model or of other photos.
            images: folder that file names in a table are relative to; the table's own if not given.
            columns: which column of a table holds which field, as filepath=COLUMN or key=COLUMN.
            batch_size: photos that each device encodes at once.
            preprocessing: replaces what the model comes with.
        """
        _require_local(model, out)
        from bioclip_jax.inference.embed import embed as run
        from bioclip_jax.inference.photos import open_photos

        found = open_photos(photos, images=images, columns=columns)
        _say(found.notes)
        encoder, batch = _load(model, preprocessing, batch_size)
        try:
            done = run(encoder, found, out, batch_size=batch, overwrite=overwrite)
        except KeyboardInterrupt:
            _say(["what is done is kept beside the file; the same command continues"])
            raise
        before = f"; {done.photos - done.computed:,} photos had been done before" if done.computed < done.photos else ""
        print(f"{out}: features of {done.photos - done.unreadable.total():,} photos{before}")
        _say_unreadable(done.unreadable, done.photos)

    parse(embed, arguments, "embed")


def predict(arguments: Sequence[str]) -> None:
    """Name what photos show, out of a list of labels, with probabilities at every rank."""

    def predict(
        model: tyro.conf.Positional[str],
        photos: tyro.conf.Positional[tuple[str, ...]],
        /,
        *,
        labels: Path,
        out: Path | None = None,
        overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
        top: int = 5,
        rank: tuple[Rank, ...] = (),
        templates: Literal["plain", "clip81"] = "plain",
        text_types: tuple[str, ...] = ("taxon_com",),
        images: Path | None = None,
        columns: tuple[str, ...] = (),
        label_columns: tuple[str, ...] = (),
        batch_size: int = 64,
        preprocessing: tyro.conf.OmitArgPrefixes[PreprocessingFlags] = PreprocessingFlags(),
    ) -> None:
        """Name what photos show, out of a list of labels; without --out, the first ten photos on the terminal.

        Args:
            model: work directory, checkpoint, folder of OpenCLIP, Hugging Face or `convert`, or hf-hub:owner/name.
            photos: folders, patterns such as 'trip/**/*.jpg', photos, or tables (CSV or Parquet) that list them; or
                one file that `embed` wrote.
            labels: text file, one name on each line, or table (.csv, .tsv, .parquet) with columns for the ranks.
            out: file to write: .csv, one row for each photo, rank and place; or .jsonl, one object for each photo.
            overwrite: replace the file.
            top: names at each rank.
            rank: ranks to name; all that the labels have if not given. label is the labels as they stand.
            templates: plain is "a photo of {}.", as in training; clip81 averages BioCLIP's 81 templates.
            text_types: caption types of a taxon; several are averaged.
            images: folder that file names in a table of photos are relative to; the table's own if not given.
            columns: which column of a table of photos holds which field, as filepath=COLUMN or key=COLUMN.
            label_columns: which column of a table of labels holds which field, as scientific_name=COLUMN.
            batch_size: photos that each device encodes at once.
            preprocessing: replaces what the model comes with.
        """
        _require_local(model, out)
        from bioclip_jax.evaluation.cache import ArrayCache
        from bioclip_jax.heads import PLAIN_TEMPLATES
        from bioclip_jax.inference import predict as work
        from bioclip_jax.inference import prediction_files as files
        from bioclip_jax.inference.label_files import read_labels
        from bioclip_jax.pipeline.file_cache import cache_folder
        from bioclip_jax.pipeline.progress import RecordProgress
        from bioclip_jax.text.templates import TEMPLATES

        if out:
            files.require_writable(out, overwrite=overwrite)
        candidates = read_labels(labels, label_columns)
        source = work.open_source(photos, images=images, columns=columns)
        _say([*candidates.notes, *source.notes])
        encoder, batch = _load(model, preprocessing, batch_size)
        limit = None if out else min(SHOWN, len(source))
        batches = source.batches(encoder, batch, limit)
        predictor = work.Predictor(
            encoder,
            candidates,
            ranks=rank,
            top=top,
            text_types=text_types,
            templates=TEMPLATES if templates == "clip81" else PLAIN_TEMPLATES,
            cache=ArrayCache(cache_folder() / "heads", lambda line: _say([line])),
        )
        with RecordProgress(limit or len(source), "predicting", unit="photos") as progress:
            named = work.Predictions(predictor, batches, progress)
            if out:
                files.write_predictions(named, out)
            shown = [] if out else [line for one in named for line in files.lines(one, top)]
        if out:
            count = named.photos - named.unreadable.total()
            print(f"{out}: names of {count:,} photos out of {len(candidates):,} labels")
        else:
            _show(shown, len(source) - named.photos)
        _say_unreadable(named.unreadable, named.photos)

    parse(predict, arguments, "predict")


def _require_local(model: str, out: Path | None) -> None:
    from bioclip_jax.pipeline.local_paths import require_local

    require_local(model, "MODEL")
    require_local(out, "--out")


def _load(model: str, preprocessing: PreprocessingFlags, batch_size: int) -> tuple[Model, int]:
    """The model, and how many photos all devices of this process encode at once."""
    import jax

    from bioclip_jax.inference.load import load

    if batch_size < 1:
        raise UsageError(f"--batch-size {batch_size}: must be at least 1")
    return load(model, overrides=preprocessing.given()), batch_size * jax.local_device_count()


def _show(lines: Sequence[str], more: int) -> None:
    rest = [f"... and {more:,} photos more; --out predictions.csv names them all"] if more else []
    print("\n".join([*lines, *rest]))


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in note)
        print(f"note: {text}", file=sys.stderr)


def _say_unreadable(unreadable: Counter[str], photos: int) -> None:
    from bioclip_jax.inference.photos import reasons

    if unreadable:
        _say([f"{unreadable.total():,} of {photos:,} photos could not be read ({reasons(unreadable)}); see `error`"])

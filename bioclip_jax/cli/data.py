"""`data build`, `data verify` and `data show`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from bioclip_jax.cli.parsing import PROGRAM, help_of_recipe, parse, parse_known, split_at_dashes
from bioclip_jax.errors import UsageError, UserError


@dataclass(frozen=True)
class BuildArguments:
    """Build a dataset directory of shards from a data recipe; the recipe's own flags follow its name."""

    recipe: tyro.conf.Positional[str]
    """Built-in name (photo_table, tars, treeoflife, treeoflife_10m, biocap, laion_replay, synthetic), path of a Python
    file, tfds:NAME, or a dataset directory to build anew."""
    out: tyro.conf.Positional[Path]
    """Directory to write; an unfinished build in it is continued."""
    name: str | None = None
    """Name of the dataset; that of the recipe if not given."""
    shard_bytes: int = 2**30
    """About how large a file becomes."""
    resize: int | None = None
    """Size of photos in pixels, see --geometry; without it their files go in untouched."""
    geometry: Literal["shorter_side", "squash"] = "shorter_side"
    """Shrink those whose shorter side is longer; or make all square, aspect not kept."""
    quality: int = 95
    """Of JPEGs that are written anew."""
    check: Literal["decode", "header"] = "decode"
    """Decode every photo, or look only at the header and end of a JPEG, which is much quicker."""
    mix: int | None = None
    """Seed of a random order, so that neighbours in a file are not of one provider; else the order of the source."""
    dedup: tyro.conf.FlagCreatePairsOff[bool] = False
    """Leave out records with the key or the image of an earlier one; of two splits the first one keeps it."""
    exclude: tuple[Path, ...] = ()
    """Folders of evaluation images; leave out records that collide with one."""
    clean_up: tyro.conf.FlagCreatePairsOff[bool] = False
    """Tidy the taxa; taxonomy_changes.csv tells how."""
    workers: int | None = None
    """Processes; one per CPU if not given, but not more than files."""
    threads: int | None = None
    """Threads that read and decode, in all processes together; one per CPU if not given."""
    beam: tyro.conf.FlagCreatePairsOff[bool] = False
    """Run by Apache Beam, whose own flags follow after --."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Remove a dataset that is there first."""


def data_build(arguments: Sequence[str]) -> None:
    """Build a dataset directory of shards from a data recipe."""
    arguments, beam = split_at_dashes(arguments)
    help_of_recipe(arguments, BuildArguments, "data build")
    build, rest = parse_known(BuildArguments, arguments, "data build")
    from bioclip_jax.pipeline.build import Selection
    from bioclip_jax.pipeline.build import build as build_dataset
    from bioclip_jax.pipeline.build_images import ImageOptions
    from bioclip_jax.pipeline.readers import open_with_flags

    if beam and not build.beam:
        raise UsageError(f"{beam[0]!r}: what follows after -- are flags of Apache Beam, which --beam asks for")
    images = ImageOptions(build.resize, build.geometry, build.quality, build.check)
    if build.beam and (build.workers or build.threads):
        raise UsageError("--workers and --threads are not for --beam, whose own flags say how many there are")
    if Path(build.recipe).is_dir() and Path(build.recipe).resolve() == build.out.resolve():
        raise UsageError(f"output {build.out} is the dataset that is to be read; give another directory")
    source, about = open_with_flags(build.recipe, rest, f"{PROGRAM} data build {build.recipe} OUT")
    report = build_dataset(
        source,
        build.out,
        name=build.name or Path(build.recipe.removeprefix("tfds:")).stem,
        shard_bytes=build.shard_bytes,
        images=images,
        selection=Selection(build.mix, build.dedup, build.exclude, build.clean_up),
        about=about,
        workers=build.workers,
        threads=build.threads,
        beam=beam if build.beam else None,
        overwrite=build.overwrite,
    )
    print("\n".join(report.lines()))


def data_verify(arguments: Sequence[str]) -> None:
    """Check a dataset directory: checksums, counts, every photo, keys, taxonomy, leaks between splits."""

    def verify(dataset: tyro.conf.Positional[Path]) -> None:
        """Check a dataset directory: checksums, counts, every photo, keys, taxonomy, leaks between splits.

        Args:
            dataset: the directory that `data build` wrote.
        """
        from rich.console import Console

        from bioclip_jax.pipeline.verify import verify as verify_dataset

        report = verify_dataset(dataset)
        Console().print(report.table())
        if not report.ok:
            raise UserError(f"{dataset} has the problems listed above")

    parse(verify, arguments, "data verify")


@dataclass(frozen=True)
class ShowArguments:
    """Draw a contact sheet of a dataset, and its statistics; a recipe's own flags follow its name."""

    dataset: tyro.conf.Positional[str]
    """Dataset directory, built-in data recipe or path of one."""
    out: Path = Path("contact_sheet.png")
    """PNG file to write."""
    split: str | None = None
    """Which split to show; the first one if not given."""
    columns: int = 8
    """Photos beside each other."""
    rows: int = 5
    """Of photos."""
    sample_seed: int = 0
    """Which records are drawn; another number, others."""
    statistics: Path | None = None
    """HTML page to write as well: taxa by rank, the long tail, sources, licences, images, captions."""
    sample: int | None = None
    """Make the page from this many evenly spaced records, not from all."""


def data_show(arguments: Sequence[str]) -> None:
    """Draw a contact sheet of a dataset directory or data recipe as a PNG, and its statistics as a page."""
    help_of_recipe(arguments, ShowArguments, "data show")
    show, rest = parse_known(ShowArguments, arguments, "data show")
    if show.sample is not None and not show.statistics:
        raise UsageError(f"--sample {show.sample}: is for --statistics PAGE.html")
    from bioclip_jax.pipeline.contact_sheet import contact_sheet
    from bioclip_jax.pipeline.readers import open_with_flags

    splits, _ = open_with_flags(show.dataset, rest, f"{PROGRAM} data show {show.dataset}")
    title = Path(show.dataset.removeprefix("tfds:")).stem
    sheet = contact_sheet(
        splits, title=title, split=show.split, columns=show.columns, rows=show.rows, seed=show.sample_seed
    )
    sheet.save(show.out, "PNG")
    print(show.out)
    if show.statistics:
        from bioclip_jax.pipeline.statistics import collect_statistics
        from bioclip_jax.pipeline.statistics_page import write_statistics

        write_statistics(collect_statistics(splits, sample=show.sample), show.statistics, title=title)
        print(show.statistics)

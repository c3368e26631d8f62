"""The command line: one small function per command. What it needs is imported inside it, so that help is quick."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from bioclip_jax.config import TrainConfig
from bioclip_jax.errors import UsageError, UserError

PROGRAM = "bioclip-jax"


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
    arguments, beam = _split_at_dashes(arguments)
    _help_of_recipe(arguments, BuildArguments, "data build")
    build, rest = _parse_known(BuildArguments, arguments, "data build")
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

    _parse(verify, arguments, "data verify")


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
    _help_of_recipe(arguments, ShowArguments, "data show")
    show, rest = _parse_known(ShowArguments, arguments, "data show")
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


def train(arguments: Sequence[str]) -> None:
    """Train a model from a config, or continue the run in the work directory."""
    if not arguments or arguments[0].startswith("-"):
        print(f"usage: {PROGRAM} train CONFIG --work-dir PATH [--dry-run] [fields of the config]\n")
        print("CONFIG: built-in name (demo, organisms) or path of a Python file; NAME:VARIANT for one of a grid.")
        print(f"`{PROGRAM} train CONFIG --help` lists the config's fields with their values.")
        if not set(arguments) & {"-h", "--help"}:
            raise UsageError("name a config first")
        return
    base = _config(arguments[0])

    def train(
        work_dir: Path,
        dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = base,
    ) -> None:
        """Train, or continue the run that the work directory holds.

        Args:
            work_dir: where checkpoints, metrics and the config are kept.
            dry_run: print what would be trained, and stop.
            config: fields of the config.
        """
        from bioclip_jax.training.describe import describe
        from bioclip_jax.training.loop import train as run_training

        if dry_run:
            print(describe(config))
            return
        run_training(config, work_dir)

    _parse(train, arguments[1:], f"train {arguments[0]}")


def _config(name: str) -> TrainConfig:
    from bioclip_jax.recipes import load_recipe

    recipe, _, variant = name.partition(":")
    module = load_recipe("configs", recipe)
    if variant:
        grid = getattr(module, "configs", {})
        if variant not in grid:
            raise UsageError(f"config {recipe} has no variant {variant!r}; it has {', '.join(grid) or 'none'}")
        config = grid[variant]
    elif hasattr(module, "config"):
        config = module.config
    else:
        raise UsageError(f"config {recipe} is a grid; name a variant, as {recipe}:{next(iter(module.configs), 'NAME')}")
    if not isinstance(config, TrainConfig):
        raise UsageError(f"config {name} is a {type(config).__name__}, not a bioclip_jax.config.TrainConfig")
    return config


@dataclass(frozen=True)
class PreprocessingFlags:
    """What takes the place of the preprocessing that a model comes with."""

    mean: tuple[float, float, float] | None = None
    """Mean of R, G and B in 0..1."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of R, G and B."""
    geometry: Literal["center_crop", "squash"] | None = None
    """Shortest side to the model's size and its centre, or both sides to it."""
    interpolation: Literal["bicubic", "bilinear"] | None = None

    def given(self) -> dict[str, Any]:
        """The fields that were given."""
        return {name: value for name, value in vars(self).items() if value is not None}


def evaluate(arguments: Sequence[str]) -> None:
    """Measure a model on benchmarks; figures with intervals go to a results database."""
    from bioclip_jax.evaluation.methods import DEFAULT_METHOD

    def evaluate(
        model: tyro.conf.Positional[str],
        benchmarks: tyro.conf.Positional[tuple[str, ...]],
        /,
        *,
        root: str | None = None,
        results: Path | None = None,
        method: Literal["mean", "sum", "prototype", "prefix"] = DEFAULT_METHOD,
        text_types: tuple[str, ...] = ("taxon_com",),
        rank_text_types: tuple[str, ...] = ("taxon",),
        templates: Literal["plain", "clip81"] = "plain",
        baseline: bool = True,
        few_shot: bool = True,
        resamples: int = 1000,
        seed: int = 0,
        batch_size: int = 64,
        preprocessing: tyro.conf.OmitArgPrefixes[PreprocessingFlags] = PreprocessingFlags(),
    ) -> None:
        """Measure a model on benchmarks; figures with intervals go to a results database.

        Args:
            model: work directory, checkpoint, folder of OpenCLIP, Hugging Face or `convert`, or hf-hub:owner/name.
            benchmarks: built-in names (organisms, photo_table, synthetic) or paths of Python files.
            root: where the benchmark's data lies, such as a dataset directory.
            results: database to add to; results.sqlite in the work directory, or here for another model.
            method: how candidates above species are made: by the mean or the sum of their species' probabilities, the
                mean of their species' text features, or the text of the taxon's own lineage. All are reported; this
                one leads.
            text_types: caption types of a species; several are averaged.
            rank_text_types: caption types of a higher taxon for the method prefix.
            templates: plain is "a photo of {}.", as in training; clip81 averages BioCLIP's 81 templates.
            baseline: also measure logistic regression on colours, learnt from the training photos.
            few_shot: also measure few-shot classification.
            resamples: bootstrap resamples for the intervals.
            seed: of the bootstrap.
            batch_size: photos encoded at once.
            preprocessing: replaces what the model comes with.
        """
        from bioclip_jax.evaluation.measure import Settings
        from bioclip_jax.evaluation.run import evaluate as run
        from bioclip_jax.heads import PLAIN_TEMPLATES
        from bioclip_jax.inference.load import load
        from bioclip_jax.recipes import load_recipe
        from bioclip_jax.text.templates import TEMPLATES

        if not benchmarks:
            raise UsageError("name at least one benchmark, such as synthetic")
        chosen = [load_recipe("evals", name).benchmark(root) for name in benchmarks]
        settings = Settings(
            method=method,
            text_types=text_types,
            rank_text_types=rank_text_types,
            templates=TEMPLATES if templates == "clip81" else PLAIN_TEMPLATES,
            resamples=resamples,
            seed=seed,
            baseline=baseline,
            few_shot=few_shot,
        )
        encoder = load(model, overrides=preprocessing.given())
        folder = Path(model) if (Path(model) / "checkpoints").is_dir() else Path()
        run(encoder, chosen, results or folder / "results.sqlite", settings=settings, batch_size=batch_size)

    _parse(evaluate, arguments, "eval")


def report(arguments: Sequence[str]) -> None:
    """Draw one HTML page of tables, plots and pictures from a results database or work directory."""

    def report(results: tyro.conf.Positional[Path], /, *, out: Path = Path("report.html")) -> None:
        """Draw one self-contained HTML page of tables, plots and pictures.

        Args:
            results: results database, or work directory that holds results.sqlite and metrics.jsonl.
            out: file to write.
        """
        from bioclip_jax.evaluation.report import write_report

        print(write_report(results, out))

    _parse(report, arguments, "report")


def convert(arguments: Sequence[str]) -> None:
    """Write a model for OpenCLIP, Hugging Face, Orbax or ONNX."""

    def convert(
        source: tyro.conf.Positional[str],
        destination: tyro.conf.Positional[Path],
        /,
        *,
        to: Literal["orbax", "open_clip", "hugging_face", "onnx"],
        model: str | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] | None = None,
        keep_replay_projector: tyro.conf.FlagCreatePairsOff[bool] = False,
        overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
        license: str = "",  # noqa: A002 the flag's name
        preprocessing: tyro.conf.OmitArgPrefixes[PreprocessingFlags] = PreprocessingFlags(),
    ) -> None:
        """Write a model for OpenCLIP, Hugging Face, Orbax or ONNX, with its preprocessing, tokenizer and a card.

        Args:
            source: work directory, checkpoint, folder of OpenCLIP, Hugging Face or Orbax, file of weights, or
                hf-hub:owner/name.
            destination: folder to make.
            to: format; orbax is this program's own.
            model: what a file of bare weights is of: an OpenCLIP name, as ViT-L-14, or a JSON config.
            dtype: type of the weights; each keeps its own if not given.
            keep_replay_projector: also write the second visual projector, for training on with the reference code.
            overwrite: replace a folder that this command wrote earlier.
            license: of the weights, for the card; an SPDX identifier, as mit.
            preprocessing: replaces what the model comes with.
        """
        from bioclip_jax.inference.export import convert as run

        lines = run(
            source,
            destination,
            to,
            model=model,
            dtype=dtype,
            keep_replay_projector=keep_replay_projector,
            overwrite=overwrite,
            overrides=preprocessing.given(),
            license=license,
        )
        print("\n".join(lines))

    _parse(convert, arguments, "convert")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "data build": data_build,
    "data verify": data_verify,
    "data show": data_show,
    "train": train,
    "eval": evaluate,
    "report": report,
    "convert": convert,
}


def _parse(target: Callable[..., Any], arguments: Sequence[str], command: str) -> Any:
    return tyro.cli(target, args=list(arguments), prog=f"{PROGRAM} {command}")


def _parse_known(target: Callable[..., Any], arguments: Sequence[str], command: str) -> tuple[Any, list[str]]:
    """Parses what `target` knows and returns the rest, which belongs to a recipe or config."""
    return tyro.cli(target, args=list(arguments), prog=f"{PROGRAM} {command}", return_unknown_args=True)


def _split_at_dashes(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before `--`, and what behind it."""
    place = list(arguments).index("--") if "--" in arguments else len(arguments)
    return list(arguments[:place]), list(arguments[place + 1 :])


def _help_of_recipe(arguments: Sequence[str], target: Callable[..., Any], command: str) -> None:
    """Prints a data recipe's own flags where its help is asked for; without a recipe, the command's help."""
    if not arguments or arguments[0] in ("-h", "--help"):
        _parse(target, arguments, command)
    if set(arguments) & {"-h", "--help"}:
        from bioclip_jax.pipeline.readers import is_recipe, recipe_file
        from bioclip_jax.recipes import load_recipe, recipe_arguments

        if not is_recipe(arguments[0]):
            _parse(target, ["--help"], command)
        recipe_arguments(
            load_recipe("data", recipe_file(arguments[0])).source, ["--help"], f"{PROGRAM} {command} {arguments[0]} ..."
        )


def _help() -> str:
    lines = [f"usage: {PROGRAM} COMMAND [ARGUMENTS]", "", "BioCLIP 2 in JAX.", "", "commands:"]
    lines += [f"  {name:<13}{(function.__doc__ or '').splitlines()[0]}" for name, function in COMMANDS.items()]
    return "\n".join([*lines, "", f"`{PROGRAM} COMMAND --help` explains a command."])


def _dispatch(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return
    if arguments[0] == "--version":
        from bioclip_jax import __version__

        print(__version__)
        return
    for words in (2, 1):
        command = COMMANDS.get(" ".join(arguments[:words]))
        if command:
            command(arguments[words:])
            return
    names = ", ".join(COMMANDS)
    raise UsageError(f"no command {' '.join(arguments[:2])!r}; the commands are {names}")


def _one_line(text: str) -> str:
    """Names in files may hold anything, and a terminal obeys some of it."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    # Orbax logs at length what our own errors say in one line.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        _dispatch(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"error: {_one_line(str(error))}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        raise SystemExit(1) from None
    except OSError as error:
        print(f"error: {error.filename or 'reading or writing'}: {error.strerror or error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()

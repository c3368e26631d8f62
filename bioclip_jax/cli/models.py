"""What is done with a model: `eval`, `report` and `convert`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from bioclip_jax.cli.parsing import parse
from bioclip_jax.errors import UsageError

if TYPE_CHECKING:
    from bioclip_jax.evaluation.measure import Settings


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
        again: tyro.conf.FlagCreatePairsOff[bool] = False,
        preprocessing: tyro.conf.OmitArgPrefixes[PreprocessingFlags] = PreprocessingFlags(),
    ) -> None:
        """Measure a model on benchmarks; figures with intervals go to a results database.

        What was measured before is shown and not measured again. The same command in several processes or on several
        machines, with one database, shares the benchmarks out. Published tasks have protocols of their own: of what
        says how to measure, they know --resamples and --seed alone, and a note names what has no effect on them.

        Args:
            model: work directory, checkpoint, folder of OpenCLIP, Hugging Face or `convert`, or hf-hub:owner/name.
            benchmarks: built-in names (as nabirds), paths of Python files, or all: those with a folder in the root.
            root: where the benchmark's data lies; of several benchmarks, the folder of their folders.
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
            batch_size: photos that each device encodes at once.
            again: measure anew what was measured before.
            preprocessing: replaces what the model comes with.
        """
        from bioclip_jax.evaluation.measure import Settings
        from bioclip_jax.heads import PLAIN_TEMPLATES
        from bioclip_jax.pipeline.local_paths import require_local
        from bioclip_jax.text.templates import TEMPLATES

        if batch_size < 1:
            raise UsageError(f"--batch-size {batch_size}: must be at least 1")
        require_local(model, "MODEL")
        require_local(results, "--results")
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
        _evaluate(model, benchmarks, root, results, settings, batch_size, preprocessing, again=again)

    parse(evaluate, arguments, "eval")


def _evaluate(
    model: str,
    benchmarks: Sequence[str],
    root: str | None,
    results: Path | None,
    settings: Settings,
    batch_size: int,
    preprocessing: PreprocessingFlags,
    *,
    again: bool,
) -> None:
    import jax
    from rich.console import Console

    from bioclip_jax.evaluation.run import evaluate as run
    from bioclip_jax.evaluation.suite import open_suite
    from bioclip_jax.inference.load import load

    console = Console()
    suite = open_suite(
        benchmarks, root, lambda line: console.print(line, soft_wrap=True, markup=False, highlight=False)
    )
    encoder = load(model, overrides=preprocessing.given())
    folder = Path(model) if (Path(model) / "checkpoints").is_dir() else Path()
    run(
        encoder,
        suite.benchmarks,
        results or folder / "results.sqlite",
        settings=settings,
        batch_size=batch_size * jax.local_device_count(),
        console=console,
        again=again,
        failed=suite.failed,
    )


def report(arguments: Sequence[str]) -> None:
    """Draw one HTML page of tables, plots and pictures from results databases or work directories."""

    def report(
        results: tyro.conf.Positional[tuple[Path, ...]],
        /,
        *,
        out: Path = Path("report.html"),
        csv: Path | None = None,
    ) -> None:
        """Draw one self-contained HTML page of tables, plots and pictures, several models side by side.

        Args:
            results: results databases, work directories that hold results.sqlite and metrics.jsonl, or the folder of a
                sweep. Runs of one benchmark are set side by side, whichever database they are in; several training runs
                are a table of the fields that differ and of their last figures.
            out: file to write.
            csv: file to write that table to.
        """
        from bioclip_jax.evaluation.report import write_report
        from bioclip_jax.pipeline.local_paths import require_local

        require_local(out, "--out")
        require_local(csv, "--csv")
        for path in results:
            require_local(path, "RESULTS")
        print(write_report(results, out, csv))

    parse(report, arguments, "report")


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
        from bioclip_jax.pipeline.local_paths import require_local

        require_local(source, "SOURCE")
        require_local(destination, "DESTINATION")
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

    parse(convert, arguments, "convert")

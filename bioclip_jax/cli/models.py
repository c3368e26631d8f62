"""What is done with a model: `eval`, `report` and `convert`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from bioclip_jax.cli.parsing import parse
from bioclip_jax.errors import UsageError


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

    parse(evaluate, arguments, "eval")


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

"""What a run's work directory knows about its weights, for the model card."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bioclip_jax.convert.card import Accuracy, Provenance
from bioclip_jax.convert.names import Parameter, parameters_of
from bioclip_jax.convert.weights import Source
from bioclip_jax.training.sources import Run


def provenance_of(source: Source, run: Run | None, license: str) -> Provenance:  # noqa: A002 the card's word
    """Training config, data and figures of a run's weights; of other weights next to nothing is known.

    Figures are those of results.sqlite in the work directory that were measured with these very weights.
    """
    if run is None:
        return Provenance(license=license)
    from bioclip_jax.training.checkpointing import read_dataset_note  # with JAX, which other models do not need

    config: dict[str, Any] = _without_paths(json.loads(json.dumps(asdict(run.config), default=str)))
    dataset, dataset_hash = read_dataset_note(run.work_dir) or (config["data"]["dataset"], "")
    fingerprint = ""
    accuracies: tuple[Accuracy, ...] = ()
    citations: tuple[str, ...] = ()
    results = run.work_dir / "results.sqlite"
    if results.is_file():
        fingerprint = fingerprint_of(source)
        accuracies, citations = _accuracies(results, fingerprint)
    return Provenance(
        training=config,
        step=run.step,
        initial_weights=config["initial_weights"],
        dataset=dataset,
        dataset_hash=dataset_hash,
        weights=fingerprint,
        accuracies=accuracies,
        citations=citations,
        license=license,
    )


def _without_paths(value: Any) -> Any:
    """Paths as their last part: where somebody's files lie is nobody else's business."""
    if isinstance(value, dict):
        return {name: _without_paths(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    is_path = isinstance(value, str) and "/" in value and not value.startswith("hf-hub:")
    return Path(value).name if is_path else value


def fingerprint_of(source: Source) -> str:
    """`Model.fingerprint`, computed with one parameter in memory at a time."""
    from bioclip_jax.inference.model import fingerprint

    def leaf(parameter: Parameter) -> np.ndarray:
        layers = [source.weights.read(parameter, layer) for layer in parameter.layer_indices()]
        return (layers[0] if parameter.layers is None else np.stack(layers)).astype(np.float32)

    leaves = ((parameter.path, leaf(parameter)) for parameter in parameters_of(source.config))
    return fingerprint(leaves, source.config, source.preprocessing)


def _accuracies(results: Path, fingerprint: str) -> tuple[tuple[Accuracy, ...], tuple[str, ...]]:
    from bioclip_jax.evaluation.methods import DEFAULT_METHOD
    from bioclip_jax.evaluation.results import Results
    from bioclip_jax.evaluation.rows import Figure

    accuracies, citations = [], []
    with Results(results) as database:
        for number, measured in database.runs().items():
            if measured.weights != fingerprint:
                continue
            method = json.loads(measured.settings).get("method", DEFAULT_METHOD)
            citations.append(measured.citation)
            accuracies += [
                Accuracy(
                    measured.benchmark,
                    measured.dataset_hash,
                    figure.split,
                    figure.rank,
                    figure.metric,
                    figure.value,
                    figure.low,
                    figure.high,
                    figure.chance,
                    figure.classes,
                )
                for figure in database.rows(Figure, number)
                if (figure.learner, figure.protocol, figure.variant, figure.metric)
                == ("model", "zero_shot", method, "balanced_accuracy")
            ]
    return tuple(accuracies), tuple(dict.fromkeys(citations))

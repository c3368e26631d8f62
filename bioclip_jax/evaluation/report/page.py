"""Puts the page together."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.report.accuracy import accuracy_section, headline
from bioclip_jax.evaluation.report.confidence import confidence_section
from bioclip_jax.evaluation.report.confusion import confusion_section
from bioclip_jax.evaluation.report.curves import curves_section
from bioclip_jax.evaluation.report.few_shots import few_shot_section
from bioclip_jax.evaluation.report.markup import Child, Markup, details, tag
from bioclip_jax.evaluation.report.measured import Measured, labelled, runs_of
from bioclip_jax.evaluation.report.mistakes import (
    differences_section,
    hierarchy_section,
    retrieval_section,
    seen_section,
)
from bioclip_jax.evaluation.report.models import models_section
from bioclip_jax.evaluation.report.paper_tables import tables_section
from bioclip_jax.evaluation.report.pictures import failures_section, map_section, neighbours_section
from bioclip_jax.evaluation.report.protocols import protocols_section
from bioclip_jax.evaluation.report.sweep import as_csv, names_of, read_points, sweep_section
from bioclip_jax.evaluation.results import FILE_NAME, Results
from bioclip_jax.evaluation.rows import Run

METRICS_FILE = "metrics.jsonl"
MOST_MODELS = 6
"""Side by side; older runs are left to the database."""
SECTIONS = {
    "accuracy": "Zero-shot by rank",
    "models": "Other models",
    "protocols": "Protocols",
    "few-shot": "Few-shot",
    "seen": "Seen and unseen",
    "hierarchy": "Taxonomy of mistakes",
    "confidence": "Probabilities",
    "confusion": "Confusion",
    "retrieval": "Retrieval",
    "differences": "Paired differences",
    "map": "Map of species",
    "neighbours": "Neighbours",
    "mistakes": "Mistakes",
    "training": "Training",
    "method": "How this was measured",
}


def write_report(results: Path | Sequence[Path], out: Path, table: Path | None = None) -> Path:
    """Writes one self-contained HTML page.

    Args:
        results: one or several results databases, or directories that hold `results.sqlite`, `metrics.jsonl` or both,
            or folders of such directories. Of every benchmark the newest run of all of them is shown in full, other
            models beside it; several training runs are a table, too.
        out: the file to write; it is replaced as a whole.
        table: a CSV file for the table of the training runs, if wanted.

    Returns:
        `out`.

    Raises:
        UsageError: there is nothing of the kind at one of `results`.
        UserError: a database is damaged or empty, or `out` cannot be written.
    """
    given = [results] if isinstance(results, Path) else results
    places = list(dict.fromkeys(place for path in given for place in _runs_in(path)))
    if not places:
        raise UsageError("report needs a results database, or a directory that holds one")
    databases = [path for place in places if (path := _database(place))]
    curves = _curves(places)
    with contextlib.ExitStack() as stack:
        runs = runs_of(stack.enter_context(Results(path)) for path in databases)
        by_benchmark: dict[str, list[Measured]] = {}
        for run in runs:
            by_benchmark.setdefault(run.run.benchmark, []).append(run)
        parts = [_run_part(labelled(of_one[:MOST_MODELS])) for of_one in by_benchmark.values()]
        title = ", ".join(f"{of_one[0].run.model} on {name}" for name, of_one in by_benchmark.items()) or "Training"
        tables = tables_section(runs)
        points = read_points((place for place in places if place.is_dir()), runs)
    if not parts and not curves:
        named = ", ".join(str(place) for place in places)
        raise UserError(f"{named} holds no finished run and no training curve; `bioclip-jax eval` adds runs")
    if tables or len(parts) > 1:
        links = [tag("a", name, href=f"#benchmark-{name}") for name in by_benchmark]
        paper = tag("div", tables, id="paper") if tables else None
        counted = f"{len(parts)} benchmarks" if len(parts) > 1 else "The paper's figures and ours"
        parts.insert(0, tag("article", _top(counted), tag("nav", links), paper))
    if table is not None and not points:
        raise UserError(f"nothing for {table}: no training run, which has a config.json, is among what was given")
    compared = sweep_section(points)
    if compared:
        parts.append(tag("article", None if parts else _top("Training"), tag("div", compared, id="runs")))
    if curves:
        trained = tag("div", curves, id="training")
        parts.append(tag("article", None if parts else _top("Training"), trained))
    _write(_document(title, parts), out)
    if table is not None:
        _write(as_csv(points), table)
    return out


def _runs_in(place: Path) -> list[Path]:
    """What a folder of runs, as a sweep leaves it, holds; any other place stands for itself."""

    def is_run(folder: Path) -> bool:
        return (folder / FILE_NAME).is_file() or (folder / METRICS_FILE).is_file()

    if not place.is_dir() or is_run(place):
        return [place]
    return sorted(filter(is_run, place.iterdir()), key=_by_numbers) or [place]


def _by_numbers(folder: Path) -> list[str | int]:
    """Sorts width-64 before width-128."""
    parts = re.split(r"([0-9]+)", folder.name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def _database(place: Path) -> Path | None:
    """The database of a place; None where a directory has training curves only."""
    path = place / FILE_NAME if place.is_dir() else place
    if place.is_dir() and not path.is_file():
        if not (place / METRICS_FILE).is_file():
            raise UsageError(
                f"{place} holds neither {FILE_NAME} nor {METRICS_FILE}; give what `bioclip-jax eval` or `train` wrote"
            )
        return None
    return path


def _curves(places: Sequence[Path]) -> list[Markup]:
    """The training curves that lie beside the databases, each once."""
    folders = dict.fromkeys(place if place.is_dir() else place.parent for place in places)
    files = [folder / METRICS_FILE for folder in folders if (folder / METRICS_FILE).is_file()]
    names = [""] if len(files) == 1 else names_of(file.parent for file in files).values()
    parts = [(name, curves_section(file, name)) for file, name in zip(files, names, strict=True)]
    many = len(files) > MOST_MODELS
    return [details(f"Training of {name}", part) if many else part for name, part in parts if part]


def _write(page: str, out: Path) -> None:
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"the report cannot be written to {out}: {error.strerror}") from error


def _document(title: str, parts: Sequence[Markup]) -> str:
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("title", title),
        tag("style", Markup(style)),
    )
    footer = tag("footer", "Made by bioclip-jax report. This page needs no network and runs no script.")
    return "<!doctype html>\n" + tag("html", head, tag("body", parts, footer), lang="en")


def _top(title: str) -> Markup:
    return tag("header", tag("div", "bioclip_jax report", class_="overline"), tag("h1", title))


def _run_part(runs: Sequence[Measured]) -> Markup:
    """Everything about one benchmark: its newest run, and others beside it."""
    measured = runs[0]
    sections = {
        "accuracy": accuracy_section(measured),
        "models": models_section(runs),
        "protocols": protocols_section(runs),
        "few-shot": few_shot_section(measured),
        "seen": seen_section(runs),
        "hierarchy": hierarchy_section(runs),
        "confidence": confidence_section(runs),
        "confusion": confusion_section(measured),
        "retrieval": retrieval_section(runs),
        "differences": differences_section(runs),
        "map": map_section(measured.species),
        "neighbours": neighbours_section(measured.gallery, measured.thumbnail),
        "mistakes": _mistakes(runs),
        "method": _method_section(measured),
    }
    shown = {name: section for name, section in sections.items() if section}
    suffix = f"-{measured.run.benchmark}"
    links = [tag("a", SECTIONS[name], href=f"#{name}{suffix}") for name in shown]
    anchored = [tag("div", section, id=f"{name}{suffix}") for name, section in shown.items()]
    content = (_header(measured), tag("nav", links), headline(measured), anchored)
    return tag("article", content, id=f"benchmark{suffix}")


def _mistakes(runs: Sequence[Measured]) -> Markup | None:
    """The gallery of the newest run, those of the others folded below."""
    found = [(run.label, failures_section(run.gallery, run.thumbnail)) for run in runs]
    if not found[0][1]:
        return None
    return Markup(
        "".join(
            section if not number else details(f"Those of {label}", section)
            for number, (label, section) in enumerate(found)
            if section
        )
    )


def _header(measured: Measured) -> Markup:
    run = measured.run
    splits = json.loads(run.splits)
    photos = sum(split["used"] for split in splits.values())
    date = run.started[:16].replace("T", " ")
    facts = f"{date} UTC \N{MIDDLE DOT} {run.device} \N{MIDDLE DOT} {photos:,} photos \N{MIDDLE DOT} weights "
    return tag(
        "header",
        tag("div", "bioclip_jax report", class_="overline"),
        tag("h1", f"{run.model} on {run.benchmark}"),
        tag("p", run.description),
        tag("p", facts, tag("code", run.weights[:12]), class_="meta"),
    )


def _method_section(measured: Measured) -> Markup:
    run, settings = measured.run, measured.settings
    versions = json.loads(run.versions)
    rows: dict[str, Child] = {"command": tag("code", run.command)}
    if settings.get("templates") and "tasks" not in settings:
        templates = settings["templates"]
        prompts = f"{', '.join(settings['text_types'])}; templates: {len(templates)}, first {templates[0]!r}"
        rows |= {"text of a species": prompts, "text of a rank's name": ", ".join(settings["rank_text_types"])}
    rows |= {
        "intervals": f"95 % percentile bootstrap, {settings.get('resamples', 0):,} resamples, "
        f"seed {settings.get('seed', 0)}; "
        "species (classes, where there is no taxonomy) are drawn, each with all its photos (a photo of unknown species "
        "stands for itself); "
        "balanced accuracy is a mean weighted by 1 / size of the class, divided by the weight drawn",
        "differences": "paired: both learners on the same resamples; p is two-sided and at least 2 / (resamples + 1)",
    }
    train = json.loads(run.splits).get(settings.get("train_split") or "")
    if train and any(f.learner == "baseline" for f in measured.figures):
        rows["baseline"] = (
            "multinomial logistic regression (C = 0.03) on a 6 x 6 x 6 RGB histogram and an 8 x 8 thumbnail, "
            f"fitted at each rank to the {train['used']:,} training photos (those with a name there); "
            "for balanced accuracy its logits are corrected by the class shares"
        )
    rows |= {
        "weights": tag("code", run.weights),
        "data": f"{run.dataset} (hash {run.dataset_hash[:12]})",
        "licence": run.license,
        "citation": run.citation,
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "time": f"{run.seconds:,.0f} s on {run.device}",
    }
    return tag(
        "section",
        tag("h2", "How this was measured"),
        _splits_table(run),
        tag("dl", [[tag("dt", name), tag("dd", value)] for name, value in rows.items()]),
        [tag("h3", "What was left out"), tag("ul", [tag("li", note) for note in measured.notes], class_="meta")]
        if measured.notes and not measured.task_figures()
        else None,
    )


def _splits_table(run: Run) -> Markup:
    names = ("records", "photos used", "species", "of them in training", "could not be used")
    rows = []
    for name, split in json.loads(run.splits).items():
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in split["unreadable"].items())
        numbers = [split.get(key) for key in ("records", "used", "species", "in_train")]
        counts = [tag("td", "\N{EN DASH}" if number is None else f"{number:,}") for number in numbers]
        rows.append(tag("tr", tag("td", name, class_="text"), counts, tag("td", reasons or "0", class_="wide")))
    head = tag("thead", tag("tr", tag("th", "split", class_="text"), [tag("th", name) for name in names]))
    return tag("div", tag("table", head, tag("tbody", rows)), class_="table")

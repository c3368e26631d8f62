"""Puts the page together."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.report.accuracy import Measured, accuracy_section, headline
from bioclip_jax.evaluation.report.curves import curves_section
from bioclip_jax.evaluation.report.few_shots import few_shot_section
from bioclip_jax.evaluation.report.markup import Markup, tag
from bioclip_jax.evaluation.report.models import models_section
from bioclip_jax.evaluation.report.pictures import failures_section, map_section, neighbours_section
from bioclip_jax.evaluation.results import FILE_NAME, Results
from bioclip_jax.evaluation.rows import Difference, Figure, GalleryItem, Run, Species

METRICS_FILE = "metrics.jsonl"
SECTIONS = {
    "accuracy": "Zero-shot by rank",
    "few-shot": "Few-shot",
    "models": "Other models",
    "map": "Map of species",
    "neighbours": "Neighbours",
    "mistakes": "Mistakes",
    "training": "Training",
    "method": "How this was measured",
}


def write_report(results: Path, out: Path) -> Path:
    """Writes one self-contained HTML page.

    Args:
        results: a results database, or a directory that holds `results.sqlite`, `metrics.jsonl` or both. Of every
            benchmark the newest run is shown in full, other models beside it in a table.
        out: the file to write; it is replaced as a whole.

    Returns:
        `out`.

    Raises:
        UsageError: there is nothing of the kind at `results`.
        UserError: the database is damaged or empty, or `out` cannot be written.
    """
    database = results / FILE_NAME if results.is_dir() else results
    metrics = database.parent / METRICS_FILE
    if results.is_dir() and not database.is_file() and not metrics.is_file():
        raise UsageError(
            f"{results} holds neither {FILE_NAME} nor {METRICS_FILE}; give what `bioclip-jax eval` or `train` wrote"
        )
    curves = curves_section(metrics) if metrics.is_file() else None
    parts: list[Markup] = []
    title = "Training"
    if database.is_file() or not results.is_dir():
        with Results(database) as opened:
            newest = {run.benchmark: number for number, run in opened.runs().items()}
            for number in reversed(newest.values()):
                parts.append(_run_part(opened, number, curves if not parts else None, first=not parts))
            if newest:
                title = ", ".join(f"{opened.runs()[number].model} on {name}" for name, number in newest.items())
    if not parts and curves is None:
        raise UserError(f"{results} holds no finished run and no training curve; `bioclip-jax eval` adds runs")
    if not parts:
        parts = [
            tag("header", tag("div", "bioclip_jax report", class_="overline"), tag("h1", "Training")),
            curves or Markup(),
        ]
    page = _document(title, parts)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"the report cannot be written to {out}: {error.strerror}") from error
    return out


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


def _run_part(results: Results, number: int, curves: Markup | None, *, first: bool) -> Markup:
    """Everything about the newest run of one benchmark; `first` on the page has the plain anchors."""
    run = results.runs()[number]
    measured = Measured(run, results.rows(Figure, number), results.rows(Difference, number))
    gallery = results.rows(GalleryItem, number)

    def thumbnail(key: str) -> bytes | None:
        return results.thumbnail(run.dataset_hash, key)

    sections = {
        "accuracy": accuracy_section(measured),
        "few-shot": few_shot_section(measured),
        "models": models_section(results, number),
        "map": map_section(results.rows(Species, number)),
        "neighbours": neighbours_section(gallery, thumbnail),
        "mistakes": failures_section(gallery, thumbnail),
        "training": curves,
        "method": _method_section(run),
    }
    shown = {name: section for name, section in sections.items() if section}
    suffix = "" if first else f"-{number}"
    links = [tag("a", SECTIONS[name], href=f"#{name}{suffix}") for name in shown]
    anchored = [tag("div", section, id=f"{name}{suffix}") for name, section in shown.items()]
    return tag("article", _header(measured), tag("nav", links), headline(measured), anchored)


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


def _method_section(run: Run) -> Markup:
    settings, versions = json.loads(run.settings), json.loads(run.versions)
    templates = settings["templates"]
    prompts = f"{', '.join(settings['text_types'])}; templates: {len(templates)}, first {templates[0]!r}"
    splits = json.loads(run.splits)
    train = splits.get(settings["train_split"] or "", {"used": 0})
    rows = {
        "command": tag("code", run.command),
        "text of a species": prompts,
        "text of a rank's name": ", ".join(settings["rank_text_types"]),
        "intervals": f"95 % percentile bootstrap, {settings['resamples']:,} resamples, seed {settings['seed']}; "
        "species are drawn, each with all its photos (a photo of unknown species stands for itself); "
        "balanced accuracy is a mean weighted by 1 / size of the class, divided by the weight drawn",
        "differences": "paired: both learners on the same resamples; p is two-sided and at least 2 / (resamples + 1)",
        "baseline": "multinomial logistic regression (C = 0.03) on a 6 x 6 x 6 RGB histogram and an 8 x 8 thumbnail, "
        f"fitted at each rank to the {train['used']:,} training photos (those with a name there); "
        "for balanced accuracy its logits are corrected by the class shares",
        "weights": tag("code", run.weights),
        "data": f"{run.dataset} (hash {run.dataset_hash[:12]})",
        "licence": run.license,
        "citation": run.citation,
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "time": f"{run.seconds:,.0f} s on {run.device}",
    }
    notes = json.loads(run.notes)
    return tag(
        "section",
        tag("h2", "How this was measured"),
        _splits_table(run),
        tag("dl", [[tag("dt", name), tag("dd", value)] for name, value in rows.items()]),
        [tag("h3", "What was left out"), tag("ul", [tag("li", note) for note in notes], class_="meta")]
        if notes
        else None,
    )


def _splits_table(run: Run) -> Markup:
    names = ("records", "photos used", "species", "of them in training", "could not be used")
    rows = []
    for name, split in json.loads(run.splits).items():
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in split["unreadable"].items())
        numbers = [split[key] for key in ("records", "used", "species", "in_train")]
        counts = [tag("td", "\N{EN DASH}" if number is None else f"{number:,}") for number in numbers]
        rows.append(tag("tr", tag("td", name, class_="text"), counts, tag("td", reasons or "0", class_="wide")))
    head = tag("thead", tag("tr", tag("th", "split", class_="text"), [tag("th", name) for name in names]))
    return tag("div", tag("table", head, tag("tbody", rows)), class_="table")

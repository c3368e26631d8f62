"""A contact sheet: photos drawn at random from a dataset, with their names, to see what one is about to train on."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.images import ImageError, decode
from bioclip_jax.pipeline.record import BadRecord, Record, RecordSource
from bioclip_jax.text.taxonomy import Taxon

_PAPER, _INK, _GREY, _FRAME = (255, 255, 255), (28, 32, 30), (118, 124, 120), (238, 240, 237)
_MARGIN, _GAP = 28, 14
_LINE = 1.32  # distance of lines, in font sizes
_ATTEMPTS = 5  # records looked at per cell, before it stays empty


def contact_sheet(
    splits: Mapping[str, RecordSource],
    *,
    title: str,
    split: str | None = None,
    columns: int = 8,
    rows: int = 5,
    cell: int = 200,
    seed: int = 0,
) -> Image.Image:
    """Draws records of one split, related organisms next to each other; records that cannot be used are passed over.

    Args:
      splits: of a dataset, as `open_dataset` gives them.
      title: stands at the top, with the number of records of each split.
      split: which to draw from; the first if not given.
      columns: of photos.
      rows: of photos.
      cell: width of a photo, in pixels; the whole photo is shown.
      seed: another one draws other records.

    Returns:
      an RGB image.

    Raises:
      UsageError: no such split, or a number is below 1 (`cell` below 32).
      UserError: none of the records that were drawn is usable.
    """
    split = next(iter(splits)) if split is None else split
    if split not in splits:
        raise UsageError(f"--split {split}: no such split; there are {', '.join(splits)}")
    for flag, value, least in (("columns", columns, 1), ("rows", rows, 1), ("cell", cell, 32)):
        if value < least:
            raise UsageError(f"--{flag} {value}: must be at least {least}")
    drawn = _draw_records(splits[split], columns * rows, seed)
    rows = -(-len(drawn) // columns)
    columns = min(columns, len(drawn))
    size = max(9, round(cell * 0.068))
    text_height = round(3 * _LINE * size)
    head = round(5.2 * size)
    width = max(2 * _MARGIN + columns * (cell + _GAP) - _GAP, 2 * _MARGIN + 24 * size)
    height = _MARGIN + head + rows * (cell + text_height + _GAP) + _MARGIN - _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    _header(ImageDraw.Draw(sheet), title, splits, split, size, width - 2 * _MARGIN)
    for place, (record, photo) in enumerate(drawn):
        left = _MARGIN + place % columns * (cell + _GAP)
        top = _MARGIN + head + place // columns * (cell + text_height + _GAP)
        _cell(sheet, record, photo, left, top, cell, size)
    return sheet


def _draw_records(source: RecordSource, count: int, seed: int) -> list[tuple[Record, np.ndarray]]:
    draw = np.random.default_rng(seed)
    places = draw.choice(len(source), size=min(len(source), _ATTEMPTS * count), replace=False)
    drawn, problem = [], "it has no records"
    for place in places:
        try:
            record = source[int(place)]
            drawn.append((record, decode(record["image"])))
        except (BadRecord, ImageError) as error:
            problem = str(error)
        if len(drawn) == count:
            break
    if not drawn:
        raise UserError(f"no record of the split can be shown: {problem}")
    return sorted(drawn, key=lambda pair: (Taxon.from_record(pair[0]).ranks, pair[0]["key"]))


def _header(
    draw: ImageDraw.ImageDraw, title: str, splits: Mapping[str, RecordSource], shown: str, size: int, width: int
) -> None:
    counts = "  ·  ".join(f"{name} {len(source):,}" for name, source in splits.items())
    draw.text((_MARGIN, _MARGIN), _shortened(title, _font("Bold", 2 * size), width), _INK, _font("Bold", 2 * size))
    total = sum(len(source) for source in splits.values())
    below = f"{total:,} photos:  {counts}.  Drawn from {shown}."
    draw.text((_MARGIN, _MARGIN + 2.7 * size), _shortened(below, _font("", size), width), _GREY, _font("", size))


def _cell(sheet: Image.Image, record: Record, pixels: np.ndarray, left: int, top: int, cell: int, size: int) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, left + cell - 1, top + cell - 1), fill=_FRAME)
    scale = cell / max(pixels.shape[:2])
    photo = Image.fromarray(pixels).resize(
        (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))), Image.Resampling.LANCZOS
    )
    sheet.paste(photo, (left + (cell - photo.width) // 2, top + (cell - photo.height) // 2))
    taxon = Taxon.from_record(record)
    lineage = " · ".join(name for name in (taxon.class_, taxon.order) if name) or taxon.phylum or taxon.kingdom
    lines = (
        # only genera and species are written in italics
        (taxon.scientific_name or taxon.genus, "Oblique" if taxon.genus else "", _INK, size),
        (taxon.common_name, "", _INK, size),
        (lineage if lineage != taxon.scientific_name else "", "", _GREY, round(0.88 * size)),
    )
    y = top + cell + 0.35 * size
    for text, style, colour, height in lines:
        if text:
            font = _font(style, height)
            draw.text((left, y), _shortened(text, font, cell), colour, font)
            y += _LINE * size * 0.95


@functools.cache
def _font(style: str, size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with Matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew and the signs of biology."""
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", f"DejaVuSans{'-' if style else ''}{style}.ttf")
    return ImageFont.truetype(file, size)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, on one line, cut so that it fits the width."""
    text = "".join(letter if letter.isprintable() else " " for letter in text[:200])
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1].rstrip()
    return text + "…"

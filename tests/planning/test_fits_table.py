"""docs/fits.md holds the answers about the points that are listed, and about no others."""

import pytest

from bioclip_jax.planning.plan import Assumptions, make_plan
from tests.benchmarks.fits import FITS, HEAD, PLAN, POINTS, PUBLISHED, WORKED, page, row, with_plan

pytestmark = pytest.mark.core


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def test_each_row_is_one_of_the_listed_points_in_their_order():
    rows = rows_of(FITS.read_text(encoding="utf-8"))[1:]
    points = [point.cells for point in POINTS]
    places = [points.index(cells[:6]) for cells in rows]
    assert places == sorted(set(places))
    assert len(places) >= 8
    assert all(cells[6] == "yes" or cells[6].startswith("no: ") for cells in rows)


def test_a_row_says_what_the_compiler_said(config, machine, streams, reply):
    point = POINTS[0]
    head, cells = rows_of(page([row(point, make_plan(config, machine, streams, reply, Assumptions()))]))
    assert head == HEAD
    assert cells[:6] == point.cells
    assert cells[6:13] == ("yes", "2.38", "6.00", "3.50", "12.00", "10.00", "f32")
    assert cells[-1] == "131"


def test_the_worked_plan_takes_the_place_of_the_one_before(config, machine, streams, reply):
    assert set(WORKED) <= {point.topology for point in POINTS if point.pairs == PUBLISHED}
    page_before = PLAN.read_text(encoding="utf-8")
    plan = make_plan(config, machine, streams, reply, Assumptions())
    page_after = with_plan(page_before, [plan, plan])
    assert page_after.count("```") == page_before.count("```")
    assert page_after.count("v5e:16x16: fits; 256 chips v5e, 32 hosts") == 2
    assert with_plan(page_after, [plan, plan]) == page_after
    start, end = page_before.index("```text"), page_before.rindex("```\n")
    assert page_after.startswith(page_before[:start])
    assert page_after.endswith(page_before[end:])

import itertools
import math
import re
from xml.etree import ElementTree as ET

import pytest

from components.report.charts import Bar, Cell, Rule, Series, bars, heat_map, line_chart
from components.report.drawing import Axis
from components.report.markup import Markup


def marks(svg: Markup) -> list[ET.Element]:
    return [node for node in ET.fromstring(svg).iter() if "mark" in node.get("class", "").split()]


def test_a_line_has_a_mark_with_a_tooltip_for_each_datum() -> None:
    svg = line_chart([Series("loss", [1, 2, 3], [3.0, 1.5, 0.25])], Axis("epoch"), Axis("loss"), name="loss")
    assert [mark.findtext("title") for mark in marks(svg)] == ["loss: 3", "loss: 1.5", "loss: 0.25"]
    xs = [float(mark.get("cx", "nan")) for mark in marks(svg)]
    ys = [float(mark.get("cy", "nan")) for mark in marks(svg)]
    assert xs == sorted(xs)
    assert ys == sorted(ys)  # downwards: the loss falls


def test_what_is_not_a_number_has_no_mark_and_breaks_the_line() -> None:
    line = Series("loss", [1, 2, 3, 4, 5], [1.0, 2.0, math.nan, math.inf, 1.0])
    svg = line_chart([line], Axis("epoch"), Axis("loss"), name="loss")
    assert len(marks(svg)) == 3
    path = re.search(r' d="([^"]*)"', svg)
    assert path is not None
    assert path[1].count("M") == 2
    assert "nan" not in svg


@pytest.mark.parametrize(
    "axis", [Axis("y"), Axis("y", is_log=True), Axis("y", with_zero=True), Axis("y", bounds=(0, 1))]
)
@pytest.mark.parametrize("values", [[], [0.0], [0.5, 0.5], [1e-9, 1e9], [-1.0, math.nan]])
def test_any_numbers_can_be_drawn(axis: Axis, values: list[float]) -> None:
    x = [float(place) for place in range(len(values))]
    svg = line_chart([Series("s", x, values)], Axis("x", is_whole=True), axis, name="n", rule=Rule(0, "here"))
    assert len(marks(svg)) <= len(values)
    assert "nan" not in svg
    assert "inf" not in svg.replace("infinite", "")


def test_ticks_of_whole_things_are_whole() -> None:
    svg = line_chart([Series("s", [1, 2], [0, 1])], Axis("epoch", is_whole=True), Axis("y"), name="n")
    ticks = [node for node in ET.fromstring(svg).iter("text") if node.get("text-anchor") == "middle"]
    assert [node.text for node in ticks] == ["1", "2"]


def test_dots_grow_with_their_weight() -> None:
    line = Series("s", [0, 1], [0, 1], weights=[1, 100])
    small, large = (float(mark.get("r", "0")) for mark in marks(line_chart([line], Axis("x"), Axis("y"), name="n")))
    assert small < large


@pytest.mark.parametrize("count", [2, 10, 40, 133, 500])
def test_a_heat_map_draws_the_cells_given_inside_itself_and_no_label_on_another(count: int) -> None:
    cells = [Cell(place, place, 1.0, "1", f"cell {place}") for place in range(count)]
    svg = heat_map(cells, [f"label {place}" for place in range(count)], name="n", rows="r", columns="c")
    root = ET.fromstring(svg)
    assert len(marks(svg)) == count
    width = float(root.get("width", "0"))
    assert all(float(mark.get("x", "inf")) + float(mark.get("width", "inf")) <= width for mark in marks(svg))
    rows = [float(node.get("y", "nan")) for node in root.iter("text") if node.get("class") == "row"]
    font = 8 if "f8" in root.get("class", "") else 12
    assert len(rows) == 1 or min(b - a for a, b in itertools.pairwise(rows)) >= font


def test_a_long_label_is_cut_in_the_drawing_and_whole_in_its_title() -> None:
    svg = heat_map([], ["x" * 200, "b"], name="n", rows="r", columns="c")
    label = next(node for node in ET.fromstring(svg).iter("text") if node.get("class") == "row")
    assert label.findtext("title") == "x" * 200
    assert len("".join(label.itertext())) < 230
    assert float(ET.fromstring(svg).get("width", "inf")) < 400


def test_bars_are_as_long_as_their_values() -> None:
    svg = bars([Bar("decode", 2.0, "2 s"), Bar("train", 8.0, "8 s"), Bar("lost", math.nan, "?")], name="n")
    lengths = [float(mark.get("width", "nan")) for mark in marks(svg)]
    assert lengths[1] == pytest.approx(4 * lengths[0])
    assert [mark.findtext("title") for mark in marks(svg)] == ["decode: 2 s", "train: 8 s", "lost: ?"]

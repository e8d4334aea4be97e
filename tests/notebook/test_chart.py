"""Metrics as a drawing."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from jupyter_dlenv.notebook.chart import chart_html, chart_svg, series

SVG = "{http://www.w3.org/2000/svg}"


def drawn(columns: list[str], rows: list[list[Any]]) -> ElementTree.Element:
    return ElementTree.fromstring(chart_svg(columns, rows))


def test_each_metric_is_a_line_with_its_name_and_newest_value() -> None:
    picture = drawn(["step", "loss", "accuracy"], [[0, 2.0, 0.1], [10, 1.0, 0.5], [20, 0.5, 0.9]])
    assert len(picture.findall(f"{SVG}polyline")) == 2
    assert [text.text for text in picture.findall(f"{SVG}text")] == ["loss 0.5 (0.5 … 2)", "accuracy 0.9 (0.1 … 0.9)"]


def test_points_stand_where_their_steps_are() -> None:
    (loss,) = series(["epoch", "step", "rank", "loss"], [[1, 0, 0, 4.0], [1, 30, 0, 2.0], [2, 40, 0, 0.0]])
    assert loss.points == [(0.0, 1.0), (0.75, 0.5), (1.0, 0.0)]


@pytest.mark.parametrize("steps", [[0, 5, 0], [None, 1, 2], ["a", "b", "c"]])
def test_steps_that_begin_anew_are_counted(steps: list[Any]) -> None:
    (loss,) = series(["step", "loss"], [[step, value] for step, value in zip(steps, [0.0, 1.0, 2.0], strict=True)])
    assert [x for x, _y in loss.points] == [0.0, 0.5, 1.0]


def test_ranks_and_columns_with_gaps_are_lines_of_their_own() -> None:
    rows = [[0, 0, 1.0, None], [0, 1, 2.0, None], [1, 0, 0.5, "NaN"], [1, 1, 1.0, 0.9]]
    found = series(["step", "rank", "loss", "accuracy"], rows)
    assert [(one.name, one.least, one.most) for one in found] == [
        ("loss", 0.5, 1.0),
        ("[1] loss", 1.0, 2.0),
        ("[1] accuracy", 0.9, 0.9),
    ]


@pytest.mark.parametrize("rows", [[], [[0, None]], [[0, float("nan")]], [[0, float("inf")]], [[0, "NaN"]], [[0]], [[]]])
def test_without_numbers_there_is_no_chart(rows: list[list[Any]]) -> None:
    assert chart_svg(["step", "loss"], rows) == ""
    assert chart_svg([], rows) == ""


def test_one_value_is_a_dot() -> None:
    (line,) = drawn(["step", "loss"], [[3, 0.5]]).findall(f"{SVG}polyline")
    assert len(line.attrib["points"].split()) == 2


def test_a_chart_is_small_and_safe_whatever_comes() -> None:
    columns = ["step", *(f'"><script>{number}' + "x" * 1000 for number in range(30))]
    rows = [[step, *([step * 1e290, -step, 1e308, None] * 8)[:30]] for step in range(20_000)]
    text = chart_svg(columns, rows)
    assert len(text) < 30_000
    assert "<script" not in text
    picture = ElementTree.fromstring(text)
    assert {element.tag for element in picture} == {f"{SVG}polyline", f"{SVG}text"}
    last = [line.attrib["points"].split()[-1] for line in picture.findall(f"{SVG}polyline")]
    assert {point.split(",")[0] for point in last} == {"414.0"}


def test_a_note_is_shown_without_a_picture_too() -> None:
    metrics = {"columns": ["epoch", "step", "rank"], "rows": [], "note": "a <b>\nc"}
    assert chart_html(metrics) == "<div>a &lt;b&gt;<br>c</div>"
    assert chart_html({**metrics, "note": ""}) == ""


def test_a_rank_can_have_a_name() -> None:
    (one,) = series(["epoch", "step", "rank", "loss"], [[1, 1, "worker 1", 0.5]])
    assert one.name == "[worker 1] loss"

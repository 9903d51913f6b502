"""Reports as Markdown and as HTML, and their charts."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import jinja2
import pytest

from vita.reporting.charts import histogram, interval_chart, line_chart
from vita.reporting.page import (
    Details,
    Figure,
    Paragraph,
    ReportPage,
    Section,
    Table,
    TextSample,
    as_html,
    as_markdown,
    write_page,
)
from vita.reporting.render import render
from vita.stats.intervals import Interval, wilson

PAGE = ReportPage(
    "A <test>",
    "What was measured.",
    [
        Section(
            "Numbers", [Paragraph("One line."), Table(("task", "acc"), [("a|b", "0.5 (0.4 to 0.6)")], note="95 %.")]
        ),
        Section(
            "Charts",
            [Figure("dots", interval_chart({"a": wilson(1, 4)}, unit="acc", marks={"a": 0.25}), "Accuracy by task")],
        ),
        Section("Samples", [TextSample("What is a ``` & <b>?", [("greedy", "A thing.")])]),
    ],
)


def test_markdown_escapes_bars_and_lengthens_fences() -> None:
    text = as_markdown(PAGE)
    assert "| a\\|b | 0.5 (0.4 to 0.6) |" in text
    assert "![Accuracy by task](figures/dots.svg)" in text
    assert "````text\nWhat is a ``` & <b>?\n````" in text


def test_the_html_page_loads_nothing_and_escapes_text() -> None:
    text = as_html(PAGE)
    assert "A &lt;test&gt;" in text and "&lt;b&gt;?" in text
    assert '<td class="number">0.5 (0.4 to 0.6)</td>' in text
    for sign in ("src=", "<script", "<link", "@import", "url("):
        assert sign not in text


def test_the_page_is_written_as_markdown_html_and_figures(tmp_path: Path) -> None:
    write_page(PAGE, tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == [
        "figures/dots.svg",
        "report.html",
        "report.md",
    ]


@pytest.mark.parametrize(
    "picture",
    [
        interval_chart(
            {"a": wilson(1, 4), "b & c": Interval(0.5, -math.inf, math.inf, 1)}, unit="acc", marks={"a": 0.25}
        ),
        line_chart({"one": [(1, 2.0), (2, 1.5), (3, math.nan)], "two": [(1, 3.0)]}, x="step", y="loss"),
        line_chart({}, x="step", y="loss"),
        histogram([1.0, 1.0, 2.0], x="bits per byte"),
        histogram([], x="bits per byte"),
    ],
)
def test_charts_are_well_formed_for_any_numbers(picture: str) -> None:
    ElementTree.fromstring(picture)
    assert "nan" not in picture and "inf" not in picture


def test_blocks_in_a_collapsible_section_are_in_both_formats() -> None:
    page = ReportPage("Test", "Lead.", [Section("One", [Details("More <x>", [Paragraph("deep *text*")], "a note")])])
    assert "<details><summary><span>More &lt;x&gt;</span> <small>a note</small></summary>" in as_html(page)
    assert "**More &lt;x>** a note\n\ndeep \\*text\\*" in as_markdown(page)


def test_a_template_that_uses_an_unknown_variable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jinja").write_text("{{ name }}, {{ nmae }}")
    with pytest.raises(jinja2.UndefinedError, match="'nmae' is undefined"):
        render("a.jinja", "html", folder=tmp_path, name="x")


def test_every_page_follows_the_color_scheme_of_the_reader() -> None:
    text = as_html(PAGE)
    assert "color-scheme: light dark" in text and "@media (prefers-color-scheme: dark)" in text
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text

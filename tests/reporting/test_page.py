"""One page, shown as Markdown and as HTML."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vita.reporting.charts import curves, histogram, intervals
from vita.reporting.page import Figure, Page, Paragraph, Sample, Section, Table, html, markdown, write
from vita.stats.intervals import Interval, wilson

PAGE = Page(
    "A <test>",
    "What was measured.",
    [
        Section(
            "Numbers", [Paragraph("One line."), Table(("task", "acc"), [("a|b", "0.5 (0.4 to 0.6)")], note="95 %.")]
        ),
        Section("Pictures", [Figure("dots", intervals([("a", wilson(1, 4), 0.25)], unit="acc"), "Accuracy by task")]),
        Section("Samples", [Sample("What is a ``` & <b>?", [("greedy", "A thing.")])]),
    ],
)


def test_markdown_escapes_bars_and_fences_what_holds_fences() -> None:
    text = markdown(PAGE)
    assert "| a\\|b | 0.5 (0.4 to 0.6) |" in text
    assert "![Accuracy by task](figures/dots.svg)" in text
    assert "````text\nWhat is a ``` & <b>?\n````" in text


def test_the_html_page_fetches_nothing_and_escapes_what_it_shows() -> None:
    text = html(PAGE)
    assert "A &lt;test&gt;" in text and "&lt;b&gt;?" in text
    assert "<td class=number>0.5 (0.4 to 0.6)</td>" in text
    for sign in ("src=", "<script", "<link", "@import", "url("):
        assert sign not in text


def test_the_page_is_written_as_files_that_belong_together(tmp_path: Path) -> None:
    write(PAGE, tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == [
        "figures/dots.svg",
        "report.html",
        "report.md",
    ]


@pytest.mark.parametrize(
    "picture",
    [
        intervals([("a", wilson(1, 4), 0.25), ("b & c", Interval(0.5, -math.inf, math.inf, 1), None)], unit="acc"),
        curves({"one": [(1, 2.0), (2, 1.5), (3, math.nan)], "two": [(1, 3.0)]}, x="step", y="loss"),
        curves({}, x="step", y="loss"),
        histogram([1.0, 1.0, 2.0], x="bits per byte"),
        histogram([], x="bits per byte"),
    ],
)
def test_pictures_are_well_formed_whatever_the_numbers(picture: str) -> None:
    ElementTree.fromstring(picture)
    assert "nan" not in picture and "inf" not in picture

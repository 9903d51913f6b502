"""Reports as Markdown and as HTML, and their charts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jinja2
import pytest

from vita.reporting.charts import histogram, interval_chart, line_chart
from vita.reporting.figures import ReportContent
from vita.reporting.page import (
    Details,
    Figure,
    Sample,
    Table,
    curve_figures,
    page_text,
    report_sections,
    write_page,
)
from vita.reporting.render import render
from vita.stats.intervals import Interval, wilson

SECTIONS = {
    "Numbers": ["One line.", Table(("task", "acc"), [("a|b", "0.5 (0.4 to 0.6)")], note="95 %.")],
    "Charts": Figure("dots", interval_chart({"a": [wilson(1, 4)]}, unit="acc"), "Accuracy by task"),
    "Samples": [{"prompt": "What is a ``` & <b>?", "how": "greedy", "text": "A thing."}],
    "Nothing": [],
}


def as_markdown(sections: Mapping[str, Any] = SECTIONS) -> str:
    return page_text("page.md.jinja", title="A <test>", lead="What was measured.", sections=sections)


def as_html(sections: Mapping[str, Any] = SECTIONS) -> str:
    return page_text("page.html.jinja", title="A <test>", lead="What was measured.", sections=sections)


def test_markdown_escapes_bars_and_lengthens_fences() -> None:
    text = as_markdown()
    assert "| a\\|b | 0.5 (0.4 to 0.6) |" in text
    assert "![Accuracy by task](figures/dots.svg)" in text
    assert "````text\nWhat is a ``` & <b>?\n````" in text


def test_the_html_page_loads_nothing_and_escapes_text() -> None:
    text = as_html()
    assert "A &lt;test&gt;" in text and "&lt;b&gt;?" in text
    assert '<td class="number">0.5 (0.4 to 0.6)</td>' in text
    for sign in ("src=", "<script", "<link", "@import", "url("):
        assert sign not in text


def test_a_section_without_content_is_omitted() -> None:
    assert "Nothing" not in as_html() and "Nothing" not in as_markdown()


def test_the_page_is_written_as_markdown_html_and_figures(tmp_path: Path) -> None:
    write_page(tmp_path, title="Test", lead="Lead.", sections=SECTIONS)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == [
        "figures/dots.svg",
        "report.html",
        "report.md",
    ]


def test_a_report_of_any_stage_is_shown_with_every_figure_detail_and_setting() -> None:
    figures = {
        "invented": {"only": {"win_rate": wilson(3, 4), "speed": Interval(12.5, 12.0, 13.0, 9)}},
        "tasks": {"copa": {"acc": wilson(1, 4)}, "piqa": {"acc": wilson(2, 4), "acc_norm": wilson(3, 4)}},
    }
    details = {
        "seed_count": 7,
        "counts": {"read": 12, "dropped": {"too_long": 3}},
        "sources": {"my_text": {"train": {"documents": 1234}}, "other": {"train": {"documents": 5}, "share": 0.25}},
        "controls": {"harm": {"refuser": {"total": 8}}},
        "flips": [{"id": "a", "gained": True}, {"id": "b", "gained": False}],
        "files": ["a.png", "b.png"],
    }
    report = ReportContent.of(
        "new", figures, settings={"top_k": None}, could_not_run={"leak": "no memory"}, details=details
    )
    text = as_markdown(report_sections(report))
    for line in (
        "| leak | no memory |",
        "## Invented",
        "| win rate against the parent | 0.750 (0.301 to 0.954) | 4 | a tie counts as half |",
        "| speed | 12.500 (12.000 to 13.000) | 9 |  |",
        "| copa | 0.250 (0.046 to 0.699) |  | 4 |",
        "| seed count | 7 |",
        "| dropped too long | 3 |",
        "| my_text | 1,234 |",
        "| other | 5 | 0.25 |",
        "| harm | refuser | 8 |",
        "| b | no |",
        "a.png, b.png",
        "| top_k | none |",
        "normalized by the length of the option in characters",
    ):
        assert line in text, line
    html = as_html(report_sections(report))
    assert html.count("<figure>") == 1, "one chart compares the tasks; a single share needs none"


def test_parts_of_a_report_with_the_same_title_share_a_section() -> None:
    details = {"metrics": {"speed": 3}, "settings": {"threads": 2}, "overall": ["A note."]}
    figures = {"redteam": {"redteam": {"refused": wilson(1, 2)}}, "overall": {"all": {"error": wilson(1, 2)}}}
    text = as_markdown(report_sections(ReportContent.of("new", figures, settings={"seed": 1}, details=details)))
    for part in ("| speed | 3 |", "| threads | 2 |", "| seed | 1 |", "A note.", "| refused |", "| error |"):
        assert part in text, part


def test_details_of_any_shape_can_be_rendered() -> None:
    nested: Any = "end"
    for _ in range(300):
        nested = {"below": nested}
    details = {
        "nested": nested,
        "mixed": [{"a": 1}, "text", None, [], {"b": {"c": {"d": [1, 2]}}}],
        "rows": [{"prompt": ["not", "text"], "how": 1, "text": None}],
        "empty": {"a": {}, "b": [], "c": {"d": {}}},
        "": {"": {"": 1}},
        "many": list(range(5000)),
    }
    text = as_markdown(report_sections(ReportContent.of("new", details=details)))
    assert "nested too deeply" in text and "and 4,900 more" in text and "not, text" in text
    assert "nested too deeply" in as_html(report_sections(ReportContent.of("new", details=details)))


def test_settings_of_different_rows_are_one_column_and_nested_counts_follow_in_sections() -> None:
    filters = [{"name": "length", "settings": {"min_words": 50}}, {"name": "c4", "settings": {"min_lines": 3}}]
    sources = {"books": {"read": 9, "dropped": {"short": {"documents": 2}}}, "web": {"read": 4, "dropped": {}}}
    text = as_markdown(report_sections(ReportContent.of("new", details={"filters": filters, "sources": sources})))
    assert "| length | min words: 50 |" in text and "| c4 | min lines: 3 |" in text
    assert "| books | 9 |" in text and "books: dropped" in text and "| short | 2 |" in text
    rows = [{"a": 1, "b": {"c": {"d": 5}}}]
    assert "d: 5" in as_markdown(report_sections(ReportContent.of("new", details={"rows": rows})))


def test_the_metrics_of_a_training_run_share_a_chart_for_all_data() -> None:
    curve = [
        {"step": step, "loss": 1.0, "heldout_loss": 2.0, "domain_loss": 3.0, "rewards/chosen": 1.0,
         "heldout_rewards/rejected": -1.0, "kl": math.nan}
        for step in range(500)
    ]  # fmt: skip
    charts = {figure.name: figure.svg for figure in curve_figures(curve)}
    assert list(charts) == ["loss", "rewards", "kl"]
    for label in ("training", "held out", "domain"):
        assert f">{label}</text>" in charts["loss"]
    assert ">chosen</text>" in charts["rewards"] and ">held out rejected</text>" in charts["rewards"]
    points = ElementTree.fromstring(charts["loss"]).findall(".//{*}polyline")[0].attrib["points"].split()
    assert len(points) <= 200


def test_an_unknown_column_of_the_metrics_cannot_hide_the_others() -> None:
    curve = [{"step": step, "loss": 1.0, "note": "text", "": 1.0, "a\nb": 2.0} for step in range(3)]
    assert "loss" in {figure.name for figure in curve_figures(curve)}


@pytest.mark.parametrize(
    "picture",
    [
        interval_chart({"a": [wilson(1, 4)], "b & c": [Interval(0.5, -math.inf, math.inf, 1)]}, unit="acc"),
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
    sections = {"One": Details("More <x>", ["deep *text*."], "a note")}
    assert "<details><summary><span>More &lt;x&gt;</span> <small>a note</small></summary>" in as_html(sections)
    assert "**More &lt;x>** a note\n\ndeep \\*text\\*" in as_markdown(sections)


def test_a_sample_is_collapsible_and_shows_its_text_literally() -> None:
    sections = {"Samples": Sample("Say <b>.", [("greedy", "one\n  two")])}
    assert '<details class="sample" open><summary>Say &lt;b&gt;.</summary>' in as_html(sections)
    assert "<pre>one\n  two</pre>" in as_html(sections)


def test_a_template_that_uses_an_unknown_variable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jinja").write_text("{{ name }}, {{ nmae }}")
    with pytest.raises(jinja2.UndefinedError, match="'nmae' is undefined"):
        render("a.jinja", folder=tmp_path, name="x")


def test_every_page_follows_the_color_scheme_of_the_reader() -> None:
    text = as_html()
    assert "color-scheme: light dark" in text and "@media (prefers-color-scheme: dark)" in text
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text

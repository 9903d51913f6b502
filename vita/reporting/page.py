"""The content of a report, written once and rendered as Markdown and as one self-contained HTML page.

    page = ReportPage("Test report", "Summary.", [Section("Held-out text", [Table(...), Figure(...)])])
    write_page(page, folder)     # report.md with figures/*.svg, and report.html with the figures inside

The HTML page loads no other file and has no script.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vita.reporting.render import Format, figure_path, render_document
from vita.stats.intervals import Interval


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows under column names; a cell that starts with a number is not broken over lines in HTML."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """An SVG chart with its caption."""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class TextSample:
    """A prompt with the answers of a model, each under a label."""

    prompt: str
    answers: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Details:
    """Blocks in a collapsible section; `title` is its visible line, `note` a second text in this line."""

    title: str
    blocks: Sequence[Block]
    note: str = ""


Block = Paragraph | Table | Figure | TextSample | Details


@dataclass(frozen=True)
class Section:
    """A heading with its blocks."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class ReportPage:
    """A report: title, lead paragraph and sections."""

    title: str
    lead: str
    sections: Sequence[Section] = field(default_factory=tuple)


def interval_table(intervals: Mapping[str, Interval], *, name: str = "figure", n: str = "n", note: str = "") -> Table:
    """Return a table of figures with their intervals and numbers of observations."""
    rows = [(label.replace("_", " "), str(interval), f"{interval.n:,}") for label, interval in intervals.items()]
    return Table((name, "value", n), rows, note)


def write_page(page: ReportPage, folder: Path) -> None:
    """Write `report.md`, its figures, and `report.html`."""
    for figure in (figure for section in page.sections for figure in _figures(section.blocks)):
        path = folder / figure_path(figure.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(figure.svg, encoding="utf-8")
    (folder / "report.md").write_text(as_markdown(page), encoding="utf-8")
    (folder / "report.html").write_text(as_html(page), encoding="utf-8")


def as_markdown(page: ReportPage) -> str:
    """Render a report as Markdown."""
    return _rendered(page, "markdown")


def as_html(page: ReportPage) -> str:
    """Render a report as one HTML document."""
    return _rendered(page, "html")


def _rendered(page: ReportPage, form: Format) -> str:
    return render_document("report.jinja", form, title=page.title, lead=page.lead, sections=page.sections)


def _figures(blocks: Sequence[Block]) -> Iterator[Figure]:
    for block in blocks:
        if isinstance(block, Figure):
            yield block
        elif isinstance(block, Details):
            yield from _figures(block.blocks)

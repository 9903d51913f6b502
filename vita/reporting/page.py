"""Pages made from plain data: a report or any mapping becomes tables, charts and text, as Markdown and as HTML.

    method = {"Method": ["One sentence.", "Another."]}
    write_report_pages(report, folder, title="Test report", lead="Summary.", content=method)

Numbers and text become a paragraph, a mapping of values becomes a table with two columns, a list of mappings a table
with a row for each of them, and deeper data collapsible sections. The HTML page loads no other file and has no script.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita.reporting import REPORT_FILE
from vita.reporting.catalogue import CURVE_LABELS, GROUPS, LABELS
from vita.reporting.charts import interval_chart, line_chart
from vita.reporting.figures import ReportContent, write_report
from vita.reporting.render import figure_path, render
from vita.reporting.wording import capitalized, description, figure_name, is_share, moment, one_line, value_text, words
from vita.stats.intervals import Interval

Metrics = Mapping[str, Interval]
_MOST_DOTS, _MOST_ROWS, _MOST_VALUES, _LONGEST_CELL = 30, 1000, 100, 300
"""Largest numbers of rows of a chart and of a table, of values of a list, and of letters of a cell."""
_TIMES = {"at", "expires"}
"""Columns with times in seconds since 1970."""
_COLUMN = re.compile(r"(?:(heldout|domain|general|value)_)?(.+?)(?:/(chosen|rejected))?")
"""A column of the metrics: the data, the metric, and the answer of a pair."""
FAMILIES = {
    "source_loss": ("source", "Held-out loss per token of each source, in nats."),
    "gradient_norm": ("part", "Norm of the gradients of each part of the model, after clipping."),
    "weight_rms": ("part", "Root mean square of the weights of each part of the model."),
    "activation_rms": ("layer", "Root mean square of the residual stream after some layers, on held-out data."),
}
"""Metrics with a value for each part, as in `source_loss/books`: the kind of parts, and the caption of their chart."""
_DEEPEST = 8
"""Largest number of levels of nested details that a page shows."""
_POINTS = 200
"""Largest number of points of a line; beyond it, neighbouring steps are averaged."""


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
class Sample:
    """Text of models, shown as it is: a prompt with labelled answers."""

    prompt: str
    answers: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Details:
    """Content in a collapsible section; `title` is its visible line, `note` a second text in this line."""

    title: str
    content: Any
    note: str = ""

    @property
    def blocks(self) -> list[Block]:
        return blocks(self.content)


Block = str | Table | Figure | Sample | Details


def write_report_pages(
    report: ReportContent, folder: Path, *, title: str, lead: str, content: Mapping[str, Any] | None = None
) -> None:
    """Write a report and its pages; `content` is shown only on the pages."""
    write_report(report, folder)
    write_page(folder, title=title, lead=lead, sections=report_sections(report, content))


def write_page(folder: Path, *, title: str, lead: str, sections: Mapping[str, Any]) -> None:
    """Write `report.md`, the figures below it, and `report.html`; a section without content is left out."""
    for section in sections.values():
        for figure in _figures(blocks(section)):
            path = folder / figure_path(figure.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(figure.svg, encoding="utf-8")
    for suffix in ("md", "html"):
        text = page_text(f"page.{suffix}.jinja", title=title, lead=lead, sections=sections)
        (folder / f"report.{suffix}").write_text(text, encoding="utf-8")


def page_text(template: str, *, title: str, lead: str, sections: Mapping[str, Any]) -> str:
    """Render a page with the template of its format."""
    content = {name: section_blocks for name, section in sections.items() if (section_blocks := blocks(section))}
    return render(template, title=title, lead=lead, sections=content)


def report_sections(report: ReportContent, content: Mapping[str, Any] | None = None) -> dict[str, list[Block]]:
    """Return what could not run, the figures and details of a report, then `content`, and the settings.

    Parts with the same title share a section.
    """
    plain = {name: value for name, value in report.details.items() if not isinstance(value, (Mapping, list))}
    parts: list[tuple[str, Any]] = [("Could not run", report.could_not_run), ("Facts", plain)]
    for group, items in report.figures.items():
        intervals = {item: {name: figure.interval for name, figure in row.items()} for item, row in items.items()}
        parts.append((group_title(group), figure_blocks(group, intervals)))
    for name, value in report.details.items():
        content_on_page = (
            value if _depth(value) <= _DEEPEST else f"The values are nested too deeply for a page; see {REPORT_FILE}."
        )
        parts += [(group_title(name), content_on_page)] if name not in plain else []
    parts += [*(content or {}).items(), ("Metrics", _metrics_of_tables(report))]
    if report.settings:
        parts.append(("Settings", Details("Settings of the measurement", settings_table(report.settings))))
    sections: dict[str, list[Block]] = {}
    for title, value in parts:
        sections.setdefault(title, []).extend(blocks(value))
    return sections


def group_title(name: str) -> str:
    """Return the title of a group of a report."""
    return GROUPS.get(name, capitalized(words(name)))


def figure_blocks(group: str, items: Mapping[str, Metrics]) -> list[Block]:
    """Return a table with all figures of a group and a chart; the figures of a single item have descriptions."""
    rows = {item: metrics for item, metrics in items.items() if metrics}
    names = list(dict.fromkeys(name for metrics in rows.values() for name in metrics))
    if not rows:
        return []
    if len(rows) == 1:
        ((item, metrics),) = rows.items()
        cells = [(_label(item, n), str(i), f"{i.n:,}", description(f"{item}/{n}")) for n, i in metrics.items()]
        table = Table(("figure", "value", "n", "description"), cells)
    else:
        cells = [
            (item, *(str(metrics.get(name, "")) for name in names), f"{max(i.n for i in metrics.values()):,}")
            for item, metrics in rows.items()
        ]
        table = Table((words(group), *map(figure_name, names), "n"), cells)
    return [table, *_group_charts(group, rows, names)]


def _metrics_of_tables(report: ReportContent) -> dict[str, str]:
    """Return metric -> description, for the metrics that are columns of a table."""
    named = {row.metric: description(row.metric) for row in report.rows() if len(report.figures[row.group]) > 1}
    return {figure_name(name): text for name, text in named.items() if text}


def _label(item: str, metric: str) -> str:
    """Return the readable name of a metric whose item is named above it."""
    return LABELS.get(f"{item}/{metric}") or figure_name(metric)


def _group_charts(group: str, rows: Mapping[str, Metrics], names: Sequence[str]) -> Iterator[Figure]:
    """Yield a chart of the first metric of many items, or of the shares and the changes of one item."""
    if len(rows) > 1:
        dots = {item: [metrics[names[0]]] for item, metrics in rows.items() if names[0] in metrics}
        chart = interval_chart(dict(list(dots.items())[:_MOST_DOTS]), unit=figure_name(names[0]))
        yield Figure(group, chart, f"{group_title(group)}: {figure_name(names[0])}, with 95% intervals.")
        return
    ((item, metrics),) = rows.items()
    shares = {_label(item, name): [interval] for name, interval in metrics.items() if is_share(name, interval)}
    if len(shares) > 1:
        yield Figure(group, interval_chart(shares, unit="share"), f"{group_title(group)}: shares with 95% intervals.")
    for name in [name.removesuffix("/before") for name in names if name.endswith("/before")]:
        if f"{name}/after" in metrics:
            label, pair = figure_name(name), [metrics[f"{name}/before"], metrics[f"{name}/after"]]
            chart = interval_chart({label: pair}, unit=label, series=("before", "after"))
            yield Figure(f"{group}-{name}", chart, f"{capitalized(label)} before and after, with 95% intervals.")


def curve_figures(curve: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Draw the metrics of the steps of a training run; values of one metric on several data share a chart."""
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    columns = dict.fromkeys(name for row in curve for name in row if name != "step")
    for column in sorted(columns, key=lambda name: name.startswith("heldout_")):
        family, slash, part = column.partition("/")
        if slash and family in FAMILIES:
            points = [(float(row["step"]), row[column]) for row in curve if isinstance(row.get(column), (int, float))]
            lines.setdefault(f"{family} by {FAMILIES[family][0]}", {})[part] = _averaged(points)
            continue
        match = _COLUMN.fullmatch(column)
        data, metric, answer = match.groups(default="") if match else ("", column, "")
        label = f"{data} {answer}".replace("heldout", "held out").strip() or "training"
        points = [(float(row["step"]), row[column]) for row in curve if isinstance(row.get(column), (int, float))]
        lines.setdefault(metric, {})[label] = _averaged(points)
    return [
        Figure(metric, line_chart(parts, x="step", y=_axis_label(metric)), _caption(metric))
        for metric, parts in lines.items()
        if any(len(points) > 1 for points in parts.values())
    ]


def _axis_label(metric: str) -> str:
    return CURVE_LABELS.get(metric, words(metric))


def _caption(metric: str) -> str:
    if (family := metric.partition(" by ")[0]) != metric and family in FAMILIES:
        return FAMILIES[family][1]
    text = capitalized(_axis_label(metric))
    return f"{text}: {known}." if (known := description(metric)) else f"{text} by step."


def _averaged(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    size = max(1, -(-len(points) // _POINTS))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


# -- plain data


def blocks(content: Any) -> list[Block]:
    """Return plain data as blocks; blocks stay as they are."""
    if isinstance(content, (Table, Figure, Sample, Details)):
        return [content]
    if isinstance(content, Mapping):
        return list(_mapping_blocks(content))
    if isinstance(content, (list, tuple)):
        return _list_blocks(content)
    return [text] if (text := value_text(content)) else []


def settings_table(settings: Mapping[str, Any]) -> Table:
    """Return a table of settings under their own names."""
    return Table(("setting", "value"), [(name, _cell(value) or "none") for name, value in settings.items()])


def selected(rows: Iterable[Mapping[str, Any]], *names: str) -> list[dict[str, Any]]:
    """Return these values of each row; a missing value is unknown."""
    return [{name: "unknown" if row.get(name) is None else row[name] for name in names} for row in rows]


def _list_blocks(values: Sequence[Any]) -> list[Block]:
    """Return samples of a model, a table of rows, a paragraph for each sentence, or other values as one paragraph."""
    values = [value for value in values if value not in (None, "", [], {}, ())]
    if values and all(isinstance(row, Mapping) for row in values):
        if not all({"prompt", "how", "text"} <= row.keys() for row in values):
            return [_table(values)]
        samples: dict[str, list[tuple[str, str]]] = {}
        for row in values:
            samples.setdefault(value_text(row["prompt"]), []).append((value_text(row["how"]), value_text(row["text"])))
        return [Sample(prompt, answers) for prompt, answers in samples.items()]
    if any(_is_deep(value) or str(value).endswith(".") for value in values):
        return [block for value in values for block in blocks(value)]
    more = f", and {len(values) - _MOST_VALUES:,} more" if len(values) > _MOST_VALUES else ""
    return [f"{value_text(values[:_MOST_VALUES])}{more}"] if values else []


def _mapping_blocks(values: Mapping[str, Any]) -> Iterator[Block]:
    """Yield values of one kind as rows of a table; else plain values as a table and deeper ones in sections."""
    if rows := _rows(values):
        yield _table(rows, has_details=True)
        deep = {f"{name}: {words(part)}": value for name, row in values.items() for part, value in row.items()
                if _is_deep(value) and not _is_flat_mapping(value)}  # fmt: skip
    else:
        flat = _flat(values)
        deep = {name: value for name, value in flat.items() if _is_deep(value)}
        plain = [(figure_name(name), _cell(value)) for name, value in flat.items() if name not in deep]
        if plain := [row for row in plain if row[1]]:
            yield Table(("", "value"), plain)
    yield from (Details(name, value) for name, value in deep.items() if value)


def _rows(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return mappings with common names, or mappings of such mappings, as rows; empty for other values."""
    if not values or not all(isinstance(row, Mapping) and row for row in values.values()):
        return []
    if all(isinstance(row, Mapping) and not any(map(_is_deep, row.values()))
           for part in values.values() for row in part.values()):  # fmt: skip
        return [{"": name, " ": part, **row} for name, parts in values.items() for part, row in parts.items()]
    common = set.intersection(*(set(row) for row in values.values()))
    return [{"": name, **row} for name, row in values.items()] if common else []


def _table(rows: Sequence[Mapping[str, Any]], *, has_details: bool = False) -> Table:
    """Return a table with the columns of all rows; lists of mappings are left out.

    So are mappings of mappings if `has_details`: they follow in sections. Mappings without a common name, such as the
    settings of different filters, are one column.
    """
    shown = rows[:_MOST_ROWS]
    parts: dict[str, list[set[str]]] = {}
    for row in shown:
        for name, value in row.items():
            if _is_flat_mapping(value) and value:
                parts.setdefault(name, []).append(set(value))
    joined = {name for name, sets in parts.items() if not set.intersection(*sets)}
    flat = [_flat(row, joined=joined) for row in shown]
    names = dict.fromkeys(name for row in flat for name in row)
    hidden = (list, tuple, Mapping) if has_details else (list, tuple)
    deep = {name for row in flat for name, value in row.items()
            if isinstance(value, hidden) and _is_deep(value) and not _is_flat_mapping(value)}  # fmt: skip
    columns = [name for name in names if name not in deep and any(_cell(row.get(name)) for row in flat)]
    for row in flat:
        row |= {name: f"{moment(row[name])} UTC" for name in _TIMES & row.keys() if type(row[name]) is float}
    cells = [tuple(_cell(row.get(name)) for name in columns) for row in flat]
    more = f"{len(rows) - _MOST_ROWS:,} more rows are not shown." if len(rows) > _MOST_ROWS else ""
    return Table([words(name).strip() for name in columns], cells, more)


def _cell(value: Any) -> str:
    return one_line(value_text(value), limit=_LONGEST_CELL)


def _flat(row: Mapping[str, Any], *, joined: Container[str] = ()) -> dict[str, Any]:
    """Return the row with an entry for each plain value of its mappings, except those of the names in `joined`."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name not in joined and _is_flat_mapping(value):
            flat |= {f"{name} {part}": entry for part, entry in value.items()}
        else:
            flat[name] = value
    return flat


def _is_flat_mapping(value: Any) -> bool:
    """Return True for a mapping of plain values."""
    return isinstance(value, Mapping) and not any(map(_is_deep, value.values()))


def _is_deep(value: Any) -> bool:
    """Return True for mappings, for lists that contain mappings, and for blocks."""
    if isinstance(value, (list, tuple)):
        return any(map(_is_deep, value))
    return isinstance(value, (Mapping, Table, Figure, Sample, Details))


def _depth(value: Any) -> int:
    """Return the number of levels of mappings and lists."""
    depth, level = 0, [value]
    while level := [part for parent in level for part in _parts(parent)]:
        depth += 1
    return depth


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()


def _figures(content: Sequence[Block]) -> Iterator[Figure]:
    for block in content:
        if isinstance(block, Figure):
            yield block
        elif isinstance(block, Details):
            yield from _figures(block.blocks)

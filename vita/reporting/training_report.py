"""The report of a training run: charts of its metrics, a table of its figures, and its metrics as JSON lines.

write_training_report(curve, folder / "report", title="Pretraining", lead="...", facts=facts, settings=settings)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita.reporting.charts import line_chart
from vita.reporting.page import Block, Figure, ReportPage, Section, Table, write_page

Row = Mapping[str, Any]
POINTS = 200
"""Largest number of points of a line; beyond it, neighbouring steps are averaged."""


@dataclass(frozen=True)
class MetricChart:
    """Columns of the metrics that are drawn in one chart, each with its name in the legend."""

    name: str
    lines: Mapping[str, str]
    unit: str
    caption: str


def loss_chart(unit: str) -> MetricChart:
    """Return the chart of training and held-out loss."""
    return MetricChart("loss", {"training": "loss", "held out": "heldout_loss"}, unit, "Training and held-out loss.")


LOSS_CHARTS = (
    loss_chart("nats per token"),
    MetricChart("bits_per_byte", {"held out": "heldout_bits_per_byte"}, "bits per byte", "Held-out bits per byte."),
    MetricChart("accuracy", {"held out": "heldout_accuracy"}, "accuracy", "Held-out accuracy of the next token."),
)
STEP_CHARTS = (
    MetricChart("learning_rate", {"learning rate": "learning_rate"}, "rate", "Learning rate of the weight matrices."),
    MetricChart("gradient_norm", {"gradient norm": "gradient_norm"}, "norm", "Norm of the gradient before clipping."),
)


def write_training_report(
    curve: Sequence[Row],
    folder: Path,
    *,
    title: str,
    lead: str,
    facts: Mapping[str, Any],
    settings: Mapping[str, Any],
    charts: Sequence[MetricChart] = LOSS_CHARTS,
    sections: Sequence[Section] = (),
) -> None:
    """Write `report.md` and `report.html` with charts, and the metrics of every step in `metrics.jsonl`.

    `sections` come between the results and the charts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(dict(row)) + "\n" for row in curve)
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    figures: list[Block] = [figure for chart in (*charts, *STEP_CHARTS) if (figure := metric_figure(curve, chart))]
    page = ReportPage(
        title,
        lead,
        [
            Section("Results", [Table(("figure", "value"), _rows(facts))]),
            *sections,
            Section("Training curves", figures),
            Section("Settings", [Table(("setting", "value"), _rows(settings))]),
        ],
    )
    write_page(page, folder)


def metric_figure(curve: Sequence[Row], chart: MetricChart) -> Figure | None:
    """Draw the columns of a chart that the metrics have; None if they have none of them."""
    columns = {name: _points(curve, column) for name, column in chart.lines.items()}
    lines = {name: points for name, points in columns.items() if points}
    return Figure(chart.name, line_chart(lines, x="step", y=chart.unit), chart.caption) if lines else None


def last_value(curve: Sequence[Row], name: str) -> float | None:
    """Return the last recorded value of a metric."""
    return next((row[name] for row in reversed(curve) if name in row), None)


def mean_of_last(curve: Sequence[Row], name: str, *, rows: int = 20) -> float | None:
    """Return the mean of the last values of a metric, which is less noisy than a single batch."""
    values = [row[name] for row in curve if name in row][-rows:]
    return round(sum(values) / len(values), 6) if values else None


def _points(curve: Sequence[Row], name: str) -> list[tuple[float, float]]:
    points = [(float(row["step"]), float(row[name])) for row in curve if name in row]
    size = max(1, -(-len(points) // POINTS))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, _formatted(value)) for name, value in values.items()]


def _formatted(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

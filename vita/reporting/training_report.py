"""The report of a training run: its curve as a picture, its figures as a table, its metrics as JSON lines.

write_learning(learnt.curve, folder / "report", title="Pretraining", lead="...", facts=facts)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita.reporting import charts
from vita.reporting.page import Block, Figure, Page, Section, Table, write

Row = Mapping[str, Any]
POINTS = 200
"""A picture shows the mean of neighbouring steps where there are more than this."""


@dataclass(frozen=True)
class Picture:
    """Which columns of the metrics are drawn together, each under a name, and what is to be seen."""

    name: str
    lines: Mapping[str, str]
    unit: str
    caption: str


def write_learning(
    curve: Sequence[Row],
    folder: Path,
    *,
    title: str,
    lead: str,
    facts: Mapping[str, Any],
    settings: Mapping[str, Any],
    pictures: Sequence[Picture] = (),
    sections: Sequence[Section] = (),
) -> None:
    """`report.md`, `report.html` with pictures, and every step's metrics in `metrics.jsonl`.

    `pictures` stand in place of the loss, for training whose loss says little; `sections` come before all pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(dict(row)) + "\n" for row in curve)
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    table = Table(("figure", "value"), [(name, _shown(value)) for name, value in facts.items()])
    asked = Table(("setting", "value"), [(name, _shown(value)) for name, value in settings.items()])
    drawn = [block for one in pictures for block in _drawn(curve, one)] if pictures else _losses(curve)
    way = Section("On the way", [*drawn, *_steps(curve)])
    write(Page(title, lead, [Section("What came", [table]), *sections, way, Section("Settings", [asked])]), folder)


def last(curve: Sequence[Row], name: str) -> float | None:
    """The last value that was told of `name`."""
    return next((row[name] for row in reversed(curve) if name in row), None)


def mean_of_last(curve: Sequence[Row], name: str, *, rows: int = 20) -> float | None:
    """The mean of the last values of `name`, in which the noise of single batches is less."""
    found = [row[name] for row in curve if name in row][-rows:]
    return round(sum(found) / len(found), 6) if found else None


def _drawn(curve: Sequence[Row], picture: Picture) -> list[Block]:
    found = {name: _thinned(_points(curve, column)) for name, column in picture.lines.items()}
    known = {name: points for name, points in found.items() if points}
    return [_figure(picture.name, known, picture.unit, picture.caption)] if known else []


def _losses(curve: Sequence[Row]) -> list[Block]:
    losses = {"training": _thinned(_points(curve, "loss"))}
    if heldout := _points(curve, "heldout_loss"):
        losses["held out"] = heldout
    blocks: list[Block] = [_figure("loss", losses, "nats per token", "The loss of each step, and on held-out text.")]
    if bits := _points(curve, "heldout_bits_per_byte"):
        blocks.append(_figure("bits_per_byte", {"held out": bits}, "bits per byte", "Held-out text, by its bytes."))
    if accuracy := _points(curve, "heldout_accuracy"):
        caption = "Held-out tokens that were the likeliest."
        blocks.append(_figure("accuracy", {"held out": accuracy}, "accuracy", caption))
    return blocks


def _steps(curve: Sequence[Row]) -> list[Block]:
    rates = {"learning rate": _thinned(_points(curve, "learning_rate"))}
    norms = {"gradient norm": _thinned(_points(curve, "gradient_norm"))}
    return [
        _figure("learning_rate", rates, "rate", "The learning rate of the layers' matrices."),
        _figure("gradient_norm", norms, "norm", "The gradient's length before clipping."),
    ]


def _figure(name: str, lines: Mapping[str, Sequence[tuple[float, float]]], unit: str, caption: str) -> Figure:
    return Figure(name, charts.curves(lines, x="step", y=unit), caption)


def _points(curve: Sequence[Row], name: str) -> list[tuple[float, float]]:
    return [(float(row["step"]), float(row[name])) for row in curve if name in row]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    size = -(-len(points) // POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), max(1, size))]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

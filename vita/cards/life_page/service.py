"""Service on the life page: traffic by version, the feedback of users, and the states of the versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vita.cards import wording
from vita.cards.life_record import LifeRecord
from vita.cards.model_card import REQUEST_FIGURES, deployments, feedback_counts
from vita.monitoring import request_log
from vita.reporting.charts import Span, interval_chart, span_chart
from vita.reporting.page import Block, Details, Figure, Paragraph, Table
from vita.reporting.svg import BLUE, GREEN, GREY, ORANGE, PURPLE
from vita.spine.ledger import StateTransition
from vita.stats.intervals import wilson

_NEWEST_REQUESTS = 20_000
_CHANGES = 24
"""Largest number of changes of the traffic in the chart."""
STATE_COLOURS = {"candidate": GREY, "approved": BLUE, "serving": GREEN, "deprecated": ORANGE, "retired": PURPLE}


def traffic(record: LifeRecord) -> Iterator[Block]:
    """Yield the share of the traffic of each version, and figures of its requests."""
    models = [step.digest for step in record.models]
    if changes := [change for change in deployments(record.ledger) if change["model"] in models]:
        chart = _traffic_chart(changes[-_CHANGES:])
        yield Figure("traffic", chart, "Share of the traffic of each version after each change.")
        rows = [
            (wording.moment(change["at"]), change["version"], change["action"], wording.percent(change["share"] or 0),
             change["who"])
            for change in changes[-200:]
        ]  # fmt: skip
        yield Details("All changes", [Table(("time (UTC)", "version", "action", "share", "person"), rows)])
    figures = request_log.figures(record.ledger, models=models, newest=_NEWEST_REQUESTS, names=REQUEST_FIGURES)
    names = [name for name in request_log.FIGURES if any(values.get(name) for values in figures.values())]
    if figures:
        rows = [(name.replace("_", " "), *(wording.value(values.get(name)) for values in figures.values()))
                for name in names]  # fmt: skip
        yield Table(("figure", *figures), rows, note=f"The newest {_NEWEST_REQUESTS:,} requests; times in seconds.")


def feedback(record: LifeRecord) -> Iterator[Block]:
    """Yield thumbs, votes, edits and flags by version, and the data made from them."""
    counts = {step.name: feedback_counts(record.ledger, step.digest) for step in record.models}
    thumbs = {
        name: (int(kinds.get("thumbs up", 0)), int(kinds.get("thumbs down", 0))) for name, kinds in counts.items()
    }
    shares = {name: wilson(up, up + down) for name, (up, down) in thumbs.items() if up + down}
    if shares:
        yield Figure("thumbs", interval_chart(shares, unit="share of thumbs up"), "Share of thumbs up by version.")
    rows = [(name, ", ".join(f"{number:,} {kind}" for kind, number in kinds.items()))
            for name, kinds in counts.items() if kinds]  # fmt: skip
    if rows:
        yield Table(("version", "feedback"), rows)
    for step in record.steps:
        if step.kind in ("feedback", "preferences"):
            facts = ", ".join(f"{name.replace('_', ' ')} {wording.value(value)}" for name, value in step.facts.items())
            yield Paragraph(f"{wording.title(step)}: {facts or 'no facts recorded'}.")


def states(record: LifeRecord) -> Iterator[Block]:
    """Yield the states of each version, and who changed them."""
    moves = {step.name: list(record.moves.get(step.digest, ())) for step in record.models}
    moves = {name: changes for name, changes in moves.items() if changes}
    if not moves:
        if record.models:
            yield Paragraph("No version was approved, released or retired; all are candidates.")
        return
    moments = sorted({move.at for changes in moves.values() for move in changes})
    column = {moment: index + 1 for index, moment in enumerate(moments)}
    spans = {}
    for name, changes in moves.items():
        starts = [(0, "candidate"), *((column[move.at], move.state) for move in changes)]
        stops = [start for start, _ in starts[1:]] + [len(moments) + 1]
        spans[name] = [
            Span(start, stop, state, STATE_COLOURS.get(state, GREY))
            for (start, state), stop in zip(starts, stops, strict=True)
        ]
    ticks = [(column[moments[0]], wording.moment(moments[0])), (column[moments[-1]], wording.moment(moments[-1]))]
    yield Figure("states", span_chart(spans, ticks), "States of each version; the changes are at equal distances.")
    rows = [
        (wording.moment(move.at), name, move.state, move.who, _reason(record, move))
        for name, move in sorted(
            ((name, move) for name, changes in moves.items() for move in changes), key=lambda pair: pair[1].at
        )
    ]
    yield Table(("time (UTC)", "version", "state", "by", "reason"), rows)


def _reason(record: LifeRecord, move: StateTransition) -> str:
    successor = move.details.get("successor")
    return move.why + (f"; successor: {record.label(str(successor))}" if successor else "")


def _traffic_chart(changes: list[dict[str, Any]]) -> str:
    """Draw a row per version: one span per change, as opaque as its share of the traffic is large."""
    shares = dict.fromkeys((change["version"] for change in changes), 0.0)
    spans: dict[str, list[Span]] = {version: [] for version in shares}
    for index, change in enumerate(changes):
        shares[change["version"]] = float(change["share"] or 0)
        total = max(1.0, sum(shares.values()))  # the share of a canary is recorded before the other share is reduced
        for version, share in shares.items():
            if share:
                label = f"{share / total:.0%}"
                spans[version].append(Span(index, index + 1, label, BLUE, 0.25 + 0.65 * share / total))
    return span_chart(spans, [(index + 0.5, change["action"]) for index, change in enumerate(changes)])

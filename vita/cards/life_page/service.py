"""What the story tells of service: shares of the traffic, what users said, and the states of the versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vita.cards import life_charts, wording
from vita.cards.life_record import LifeRecord
from vita.cards.model_card import deployments
from vita.cards.model_card import feedback as said_of
from vita.monitoring import request_log
from vita.reporting.page import Block, Figure, Fold, Paragraph, Table
from vita.stats.intervals import wilson

_NEWEST_REQUESTS = 20_000
_SHOWN_CHANGES = 24


def traffic(record: LifeRecord) -> Iterator[Block]:
    """Which version had which share, and how it fared."""
    changes = _own_deployments(record)
    if changes:
        moments, shares = _shares(changes[-_SHOWN_CHANGES:])
        yield Figure(
            "shares",
            life_charts.shares(moments, shares),
            "What part of the traffic each version had, change by change.",
        )
        rows = [(wording.moment(one["at"]), one["version"], one["action"], wording.percent(one["share"] or 0),
                 one["who"])
                for one in changes]  # fmt: skip
        yield Fold("Every change", [Table(("when (UTC)", "version", "what", "share", "by"), rows[-200:])])
    models = [step.digest for step in record.models]
    asked = [name for name in request_log.FIGURES if name not in ("thumbs_up_rate", "flags", "edits", "votes_won")]
    figures = request_log.figures(record.ledger, models=models, newest=_NEWEST_REQUESTS, names=asked)
    names = [name for name in request_log.FIGURES if any(own.get(name) for own in figures.values())]
    if figures:
        rows = [(name.replace("_", " "), *(wording.value(own.get(name)) for own in figures.values())) for name in names]
        yield Table(("figure", *figures), rows, note=f"Of the newest {_NEWEST_REQUESTS:,} requests; times in seconds.")


def feedback(record: LifeRecord) -> Iterator[Block]:
    """Thumbs, votes, edits and flags, by version."""
    rows, dots = [], []
    for step in record.models:
        said = said_of(record.ledger, step.digest)
        if said:
            rows.append((step.name, ", ".join(f"{number:,} {what}" for what, number in said.items())))
            up, down = int(said.get("thumbs up", 0)), int(said.get("thumbs down", 0))
            if up + down:
                dots.append((step.name, wilson(up, up + down), None))
    if dots:
        from vita.reporting.charts import intervals

        yield Figure(
            "thumbs", intervals(dots, unit="share of thumbs that are up"), "What users thought of the answers."
        )
    if rows:
        yield Table(("version", "what users said"), rows)
    for step in record.steps:
        if step.kind in ("feedback", "preferences"):
            facts = ", ".join(f"{name.replace('_', ' ')} {wording.value(value)}" for name, value in step.facts.items())
            yield Paragraph(f"{wording.title(step)}: {facts or 'nothing was written down of it'}.")


def states(record: LifeRecord) -> Iterator[Block]:
    """Where each version stands, and who moved it there."""
    models = record.models
    rows = {step.name: [(move.at, move.state) for move in record.moves.get(step.digest, ())] for step in models}
    rows = {name: moves for name, moves in rows.items() if moves}
    if not rows:
        if models:
            yield Paragraph("No version was approved, released or retired: all are candidates.")
        return
    begun = {step.name: step.run.ended for step in models if step.run and step.run.ended}
    lines = {
        name: [(min(begun.get(name, moves[0][0]), moves[0][0]), "candidate"), *moves] for name, moves in rows.items()
    }
    moments = {at: wording.moment(at) for moves in lines.values() for at, _ in moves}
    caption = "What became of each version. The moves stand at even distances; time runs to the right."
    yield Figure("states", life_charts.states(lines, moments=moments), caption)
    every = [(move.at, step.name, move) for step in models for move in record.moves.get(step.digest, ())]
    table = [
        (wording.moment(at), name, move.state, move.who, move.why)
        for at, name, move in sorted(every, key=lambda row: row[0])
    ]
    yield Table(("when (UTC)", "version", "became", "by", "why"), table)
    for step in models:
        for move in record.moves.get(step.digest, ()):
            if successor := move.details.get("successor"):
                yield Paragraph(f"The successor of {step.name} is {record.label(str(successor))}.")


def _own_deployments(record: LifeRecord) -> list[dict[str, Any]]:
    own = {step.digest for step in record.models}
    return [one for one in deployments(record.ledger) if one["model"] in own]


def _shares(changes: list[dict[str, Any]]) -> tuple[list[str], dict[str, list[float]]]:
    """For each change, the share of every version from then on."""
    versions = list(dict.fromkeys(one["version"] for one in changes))
    now = dict.fromkeys(versions, 0.0)
    course: dict[str, list[float]] = {name: [] for name in versions}
    for one in changes:
        now[one["version"]] = float(one["share"] or 0)
        total = max(1.0, sum(now.values()))  # a canary's share is told before the other version's goes down
        for name in versions:
            course[name].append(now[name] / total)
    return [one["action"] for one in changes], course

"""What the story tells of proof: version beside version, attacks before and after the mend, and the gates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from vita.cards import life_charts, wording
from vita.cards.life_charts import Limit
from vita.cards.life_record import LifeRecord, StepRecord
from vita.gates import decisions
from vita.gates.approvals import approvals
from vita.reporting import charts
from vita.reporting.page import Block, Figure, Fold, Heading, Paragraph, Table
from vita.stats.intervals import Interval

_FIRST = (
    "heldout/bits_per_byte", "world/never_asked/right", "world/asked/right", "instructions/prompt_strict",
    "instructions/prompt/strict", "domain/bits_per_byte",
)  # fmt: skip
"""Figures that say most; after them, those that were measured of the most versions."""
_DRAWN = 6
_LOSSES = ("bits_per_byte", "perplexity", "loss", "harmful", "incoherent", "error", "leaks")
_MINOR = ("/kind", "/property", "/perplexity")
"""Figures that say less than another one beside them."""
_ATTACK = ("attack_success_rate", "over_refusal")
_AFTERWARDS = ("before", "after", "change", "gain")

Row = tuple[str, Interval]
Attacked = tuple[StepRecord, str, Mapping[str, Interval]]
"""A step that attacked, the digest of the model, and the figures."""


def versions(record: LifeRecord) -> Iterator[Block]:
    """Each figure that was measured of more than one version."""
    found = _by_figure(record)
    several = {name: rows for name, rows in found.items() if len(rows) > 1}
    order = [name for name in _FIRST if name in several]
    others = sorted((name for name in several if name not in order), key=lambda name: -len(several[name]))
    minor = [name for name in others if name.endswith(_MINOR) or len({one.value for _, one in several[name]}) == 1]
    order += [name for name in others if name not in minor]
    if not order:
        return
    yield Paragraph(
        "The same questions, put to each version when it was made. A line is the range that holds the truth in 95 of "
        "100 such measurements: where two lines do not touch, the versions differ."
    )
    for name in order[:_DRAWN]:
        label = wording.figure_name(name)
        rows = [(version, one, None) for version, one in several[name]]
        better = "Less is better" if name.endswith(_LOSSES) else "More is better"
        unit = "share" if all(wording.is_share(name, one) for _, one, _ in rows) else "value"
        caption = f"{label[:1].upper()}{label[1:]}. {better}."
        yield Figure(f"versions-{name.replace('/', '-')}", charts.intervals(rows, unit=unit), caption)
    if rest := [*order[_DRAWN:], *minor]:
        rows = [
            (wording.figure_name(name), version, wording.said(name, one))
            for name in rest
            for version, one in several[name]
        ]
        yield Fold(f"{len(rest)} more figures", [Table(("figure", "version", "value"), rows[:200])])


def attacks(record: LifeRecord) -> Iterator[Block]:
    """How often attacks succeed, beside how often harmless requests are refused; and what was found."""
    reports = [(step, model, own) for step, model, own in record.measured() if _rates(own)]
    if reports:
        yield Paragraph(
            "A model that refuses everything is safe and useless; so both rates belong together: attacks that succeed, "
            "and harmless requests that are refused. Lower is better in both."
        )
        for ending in _ATTACK:
            yield from _overall(record, ending, reports)
            yield from _by_probe(ending, reports)
        for step, _, _ in reports:
            yield from _not_run(record, step)
        table = [
            (name.rpartition("/")[0], step.name, wording.said(name, one))
            for step, _, own in reports
            for name, one in own.items()
            if name.endswith("/attack_success_rate") and not name.startswith("redteam/")
        ]
        if table:
            yield Fold("By hazard and technique, too", [Table(("of", "report", "attacks that succeed"), table[:150])])
    yield from _findings(record)


def gates(record: LifeRecord) -> Iterator[Block]:
    """Each gate's last verdicts, drawn against their limits; who approved and who waived."""
    life = record.name
    rows = _all(record, decisions.verdicts, life)
    latest = {(row["gate"], row["artifact"]): row for row in rows}
    policies = {row["digest"]: row["policy"] for row in _all(record, decisions.policies, life)}
    spoken = _all(record, approvals, life)
    if not latest:
        if policies:
            yield Paragraph("Bars are set, and nothing has been held against them yet.")
        return
    yield Paragraph(
        "The bars were set before anything was measured. The whole range has to lie off the red side of its limit; "
        "what straddles the limit is unsure, and does not pass."
    )
    for (gate, artifact), row in latest.items():
        yield Heading(
            f"{gate.removeprefix(f'{life}/')}: {row['verdict'].replace('_', ' ')} for {record.label(artifact)}"
        )
        bars = {_bar_name(bar): bar for bar in policies.get(row["policy"], {}).get("bars", ())}
        if drawn := list(_drawn(row["findings"], bars)):
            caption = f"The bars of the gate {gate}, judged {wording.moment(row['at'])} UTC."
            yield Figure(f"gate-{gate.replace('/', '-')}-{artifact[:8]}", life_charts.limits(drawn), caption)
        said = [(one["bar"], one["verdict"].replace("_", " "), one["said"]) for one in row["findings"]]
        yield Table(("bar", "verdict", "figure"), said)
        own = [one for one in spoken if (one["gate"], one["artifact"]) == (gate, artifact)]
        if own:
            yield Table(("when (UTC)", "what", "by", "why"), [_spoken(one) for one in own])


def _by_figure(record: LifeRecord) -> dict[str, list[Row]]:
    """Figure -> (version, value), one row for each version; of several reports of one, the last."""
    found: dict[str, dict[str, Row]] = {}
    for step, model, own in record.measured():
        if step.kind != "report":
            continue
        for name, one in own.items():
            compares = name.rpartition("/")[2] in _AFTERWARDS or name.startswith(("versus/", "shift/"))
            if ":" not in name and not compares and not name.endswith(_ATTACK) and math.isfinite(one.value):
                found.setdefault(name, {})[model] = (record.label(model), one)
    return {name: list(rows.values()) for name, rows in found.items()}


def _rates(own: Mapping[str, Interval]) -> dict[str, Interval]:
    """Both rates of a red-team report, by the probe they are of; `redteam` is all that ask for harm together."""
    return {
        name: one
        for name, one in own.items()
        if name.rpartition("/")[2] in _ATTACK and ":" not in name and not name.startswith("hazard ")
    }


def _overall(record: LifeRecord, ending: str, reports: Sequence[Attacked]) -> Iterator[Block]:
    name = f"redteam/{ending}"
    rows = [(f"{record.label(model)} ({one.name})", own[name], None) for one, model, own in reports if name in own]
    if rows:
        label = wording.FIGURES[ending]
        caption = f"{label[:1].upper()}{label[1:]}, over all probes that ask for harm."
        yield Figure(f"attacks-{ending}", charts.intervals(rows, unit="share"), caption)


def _by_probe(ending: str, reports: Sequence[Attacked]) -> Iterator[Block]:
    """Each probe in the first report and in the last, or in the only one."""
    first, last = _rates(reports[0][2]), _rates(reports[-1][2])
    names = [name for name in last if name.endswith(f"/{ending}") and not name.startswith("redteam/")]
    label = wording.FIGURES[ending]
    caption = f"{label[:1].upper()}{label[1:]}, by probe"
    both = [(_probe(name), first[name], last[name]) for name in names if name in first]
    if len(reports) > 1 and both:
        picture = life_charts.before_after(both, unit="share")
        yield Figure(
            f"probes-{ending}", picture, f"{caption}: {reports[0][0].name} before, {reports[-1][0].name} after."
        )
    elif names:
        rows = [(_probe(name), last[name], None) for name in names]
        yield Figure(f"probes-{ending}", charts.intervals(rows, unit="share"), f"{caption}.")


def _probe(name: str) -> str:
    return name.rpartition("/")[0].replace("_", " ")


def _not_run(record: LifeRecord, step: StepRecord) -> Iterator[Block]:
    """A probe whose answers could not be judged gives no rate, and none over all probes either."""
    for report in record.reports.get(step.digest, ()):
        for probe, reason in report.could_not_run.items():
            yield Paragraph(f"In {step.name} the probe {probe} could not run: {reason}.")


def _findings(record: LifeRecord) -> Iterator[Block]:
    from vita.redteam import findings as finding_records

    found = finding_records.every(record.ledger, life=record.name)
    if not found:
        return
    counts: dict[str, int] = {}
    for one in found:
        counts[one.state] = counts.get(one.state, 0) + 1
    told = ", ".join(f"{number:,} {state.replace('_', ' ')}" for state, number in counts.items())
    yield Paragraph(f"Every attack that succeeded is a finding, and is tried again on later versions: {told}.")
    rows = [
        (one.probe, one.severity, one.state.replace("_", " "), _short(one.prompt), _short(one.answer)) for one in found
    ]
    columns = ("probe", "severity", "state", "attack", "answer")
    note = f"The first 40 of {len(rows):,}." if len(rows) > 40 else ""
    yield Fold("The findings", [Table(columns, rows[:40], note=note)])


def _all(record: LifeRecord, table: sa.Table, life: str) -> list[dict[str, Any]]:
    query = sa.select(table).where(table.c.gate.startswith(f"{life}/", autoescape=True)).order_by(table.c.id)
    with record.ledger.transaction() as database:
        return [dict(row) for row in database.execute(query).mappings()]


def _drawn(findings: Sequence[Mapping[str, Any]], bars: Mapping[str, Mapping[str, Any]]) -> Iterator[Limit]:
    """The bars with a number for a limit and a figure to hold against it."""
    for one in findings:
        bar = bars.get(one["name"], {})
        at_least, at_most = bar.get("at_least"), bar.get("at_most")
        limit = at_least if at_least is not None else at_most
        if limit is not None and one.get("value"):
            name = wording.figure_name(bar["figure"])
            yield Limit(name, Interval.from_json(one["value"]), float(limit), at_least is not None, one["verdict"])


def _bar_name(bar: Mapping[str, Any]) -> str:
    return f"{bar['report']}:{bar['figure']}"


def _spoken(one: Mapping[str, Any]) -> tuple[str, ...]:
    until = f" (until {wording.moment(one['expires'])})" if one.get("expires") else ""
    return wording.moment(one["at"]), f"{one['kind']}{until}", one["who"], one["reason"] or "no reason given"


def _short(text: str, *, limit: int = 90) -> str:
    bare = " ".join(text.split())
    return bare if len(bare) <= limit else bare[: limit - 1] + "…"

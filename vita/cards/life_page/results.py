"""Results on the life page: figures of the versions side by side, attacks, findings, and gates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from vita.cards import wording
from vita.cards.life_record import LifeRecord
from vita.gates import decisions
from vita.gates.approvals import approvals
from vita.reporting.charts import CriterionRow, criteria_chart, interval_chart
from vita.reporting.metrics import higher_is_better
from vita.reporting.page import Block, Details, Figure, Paragraph, Table
from vita.stats.intervals import Interval

_FIRST = (
    "heldout/bits_per_byte", "world/held_out/accuracy", "world/seen/accuracy", "instructions/prompt_strict",
    "instructions/prompt/strict", "domain/bits_per_byte",
)  # fmt: skip
"""Figures that come first; after them come those that were measured for the most versions."""
_CHARTS = 6
"""Largest number of charts; the other figures are in a table."""
_SECONDARY = ("/kind", "/property", "/perplexity")
_RATES = ("attack_success_rate", "over_refusal")
_COMPARISONS = ("before", "after", "change", "gain")

Figures = Mapping[str, Interval]


def versions(record: LifeRecord) -> Iterator[Block]:
    """Yield the figures that were measured for more than one version."""
    table = {name: rows for name, rows in _figures_by_version(record).items() if len(rows) > 1}
    order = [name for name in _FIRST if name in table]
    rest = sorted((name for name in table if name not in order), key=lambda name: -len(table[name]))
    secondary = [
        name for name in rest if name.endswith(_SECONDARY) or len({row.value for row in table[name].values()}) == 1
    ]
    order += [name for name in rest if name not in secondary]
    for name in order[:_CHARTS]:
        label = wording.figure_name(name)
        direction = {True: " Higher is better.", False: " Lower is better.", None: ""}[higher_is_better(name)]
        unit = "share" if all(wording.is_share(name, interval) for interval in table[name].values()) else "value"
        chart = interval_chart(table[name], unit=unit)
        yield Figure(f"versions-{name}", chart, f"{label[:1].upper()}{label[1:]}.{direction}")
    if remaining := [*order[_CHARTS:], *secondary]:
        rows = [
            (wording.figure_name(name), version, wording.figure_text(name, interval))
            for name in remaining
            for version, interval in table[name].items()
        ]
        yield Details(f"{len(remaining)} more figures", [Table(("figure", "version", "value"), rows[:200])])


def attacks(record: LifeRecord) -> Iterator[Block]:
    """Yield attack success and over-refusal by report and by probe, and the probes that could not run."""
    reports = [(step, model, rates) for step, model, figures in record.measured() if (rates := _rates(figures))]
    for ending in _RATES:
        name = f"redteam/{ending}"
        overall = {
            f"{record.label(model)} ({step.name})": rates[name] for step, model, rates in reports if name in rates
        }
        label = wording.FIGURES[ending].capitalize()
        if overall:
            yield Figure(f"attacks-{ending}", interval_chart(overall, unit="share"), f"{label}, all harmful probes.")
        yield from _by_probe(ending, {step.name: rates for step, _, rates in reports})
    for step, _, _ in reports:
        for report in record.reports.get(step.digest, ()):
            for probe, reason in report.could_not_run.items():
                yield Paragraph(f"In {step.name} the probe {probe} could not run: {reason}.")
    rows = [
        (name.rpartition("/")[0], step.name, wording.figure_text(name, interval))
        for step, model, _ in reports
        for name, interval in record.figures[step.digest].items()
        if name.endswith("/attack_success_rate") and not name.startswith("redteam/")
    ]
    if rows:
        table = Table(("group", "report", "attack success rate"), rows[:150])
        yield Details("Attack success by probe, hazard and technique", [table])


def findings(record: LifeRecord) -> Iterator[Block]:
    """Yield the number of findings by state, and the first of them."""
    from vita.redteam import findings as finding_records

    if not (records := finding_records.all_findings(record.ledger, life=record.name)):
        return
    states = Counter(finding.state.replace("_", " ") for finding in records)
    yield Paragraph(", ".join(f"{number:,} {state}" for state, number in states.items()) + ".")
    rows = [
        (finding.probe, finding.severity, finding.state.replace("_", " "), wording.one_line(finding.prompt, limit=90),
         wording.one_line(finding.answer, limit=90))
        for finding in records[:40]
    ]  # fmt: skip
    note = f"The first 40 of {len(records):,}." if len(records) > 40 else ""
    yield Table(("probe", "severity", "state", "attack", "answer"), rows, note)


def gates(record: LifeRecord) -> Iterator[Block]:
    """Yield each gate's last decision: measured intervals with their limits, approvals and waivers."""
    policies = {row["digest"]: row["policy"] for row in _rows_of(record, decisions.policies)}
    statements = _rows_of(record, approvals)
    for row in latest_verdicts(record):
        gate, artifact = row["gate"], row["artifact"]
        label = (
            f"{gate.removeprefix(f'{record.name}/')}: {row['verdict'].replace('_', ' ')} for {record.label(artifact)}"
        )
        policy = policies.get(row["policy"], {})
        criteria = {f"{entry['report']}:{entry['figure']}": entry for entry in policy.get("bars", ())}
        blocks: list[Block] = []
        if charted := list(_criterion_rows(row["findings"], criteria)):
            caption = f"Criteria of the gate {gate}, decided {wording.moment(row['at'])} UTC."
            blocks.append(Figure(f"gate-{gate}-{artifact[:8]}", criteria_chart(charted), caption))
        cells = [
            (result["criterion"], result["verdict"].replace("_", " "), result["reason"]) for result in row["findings"]
        ]
        blocks.append(Table(("criterion", "verdict", "measured"), cells))
        people = [_statement(entry) for entry in statements if (entry["gate"], entry["artifact"]) == (gate, artifact)]
        if people:
            blocks.append(Table(("time (UTC)", "statement", "person", "reason"), people))
        yield Details(label, blocks)
    if policies and not latest_verdicts(record):
        yield Paragraph("Criteria are set, but no model was measured against them yet.")


def latest_verdicts(record: LifeRecord) -> list[dict[str, Any]]:
    """Return the last verdict of each gate on each model."""
    rows = {(row["gate"], row["artifact"]): row for row in _rows_of(record, decisions.verdicts)}
    return [{**row, "findings": decisions.stored_results(row["findings"])} for row in rows.values()]


def _figures_by_version(record: LifeRecord) -> dict[str, dict[str, Interval]]:
    """Return figure -> version -> interval, from the last report that has it."""
    table: dict[str, dict[str, Interval]] = {}
    for step, model, figures in record.measured():
        for name, interval in figures.items() if step.kind == "report" else ():
            ending = name.rpartition("/")[2]
            compared = ending in (*_COMPARISONS, *_RATES) or name.startswith(("versus/", "comparison/"))
            if ":" not in name and not compared and math.isfinite(interval.value):
                table.setdefault(name, {})[record.label(model)] = interval
    return table


def _rates(figures: Figures) -> Figures:
    """Return both rates of a red-team report by probe; `redteam` is over all probes that ask for harm."""
    return {
        name: interval
        for name, interval in figures.items()
        if name.rpartition("/")[2] in _RATES and ":" not in name and not name.startswith("hazard ")
    }


def _by_probe(ending: str, reports: Mapping[str, Figures]) -> Iterator[Figure]:
    """Yield the rate of each probe in the last report, with the first report for comparison."""
    if not reports:
        return
    names_of_reports = list(reports)
    first, last = names_of_reports[0], names_of_reports[-1]
    before, after = reports[first], reports[last]
    names = [name for name in after if name.endswith(f"/{ending}") and not name.startswith("redteam/")]
    caption = f"{wording.FIGURES[ending].capitalize()} by probe."
    labels = {name: name.rpartition("/")[0].replace("_", " ") for name in names}
    pairs = {labels[name]: (before[name], after[name]) for name in names if name in before}
    if len(reports) > 1 and pairs:
        yield Figure(f"probes-{ending}", interval_chart(pairs, unit="share", series=(first, last)), caption)
    elif names:
        yield Figure(
            f"probes-{ending}", interval_chart({labels[name]: after[name] for name in names}, unit="share"), caption
        )


def _rows_of(record: LifeRecord, table: sa.Table) -> list[dict[str, Any]]:
    """Return the rows of a table about the gates of this life."""
    query = sa.select(table).where(table.c.gate.startswith(f"{record.name}/", autoescape=True)).order_by(table.c.id)
    with record.ledger.transaction() as database:
        return [dict(row) for row in database.execute(query).mappings()]


def _criterion_rows(
    results: list[Mapping[str, Any]], criteria: Mapping[str, Mapping[str, Any]]
) -> Iterator[CriterionRow]:
    """Yield the criteria that have a number as their limit and a measured figure."""
    for result in results:
        criterion = criteria.get(result["name"], {})
        at_least = criterion.get("at_least")
        limit = at_least if at_least is not None else criterion.get("at_most")
        if limit is not None and result.get("value"):
            interval = Interval.from_json(result["value"])
            label = wording.figure_name(criterion["figure"])
            yield CriterionRow(label, interval, float(limit), at_least is not None, result["verdict"])


def _statement(entry: Mapping[str, Any]) -> tuple[str, ...]:
    until = f" (until {wording.moment(entry['expires'])})" if entry.get("expires") else ""
    return wording.moment(entry["at"]), f"{entry['kind']}{until}", entry["who"], entry["reason"] or "no reason given"

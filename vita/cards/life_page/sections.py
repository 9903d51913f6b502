"""The collapsed sections of the life page as data: results, gates, service, lineage and work."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from vita.cards.life_record import LifeRecord
from vita.cards.model_card import REQUEST_FIGURES, deployments, feedback_counts
from vita.gates import decisions
from vita.gates.approvals import approvals
from vita.monitoring import request_log
from vita.reporting.charts import interval_chart
from vita.reporting.metrics import higher_is_better
from vita.reporting.page import Details, Figure, selected
from vita.reporting.wording import (
    capitalized,
    duration,
    figure_name,
    interval_text,
    is_share,
    moment,
    percent,
    value_text,
    words,
)
from vita.stats.intervals import Interval, wilson

_FIRST = (
    "heldout/bits_per_byte", "world/held_out/accuracy", "world/seen/accuracy", "instructions/prompt_strict",
    "domain/bits_per_byte",
)  # fmt: skip
"""Figures whose charts come first; after them come those that were measured for the most versions."""
_SECONDARY = ("/perplexity", "/kind_accuracy", "/property_accuracy")
_CHARTS = 6
"""Largest number of charts; the table has all figures."""
_RATES = ("attack_success_rate", "over_refusal")
_COMPARISONS = ("before", "after", "change")


def versions(record: LifeRecord) -> Iterator[Any]:
    """Yield the figures that were measured for more than one version."""
    table: dict[str, dict[str, Interval]] = {}
    for step, model, figures in record.measured():
        for name, interval in figures.items() if step.kind == "report" else ():
            compared = name.rpartition("/")[2] in (*_COMPARISONS, *_RATES) or name.startswith("versus/")
            if ":" not in name and not compared and math.isfinite(interval.value):
                table.setdefault(name, {})[record.label(model)] = interval
    table = {name: rows for name, rows in table.items() if len(rows) > 1}
    differ = [name for name, rows in table.items() if len({interval.value for interval in rows.values()}) > 1]
    first = {name: index for index, name in enumerate(_FIRST)}
    order = sorted(differ, key=lambda name: (first.get(name, 9), name.endswith(_SECONDARY), -len(table[name])))
    for name in order[:_CHARTS]:
        direction = {True: " Higher is better.", False: " Lower is better.", None: ""}[higher_is_better(name)]
        unit = "share" if all(is_share(name, interval) for interval in table[name].values()) else "value"
        chart = interval_chart({version: [interval] for version, interval in table[name].items()}, unit=unit)
        yield Figure(f"versions-{name}", chart, f"{capitalized(figure_name(name))}.{direction}")
    if table:
        names = [step.name for step in record.models]
        rows = [
            {"figure": figure_name(name)}
            | {f"{record.name}/{v}": interval_text(name, row[v]) if v in row else "" for v in names}
            for name, row in table.items()
        ]
        yield Details(f"All {len(rows):,} figures", rows)
        yield "Brackets are 95% confidence intervals. Where two intervals do not overlap, the versions differ."


def attacks(record: LifeRecord) -> Iterator[Any]:
    """Yield attack success and over-refusal by report, then by probe, hazard and technique; and what could not run."""
    reports = {
        f"{record.name}/{record.label(model)} ({step.name})": (step, rates)
        for step, model, figures in record.measured()
        if (rates := {name: interval for name, interval in figures.items() if name.rpartition("/")[2] in _RATES})
    }
    overall = {
        label: [rates[f"redteam/{rate}"] for rate in _RATES]
        for label, (_, rates) in reports.items()
        if all(f"redteam/{rate}" in rates for rate in _RATES)
    }
    if overall:
        chart = interval_chart(overall, unit="share", series=[figure_name(rate) for rate in _RATES])
        yield Figure("attacks", chart, "All probes that ask for harm; lower is better for both rates.")
    for step, _ in reports.values():
        for report in record.reports.get(step.digest, ()):
            yield [f"In {step.name} the probe {probe} could not run: {reason}."
                   for probe, reason in report.could_not_run.items()]  # fmt: skip
    for rate in _RATES:
        names = dict.fromkeys(name for _, rates in reports.values() for name in rates if name.endswith(f"/{rate}"))
        rows = [{"group": name.rpartition("/")[0],
                 **{label: interval_text(name, rates[name]) for label, (_, rates) in reports.items() if name in rates}}
                for name in names]  # fmt: skip
        yield Details(f"{capitalized(figure_name(rate))} by probe, hazard and technique", rows)
    if reports:
        yield "A model that refuses every request is safe but useless. Therefore both rates are shown."


def findings(record: LifeRecord) -> Iterator[Any]:
    """Yield the number of findings by state, and the first of them."""
    from vita.redteam.findings import all_findings

    records = all_findings(record.ledger, life=record.name)
    states = Counter(words(finding.state) for finding in records)
    yield [f"{', '.join(f'{number:,} {state}' for state, number in states.items())}."] if records else []
    yield selected((finding.as_json() for finding in records), "probe", "severity", "state", "prompt", "answer")


def criteria(record: LifeRecord) -> Iterator[Any]:
    """Yield each gate with the criteria, measured values and verdicts of its last decision."""
    for row in latest_verdicts(record):
        yield f"Gate {row['gate'].removeprefix(f'{record.name}/')}: {words(row['verdict'])}."
        yield [_criterion(result) for result in row["findings"]]
    if not latest_verdicts(record):
        yield "No gate has decided yet."


def _criterion(result: Mapping[str, Any]) -> dict[str, str]:
    figure = result["name"].partition(":")[2]
    measured = interval_text(figure, Interval.from_json(result["value"])) if result.get("value") else result["reason"]
    name = figure_name(figure) + result["criterion"].removeprefix(result["name"])
    return {"criterion": name, "measured": measured, "verdict": words(result["verdict"])}


def gates(record: LifeRecord) -> Iterator[Any]:
    """Yield each gate's last decision: criteria, verdicts, approvals and waivers."""
    statements = _rows_of(record, approvals)
    rows = latest_verdicts(record)
    for row in rows:
        gate, artifact = row["gate"], row["artifact"]
        people = [entry for entry in statements if (entry["gate"], entry["artifact"]) == (gate, artifact)]
        content = [
            f"Decided {moment(row['at'])} UTC.",
            selected(row["findings"], "criterion", "verdict", "reason"),
            selected(people, "at", "kind", "who", "reason", "expires"),
        ]
        name = gate.removeprefix(f"{record.name}/")
        yield Details(f"{name}: {words(row['verdict'])} for {record.label(artifact)}", content)
    if rows:
        yield (
            "The criteria were set before the measurement. A criterion passes only if the whole interval is on the "
            "allowed side of the limit. An interval that contains the limit is unsure and does not pass."
        )
    elif _rows_of(record, decisions.policies):
        yield "Criteria are set, but no model was measured against them yet."


def latest_verdicts(record: LifeRecord) -> list[dict[str, Any]]:
    """Return the last verdict of each gate on each model."""
    rows = {(row["gate"], row["artifact"]): row for row in _rows_of(record, decisions.verdicts)}
    return [{**row, "findings": decisions.stored_results(row["findings"])} for row in rows.values()]


def traffic(record: LifeRecord) -> Iterator[Any]:
    """Yield the changes of the share of the traffic of each version, and figures of its requests."""
    models = [step.digest for step in record.models]
    changes = [{**change, "share": percent(change["share"] or 0)}
               for change in deployments(record.ledger) if change["model"] in models]  # fmt: skip
    yield selected(changes, "at", "version", "action", "share", "who")
    figures = request_log.figures(record.ledger, models=models, newest=20_000, names=REQUEST_FIGURES)
    yield [
        {"figure": words(name), **{version: value_text(values.get(name)) for version, values in figures.items()}}
        for name in request_log.FIGURES if any(values.get(name) for values in figures.values())
    ]  # fmt: skip
    yield "The newest 20,000 requests; times in seconds." if figures else ""


def feedback(record: LifeRecord) -> Iterator[Any]:
    """Yield thumbs, votes, edits and flags by version."""
    counts = {step.name: feedback_counts(record.ledger, step.digest) for step in record.models}
    rows = []
    for name, kinds in counts.items():
        up, down = int(kinds.get("thumbs up", 0)), int(kinds.get("thumbs down", 0))
        share = {"share of thumbs up": str(wilson(up, up + down))} if up + down else {}
        rows += [{"version": name, **kinds, **share}] if kinds else []
    yield rows


def states(record: LifeRecord) -> Iterator[Any]:
    """Yield the changes of the states of the versions, and who changed them."""
    moves = [(step.name, move) for step in record.models for move in record.moves.get(step.digest, ())]
    rows = []
    for name, move in sorted(moves, key=lambda pair: pair[1].at):
        successor = move.details.get("successor")
        reason = move.why + (f"; successor: {record.label(str(successor))}" if successor else "")
        rows.append({"at": move.at, "version": name, "state": move.state, "by": move.who, "reason": reason})
    yield rows
    if record.models and not rows:
        yield "No version was approved, released or retired; all are candidates."


def lineage(record: LifeRecord) -> Iterator[Any]:
    """Yield each artifact with its inputs and its digest."""
    yield [
        {"step": step.name, "kind": step.kind, "made from": [record.label(digest) for digest in step.inputs.values()],
         "digest": step.digest[:16]}
        for step in record.steps
    ]  # fmt: skip
    yield f"More: vita trace {record.name}/STEP."


def work(record: LifeRecord) -> Iterator[Any]:
    """Yield the working time of each step, and the machine."""
    steps = [step for step in record.steps if step.run]
    machines = [step.record["machine"] for step in steps if step.record.get("machine")]
    parts = [{name: machine[name] for name in ("system", "processor", "device", "threads") if name in machine}
             for machine in machines]  # fmt: skip
    flops = sum(step.facts.get("flops", 0) for step in steps if step.stage == "design")
    yield [
        {"step": step.name, "start (UTC)": moment(step.run.began if step.run else None),
         "time": duration(step.seconds), "tokens per second": f"{step.record.get('tokens_per_second') or 0:,.0f}",
         "MFU": percent(step.record["mfu"]) if step.record.get("mfu") else "", "interruptions": step.failed_attempts}
        for step in steps
    ]  # fmt: skip
    yield f"Total: {duration(sum(step.seconds for step in steps))}. Energy and cost were not measured."
    yield f"Planned FLOPs of pretraining: {flops:.3g}." if flops else ""
    yield [f"Machine: {text}." for text in sorted(set(map(value_text, parts)))]


def _rows_of(record: LifeRecord, table: sa.Table) -> list[dict[str, Any]]:
    """Return the rows of a table about the gates of this life."""
    query = sa.select(table).where(table.c.gate.startswith(f"{record.name}/", autoescape=True)).order_by(table.c.id)
    with record.ledger.transaction() as database:
        return [dict(row) for row in database.execute(query).mappings()]

"""The pages of a model card: known facts in tables and sentences; missing measurements and facts are named."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vita.cards import TEMPLATES, wording
from vita.cards.hub_metadata import front_matter
from vita.cards.life_record import UNREADABLE
from vita.cards.model_card import Card, Evaluation
from vita.cards.provenance import LineageArtifact
from vita.reporting.page import Details, Table
from vita.reporting.render import Format, render_document
from vita.spine.disk import write_atomically
from vita.stats.intervals import Interval

_TRAINING = ("pretrain", "adapt", "sft", "dpo", "rlhf", "reward")
_CHECKS: Mapping[str, tuple[str, ...]] = {
    "held-out text": ("/bits_per_byte",),
    "likelihood tasks": ("/acc",),
    "knowledge of the built-in world": ("world/",),
    "instruction following": ("instructions/",),
    "edge cases (empty, over-long, contradictory, odd characters)": ("edge_cases/",),
    "attacks": ("/attack_success_rate",),
    "refusal of harmless requests": ("/over_refusal",),
    "comparison with the parent model": ("comparison/", "versus/"),
    "human ratings": ("review/",),
}
"""Measurement -> the beginning or the end (with a leading slash) of its figures."""
_MOST = 60
"""Largest number of figures of a report in a table."""


def write(card: Card, folder: Path) -> None:
    """Write a card as `README.md`, `card.html` and `card.json`."""
    write_atomically(folder / "README.md", card_markdown(card).encode())
    write_atomically(folder / "card.html", _rendered(card, "html").encode())
    content = json.dumps(card.as_json(), indent=1, ensure_ascii=False, default=str)
    write_atomically(folder / "card.json", content.encode())


def card_markdown(card: Card) -> str:
    """Return a card as a `README.md` that the Hugging Face hub reads."""
    head = yaml.safe_dump(front_matter(card), sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{head}---\n\n{card_body(card)}"


def card_body(card: Card) -> str:
    """Return a card as Markdown without front matter."""
    return _rendered(card, "markdown")


def _rendered(card: Card, form: Format) -> str:
    measured = [name for name, endings in _CHECKS.items() if _has_figure(card.evaluations, endings)]
    trained = [artifact for artifact in card.lineage if artifact.run and artifact.run.stage in _TRAINING]
    return render_document(
        "model_card.jinja",
        form,
        folder=TEMPLATES,
        title=f"Model card: {card.name}",
        lead=_lead(card),
        card=card,
        measured=measured,
        not_measured=[name for name in _CHECKS if name not in measured],
        tables=_tables(card) | _service_tables(card),
        training=Table(_TRAINING_COLUMNS, [_training_row(card, artifact) for artifact in trained], _FLOPS_NOTE),
        settings=[Details(f"Settings of {artifact.label}", [_settings(artifact)]) for artifact in trained],
        evaluations=[_evaluation_table(card, evaluation) for evaluation in card.evaluations],
        attacks=[table for evaluation in card.evaluations if (table := _attack_table(evaluation))],
        ratings=[_rating_table(evaluation) for evaluation in card.evaluations if _is_review(evaluation)],
        service=[_request_table(version, figures) for version, figures in card.service.items()],
    )


_TRAINING_COLUMNS = ("step", "steps", "tokens", "FLOPs", "time", "tokens per second", "seed", "machine")
_FLOPS_NOTE = "FLOPs: six per matrix parameter and token, and attention; forward and backward."


def _tables(card: Card) -> dict[str, Table]:
    """Return the tables about origin, training and findings; a table without rows is not shown."""
    data = [(source.step, source.source, source.amount, "unknown" if source.tokens is None else f"{source.tokens:,}",
             source.licence) for source in card.data]  # fmt: skip
    drops = [(reason.replace("_", " "), f"{number:,}") for reason, number in card.drops.items()]
    lineage = [(artifact.label, artifact.kind, artifact.run.stage if artifact.run else "unknown", artifact.digest[:16])
               for artifact in card.lineage]  # fmt: skip
    plan = [(row.figure, row.predicted, row.actual, row.error) for row in card.plan]
    findings = [(str(finding["id"]), finding["probe"], finding["severity"], finding["state"],
                 wording.one_line(finding["prompt"])) for finding in card.open_findings[:20]]  # fmt: skip
    return {
        "model": Table(("", ""), _model_rows(card)),
        "data": Table(("step", "source", "amount", "tokens", "licence"), data, "Licences as stated by the sources."),
        "drops": Table(("reason", "dropped documents"), drops),
        "lineage": Table(("name", "kind", "stage", "digest"), lineage),
        "plan": Table(("figure", "predicted", "actual", "error"), plan, "The plan compared with pretraining."),
        "findings": Table(("finding", "probe", "severity", "state", "prompt"), findings),
        "gates": Table(("time (UTC)", "gate", "decision", "reason"), [_gate_row(entry) for entry in card.gates]),
    }


def _service_tables(card: Card) -> dict[str, Table]:
    """Return the tables about states, releases, traffic and feedback."""
    moves = [(wording.moment(move.at), move.state, move.who, move.why) for move in card.moves]
    releases = [(f"{release['name']}:{release['version']}", release["digest"][:16],
                 "yes" if release["guarded"] else "no", wording.moment(release["at"]))
                for release in card.releases]  # fmt: skip
    changes = [(wording.moment(change["at"]), change["service"], change["version"], change["action"],
                wording.percent(change["share"] or 0)) for change in card.deployments]  # fmt: skip
    return {
        "moves": Table(("time (UTC)", "state", "by", "reason"), moves),
        "releases": Table(("release", "digest", "content filter", "made (UTC)"), releases),
        "deployments": Table(("time (UTC)", "service", "version", "action", "share of traffic"), changes),
        "feedback": Table(("feedback", "number"), [(kind, f"{number:,}") for kind, number in card.feedback.items()]),
    }


def _request_table(version: str, figures: Mapping[str, float | None]) -> Table:
    rows = [(name.replace("_", " "), wording.value(value)) for name, value in figures.items() if value is not None]
    return Table((f"figure of {version}", "value"), rows, "The newest 5,000 requests at most.")


def _settings(artifact: LineageArtifact) -> Table:
    assert artifact.run is not None, "only an artifact with a run has settings"
    rows = [(name, wording.value(setting)[:300]) for name, setting in artifact.run.config.items()]
    return Table(("setting", "value"), rows)


def _lead(card: Card) -> str:
    size = f"with {wording.count(card.parameters)} parameters" if card.parameters else "of unknown size"
    kind = "A chat model" if card.chat else "A base model"
    parent = f", tuned from {card.parent_name}" if card.parent_name and card.chat else ""
    return f"{kind} {size}{parent}. State: {card.state}."


def _model_rows(card: Card) -> list[tuple[str, str]]:
    config = card.architecture
    artifact = next((artifact for artifact in card.lineage if artifact.digest == card.digest), None)
    run = artifact.run if artifact else None
    stage = (
        f"stage {run.stage} (version {run.version}), step {run.life}/{run.step}" if run else "unknown: not made here"
    )
    shape = f"{config.get('num_hidden_layers', '?')} layers, width {config.get('hidden_size', '?')}"
    tokenizer = f"byte-level BPE, {config['vocab_size']:,} tokens" if "vocab_size" in config else "unknown"
    context = config.get("max_position_embeddings")
    return [
        ("names", ", ".join(card.names) or "none"),
        ("digest (sha256)", card.digest),
        ("parameters", f"{card.parameters:,}" if card.parameters else "unknown"),
        ("architecture", f"{', '.join(config.get('architectures', ['unknown']))}: {shape}" if config else "unknown"),
        ("context", f"{context:,} tokens" if context else "unknown"),
        ("tokenizer", tokenizer),
        ("made by", stage),
        ("made on", f"{wording.moment(run.ended)} UTC" if run else "unknown"),
        ("parent model", card.parent_name or "none: random weights, or unknown origin"),
        *_origin_rows(card),
        ("licences of the data", ", ".join(card.licences) or "unknown"),
        ("successor", card.successor or "none"),
    ]


def _origin_rows(card: Card) -> list[tuple[str, str]]:
    """Return the origin and the licence of the weights that the model was made from."""
    origin = card.origin
    if not origin:
        return [("licence of the weights", "not stated; the front matter names the licences of the data")]
    revision = f" at revision {origin['revision']}" if origin.get("revision") else ""
    licence = origin.get("license_name") or origin.get("license")
    return [
        ("base model", f"{origin.get('origin', 'unknown')}{revision}"),
        ("licence of the base model", str(licence) if licence else "not stated in its card"),
    ]


def _has_figure(evaluations: Sequence[Evaluation], endings: Sequence[str]) -> bool:
    names = [name for evaluation in evaluations for name in evaluation.figures]
    return any(
        name.startswith(part) or (part.startswith("/") and name.endswith(part)) for name in names for part in endings
    )


def _training_row(card: Card, artifact: LineageArtifact) -> tuple[str, ...]:
    assert artifact.run is not None, "only an artifact with a run was trained"
    record, facts = artifact.run.record or {}, artifact.facts
    machine = record.get("machine") or {}
    threads = f"{machine.get('threads', '?')} threads x {machine.get('world_size', 1)}"
    tokens = facts.get("tokens", facts.get("targets"))
    seconds = record.get("training_seconds", record.get("seconds"))
    return (
        artifact.label,
        wording.value(facts.get("steps", facts.get("rounds", "unknown"))),
        wording.count(tokens) if tokens else "unknown",
        _flops(card, artifact),
        wording.duration(seconds) if seconds else "unknown",
        f"{record['tokens_per_second']:,.0f}" if "tokens_per_second" in record else "unknown",
        wording.value(artifact.run.config.get("seed", "unknown")),
        f"{machine.get('device', 'unknown')}, {threads}, {record.get('precision', 'precision unknown')}",
    )


def _flops(card: Card, artifact: LineageArtifact) -> str:
    """Return the FLOPs of training on full rows; unknown for tuning, where prompt tokens are not counted."""
    from vita.nn.families import read_architecture

    if not artifact.run or artifact.run.stage not in ("pretrain", "adapt") or "tokens" not in artifact.facts:
        return "unknown"
    try:
        shape = read_architecture(dict(card.architecture))
        return f"{shape.flops_per_token(shape.context) * artifact.facts['tokens']:.3g}"
    except UNREADABLE:
        return "unknown"


def _figure_rows(figures: Mapping[str, Interval]) -> Iterator[tuple[str, str, str]]:
    for name, interval in figures.items():
        yield wording.figure_name(name), wording.figure_text(name, interval), f"{interval.n:,}"


def _evaluation_table(card: Card, evaluation: Evaluation) -> Table:
    """Return the figures of a report, beside those of the parent model where it has them."""
    parent = {name: interval for report in card.parent_evaluations for name, interval in report.figures.items()}
    figures = {name: value for name, value in evaluation.figures.items() if evaluation.groups[name] != "sources"}
    listed = dict(list(figures.items())[:_MOST])
    rows: list[tuple[str, ...]] = list(_figure_rows(listed))
    columns = ["figure", "value (95% interval)", "n"]
    if any(name in parent for name in figures):
        columns.append(card.parent_name)
        values = [wording.figure_text(name, parent[name]) if name in parent else "" for name in listed]
        rows = [(*row, value) for row, value in zip(rows, values, strict=True)]
    more = f" {len(figures) - _MOST} more are in the report." if len(figures) > _MOST else ""
    note = f"Report {evaluation.label}, {wording.moment(evaluation.at)} UTC, {evaluation.digest[:12]}.{more}"
    return Table(columns, rows, note)


def _attack_table(evaluation: Evaluation) -> Table | None:
    if not _has_figure([evaluation], ("/attack_success_rate", "/over_refusal")):
        return None
    groups = ("redteam", "probes", "capability")
    rows = [
        (name.rpartition("/")[0], wording.figure_name(name.rpartition("/")[2]), wording.figure_text(name, interval),
         f"{interval.n:,}")
        for name, interval in evaluation.figures.items()
        if evaluation.groups[name] in groups or name.endswith("attack_success_rate")
    ]  # fmt: skip
    note = f"Report {evaluation.label}, {evaluation.digest[:12]}."
    return Table(("probe", "figure", "value", "n"), rows[:_MOST], note)


def _is_review(evaluation: Evaluation) -> bool:
    return evaluation.stage == "review" or any(name.startswith("review/") for name in evaluation.figures)


def _rating_table(evaluation: Evaluation) -> Table:
    rows = list(_figure_rows(evaluation.figures))[:_MOST]
    return Table(("figure", "value", "n"), rows, f"Report {evaluation.label}.")


def _gate_row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the time, gate, decision and reason of a verdict, an approval or a waiver."""
    if entry["what"] == "verdict":
        reasons = [f"{result['criterion']}: {result['verdict']} ({result['reason']})" for result in entry["findings"]]
        return wording.moment(entry["at"]), entry["gate"], f"verdict: {entry['verdict']}", "; ".join(reasons)
    until = f", until {wording.moment(entry['expires'])}" if entry.get("expires") else ""
    criterion = f" for {entry['bar']}" if entry.get("bar") else ""
    decision = f"{entry['what']} by {entry['who']}"
    return wording.moment(entry["at"]), entry["gate"], decision, f"{entry['reason']}{criterion}{until}"

"""The pages of a model card: known facts in tables and sentences; missing measurements and facts are named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vita.cards.hub_metadata import front_matter
from vita.cards.model_card import Card, Evaluation, training_flops
from vita.cards.provenance import LineageArtifact
from vita.reporting.page import Details, blocks, page_text, selected, settings_table
from vita.reporting.wording import count, duration, figure_name, interval_text, moment, value_text
from vita.spine.disk import write_atomically

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
_TEXTS = {
    "chat": "Intended use: answers to messages of users, through the chat template in its folder.",
    "base": "Intended use: text completion, and a starting point for tuning. It was not tuned to answer requests.",
    "text-classification": "Intended use: labels of texts like those of its training. The scores of other texts have "
    "no meaning, and labels repeat the errors and the bias of the people who assigned them.",
    "sentence-similarity": "Intended use: search, clustering and comparison of texts by the cosine of their "
    "embeddings. It generates no text.",
    "fill-mask": "Intended use: prediction of masked words, and a starting point for classifiers and embeddings. It "
    "generates no text.",
    "synthetic": "Its training data describes a small artificial world in simple sentences. The model has no other "
    "knowledge: it demonstrates the lifecycle and is no source of information.",
    "about": "All content was read from the ledger and the artifacts. Intervals have a confidence of 95%. FLOPs: six "
    "per matrix parameter and token, and attention; forward and backward. Energy and emissions were not measured.",
}
_KINDS = {
    "text-classification": "text classifier",
    "sentence-similarity": "text embedding model",
    "fill-mask": "masked-language model",
}
"""Task of the model -> its kind, for models that do not generate text."""
_UNKNOWN = {
    "Training data": "Unknown: no source is recorded in its lineage.",
    "Training": "It was not trained here, or its training was not recorded.",
    "Evaluation": "None: there is no report about these weights.",
    "Red teaming": "These weights were not attacked; their robustness is unknown.",
    "Human review": "No human rating of these weights is recorded.",
    "Gates and approvals": "No gate has decided on these weights, and no person has approved them.",
    "States": "No change of the state is recorded.",
    "Releases": "It was not released.",
    "Service and feedback": "No service and no feedback is recorded in this ledger.",
}
"""Section -> its text if there is no record."""


def write(card: Card, folder: Path) -> None:
    """Write a card as `README.md`, `card.html` and `card.json`."""
    write_atomically(folder / "README.md", card_markdown(card).encode())
    write_atomically(folder / "card.html", _rendered(card, "page.html.jinja").encode())
    content = json.dumps(card.as_json(), indent=1, ensure_ascii=False, default=str)
    write_atomically(folder / "card.json", content.encode())


def card_markdown(card: Card) -> str:
    """Return a card as a `README.md` that the Hugging Face hub reads."""
    head = yaml.safe_dump(front_matter(card), sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{head}---\n\n{card_body(card)}"


def card_body(card: Card) -> str:
    """Return a card as Markdown without front matter."""
    return _rendered(card, "page.md.jinja")


def _rendered(card: Card, template: str) -> str:
    size = f"with {count(card.parameters)} parameters" if card.parameters else "of unknown size"
    parent = f", tuned from {card.parent_name}" if card.parent_name and card.chat else ""
    kind = _KINDS.get(card.task) or ("chat model" if card.chat else "base model")
    lead = f"A {kind} {size}{parent}. State: {card.state}."
    return page_text(template, title=f"Model card: {card.name}", lead=lead, sections=_sections(card))


def _sections(card: Card) -> dict[str, Any]:
    """Return the content of each section as plain data."""
    trained = [artifact for artifact in card.lineage if artifact.run and artifact.run.stage in _TRAINING]
    attacks = [report for report in card.evaluations if _is_measured([report], "attacks")]
    ratings = [report for report in card.evaluations if _is_measured([report], "human ratings")]
    open_findings = selected(card.open_findings[:20], "id", "probe", "severity", "state", "prompt")
    sections = {
        "Model": {**_model(card), "state": card.state, "successor": card.successor or "none"},
        "Intended use and limits": _limits(card),
        "Training data": selected(map(vars, card.data), "step", "source", "amount", "tokens", "licence"),
        "Dropped documents": card.drops,
        "Lineage": selected(map(LineageArtifact.as_json, card.lineage), "names", "kind", "stage", "digest"),
        "Training": [_training(card, artifact) for artifact in trained],
        "Settings of the training": [Details(f"Settings of {artifact.label}", settings_table(artifact.run.config))
                                     for artifact in trained if artifact.run],
        "Plan and actual training": [vars(row) for row in card.plan],
        "Evaluation": [_figures(card, report) for report in card.evaluations if report not in attacks + ratings],
        "Red teaming": [_figures(card, report) for report in attacks],
        "Findings": [open_findings, f"Open: {len(card.open_findings):,} of {len(card.findings):,}."],
        "Human review": [_figures(card, report) for report in ratings],
        "Gates and approvals": [_decision(entry) for entry in card.gates],
        "States": selected(map(vars, card.moves), "at", "state", "who", "why"),
        "Releases": selected(card.releases, "name", "version", "digest", "guarded", "at"),
        "Service and feedback": [selected(card.deployments, "at", "service", "version", "action", "share"),
                                 card.feedback, card.service],
        "About this card": [_TEXTS["about"], *card.gaps],
    }  # fmt: skip
    return {title: content if blocks(content) else _UNKNOWN.get(title) for title, content in sections.items()}


def _mixture(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a mixture of experts; {} for other models and for those of unknown families."""
    from vita.nn.families import read_architecture
    from vita.spine.errors import ModelError

    try:
        architecture = read_architecture(dict(config))
    except ModelError:
        return {}
    experts = architecture.experts
    if experts is None:
        return {}
    text = f"{experts.count} per layer, {experts.active} active" + (", and shared ones" if experts.shared else "")
    return {"active parameters": architecture.active_parameters(), "experts": text}


def _model(card: Card) -> dict[str, Any]:
    config = card.architecture
    run = next((artifact.run for artifact in card.lineage if artifact.digest == card.digest), None)
    facts = {
        "names": ", ".join(card.names) or "none",
        "digest (sha256)": card.digest,
        "parameters": card.parameters,
        **_mixture(config),
        "architecture": config.get("architectures"),
        "layers": config.get("num_hidden_layers"),
        "width": config.get("hidden_size"),
        "context in tokens": config.get("max_position_embeddings"),
        "tokens of the vocabulary": config.get("vocab_size"),
        "made by": run and f"stage {run.stage} (version {run.version}), step {run.life}/{run.step}",
        "made on": run and f"{moment(run.ended)} UTC",
        "parent model": card.parent_name or "none: random weights, or unknown origin",
        **_origin(card),
        "licences of the data": card.licences,
    }
    return {name: value or "unknown" for name, value in facts.items()}


def _origin(card: Card) -> dict[str, Any]:
    """Return the origin and the licence of the weights that the model was made from."""
    if not (origin := card.origin):
        return {"licence of the weights": "not stated; the front matter names the licences of the data"}
    revision = f" at revision {origin['revision']}" if origin.get("revision") else ""
    licence = origin.get("license_name") or origin.get("license")
    return {
        "base model": f"{origin.get('origin', 'unknown')}{revision}",
        "licence of the base model": licence or "not stated in its card",
    }


def _limits(card: Card) -> list[str]:
    measured = [check for check in _CHECKS if _is_measured(card.evaluations, check)]
    missing = [check for check in _CHECKS if check not in measured]
    context = card.architecture.get("max_position_embeddings")
    return [
        _TEXTS[card.task if card.task in _TEXTS else "chat" if card.chat else "base"],
        _TEXTS["synthetic"] if card.is_synthetic else "",
        f"It reads at most {context:,} tokens; earlier tokens are cut off." if context else "",
        f"Measured: {'; '.join(measured) or 'nothing'}.",
        f"Not measured: {'; '.join(missing)}. Do not rely on the model there." if missing else "",
    ]


def _is_measured(evaluations: Sequence[Evaluation], check: str) -> bool:
    names = [name for evaluation in evaluations for name in evaluation.figures]
    return any(name.endswith(part) if part[0] == "/" else name.startswith(part)
               for name in names for part in _CHECKS[check])  # fmt: skip


def _training(card: Card, artifact: LineageArtifact) -> dict[str, Any]:
    """Return the amount of training, its time and its machine."""
    record, facts = (artifact.run and artifact.run.record) or {}, artifact.facts
    machine, seconds = record.get("machine") or {}, record.get("training_seconds", record.get("seconds"))
    return {
        "step": artifact.label,
        "steps": facts.get("steps", facts.get("rounds", "unknown")),
        "tokens": facts.get("tokens", facts.get("targets", "unknown")),
        "FLOPs": training_flops(card, artifact) or "unknown",
        "time": duration(seconds) if seconds else "unknown",
        "seed": artifact.run.config.get("seed", "unknown") if artifact.run else "unknown",
        **selected([record], "tokens_per_second", "precision")[0],
        "machine": value_text({name: machine.get(name) for name in ("device", "threads", "world_size")}) or "unknown",
    }


def _figures(card: Card, evaluation: Evaluation) -> list[Any]:
    """Return the figures of a report, beside those of the parent model where it has them."""
    parent = {name: interval for report in card.parent_evaluations for name, interval in report.figures.items()}
    rows = [
        {"figure": figure_name(name), "value (95% interval)": interval_text(name, value), "n": value.n}
        | ({card.parent_name: interval_text(name, parent[name])} if name in parent else {})
        for name, value in evaluation.figures.items()
        if evaluation.groups[name] != "sources"
    ]
    return [rows, f"Report {evaluation.label}, {moment(evaluation.at)} UTC, {evaluation.digest[:12]}."]


def _decision(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the time, gate, decision and reason of a verdict, an approval or a waiver."""
    if entry["what"] == "verdict":
        decision = f"verdict: {entry['verdict']}"
        reason = "; ".join(f"{part['criterion']}: {part['verdict']} ({part['reason']})" for part in entry["findings"])
    else:
        decision = f"{entry['what']} by {entry['who']}"
        reason = entry["reason"] + (f" for {entry['bar']}" if entry.get("bar") else "")
        reason += f", until {moment(entry['expires'])}" if entry.get("expires") else ""
    return {"at": entry["at"], "gate": entry["gate"], "decision": decision, "reason": reason}

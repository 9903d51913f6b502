"""The pages of a model card: what is known in tables and plain sentences, and what is not known said so."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vita.cards import wording
from vita.cards.model_card import Card, Measured, front_matter
from vita.cards.provenance import Made
from vita.reporting.page import Block, Fold, Page, Paragraph, Section, Table, html, markdown
from vita.spine.disk import write_atomically

_TRAINING = ("pretrain", "adapt", "sft", "dpo", "rlhf", "reward")
_CHECKS: Mapping[str, tuple[str, ...]] = {
    "held-out text": ("/bits_per_byte",),
    "likelihood tasks": ("/acc",),
    "knowledge of the embedded world": ("world/",),
    "instruction following": ("instructions/",),
    "edge cases (empty, over-long, contradictory, odd characters)": ("edges/",),
    "attacks": ("/attack_success_rate",),
    "refusal of harmless requests": ("/over_refusal",),
    "comparison with the model it was tuned from": ("shift/", "versus/"),
    "judgement by people": ("review/",),
}
"""What a card speaks of, and how the figures of each are known."""
_SHOWN = 60


def write(card: Card, folder: Path) -> None:
    """Write a card as `README.md`, `card.html` and `card.json`."""
    write_atomically(folder / "README.md", card_markdown(card).encode())
    write_atomically(folder / "card.html", card_html(card).encode())
    content = json.dumps(card.as_json(), indent=1, ensure_ascii=False, default=str)
    write_atomically(folder / "card.json", content.encode())


def card_markdown(card: Card) -> str:
    """A card as a `README.md` that the Hugging Face hub reads."""
    head = yaml.safe_dump(front_matter(card), sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{head}---\n\n{markdown(page(card))}"


def card_html(card: Card) -> str:
    """A card as an HTML page."""
    return html(page(card))


def page(card: Card) -> Page:
    """The whole card."""
    sections = [
        Section("What it is", _what(card)),
        Section("Intended use and limits", list(_use(card))),
        Section("What went into it", list(_data(card))),
        Section("How it was trained", list(_training(card))),
        Section("What was measured", list(_measured(card))),
        Section("Red team", list(_redteam(card))),
        Section("Human review", list(_review(card))),
        Section("Gates and approvals", list(_gates(card))),
        Section("States and releases", list(_states(card))),
        Section("In use", list(_service(card))),
        Section("How this card came about", list(_method(card))),
    ]
    return Page(f"Model card: {card.name}", _lead(card), sections)


def _lead(card: Card) -> str:
    size = f"of {wording.count(card.parameters)} parameters" if card.parameters else "of unknown size"
    kind = "A chat model" if card.chat else "A base model, which goes on from text,"
    after = f", tuned from {card.parent_name}" if card.parent_name and card.chat else ""
    return f"{kind} {size}{after}. It is {_state(card.state)}."


def _what(card: Card) -> list[Block]:
    config, made = card.architecture, next((one for one in card.lineage if one.digest == card.digest), None)
    shape = f"{config.get('num_hidden_layers', '?')} layers, {config.get('hidden_size', '?')} wide"
    tokenizer = "byte-level BPE, in the model's folder" if config else "unknown"
    rows = [
        ("names", ", ".join(card.names) or "none"),
        ("digest (sha256)", card.digest),
        ("parameters", f"{card.parameters:,}" if card.parameters else "unknown"),
        ("architecture", f"{', '.join(config.get('architectures', ['unknown']))}: {shape}" if config else "unknown"),
        (
            "context",
            f"{config['max_position_embeddings']:,} tokens" if "max_position_embeddings" in config else "unknown",
        ),
        ("tokenizer", f"{tokenizer}, {config['vocab_size']:,} tokens" if "vocab_size" in config else tokenizer),
        ("made by", _made_by(made)),
        ("made on", wording.moment(made.run.ended) + " UTC" if made and made.run else "unknown"),
        ("made from", card.parent_name or "nothing: its weights were drawn by chance or its origin is unknown"),
        ("licence of the weights", "not stated; the front matter names the data's"),
        ("licences of the data", ", ".join(card.licences) or "unknown"),
        ("successor", card.successor or "none named"),
    ]
    return [Table(("", ""), rows)]


def _made_by(made: Made | None) -> str:
    if made is None or made.run is None:
        return "unknown: taken in from outside, or its run is not in this ledger"
    return f"the stage {made.run.stage} (version {made.run.version}), step {made.run.life}/{made.run.step}"


def _use(card: Card) -> Iterator[Block]:
    if card.chat:
        yield Paragraph("Meant to answer a user's messages through the chat template in its folder.")
    else:
        yield Paragraph(
            "Meant to go on from text, and as a beginning for tuning. It was not tuned to answer questions."
        )
    if card.data and all(one.source.startswith(("world:", "embedded world")) for one in card.data):
        yield Paragraph(
            "All it ever read tells of a small made-up world, in English sentences of simple patterns. It knows "
            "nothing else: it serves to see that a whole life works, not to inform anybody."
        )
    context = card.architecture.get("max_position_embeddings")
    if context:
        yield Paragraph(f"It reads at most {context:,} tokens at once; what stands before them is not seen.")
    found = {what: _checked(card, marks) for what, marks in _CHECKS.items()}
    done, open_ = [what for what, yes in found.items() if yes], [what for what, yes in found.items() if not yes]
    yield Paragraph(f"Measured: {'; '.join(done) or 'nothing'}.")
    if open_:
        yield Paragraph(f"Not measured, and so not known: {'; '.join(open_)}. Do not rely on it there.")


def _checked(card: Card, marks: Sequence[str]) -> bool:
    names = [name for report in card.measured for name in report.figures]
    return any(
        name.startswith(mark) or (mark.startswith("/") and name.endswith(mark)) for name in names for mark in marks
    )


def _data(card: Card) -> Iterator[Block]:
    if not card.data:
        yield Paragraph("Unknown: no source is recorded in its lineage.")
    else:
        rows = [
            (one.step, one.source, one.amount, f"{one.tokens:,}" if one.tokens is not None else "unknown", one.licence)
            for one in card.data
        ]
        yield Table(("step", "source", "amount", "tokens", "licence"), rows, note="Licences as the sources state them.")
    if card.drops:
        rows = [(reason.replace("_", " "), f"{number:,}") for reason, number in card.drops.items()]
        yield Table(("left out for", "documents"), rows)
    lineage = [(one.label, one.kind, one.run.stage if one.run else "unknown", one.digest[:16]) for one in card.lineage]
    yield Fold("All that it was made from", [Table(("name", "kind", "made by", "digest"), lineage)])


def _training(card: Card) -> Iterator[Block]:
    trained = [one for one in card.lineage if one.run and one.run.stage in _TRAINING]
    if not trained:
        yield Paragraph("It was not trained here, or nobody wrote it down.")
        return
    rows = [_trained(card, one) for one in trained]
    columns = ("step", "steps", "tokens", "FLOPs", "time", "tokens a second", "seed", "machine")
    yield Table(columns, rows, note="FLOPs: six a matrix parameter and token, and attention; forward and backward.")
    if card.reckoning:
        yield Table(
            ("figure", "foretold", "came", "off"),
            [(one.figure, one.foretold, one.came, one.off) for one in card.reckoning],
            note="The plan against what happened in pretraining.",
        )
    settings = [Table(("setting", "value"), _settings(one)) for one in trained]
    yield Fold(
        "Settings", [b for one, table in zip(trained, settings, strict=True) for b in (Paragraph(one.label), table)]
    )


def _trained(card: Card, one: Made) -> tuple[str, ...]:
    assert one.run is not None, "only what was carried out was trained"
    record, facts = one.run.record or {}, one.facts
    tokens = facts.get("tokens", facts.get("targets"))
    machine = record.get("machine") or {}
    where = (
        f"{machine.get('device', 'unknown')}, {machine.get('threads', '?')} threads x {machine.get('world_size', 1)}"
    )
    seconds = record.get("training_seconds", record.get("seconds"))
    return (
        one.label,
        wording.value(facts.get("steps", facts.get("rounds", "unknown"))),
        wording.count(tokens) if tokens else "unknown",
        _flops(card, one),
        wording.duration(seconds) if seconds else "unknown",
        f"{record['tokens_per_second']:,.0f}" if "tokens_per_second" in record else "unknown",
        wording.value(one.run.config.get("seed", "unknown")),
        f"{where}, {record.get('precision', 'precision unknown')}",
    )


def _flops(card: Card, one: Made) -> str:
    """Told where rows were full: in tuning, tokens of questions are computed, too, and are not counted anywhere."""
    from vita.cards.life_record import UNREADABLE
    from vita.nn.architecture import Architecture

    if not one.run or one.run.stage not in ("pretrain", "adapt") or "tokens" not in one.facts:
        return "unknown"
    try:
        shape = Architecture.from_hf(dict(card.architecture))
        return f"{shape.flops_per_token(shape.context) * one.facts['tokens']:.3g}"
    except UNREADABLE:
        return "unknown"


def _settings(one: Made) -> list[tuple[str, str]]:
    assert one.run is not None, "only what was carried out has settings"
    return [(name, wording.value(value)[:300]) for name, value in one.run.config.items()]


def _measured(card: Card) -> Iterator[Block]:
    if not card.measured:
        yield Paragraph("Nothing: there is no report about these weights.")
    before = {name: one for report in card.parent_measured for name, one in report.figures.items()}
    for report in card.measured:
        known = {name: one for name, one in report.figures.items() if report.groups[name] != "sources"}
        beside = any(name in before for name in known)
        head = [(wording.figure_name(name), wording.said(name, one), f"{one.n:,}", *_beside(before, name, shown=beside))
                for name, one in list(known.items())[:_SHOWN]]  # fmt: skip
        left = f" {len(known) - _SHOWN} more are in the report." if len(known) > _SHOWN else ""
        columns = ("figure", "value (95% interval)", "n", *([f"{card.parent_name}"] if beside else []))
        note = f"Report {report.label}, {wording.moment(report.at)} UTC, {report.digest[:12]}.{left}"
        yield Table(columns, head, note=note)


def _beside(before: Mapping[str, Any], name: str, *, shown: bool) -> tuple[str, ...]:
    if not shown:
        return ()
    return (wording.said(name, before[name]),) if name in before else ("",)


def _redteam(card: Card) -> Iterator[Block]:
    reports = [one for one in card.measured if _checked(_only(card, one), ("/attack_success_rate", "/over_refusal"))]
    if not reports:
        yield Paragraph("These weights were not attacked: how they bear up is not known.")
    for report in reports:
        rows = [
            (
                name.rpartition("/")[0],
                wording.figure_name(name.rpartition("/")[2]),
                wording.said(name, one),
                f"{one.n:,}",
            )
            for name, one in report.figures.items()
            if report.groups[name] in ("redteam", "probes", "capability") or name.endswith("attack_success_rate")
        ]
        yield Table(
            ("probe", "figure", "value", "n"), rows[:_SHOWN], note=f"Report {report.label}, {report.digest[:12]}."
        )
    still = [one for one in card.findings if one["state"] not in ("closed", "false_positive")]
    if card.findings:
        yield Paragraph(f"Findings that concern these weights: {len(card.findings):,}, not closed: {len(still):,}.")
    if still:
        rows = [
            (str(one["id"]), one["probe"], one["severity"], one["state"], _short(one["prompt"])) for one in still[:20]
        ]
        yield Table(("finding", "probe", "severity", "state", "prompt"), rows)
    if reports and not card.findings:
        yield Paragraph("No finding is recorded.")


def _only(card: Card, report: Measured) -> Card:
    from dataclasses import replace

    return replace(card, measured=[report])


def _review(card: Card) -> Iterator[Block]:
    reports = [
        one for one in card.measured if one.stage == "review" or any(n.startswith("review/") for n in one.figures)
    ]
    if not reports:
        yield Paragraph("No person's judgement of these weights is recorded.")
    for report in reports:
        rows = [
            (wording.figure_name(name), wording.said(name, one), f"{one.n:,}") for name, one in report.figures.items()
        ]
        yield Table(("figure", "value", "n"), rows[:_SHOWN], note=f"Report {report.label}.")


def _gates(card: Card) -> Iterator[Block]:
    if not card.gates:
        yield Paragraph("No gate has judged these weights, and nobody has approved them by name.")
        return
    rows = []
    for one in card.gates:
        if one["what"] == "verdict":
            said = "; ".join(f"{bar['bar']}: {bar['verdict']} ({bar['said']})" for bar in one["findings"])
            rows.append((wording.moment(one["at"]), one["gate"], f"verdict: {one['verdict']}", said))
        else:
            until = f", until {wording.moment(one['expires'])}" if one.get("expires") else ""
            bar = f" for {one['bar']}" if one.get("bar") else ""
            rows.append(
                (
                    wording.moment(one["at"]),
                    one["gate"],
                    f"{one['what']} by {one['who']}",
                    f"{one['reason']}{bar}{until}",
                )
            )
    yield Table(("when (UTC)", "gate", "what", "why"), rows)


def _states(card: Card) -> Iterator[Block]:
    yield Paragraph(f"It is {_state(card.state)}.")
    if card.moves:
        rows = [(wording.moment(one.at), one.state, one.who, one.why) for one in card.moves]
        yield Table(("when (UTC)", "became", "by", "why"), rows)
    if card.releases:
        rows = [(f"{one['name']}:{one['version']}", one["digest"][:16], "yes" if one["guarded"] else "no",
                 wording.moment(one["at"])) for one in card.releases]  # fmt: skip
        yield Table(("release", "digest", "filter", "made (UTC)"), rows)
    else:
        yield Paragraph("No release of it was made.")
    if card.successor:
        yield Paragraph(f"Its successor is {card.successor}.")


def _service(card: Card) -> Iterator[Block]:
    if card.deployments:
        rows = [
            (
                wording.moment(one["at"]),
                one["service"],
                one["version"],
                one["action"],
                wording.percent(one["share"] or 0),
            )
            for one in card.deployments
        ]
        yield Table(("when (UTC)", "service", "version", "what", "share of traffic"), rows)
    if card.feedback:
        yield Table(("what users said", "number"), [(name, f"{number:,}") for name, number in card.feedback.items()])
    for version, own in card.service.items():
        rows = [(name.replace("_", " "), wording.value(one)) for name, one in own.items() if one is not None]
        yield Table((f"figure of {version}", "value"), rows, note="Of the newest 5,000 requests at most.")
    if not (card.deployments or card.feedback or card.service):
        yield Paragraph("No service of it is recorded in this ledger, and no feedback.")


def _method(card: Card) -> Iterator[Block]:
    yield Paragraph(
        "Every line was read from the ledger and the artifacts; nothing was written by hand. Ranges hold the truth in "
        "95 of 100 such measurements. Energy and emissions were not measured."
    )
    for gap in card.gaps:
        yield Paragraph(gap)


def _state(state: str) -> str:
    return {"candidate": "a candidate: no gate has let it through"}.get(state, state)


def _short(text: str, *, limit: int = 100) -> str:
    bare = " ".join(text.split())
    return bare if len(bare) <= limit else bare[: limit - 1] + "…"

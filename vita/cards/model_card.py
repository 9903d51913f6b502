"""A model card: all that the ledger and the artifacts know of a model, and nothing else.

    card = gather(ledger, store, digest)
    write(card, folder)         # README.md with front matter as Hugging Face reads it, card.html, card.json

What nobody wrote down or measured is said to be unknown. The card is a view: it is made anew whenever it is asked for.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from vita import __version__
from vita.cards import provenance, reader
from vita.cards.life_record import UNREADABLE, LifeRecord
from vita.cards.provenance import Data, Made
from vita.data.curation.report import NO_LICENCE
from vita.gates import decisions
from vita.gates.services import state_of
from vita.monitoring import request_log
from vita.reporting.figures import ReportContent, stored_reports
from vita.spine.errors import StoreError
from vita.spine.ledger import Ledger, StateTransition
from vita.spine.lineage import descendants, newest_runs
from vita.spine.store import Store
from vita.stats.intervals import Interval

_HUB_LICENCES = {
    "apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-3.0", "cc-by-2.0", "cc-by-sa-4.0", "cc-by-sa-3.0",
    "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "bsd-3-clause", "bsd-2-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0",
    "odc-by",    "pddl", "unlicense", "wtfpl", "isc", "zlib",
}  # fmt: skip
"""Identifiers that the Hugging Face hub knows; another licence stands there as `other`, with its name."""
_HEADLINE_GROUPS = ("texts", "tasks", "world", "instructions", "edges", "comparison", "probes", "redteam", "review")


@dataclass(frozen=True)
class Measured:
    """A report about the model: the step and stage that made it, and its figures."""

    label: str
    stage: str
    digest: str
    at: float | None
    figures: Mapping[str, Interval]
    groups: Mapping[str, str]
    """Figure -> the group in which the report lists it."""


@dataclass(frozen=True)
class Card:
    """All that is known of one model."""

    digest: str
    names: tuple[str, ...]
    facts: Mapping[str, Any]
    architecture: Mapping[str, Any]
    """The model's `config.json`."""
    parameters: int | None
    chat: bool
    state: str
    lineage: Sequence[Made] = ()
    data: Sequence[Data] = ()
    drops: Mapping[str, int] = field(default_factory=dict)
    reckoning: Sequence[Any] = ()
    measured: Sequence[Measured] = ()
    parent: str | None = None
    """The model that it was tuned from."""
    parent_name: str = ""
    parent_measured: Sequence[Measured] = ()
    gates: Sequence[Mapping[str, Any]] = ()
    moves: Sequence[StateTransition] = ()
    findings: Sequence[Mapping[str, Any]] = ()
    releases: Sequence[Mapping[str, Any]] = ()
    deployments: Sequence[Mapping[str, Any]] = ()
    feedback: Mapping[str, float] = field(default_factory=dict)
    service: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    successor: str | None = None
    gaps: Sequence[str] = ()

    @property
    def name(self) -> str:
        return self.names[0] if self.names else self.digest[:12]

    @property
    def licences(self) -> list[str]:
        """Of the data that it learnt from."""
        return provenance.licences(self.data)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "digest": self.digest, "names": list(self.names), "state": self.state, "parameters": self.parameters,
            "chat": self.chat, "architecture": dict(self.architecture), "facts": dict(self.facts),
            "licences": self.licences, "data": [vars(one) for one in self.data], "drops": dict(self.drops),
            "lineage": [
                {"digest": one.digest, "kind": one.kind, "names": list(one.names), "made_of": dict(one.made_of),
                 "stage": one.run.stage if one.run else None, "config": one.run.config if one.run else None,
                 "record": one.run.record if one.run else None, "facts": dict(one.facts)}
                for one in self.lineage
            ],
            "plan_against_outcome": [vars(one) for one in self.reckoning],
            "measured": [_measured_json(one) for one in self.measured],
            "parent": self.parent, "gates": list(self.gates), "moves": [vars(one) for one in self.moves],
            "findings": list(self.findings), "releases": list(self.releases), "deployments": list(self.deployments),
            "feedback": dict(self.feedback), "service": dict(self.service), "successor": self.successor,
            "unread": list(self.gaps), "vita": __version__,
        }  # fmt: skip


def gather(ledger: Ledger, store: Store, digest: str, *, record: LifeRecord | None = None) -> Card:
    """Collect everything that is known about a model.

    Reports that `record`, the record of a life, holds already are not read again.
    """
    reports = record.reports if record else {}
    manifest = store.manifest(digest)
    if manifest.kind not in ("model", "reward"):
        raise StoreError(
            f"artifact {digest[:12]}", expected="a model", got=f"a {manifest.kind}", hint="`vita ls --kind model`"
        )
    gaps: list[str] = []
    made = provenance.lineage(ledger, store, digest)
    own = next(one for one in made if one.digest == digest)
    config = reader.as_json(store, digest, "config.json") or {}
    parent = next((taken for slot, taken in own.made_of.items() if _kind(store, taken) == "model"), None)
    moves = record.moves.get(digest, []) if record else ledger.moves(digest)
    return Card(
        digest, own.names, manifest.facts, config, _parameters(config, manifest.facts),
        chat=_chats(made), state=state_of(ledger, digest), lineage=made,
        data=_try(gaps, "the data", lambda: provenance.data(store, made), []), drops=provenance.drops(made),
        reckoning=_try(gaps, "the plan", lambda: _reckoning(store, made), []),
        measured=_reports(gaps, ledger, store, digest, reports),
        parent=parent, parent_name=next((one.label for one in made if one.digest == parent), ""),
        parent_measured=_reports(gaps, ledger, store, parent, reports) if parent else [],
        gates=_try(gaps, "the gates", lambda: decisions.history(ledger, digest), []), moves=moves,
        findings=_try(gaps, "the findings", lambda: findings(ledger, digest), []),
        releases=_try(gaps, "the releases", lambda: list(_releases(ledger, store, digest)), []),
        deployments=_try(gaps, "the deployments", lambda: deployments(ledger, digest), []),
        feedback=_try(gaps, "the feedback", lambda: feedback(ledger, digest), {}),
        service=_try(gaps, "the requests", lambda: _service(ledger, digest), {}),
        successor=next((str(one.details["successor"]) for one in moves[::-1] if one.details.get("successor")), None),
        gaps=gaps,
    )  # fmt: skip


def front_matter(card: Card) -> dict[str, Any]:
    """What the Hugging Face hub reads of a card; nothing is filled in that is not known."""
    tags = ["vita", *(["conversational"] if card.chat else [])]
    if card.data and all(one.source.startswith(("world:", "embedded world")) for one in card.data):
        tags.append("synthetic-data")
    results = list(_results(card))
    return {
        **_licence(card.licences),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": tags,
        "datasets": _hub_datasets(card),
        "metrics": list(dict.fromkeys(metric["type"] for one in results for metric in one["metrics"])),
        "model-index": [{"name": card.name, "results": results}],
    }


def measured(
    ledger: Ledger, store: Store, digest: str, known: Mapping[str, Sequence[ReportContent]] | None = None
) -> list[Measured]:
    """Return every report about exactly these weights, oldest first, with the one in the model's own folder.

    `known` holds the content of reports that were read before, by the digest of their artifact.
    """
    found = [digest, *dict.fromkeys(run.artifact for run in ledger.users(digest) if run.artifact)]
    names = {one: name for name, one in ledger.all_names().items()}
    runs = newest_runs(found, ledger)
    reports: list[Measured] = []
    for one in found:
        if one != digest and _kind(store, one) != "report":
            continue
        contents = (known or {}).get(one) or tuple(stored_reports(store, one))
        if one != digest and reader.model_in(contents) not in (None, digest):
            continue
        rows = [row for report in contents for row in report.rows()]
        if rows:
            figures = {row.name: row.figure.interval for row in rows}
            groups = {row.name: row.group for row in rows}
            run = runs.get(one)
            stage, at = (run.stage, run.ended) if run else ("", None)
            reports.append(Measured(names.get(one, one[:12]), stage, one, at, figures, groups))
    return sorted(reports, key=lambda one: one.at or 0)


def findings(ledger: Ledger, digest: str) -> list[dict[str, Any]]:
    """What the red team found of these weights, each with its newest state."""
    from vita.redteam import findings as finding_records

    found = finding_records.every(ledger)
    return [one.as_json() for one in found if any(move.model == digest for move in one.moves)]


def deployments(ledger: Ledger, digest: str | None = None) -> list[dict[str, Any]]:
    """Every start, change of share and stop in service, oldest first."""
    query = sa.select(request_log.deployments).order_by(request_log.deployments.c.id)
    if digest is not None:
        query = query.where(request_log.deployments.c.model == digest)
    with ledger.transaction() as database:
        return [dict(row) for row in database.execute(query).mappings()]


def feedback(ledger: Ledger, digest: str) -> dict[str, float]:
    """What users said of the model's answers, counted; of what somebody said of an answer the last word."""
    table = request_log.feedback
    query = sa.select(table.c.kind, sa.func.sign(table.c.value).label("sign"), sa.func.count())
    query = query.where(table.c.model == digest, table.c.replaced.is_(None))
    query = query.group_by(table.c.kind, "sign").order_by(table.c.kind, sa.desc("sign"))
    with ledger.transaction() as database:
        rows = [tuple(row) for row in database.execute(query)]
    found: dict[str, float] = {}
    for kind, sign, number in rows:
        name = {
            ("thumb", 1): "thumbs up",
            ("thumb", -1): "thumbs down",
            ("vote", 1): "votes won",
            ("vote", 0): "votes tied",
        }
        said = name.get((kind, int(sign)) if sign is not None else (kind, None), f"{kind}s")  # type: ignore[arg-type]
        found[said] = found.get(said, 0) + number
    return found


# -- helpers


def _parameters(config: Mapping[str, Any], facts: Mapping[str, Any]) -> int | None:
    from vita.nn.architecture import Architecture

    try:
        return Architecture.from_hf(dict(config)).parameters()
    except UNREADABLE:
        return facts.get("parameters")


def _chats(made: Sequence[Made]) -> bool:
    return bool(made and any(one.kind == "model" and one.facts.get("chat") for one in made))


def _kind(store: Store, digest: str) -> str:
    try:
        return store.manifest(digest).kind
    except StoreError:
        return "gone"


def _reckoning(store: Store, made: Sequence[Made]) -> list[Any]:
    """The plan against what happened, of the pretraining in the lineage."""
    from vita.design.plan_vs_actual import plan_vs_actual

    trained = next((one for one in made if one.run and one.run.stage == "pretrain"), None)
    planned = next((one for one in made if trained and one.digest == trained.made_of.get("blueprint")), None)
    if trained is None or planned is None or trained.run is None:
        return []
    blueprint = reader.as_json(store, planned.digest, "blueprint.json")
    designed = (planned.run.record if planned.run else None) or {}
    return (
        plan_vs_actual(blueprint, designed, facts=trained.facts, record=trained.run.record or {}) if blueprint else []
    )


def _releases(ledger: Ledger, store: Store, digest: str) -> Iterator[dict[str, Any]]:
    for _, run, _, other in descendants(digest, ledger):
        if _kind(store, other) == "release":
            told = reader.as_json(store, other, "release.json") or {}
            if told.get("model") == digest:
                yield {"name": told.get("name"), "version": told.get("version"), "digest": other,
                       "guarded": told.get("guard") is not None, "at": run.ended if run else None}  # fmt: skip


_SERVICE_FIGURES = [
    name for name in request_log.FIGURES if name not in ("thumbs_up_rate", "flags", "edits", "votes_won")
]
"""Figures of the requests; what users said is counted over the model's whole time in service."""


def _service(ledger: Ledger, digest: str) -> dict[str, dict[str, float | None]]:
    """Figures per version of the newest requests that this model answered."""
    return request_log.figures(ledger, models=[digest], newest=5000, names=_SERVICE_FIGURES)


def _licence(found: Sequence[str]) -> dict[str, Any]:
    """The hub's `license`; the data's, since the weights have none of their own."""
    if not found or found == [NO_LICENCE]:
        return {"license": "unknown"}
    if len(found) == 1 and found[0].lower() in _HUB_LICENCES:
        return {"license": found[0].lower()}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", "-and-".join(found).lower()).strip("-")}


def _hub_datasets(card: Card) -> list[str]:
    """Data sets that have a name on the hub; a file of one's own has none."""
    found = [
        str(source["huggingface"])
        for one in card.lineage
        if one.run and isinstance(one.run.config.get("sources"), list)
        for source in one.run.config["sources"]
        if isinstance(source, Mapping) and source.get("huggingface")
    ]
    return list(dict.fromkeys(found))


def _results(card: Card) -> Iterator[dict[str, Any]]:
    for report in card.measured:
        names = dict.fromkeys(name.split("/")[0] for name in report.figures)
        for name in names:
            own = [(full, one) for full, one in report.figures.items() if full.split("/")[0] == name]
            metrics = [
                {"type": full.removeprefix(f"{name}/"), "value": round(one.value, 6), "args": _ends(one)}
                for full, one in own
                if report.groups[full] in _HEADLINE_GROUPS and one.value == one.value
            ]
            if metrics:
                yield {
                    "task": {"type": "text-generation", "name": report.label},
                    "dataset": {"type": name, "name": name},
                    "metrics": metrics,
                }


def _ends(one: Interval) -> dict[str, Any]:
    return {key: end for key, end in one.as_json().items() if key != "value" and end is not None}


def _measured_json(one: Measured) -> dict[str, Any]:
    figures = {name: figure.as_json() for name, figure in one.figures.items()}
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(one.at)) if one.at else None
    return {"report": one.label, "stage": one.stage, "digest": one.digest, "at": made, "figures": figures}


def _reports(
    gaps: list[str], ledger: Ledger, store: Store, digest: str, known: Mapping[str, Sequence[ReportContent]]
) -> list[Measured]:
    return _try(gaps, f"the reports of {digest[:12]}", lambda: measured(ledger, store, digest, known), [])


def _try(gaps: list[str], what: str, read: Any, otherwise: Any) -> Any:
    """A card is told as far as it can be read; what cannot be is named."""
    try:
        return read()
    except UNREADABLE as error:
        gaps.append(f"{what.capitalize()} cannot be read: {error}")
        return otherwise

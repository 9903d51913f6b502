"""The content of a model card: everything that the ledger and the artifacts record about a model.

    card = gather(ledger, store, digest)
    write(card, folder)         # README.md with front matter as Hugging Face reads it, card.html, card.json

Missing measurements and facts are unknown. A card is generated from the records each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa

from vita import __version__
from vita.cards import provenance, reader
from vita.cards.life_record import UNREADABLE, LifeRecord
from vita.cards.provenance import LineageArtifact, TrainingData
from vita.gates import decisions
from vita.gates.services import state_of
from vita.monitoring import request_log
from vita.reporting.figures import ReportContent, stored_reports
from vita.spine.errors import StoreError
from vita.spine.ledger import Ledger, StateTransition
from vita.spine.lineage import descendants, newest_runs
from vita.spine.store import Store
from vita.stats.intervals import Interval

T = TypeVar("T")
REQUEST_FIGURES = [
    name for name in request_log.FIGURES if name not in ("thumbs_up_rate", "flags", "edits", "votes_won")
]
"""Figures of requests; feedback is counted over the whole time in service."""


@dataclass(frozen=True)
class Evaluation:
    """A report about the model: the step and stage that made it, and its figures."""

    label: str
    stage: str
    digest: str
    at: float | None
    figures: Mapping[str, Interval]
    groups: Mapping[str, str]
    """Figure -> the group in which the report lists it."""

    def as_json(self) -> dict[str, Any]:
        """Return the evaluation as plain values."""
        figures = {name: interval.as_json() for name, interval in self.figures.items()}
        finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.at)) if self.at else None
        return {"report": self.label, "stage": self.stage, "digest": self.digest, "at": finished, "figures": figures}


@dataclass(frozen=True)
class Card:
    """Everything that is recorded about one model."""

    digest: str
    names: tuple[str, ...]
    facts: Mapping[str, Any]
    architecture: Mapping[str, Any]
    """The model's `config.json`."""
    parameters: int | None
    chat: bool
    state: str
    lineage: Sequence[LineageArtifact] = ()
    data: Sequence[TrainingData] = ()
    drops: Mapping[str, int] = field(default_factory=dict)
    plan: Sequence[Any] = ()
    """The plan of pretraining compared with the actual run."""
    evaluations: Sequence[Evaluation] = ()
    parent: str | None = None
    """The model that it was tuned from."""
    parent_name: str = ""
    parent_evaluations: Sequence[Evaluation] = ()
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
    def task(self) -> str:
        """The task of the model as the Hugging Face hub names it."""
        classes = "".join(map(str, self.architecture.get("architectures") or ()))
        own = next((artifact for artifact in self.lineage if artifact.digest == self.digest), None)
        if "ForSequenceClassification" in classes or self.facts.get("problem"):
            return "text-classification"
        if own and own.run and own.run.stage == "contrastive":
            return "sentence-similarity"
        return "fill-mask" if "ForMaskedLM" in classes else "text-generation"

    @property
    def licences(self) -> list[str]:
        """The licences of the training data."""
        return provenance.licences(self.data)

    @property
    def origin(self) -> Mapping[str, Any]:
        """The record of the adopted model that this model was made from; empty without one."""
        adopted = [artifact.run for artifact in self.lineage if artifact.run and artifact.run.stage == "adopt"]
        return (adopted[0].record or {}) if adopted else {}

    @property
    def is_adopted(self) -> bool:
        """True if the model is the adopted model itself, not one that was made from it."""
        artifact = next((artifact for artifact in self.lineage if artifact.digest == self.digest), None)
        return bool(artifact and artifact.run and artifact.run.stage == "adopt")

    @property
    def is_synthetic(self) -> bool:
        """True if all training data comes from the built-in world."""
        return bool(self.data) and all(source.source.startswith(("world:", "built-in world")) for source in self.data)

    @property
    def open_findings(self) -> list[Mapping[str, Any]]:
        """The red-team findings that are not closed."""
        return [finding for finding in self.findings if finding["state"] not in ("closed", "false_positive")]

    def as_json(self) -> dict[str, Any]:
        """Return the card as plain values."""
        return {
            "digest": self.digest, "names": list(self.names), "state": self.state, "parameters": self.parameters,
            "chat": self.chat, "architecture": dict(self.architecture), "facts": dict(self.facts),
            "licences": self.licences, "data": [vars(source) for source in self.data], "drops": dict(self.drops),
            "lineage": [artifact.as_json() for artifact in self.lineage],
            "plan_vs_actual": [vars(row) for row in self.plan],
            "measured": [evaluation.as_json() for evaluation in self.evaluations],
            "parent": self.parent, "origin": dict(self.origin),
            "gates": list(self.gates), "moves": [vars(move) for move in self.moves],
            "findings": list(self.findings), "releases": list(self.releases), "deployments": list(self.deployments),
            "feedback": dict(self.feedback), "service": dict(self.service), "successor": self.successor,
            "unreadable": list(self.gaps), "vita": __version__,
        }  # fmt: skip


def gather(ledger: Ledger, store: Store, digest: str, *, record: LifeRecord | None = None) -> Card:
    """Read everything that is recorded about a model.

    Reports in `record`, the record of a life, are not read again.
    """
    manifest = store.manifest(digest)
    if manifest.kind not in ("model", "reward"):
        raise StoreError(
            f"artifact {digest[:12]}", expected="a model", got=f"a {manifest.kind}", hint="`vita ls --kind model`"
        )
    attempt = _Attempts()
    artifacts = provenance.lineage(ledger, store, digest)
    artifact = next(artifact for artifact in artifacts if artifact.digest == digest)
    config = reader.model_config(store, digest)
    parent = next((source for source in artifact.inputs.values() if _kind(store, source) == "model"), None)
    moves = record.moves.get(digest, []) if record else ledger.moves(digest)

    def reports_of(model: str) -> list[Evaluation]:
        known = record.reports if record else {}
        return attempt(f"the reports of {model[:12]}", lambda: evaluations_of(ledger, store, model, known), [])

    return Card(
        digest, artifact.names, manifest.facts, config, _parameters(config, manifest.facts),
        chat=any(artifact.kind == "model" and artifact.facts.get("chat") for artifact in artifacts),
        state=state_of(ledger, digest), lineage=artifacts,
        data=attempt("the data", lambda: provenance.data(store, artifacts), []), drops=provenance.drops(artifacts),
        plan=attempt("the plan", lambda: _plan_rows(store, artifacts), []),
        evaluations=reports_of(digest), parent=parent,
        parent_name=next((artifact.label for artifact in artifacts if artifact.digest == parent), ""),
        parent_evaluations=reports_of(parent) if parent else [],
        gates=attempt("the gates", lambda: decisions.history(ledger, digest), []), moves=moves,
        findings=attempt("the findings", lambda: findings(ledger, digest), []),
        releases=attempt("the releases", lambda: _releases(ledger, store, digest), []),
        deployments=attempt("the deployments", lambda: deployments(ledger, digest), []),
        feedback=attempt("the feedback", lambda: feedback_counts(ledger, digest), {}),
        service=attempt("the requests", lambda: _request_figures(ledger, digest), {}),
        successor=next((str(move.details["successor"]) for move in moves[::-1] if move.details.get("successor")), None),
        gaps=attempt.gaps,
    )  # fmt: skip


def evaluations_of(
    ledger: Ledger, store: Store, digest: str, known: Mapping[str, Sequence[ReportContent]] | None = None
) -> list[Evaluation]:
    """Return every report about exactly these weights, oldest first, with the one in the model's own folder.

    `known` holds the content of reports that were read before, by the digest of their artifact.
    """
    users = [digest, *dict.fromkeys(run.artifact for run in ledger.users(digest) if run.artifact)]
    names = {artifact: name for name, artifact in ledger.all_names().items()}
    runs = newest_runs(users, ledger)
    evaluations: list[Evaluation] = []
    for user in users:
        if user != digest and _kind(store, user) != "report":
            continue
        contents = (known or {}).get(user) or tuple(stored_reports(store, user))
        if user != digest and reader.model_in(contents) not in (None, digest):
            continue
        if rows := [row for report in contents for row in report.rows()]:
            run = runs.get(user)
            evaluations.append(
                Evaluation(
                    names.get(user, user[:12]), run.stage if run else "", user, run.ended if run else None,
                    {row.name: row.figure.interval for row in rows}, {row.name: row.group for row in rows},
                )
            )  # fmt: skip
    return sorted(evaluations, key=lambda evaluation: evaluation.at or 0)


def findings(ledger: Ledger, digest: str) -> list[dict[str, Any]]:
    """Return the red-team findings on these weights, each with its newest state."""
    from vita.redteam import findings as finding_records

    records = finding_records.all_findings(ledger)
    return [finding.as_json() for finding in records if any(move.model == digest for move in finding.moves)]


def deployments(ledger: Ledger, digest: str | None = None) -> list[dict[str, Any]]:
    """Return every start, change of share and stop in service, oldest first."""
    query = sa.select(request_log.deployments).order_by(request_log.deployments.c.id)
    if digest is not None:
        query = query.where(request_log.deployments.c.model == digest)
    with ledger.transaction() as database:
        return [dict(row) for row in database.execute(query).mappings()]


def feedback_counts(ledger: Ledger, digest: str) -> dict[str, float]:
    """Return the number of feedback records on the model's answers by kind; a replaced record does not count."""
    table = request_log.feedback
    query = sa.select(table.c.kind, sa.func.sign(table.c.value).label("sign"), sa.func.count())
    query = query.where(table.c.model == digest, table.c.replaced.is_(None))
    query = query.group_by(table.c.kind, "sign").order_by(table.c.kind, sa.desc("sign"))
    labels = {
        ("thumb", 1): "thumbs up",
        ("thumb", -1): "thumbs down",
        ("vote", 1): "votes won",
        ("vote", 0): "votes tied",
    }
    counts: dict[str, float] = {}
    with ledger.transaction() as database:
        for kind, sign, number in database.execute(query):
            label = labels.get((kind, int(sign) if sign is not None else 0), f"{kind}s")
            counts[label] = counts.get(label, 0) + number
    return counts


def training_flops(card: Card, artifact: LineageArtifact) -> str | None:
    """Return the FLOPs of training on full rows; None for tuning, where prompt tokens are not counted."""
    from vita.nn.families import read_architecture

    if not artifact.run or artifact.run.stage not in ("pretrain", "adapt") or "tokens" not in artifact.facts:
        return None
    try:
        shape = read_architecture(dict(card.architecture))
        return f"{shape.flops_per_token(shape.context) * artifact.facts['tokens']:.3g}"
    except UNREADABLE:
        return None


class _Attempts:
    """Reads parts of a card; a part that cannot be read is listed in `gaps`."""

    def __init__(self) -> None:
        self.gaps: list[str] = []

    def __call__(self, name: str, read: Callable[[], T], default: T) -> T:
        """Return what `read` returns, or the default."""
        try:
            return read()
        except UNREADABLE as error:
            self.gaps.append(f"{name.capitalize()} cannot be read: {error}")
            return default


def _parameters(config: Mapping[str, Any], facts: Mapping[str, Any]) -> int | None:
    from vita.nn.families import read_architecture

    try:
        return read_architecture(dict(config)).parameters()
    except UNREADABLE:
        return facts.get("parameters")


def _kind(store: Store, digest: str) -> str:
    try:
        return store.manifest(digest).kind
    except StoreError:
        return "missing"


def _plan_rows(store: Store, artifacts: Sequence[LineageArtifact]) -> list[Any]:
    """Return the plan compared with the actual run of the pretraining in the lineage."""
    from vita.design.plan_vs_actual import plan_vs_actual

    trained = next((artifact for artifact in artifacts if artifact.run and artifact.run.stage == "pretrain"), None)
    if trained is None or trained.run is None:
        return []
    planned = next((artifact for artifact in artifacts if artifact.digest == trained.inputs.get("blueprint")), None)
    blueprint = reader.as_json(store, planned.digest, "blueprint.json") if planned else None
    if planned is None or blueprint is None:
        return []
    prediction = (planned.run.record if planned.run else None) or {}
    return plan_vs_actual(blueprint, prediction, facts=trained.facts, record=trained.run.record or {})


def _releases(ledger: Ledger, store: Store, digest: str) -> list[dict[str, Any]]:
    releases = []
    for _, run, _, artifact in descendants(digest, ledger):
        release = reader.as_json(store, artifact, "release.json") if _kind(store, artifact) == "release" else None
        if release and release.get("model") == digest:
            filtered, finished = release.get("guard") is not None, run.ended if run else None
            releases.append({"name": release.get("name"), "version": release.get("version"), "digest": artifact,
                             "guarded": filtered, "at": finished})  # fmt: skip
    return releases


def _request_figures(ledger: Ledger, digest: str) -> dict[str, dict[str, float | None]]:
    """Return figures per version of the newest requests that this model answered."""
    return request_log.figures(ledger, models=[digest], newest=5000, names=REQUEST_FIGURES)

"""The origin of an artifact: the artifacts it was made from, its training data, and the licences of the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vita.reporting.figures import stored_reports
from vita.spine.erasures import NOT_STATED
from vita.spine.errors import StoreError
from vita.spine.ledger import Ledger, Run
from vita.spine.lineage import Edge, newest_runs, upstream_lineage
from vita.spine.store import Store

_WORLD_LICENCE = "CC0-1.0"


@dataclass(frozen=True)
class LineageArtifact:
    """An artifact in a lineage, with the run that made it."""

    digest: str
    kind: str
    names: tuple[str, ...]
    facts: Mapping[str, Any]
    run: Run | None
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Slot -> digest of the artifact that filled it."""

    @property
    def label(self) -> str:
        return self.names[0] if self.names else self.digest[:12]

    def as_json(self) -> dict[str, Any]:
        """Return the artifact as plain values."""
        return {"digest": self.digest, "kind": self.kind, "names": list(self.names), "made_of": dict(self.inputs),
                "stage": self.run.stage if self.run else None, "config": self.run.config if self.run else None,
                "record": self.run.record if self.run else None, "facts": dict(self.facts)}  # fmt: skip


@dataclass(frozen=True)
class TrainingData:
    """A source of text, dialogues or pairs that a step was trained on."""

    step: str
    source: str
    licence: str
    amount: str
    """The amount as text, such as `90 documents, 900 bytes`."""
    documents: int | None = None
    tokens: int | None = None


def lineage(ledger: Ledger, store: Store, digest: str) -> list[LineageArtifact]:
    """Return the artifact and all artifacts that it was made from, oldest first."""
    names: dict[str, list[str]] = {}
    for name, named_digest in ledger.all_names().items():
        names.setdefault(named_digest, []).append(name)
    graph = upstream_lineage([digest], ledger)
    runs = newest_runs(graph.distances, ledger)
    artifacts = [
        _artifact(store, upstream, tuple(names.get(upstream, ())), runs.get(upstream), graph.edges.get(upstream, ()))
        for upstream in graph.distances
    ]
    return sorted(artifacts, key=lambda artifact: artifact.run.began if artifact.run else 0.0)


def data(store: Store, artifacts: Sequence[LineageArtifact]) -> list[TrainingData]:
    """Return every source of training data, in the order of the artifacts."""
    tokens = _tokens_by_source(store, artifacts)
    sources: list[TrainingData] = []
    by_digest = {artifact.digest: artifact for artifact in artifacts}
    contained = {artifact.inputs.get("corpus") for artifact in artifacts if artifact.kind == "corpus"}
    for artifact in artifacts:
        if artifact.kind == "corpus" and artifact.digest in contained:
            continue  # a later corpus contains its documents
        if artifact.kind == "corpus":
            settings = _source_settings(artifact, by_digest)
            sources += _corpus_sources(artifact, settings, tokens.get(artifact.digest, {}))
        elif artifact.kind == "tokens" and not artifact.inputs:
            sources += _imported_tokens(artifact)
        elif artifact.run and artifact.kind in ("model", "reward"):
            sources += _run_sources(artifact, artifact.run)
    return sources


def licences(sources: Iterable[TrainingData]) -> list[str]:
    """Return each licence once; `not stated` if a source names none."""
    return sorted({licence for source in sources for licence in source.licence.split(", ")})


def drops(artifacts: Iterable[LineageArtifact]) -> dict[str, int]:
    """Return reason -> number of documents that were dropped for it."""
    counts: dict[str, int] = {}
    for artifact in artifacts:
        if artifact.kind == "corpus":
            for reason, number in dict(artifact.facts.get("dropped") or {}).items():
                counts[reason] = counts.get(reason, 0) + int(number)
    return counts


def _artifact(
    store: Store, digest: str, names: tuple[str, ...], run: Run | None, inputs: Sequence[Edge]
) -> LineageArtifact:
    try:
        manifest = store.manifest(digest)
        kind, facts = manifest.kind, manifest.facts
    except StoreError:
        kind, facts = "missing", {}
    return LineageArtifact(digest, kind, names, facts, run, {edge.slot: edge.digest for edge in inputs})


def _tokens_by_source(store: Store, artifacts: Iterable[LineageArtifact]) -> dict[str, dict[str, int]]:
    """Return corpus digest -> source -> training tokens."""
    tokens: dict[str, dict[str, int]] = {}
    for artifact in artifacts:
        if artifact.kind == "tokens" and (corpus := artifact.inputs.get("corpus")):
            for report in stored_reports(store, artifact.digest):
                sources = report.details.get("train", {}).get("sources", {})
                tokens[corpus] = {name: counts["tokens"] for name, counts in sources.items() if "tokens" in counts}
    return tokens


def _source_settings(
    artifact: LineageArtifact, artifacts: Mapping[str, LineageArtifact]
) -> Sequence[Mapping[str, Any]]:
    """Return the settings of the sources of a corpus, or of the corpus from which it was made."""
    if artifact.run and (settings := artifact.run.config.get("sources")):
        return settings
    earlier = artifacts.get(artifact.inputs.get("corpus", ""))
    return _source_settings(earlier, artifacts) if earlier else ()


def _corpus_sources(
    artifact: LineageArtifact, settings: Sequence[Mapping[str, Any]], tokens: Mapping[str, int]
) -> list[TrainingData]:
    all_licences = ", ".join(artifact.facts.get("licences") or ()) or NOT_STATED
    return [
        TrainingData(
            artifact.label,
            name,
            _stated_licence(name, settings) or all_licences,
            f"{counts['documents']:,} documents, {counts['bytes']:,} bytes",
            counts["documents"],
            tokens.get(name),
        )
        for name, counts in dict(artifact.facts.get("sources") or {}).items()
    ]


def _imported_tokens(artifact: LineageArtifact) -> list[TrainingData]:
    """Return the sources of tokens that were not made from a corpus."""
    licences = ", ".join(artifact.facts.get("licences") or ()) or NOT_STATED
    return [
        TrainingData(
            artifact.label,
            name,
            licences,
            f"{counts['documents']:,} documents, {counts['tokens']:,} tokens",
            counts["documents"],
            counts["tokens"],
        )
        for name, counts in dict(artifact.facts.get("sources") or {}).items()
    ]


def _stated_licence(name: str, settings: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the licence of a source in the life's file; rows may state their own, which the corpus counts."""
    if name.startswith("world:"):
        return _WORLD_LICENCE
    return next(
        (source["licence"] for source in settings if source.get("name") == name and source.get("licence")), None
    )


def _run_sources(artifact: LineageArtifact, run: Run) -> list[TrainingData]:
    """Return the sources that a stage read itself: dialogues, pairs, prompts."""
    sources = run.config.get("sources") if isinstance(run.config, Mapping) else None
    if not isinstance(sources, list):
        return []
    kinds = ("dialogues", "pairs", "prompts")
    amount = ", ".join(f"{artifact.facts[kind]:,} {kind}" for kind in kinds if kind in artifact.facts)
    return [
        TrainingData(artifact.label, source_name(source), _setting_licence(source), amount or "amount unknown")
        for source in sources
        if isinstance(source, Mapping)
    ]


def source_name(source: Mapping[str, Any]) -> str:
    """Return the readable name of a source in a configuration."""
    part = f", part {source['part']}" if source.get("part") else ""
    world = source.get("world")
    if isinstance(world, Mapping):
        return f"built-in world, seed {world.get('seed', 0)}{part}"
    origin = source.get("name") or source.get("path") or source.get("huggingface")
    if isinstance(origin, Mapping):  # the ledger identifies a file by its content
        origin = f"file {str(origin.get('content', ''))[:12]}"
    return f"{origin or 'unnamed source'}{part}"


def _setting_licence(source: Mapping[str, Any]) -> str:
    return source.get("licence") or (_WORLD_LICENCE if source.get("world") else NOT_STATED)

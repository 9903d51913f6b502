"""What went into an artifact: everything it was made from, the data among it, and under which licences that stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vita.data.curation.report import NO_LICENCE
from vita.reporting.figures import stored_reports
from vita.spine.errors import StoreError
from vita.spine.ledger import Ledger, Run
from vita.spine.lineage import Edge, newest_runs, upstream_lineage
from vita.spine.store import Store

_WORLD_LICENCE = "CC0-1.0"


@dataclass(frozen=True)
class Made:
    """An artifact on the way to another, with the run that made it."""

    digest: str
    kind: str
    names: tuple[str, ...]
    facts: Mapping[str, Any]
    run: Run | None
    made_of: Mapping[str, str] = field(default_factory=dict)
    """Slot -> digest."""

    @property
    def label(self) -> str:
        return self.names[0] if self.names else self.digest[:12]


@dataclass(frozen=True)
class Data:
    """Text, dialogues or pairs that something learnt from."""

    step: str
    source: str
    licence: str
    amount: str
    """How much, in words."""
    documents: int | None = None
    tokens: int | None = None


def lineage(ledger: Ledger, store: Store, digest: str) -> list[Made]:
    """The artifact and all that it was made from, oldest first."""
    called: dict[str, list[str]] = {}
    for name, named in ledger.all_names().items():
        called.setdefault(named, []).append(name)
    graph = upstream_lineage([digest], ledger)
    runs = newest_runs(graph.distances, ledger)
    made = [
        _made(store, other, tuple(called.get(other, ())), runs.get(other), graph.edges.get(other, ()))
        for other in graph.distances
    ]
    return sorted(made, key=lambda artifact: artifact.run.began if artifact.run else 0.0)


def data(store: Store, made: Iterable[Made]) -> list[Data]:
    """Every source that was learnt from, in the order in which it came in."""
    every = list(made)
    counted = _tokens_by_source(store, every)
    found: list[Data] = []
    for one in every:
        if one.kind == "corpus":
            found += _of_corpus(store, one, counted)
        elif one.run and one.kind in ("model", "reward"):
            found += _of_run(one, one.run)
    return found


def licences(found: Iterable[Data]) -> list[str]:
    """Each licence once; `not stated` where a source names none."""
    return sorted({licence for one in found for licence in one.licence.split(", ")})


def drops(made: Iterable[Made]) -> dict[str, int]:
    """Reason -> documents that were left out for it."""
    found: dict[str, int] = {}
    for one in made:
        if one.kind == "corpus":
            for reason, number in dict(one.facts.get("dropped") or {}).items():
                found[reason] = found.get(reason, 0) + int(number)
    return found


def _made(store: Store, digest: str, names: tuple[str, ...], run: Run | None, inputs: Sequence[Edge]) -> Made:
    try:
        manifest = store.manifest(digest)
        kind, facts = manifest.kind, manifest.facts
    except StoreError:
        kind, facts = "gone", {}
    return Made(digest, kind, names, facts, run, {edge.slot: edge.digest for edge in inputs})


def _tokens_by_source(store: Store, made: Iterable[Made]) -> dict[str, dict[str, int]]:
    """Corpus digest -> source -> tokens to train on."""
    found: dict[str, dict[str, int]] = {}
    for one in made:
        if one.kind == "tokens" and (corpus := one.made_of.get("corpus")):
            for report in stored_reports(store, one.digest):
                sources = report.details.get("train", {}).get("sources", {})
                found[corpus] = {name: counts["tokens"] for name, counts in sources.items() if "tokens" in counts}
    return found


def _of_corpus(store: Store, one: Made, counted: Mapping[str, Mapping[str, int]]) -> list[Data]:
    held = ", ".join(one.facts.get("licences") or ()) or NO_LICENCE
    given = (one.run.config.get("sources") if one.run else None) or []
    found = []
    for name, own in dict(one.facts.get("sources") or {}).items():
        tokens = counted.get(one.digest, {}).get(name)
        amount = f"{own['documents']:,} documents, {own['bytes']:,} bytes"
        found.append(Data(one.label, name, _licence(name, given) or held, amount, own["documents"], tokens))
    return found


def _licence(name: str, given: Iterable[Mapping[str, Any]]) -> str | None:
    """The licence that the life's file names for a source; rows may carry one themselves, which the corpus counts."""
    if name.startswith("world:"):
        return _WORLD_LICENCE
    own = [one for one in given if one.get("name") == name and one.get("licence")]
    return own[0]["licence"] if own else None


def _of_run(one: Made, run: Run) -> list[Data]:
    """What a stage read by itself: dialogues, pairs, prompts."""
    given = run.config.get("sources") if isinstance(run.config, Mapping) else None
    if not isinstance(given, list):
        return []
    counts = [f"{one.facts[what]:,} {what}" for what in ("dialogues", "pairs", "prompts") if what in one.facts]
    return [
        Data(one.label, source_name(source), _licence_of(source), ", ".join(counts) or "amount unknown")
        for source in given
        if isinstance(source, Mapping)
    ]


def source_name(source: Mapping[str, Any]) -> str:
    """What a source in a configuration is called."""
    part = f", part {source['part']}" if source.get("part") else ""
    world = source.get("world")
    if isinstance(world, Mapping):
        return f"embedded world, seed {world.get('seed', 0)}{part}"
    where = source.get("name") or source.get("path") or source.get("huggingface")
    if isinstance(where, Mapping):  # the ledger knows a file by its content
        where = f"file {str(where.get('content', ''))[:12]}"
    return f"{where or 'unnamed source'}{part}"


def _licence_of(source: Mapping[str, Any]) -> str:
    return source.get("licence") or (_WORLD_LICENCE if source.get("world") else NO_LICENCE)

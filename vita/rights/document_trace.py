"""The trace of a document through all corpora and models, and its erasure with the artifacts to rebuild.

trace = trace_document("wiki/Cat", store, ledger)
trace.holders, trace.weights      # each with the use of the document: trained on, held out, dropped as a copy of ...
erase(trace, ledger, who="Ada", reason="request of the author")    # later runs exclude it and its copies
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vita.data.feedback import read_feedback
from vita.data.tokens.mixture import MixturePhase
from vita.data.tokens.mixture_loader import make_loader
from vita.data.tokens.shards import DocumentSpan, Shards
from vita.gates.services import all_states
from vita.rights import source_search
from vita.rights.dialogue_use import dialogue_use
from vita.rights.document_fates import DocumentMatch, Use, copies, document_matches
from vita.spine.config import build
from vita.spine.erasures import add_erasure
from vita.spine.errors import DataError, StoreError, VitaError
from vita.spine.ledger import Ledger, Run
from vita.spine.renamed_settings import recorded_value
from vita.spine.store import Store

_WEIGHTS = ("model", "reward", "release", "archive")
_STRONGEST: tuple[str, ...] = ("trained on", "not reached", "held out", "not used")


@dataclass(frozen=True)
class AffectedArtifact:
    """An artifact that contains the document, or was built from one that does."""

    digest: str
    kind: str
    names: tuple[str, ...]
    state: str
    through: str
    """`holds it`, or the nearest artifact from which it came."""
    use: str = "trained on"
    """`trained on`, `held out` (evaluated on alone), `not reached` (training ended before it) or `not used`."""
    explanation: str = ""
    """The use of the document, as a message."""
    source: str = ""
    """The source whose document it is."""

    def as_json(self) -> dict[str, Any]:
        return {"digest": self.digest, "kind": self.kind, "names": list(self.names), "state": self.state,
                "through": self.through, "use": self.use, "told": self.explanation, "source": self.source}  # fmt: skip


@dataclass(frozen=True)
class DocumentTrace:
    """The trace of a document."""

    document: str
    holders: tuple[AffectedArtifact, ...]
    weights: tuple[AffectedArtifact, ...] = field(default_factory=tuple)
    """Models, releases and archives that were built from it."""
    unread: tuple[str, ...] = ()
    """Sources of runs that cannot be searched any more, each with the reason."""
    source: str | None = None
    """The requested source, if any."""
    contents: dict[str, frozenset[str]] = field(default_factory=dict)
    """Source -> hashes of the contents with this id."""
    siblings: bool = False
    """Other texts of a source have the same id."""
    unaffected: tuple[str, ...] = ()
    """Keys of runs that were searched and do not contain it."""

    @property
    def to_retire(self) -> list[AffectedArtifact]:
        """Return weights that were trained on the document and are in use."""
        return [holder for holder in self.weights if holder.state != "retired" and holder.use == "trained on"]

    @property
    def to_rebuild(self) -> list[AffectedArtifact]:
        """Return artifacts that contain the document, and weights trained on it; the next run rebuilds them."""
        holding = [holder for holder in self.holders if holder.digest and holder.use != "not used"]
        return [
            *holding,
            *(holder for holder in self.weights if holder.use == "trained on" and holder.kind in ("model", "reward")),
        ]


def trace_document(document: str, store: Store, ledger: Ledger, *, source: str | None = None) -> DocumentTrace:
    """Search every corpus, token set and feedback of the store, and follow the artifacts that were built from them.

    `source` restricts the search to documents of that source, if several sources have documents with this id. Sources
    in the settings of a stage are in no artifact: they are searched at their present paths.
    """
    return _Search(document, source, store, ledger).run()


def erase(trace: DocumentTrace, ledger: Ledger, *, who: str, reason: str = "") -> int:
    """Record the erasure in the ledger, so that every later run excludes the document and its copies."""
    if len(trace.contents) > 1 and len(set(trace.contents.values())) > 1:
        names = ", ".join(sorted(trace.contents))
        raise DataError(
            f"erase {trace.document}", f"documents of {len(trace.contents)} sources have this id: {names}",
            hint="say which one with --source NAME",
        )  # fmt: skip
    contents = {content for hashes in trace.contents.values() for content in hashes}
    number = add_erasure(
        ledger, document=trace.document, source=trace.source, contents=contents, by_id=not trace.siblings, who=who,
        reason=reason, unaffected=trace.unaffected,
    )  # fmt: skip
    retire, rebuild = (
        [holder.digest for holder in holders_group] for holders_group in (trace.to_retire, trace.to_rebuild)
    )
    holders = [holder.digest for holder in trace.holders]
    ledger.log(
        "erasure asked", trace.document, who=who, erasure=number, holders=holders, retire=retire, rebuild=rebuild
    )
    return number


class _Search:
    """One search: corpora first, then token sets by the ids found there, feedback, sources of runs, and weights."""

    def __init__(self, document: str, source: str | None, store: Store, ledger: Ledger) -> None:
        self._document, self._source, self._store, self._ledger = document, source, store, ledger
        self._names: dict[str, list[str]] = {}
        for name, digest in ledger.all_names().items():
            self._names.setdefault(digest, []).append(name)
        self._states = all_states(ledger)
        self._holders: list[AffectedArtifact] = []
        self._weights: dict[str, AffectedArtifact] = {}
        self._contents: dict[str, set[str]] = {}
        self._siblings = False

    def run(self) -> DocumentTrace:
        kinds = self._artifacts()
        corpora = kinds.get("corpus", [])
        of_corpus = {
            digest: document_matches(self._store.open(digest).path, self._document, source=self._source)
            for digest in corpora
        }
        for fate in (fate for corpus_fates in of_corpus.values() for fate in corpus_fates):
            self._siblings = self._siblings or fate.sibling
            if fate.content and not fate.sibling:
                self._contents.setdefault(fate.source, set()).add(fate.content)
        search = source_search.search_sources(self._document, self._ledger, source=self._source)
        for hit in search.hits:
            self._contents.setdefault(hit.source, set()).add(hit.content)
        every = frozenset(content for hashes in self._contents.values() for content in hashes)
        if every:
            for digest in corpora:
                have = {fate.content for fate in of_corpus[digest]}
                of_corpus[digest] += [
                    fate for fate in copies(self._store.open(digest).path, set(every)) if fate.content not in have
                ]
            search = source_search.search_sources(self._document, self._ledger, source=self._source, contents=every)
        for digest, corpus_fates in of_corpus.items():
            self._follow_corpus(digest, corpus_fates)
        for kind in ("feedback", "preferences"):
            self._follow_records(kinds.get(kind, ()), _RECORDS[kind])
        self._follow_sources(search)
        affected = {_base_key(run) for digest in corpora if of_corpus[digest] for run in self._made(digest)}
        clear = [run for digest in corpora if not of_corpus[digest] for run in self._made(digest)]
        unaffected = {_base_key(run) for run in (*clear, *search.clear)} - affected
        return DocumentTrace(
            self._document, tuple(self._holders), tuple(self._weights.values()), tuple(search.unread), self._source,
            {source: frozenset(hashes) for source, hashes in self._contents.items()}, self._siblings,
            tuple(sorted(unaffected)),
        )  # fmt: skip

    def _made(self, digest: str) -> list[Run]:
        return self._ledger.find(artifact=digest, state="done")

    def _artifacts(self) -> dict[str, list[str]]:
        kinds: dict[str, list[str]] = {}
        for digest in self._store.digests():
            if self._store.has(digest):
                kinds.setdefault(self._store.manifest(digest).kind, []).append(digest)
        return kinds

    def _holder(self, digest: str, through: str, use: str, detail: str, source: str = "") -> AffectedArtifact:
        kind, names = self._store.manifest(digest).kind, tuple(sorted(self._names.get(digest, ())))
        state = self._states.get(digest, "candidate")
        return AffectedArtifact(digest, kind, names, state, through, use, detail, source)

    def _follow_corpus(self, corpus: str, corpus_fates: list[DocumentMatch]) -> None:
        for fate in corpus_fates:
            self._holders.append(self._holder(corpus, "holds it", fate.use, fate.explanation, fate.source))
        uses = {fate.use for fate in corpus_fates} - {"not used"}
        if not uses:
            return
        use: Use = "trained on" if "trained on" in uses else "held out"
        ids = {(fate.source, fate.id) for fate in corpus_fates if fate.use == use}
        self._follow(corpus, use, f"corpus {corpus[:12]}", ids)

    def _follow_records(self, digests: Iterable[str], ids: Any) -> None:
        for digest in digests:
            if any(id == self._document for id in ids(self._store.open(digest).path)):
                self._holders.append(self._holder(digest, "holds it", "trained on", "holds it"))
                self._follow(digest, "trained on", f"{self._store.manifest(digest).kind} {digest[:12]}", set())

    def _follow_sources(self, search: source_search.SourceSearchResult) -> None:
        for label in dict.fromkeys(hit.label for hit in search.hits):
            only_copies = all(hit.copy for hit in search.hits if hit.label == label)
            detail = "holds a copy of it" if only_copies else "holds it"
            self._holders.append(AffectedArtifact("", "source", (label,), "", "holds it", "trained on", detail))
        for hit in search.hits:
            use, detail = "held out" if hit.held_out else "trained on", ""
            if hit.dialogue and hit.run.stage == "sft":
                exact = dialogue_use(
                    hit.run, hit.dialogue, repeat=hit.repeat, store=self._store, ledger=self._ledger
                )  # fmt: skip
                use, detail = exact or (use, detail)
            through = f"{hit.run.life}/{hit.run.step}, which read {hit.label}"
            if hit.run.artifact:
                self._add_weights(hit.run.artifact, use, through, detail=detail)
                self._follow(hit.run.artifact, use, through, set(), detail=detail)

    def _follow(self, begin: str, use: str, through: str, ids: set[tuple[str, str]], *, detail: str = "") -> None:
        """Follow the artifacts that were built from an artifact; a training run may have ended before the document."""
        queue, visited = [(begin, use)], {begin}
        for digest, reached in queue:
            for run in self._ledger.users(digest):
                if not run.artifact or run.artifact in visited or not self._store.has(run.artifact):
                    continue
                visited.add(run.artifact)
                now = reached
                if ids and run.stage == "pretrain" and reached == "trained on":
                    now = "trained on" if self._is_reached(run, ids) else "not reached"
                if self._store.manifest(run.artifact).kind == "tokens" and ids:
                    tokenized = "tokenized" if reached == "trained on" else "tokenized as held-out text"
                    self._holders.append(self._holder(run.artifact, "holds it", reached, tokenized))
                self._add_weights(run.artifact, now, through, detail=detail if now == use else "")
                queue.append((run.artifact, now))

    def _add_weights(self, digest: str, use: str, through: str, *, detail: str = "") -> None:
        if not self._store.has(digest) or self._store.manifest(digest).kind not in _WEIGHTS:
            return
        known = self._weights.get(digest)
        if known is None or _STRONGEST.index(use) < _STRONGEST.index(known.use):
            self._weights[digest] = self._holder(digest, through, use, detail or _TOLD[use])

    def _is_reached(self, run: Run, ids: set[tuple[str, str]]) -> bool:
        """Return True if pretraining used one of the documents before it ended, or if that is unknown."""
        try:
            inputs = self._ledger.inputs(run.id)
            shards = Shards.open(self._store.open(inputs["tokens"]).path / "train")
            plan = json.loads(self._store.read(inputs["blueprint"], "blueprint.json"))["training"]
            steps = int(self._store.manifest(run.artifact or "").facts["steps"])
            rows = int(recorded_value(run.config, "batch_size") or plan["rows"])
            planned = int(recorded_value(run.config, "steps") or plan["schedule"]["steps"])
            mixture = [build(MixturePhase, phase, where="mixture") for phase in run.config.get("mixture", ())]
            loader = make_loader(
                shards, mixture, context=int(plan["context"]), rows=rows, steps=planned, seed=int(run.config["seed"])
            )
        except (VitaError, KeyError, ValueError, TypeError):
            return True
        spans = [span for span in _spans(shards) if (span.source, span.id) in ids]
        return loader.serves(spans, steps=steps)


def _base_key(run: Run) -> str:
    """Return the key of the run without erasures."""
    return str((run.record or {}).get("base_key", run.key))


_TOLD = {
    "trained on": "trained on it",
    "held out": "evaluated on it, not trained on it",
    "not reached": "not trained on it: no step read it",
    "not used": "did not use it",
}


def _spans(shards: Shards) -> Iterator[DocumentSpan]:
    yield from shards.documents_between(0, shards.tokens) if shards.tokens else ()


def _of_feedback(folder: Path) -> Iterator[str]:
    for record in read_feedback(folder):
        yield record.id
        yield record.request


def _of_preferences(folder: Path) -> Iterator[str]:
    path = folder / "preferences.jsonl"
    if not path.is_file():
        raise StoreError(str(folder), "holds no preferences.jsonl")
    for line in path.read_text(encoding="utf-8").split("\n"):
        if not line:
            continue
        row = json.loads(line)
        yield row["id"]
        yield from (row.get("metadata") or {}).get("requests", ())


_RECORDS = {"feedback": _of_feedback, "preferences": _of_preferences}

"""The search behind a trace: corpora, token sets, feedback, the sources of runs, and the weights made from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from vita.data.tokens.shards import DocumentSpan, Shards
from vita.gates.services import all_states
from vita.rights.dialogue_use import dialogue_use
from vita.rights.document_fates import DocumentMatch, Use, copies, document_matches, dropped_names, group_matches
from vita.rights.document_trace import TOKENIZER_ONLY, AffectedArtifact, DocumentTrace
from vita.rights.excluded_documents import contents_by_source, excluded_with
from vita.rights.input_use import WEIGHTS, Fits, InputUses
from vita.rights.opinion_records import RECORDS, IdentifiedRecord
from vita.rights.query import RightsQuery
from vita.rights.rewrite_matches import rewrite_groups, rewrite_ids, rewrite_matches
from vita.rights.source_search import SourceHit, SourceSearchResult, search_sources
from vita.rights.step_use import StepUse
from vita.rights.text_rows import spans_of
from vita.spine.ledger import Ledger, Run
from vita.spine.plain_text import counted
from vita.spine.stage import Stage
from vita.spine.store import Store

_IMPORT = "import_tokens"
"""The stage whose documents are in no corpus."""
_STRONGEST: tuple[str, ...] = ("trained on", "not reached", TOKENIZER_ONLY, "held out", "not used")


def trace_records(
    query: RightsQuery, store: Store, ledger: Ledger, *, find_stage: Callable[[str], Stage] | None = None
) -> DocumentTrace:
    """Search every corpus, token set and feedback of the store, and follow the artifacts that were built from them.

    Sources in the settings of a stage are in no artifact: they are searched at their present paths. With `find_stage`,
    which returns the declaration of a stage by its name, the steps of training runs are searched as well.
    """
    return _Search(query, store, ledger, InputUses(store, ledger, find_stage=find_stage)).run()


class _Search:
    """One search: corpora first, then token sets by the ids found there, feedback, sources of runs, and weights."""

    def __init__(self, query: RightsQuery, store: Store, ledger: Ledger, uses: InputUses) -> None:
        self._query, self._store, self._ledger, self._uses = query, store, ledger, uses
        self._names: dict[str, list[str]] = {}
        for name, digest in ledger.all_names().items():
            self._names.setdefault(digest, []).append(name)
        self._states = all_states(ledger)
        self._holders: list[AffectedArtifact] = []
        self._weights: dict[str, AffectedArtifact] = {}
        self._contents: dict[str, set[str]] = {}
        self._near_contents: set[str] = set()
        self._siblings = False
        self._affected: set[str] = set()
        """Keys of runs whose inputs contain the document."""
        self._imported: list[str] = []
        """Token sets that were not made from a corpus."""

    def run(self) -> DocumentTrace:
        kinds = self._artifacts()
        corpora = kinds.get("corpus", [])
        of_corpus = {digest: self._matches(self._store.open(digest).path) for digest in corpora}
        for fate in (fate for corpus_fates in of_corpus.values() for fate in corpus_fates):
            self._siblings = self._siblings or fate.sibling
            if fate.content and not fate.sibling:
                self._contents.setdefault(fate.source, set()).add(fate.content)
            if fate.near_content:
                self._near_contents.add(fate.near_content)
        search = search_sources(self._query, self._ledger)
        if self._query.document is not None:
            for hit in search.hits:
                self._contents.setdefault(hit.source, set()).add(hit.content)
            search = self._search_copies(of_corpus, search)
            self._add_rewrites(self._query.document, of_corpus)
        for digest, corpus_fates in of_corpus.items():
            self._follow_corpus(digest, corpus_fates)
        for kind in ("feedback", "preferences") if self._query.document is not None else ("preferences",):
            self._follow_records(kinds.get(kind, ()), RECORDS[kind])
        clear_imports = self._follow_imported(kinds.get("tokens", []))
        self._follow_sources(search)
        affected = self._affected | {
            _base_key(run) for digest in corpora if of_corpus[digest] for run in self._made(digest)
        }
        clear = [run for digest in corpora if not of_corpus[digest] for run in self._made(digest)]
        clear += clear_imports
        unaffected = {_base_key(run) for run in (*clear, *search.clear)} - affected
        facts = [self._store.manifest(digest).facts for digest in (*corpora, *self._imported)]
        dropped = [dropped_names(self._store.open(digest).path) for digest in corpora]
        sources = {name for values in facts for name in values.get("sources", ())}
        licences = {name for values in facts for name in values.get("licences", ())}
        matches = [fate for corpus_fates in of_corpus.values() for fate in corpus_fates]
        document = self._query.document
        return DocumentTrace(
            self._query, tuple(self._holders), tuple(self._weights.values()), tuple(search.unread),
            {source: frozenset(hashes) for source, hashes in self._contents.items()}, frozenset(self._near_contents),
            self._siblings, tuple(sorted(unaffected)),
            frozenset(sources.union(search.sources, *(names for names, _ in dropped))),
            frozenset(licences.union(search.licences, *(names for _, names in dropped))),
            {} if document is None else contents_by_source(document, matches, search.hits),
            () if document is None else excluded_with(document, matches, search.hits, self._near_contents),
        )  # fmt: skip

    def _matches(self, folder: Path) -> list[DocumentMatch]:
        if self._query.document is None:
            return group_matches(folder, self._query) + rewrite_groups(folder, self._query)
        return document_matches(folder, self._query.document, source=self._query.source)

    def _search_copies(
        self, of_corpus: dict[str, list[DocumentMatch]], search: SourceSearchResult
    ) -> SourceSearchResult:
        """Add the documents with equal contents to the matches; return a search that finds them in sources."""
        every = {content for hashes in self._contents.values() for content in hashes} | self._near_contents
        if not every:
            return search
        for digest, matches in of_corpus.items():
            known_contents = {fate.content for fate in matches}
            matches += [
                fate for fate in copies(self._store.open(digest).path, every) if fate.content not in known_contents
            ]
        return search_sources(self._query, self._ledger, contents=frozenset(every))

    def _add_rewrites(self, document: str, of_corpus: dict[str, list[DocumentMatch]]) -> None:
        """Add the rewrites that were made from the document or from a copy of it."""
        contents = {content for hashes in self._contents.values() for content in hashes}
        for digest, matches in of_corpus.items():
            path = self._store.open(digest).path
            matches += rewrite_matches(path, document, source=self._query.source, contents=contents)

    def _made(self, digest: str) -> list[Run]:
        return self._ledger.find(artifact=digest, state="done")

    def _artifacts(self) -> dict[str, list[str]]:
        kinds: dict[str, list[str]] = {}
        for digest in self._store.digests():
            if self._store.has(digest):
                kinds.setdefault(self._store.manifest(digest).kind, []).append(digest)
        return kinds

    def _holder(
        self, digest: str, through: str, use: str, detail: str, match: DocumentMatch | None = None
    ) -> AffectedArtifact:
        kind, names = self._store.manifest(digest).kind, tuple(sorted(self._names.get(digest, ())))
        state = self._states.get(digest, "candidate")
        artifact = AffectedArtifact(digest, kind, names, state, through, use, detail)
        if match is None:
            return artifact
        about = {"source": match.source, "documents": match.documents, "files": match.files}
        return AffectedArtifact(digest, kind, names, state, through, use, detail, **about)

    def _follow_corpus(self, corpus: str, corpus_fates: list[DocumentMatch]) -> None:
        for fate in corpus_fates:
            self._holders.append(self._holder(corpus, "holds it", fate.use, fate.explanation, fate))
        uses = {fate.use for fate in corpus_fates} - {"not used"}
        if not uses:
            return
        use: Use = "trained on" if "trained on" in uses else "held out"
        ids = {(fate.source, fate.id) for fate in corpus_fates if fate.use == use}
        is_group = self._query.document is None
        if is_group:
            ids = rewrite_ids(self._store.open(corpus).path, self._query)

        def fits(span: DocumentSpan) -> bool:
            is_included = is_group and self._query.includes(span.source, span.licence)
            return is_included or (span.source, span.id) in ids

        self._follow(corpus, use, f"corpus {corpus[:12]}", fits)

    def _follow_imported(self, token_sets: Iterable[str]) -> list[Run]:
        """Follow the token sets that were imported and contain the document; return the other imports."""
        others: list[Run] = []
        for digest in token_sets:
            runs = [run for run in self._made(digest) if run.stage == _IMPORT]
            if not runs:
                continue
            self._imported.append(digest)
            match = self._tokenized(digest, self._is_requested_span)
            if match is None:
                others += runs
                continue
            is_trained = any(file.startswith("train/") for file in match.files)
            use, detail = ("trained on", "in the training tokens") if is_trained else ("held out", "held out")
            self._holders.append(self._holder(digest, "holds it", use, detail, match))
            self._affected |= {_base_key(run) for run in runs}
            self._follow(digest, use, f"tokens {digest[:12]}", self._is_requested_span)
        return others

    def _is_requested_span(self, span: DocumentSpan) -> bool:
        return self._query.document in (None, span.id) and self._query.includes(span.source, span.licence)

    def _follow_records(self, digests: Iterable[str], read: Callable[[Path], Iterator[IdentifiedRecord]]) -> None:
        for digest in digests:
            requested = [record for record in read(self._store.open(digest).path) if self._is_requested(record)]
            if requested:
                self._holders.append(self._holder(digest, "holds it", "trained on", "holds it"))
                self._affected |= {_base_key(run) for run in self._ledger.users(digest)}
                records = frozenset((record.source, id) for record in requested for id in record.ids)
                through = f"{self._store.manifest(digest).kind} {digest[:12]}"
                self._follow(digest, "trained on", through, None, records=records)

    def _is_requested(self, record: IdentifiedRecord) -> bool:
        if self._query.document is not None:
            return self._query.document in record.ids
        return self._query.includes(record.source, record.licence)

    def _follow_sources(self, search: SourceSearchResult) -> None:
        for label in dict.fromkeys(hit.label for hit in search.hits):
            hits = [hit for hit in search.hits if hit.label == label]
            detail = "holds a copy of it" if all(hit.copy for hit in hits) else "holds it"
            count = len({(hit.source, hit.ids) for hit in hits})
            if self._query.document is None:
                detail = f"holds {counted(count, 'record')}"
            self._holders.append(
                AffectedArtifact("", "source", (label,), "", "holds it", "trained on", detail, documents=count)
            )
        for hit in self._distinct_hits(search):
            use, detail = "held out" if hit.held_out else "trained on", ""
            if hit.dialogue and hit.run.stage == "sft" and self._query.document is not None:
                exact = dialogue_use(
                    hit.run, hit.dialogue, repeat=hit.repeat, store=self._store, ledger=self._ledger
                )  # fmt: skip
                use, detail = exact or (use, detail)
            if use == "trained on" and hit.run.artifact:
                use, detail = _combined(self._uses.steps.use(hit.run, _records_of(hit, search)), detail)
            through = f"{hit.run.life}/{hit.run.step}, which read {hit.label}"
            if hit.run.artifact:
                self._add_weights(hit.run.artifact, use, through, detail=detail)
                self._follow(hit.run.artifact, use, through, None, detail=detail)

    def _distinct_hits(self, search: SourceSearchResult) -> Iterable[SourceHit]:
        """Return the hits to follow: all of a document, and for a group the strongest of each run and source."""
        if self._query.document is not None:
            return search.hits
        ordered = sorted(search.hits, key=lambda hit: not hit.held_out)
        return {(hit.run.id, hit.label): hit for hit in ordered}.values()

    def _follow(
        self, begin: str, use: str, through: str, fits: Fits | None, *, detail: str = "",
        records: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:  # fmt: skip
        """Follow the artifacts that were built from an artifact; a training run may have ended before the document.

        `records` are those of the document in the artifact, if training stages read them from it.
        """
        queue, strongest = [(begin, use)], {begin: use}
        for digest, reached in queue:
            for run in self._ledger.users(digest):
                if not run.artifact or not self._store.has(run.artifact):
                    continue
                of_begin = records if digest == begin else ()
                now, explanation = self._uses.by(run, digest, reached, fits=fits, records=of_begin)
                known = strongest.get(run.artifact)
                if known is not None and _STRONGEST.index(now) >= _STRONGEST.index(known):
                    continue
                strongest[run.artifact] = now
                if self._store.manifest(run.artifact).kind == "tokens" and fits and known is None:
                    tokenized = "tokenized" if reached == "trained on" else "tokenized as held-out text"
                    match = self._tokenized(run.artifact, fits)
                    self._holders.append(self._holder(run.artifact, "holds it", reached, tokenized, match))
                explanation = explanation or (detail if now == use else "")
                self._add_weights(run.artifact, now, through, detail=explanation)
                queue.append((run.artifact, now))

    def _tokenized(self, digest: str, fits: Fits) -> DocumentMatch | None:
        """Return the number of documents in a token set, and the files with their tokens."""
        folder, files, ids = self._store.open(digest).path, list[str](), set[tuple[str, str]]()
        for part in ("train", "heldout"):
            if (folder / part / "index.json").is_file():
                shards = Shards.open(folder / part)
                spans = spans_of(shards, fits)
                ids |= {(span.source, span.id) for span in spans}
                files += [f"{part}/{name}" for name in shards.files_of(spans)]
        sources = {source for source, _ in ids}
        name = next(iter(sources)) if len(sources) == 1 else ""
        return DocumentMatch(name, "", "trained on", "", documents=len(ids), files=tuple(files)) if ids else None

    def _add_weights(self, digest: str, use: str, through: str, *, detail: str = "") -> None:
        if not self._store.has(digest) or self._store.manifest(digest).kind not in WEIGHTS:
            return
        known = self._weights.get(digest)
        if known is None or _STRONGEST.index(use) < _STRONGEST.index(known.use):
            self._weights[digest] = self._holder(digest, through, use, detail or _EXPLANATIONS[use])


def _records_of(hit: SourceHit, search: SourceSearchResult) -> frozenset[tuple[str, str]]:
    """Return (source, id) of the records that the run of a hit read and did not hold out."""
    hits = [other for other in search.hits if other.run.id == hit.run.id and not other.held_out]
    return frozenset((other.source, id) for other in hits for id in other.ids)


def _combined(steps: StepUse | None, detail: str) -> tuple[str, str]:
    """Return the use and its explanation from the steps of a run and from the part of a dialogue that it used."""
    if steps is None:
        return "trained on", detail
    if not detail or steps.use != "trained on":
        return steps.use, steps.explanation
    return steps.use, f"{detail}; {steps.explanation.replace('trained on it in', 'read in')}"


def _base_key(run: Run) -> str:
    """Return the key of the run without erasures."""
    return str((run.record or {}).get("base_key", run.key))


_EXPLANATIONS = {
    "trained on": "trained on it",
    "held out": "evaluated on it, not trained on it",
    "not reached": "not trained on it: no step read it",
    TOKENIZER_ONLY: "not trained on it: only the tokenizer was",
    "not used": "did not use it",
}

"""Search in the sources that stages read directly, from `sources` in their settings, and that are in no artifact.

    result = search_sources(RightsQuery(document="chats.jsonl:3"), ledger)
    result.hits        # runs with the source that contains the document, and True if the run held it out
    result.unread      # sources that cannot be searched any more, each with the reason

Runs record the digests of their files, and the event log records the paths. A file that has changed is searched too: a
match counts, and without a match the source is unread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vita.data.hash_sampling import hash_fraction, messages_text
from vita.data.records import Dialogue
from vita.data.sources.erased import content_hash
from vita.data.sources.prompts import prompts
from vita.data.sources.read import Source, dialogues, documents, labelled_texts, preferences_and_ratings, text_pairs
from vita.rights.query import RightsQuery
from vita.rights.recorded_settings import location_of, masked_address_note
from vita.spine.config import build
from vita.spine.contents import content_digest
from vita.spine.erasures import NOT_STATED, Erasure, all_erasures, source_key
from vita.spine.errors import VitaError
from vita.spine.ledger import Ledger, Run
from vita.spine.renamed_settings import recorded_value
from vita.spine.store import canonical_json
from vita.spine.url_secrets import mask_reference_secrets


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """A record as a stage reads it: its ids, its source, a hash of its content, and the text of its held-out hash."""

    ids: tuple[str, ...]
    source: str
    content: str
    lot: str
    licence: str | None = None
    dialogue: Dialogue | None = None
    """The dialogue, for stages whose chat template and length determine which part is used."""


@dataclass(frozen=True, slots=True)
class SourceHit:
    """A run that read the document from a source in its settings."""

    run: Run
    label: str
    """The name of the source."""
    source: str
    """The source named by the record."""
    content: str
    ids: tuple[str, ...]
    held_out: bool
    """The run held the record out for evaluation."""
    copy: bool
    """The record has another id and the requested content."""
    dialogue: Dialogue | None = None
    repeat: float = 1.0
    """The number of repetitions of the source per epoch."""


Records = Callable[[Source], Iterator[SourceRecord]]


@dataclass
class SourceSearchResult:
    """The result of a search."""

    hits: list[SourceHit] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    clear: list[Run] = field(default_factory=list)
    """Runs whose sources were all searched and do not contain the document."""
    sources: set[str] = field(default_factory=set)
    """The sources of all records that were searched."""
    licences: set[str] = field(default_factory=set)
    """The licences of all records that were searched."""


def search_sources(query: RightsQuery, ledger: Ledger, *, contents: frozenset[str] = frozenset()) -> SourceSearchResult:
    """Search the sources of every finished run; a source of several runs is read once.

    A record matches by the query or by one of the `contents`.
    """
    result, known = SourceSearchResult(), {}
    erasures = {erasure.id: erasure for erasure in all_erasures(ledger)}
    for run in ledger.find(state="done"):
        if (read := _READ_BY.get(run.stage)) is None:
            continue
        clear = True
        for settings in run.config.get("sources") or ():
            same = (run.stage, canonical_json(settings))
            if same not in known:
                known[same] = _search(settings, _RecordFilter(query, contents, result), read, run, ledger)
            label, records, problem = known[same]
            clear = clear and not records and not problem
            honoured = [erasures[id] for id in (run.record or {}).get("erasures", ()) if id in erasures]
            present = [record for record in records if not any(_covers(erasure, record) for erasure in honoured)]
            repeat = settings.get("repeat", 1.0)
            result.hits += [_hit(run, label, record, query, repeat=float(repeat)) for record in present]
            if problem and not records:
                result.unread.append(f"{run.life}/{run.step} read {label}: {problem}")
        if clear:
            result.clear.append(run)
    result.unread = list(dict.fromkeys(result.unread))
    return result


@dataclass(frozen=True, slots=True)
class _RecordFilter:
    query: RightsQuery
    contents: frozenset[str]
    result: SourceSearchResult

    def fits(self, record: SourceRecord) -> bool:
        self.result.sources.add(source_key(record.source))
        self.result.licences.add(mask_reference_secrets(record.licence or NOT_STATED))
        is_included = self.query.includes(record.source, record.licence)
        is_requested = is_included and self.query.document in (None, *record.ids)
        return is_requested or record.content in self.contents


def _covers(erasure: Erasure, record: SourceRecord) -> bool:
    """Return True if a run with this erasure excluded the record."""
    return erasure.covers(record.ids, source=record.source, licence=record.licence, content=record.content)


def _hit(run: Run, label: str, record: SourceRecord, query: RightsQuery, *, repeat: float) -> SourceHit:
    share, seed = recorded_value(run.config, "eval_fraction") or 0, run.config.get("seed", 0)
    held_out = isinstance(share, float) and bool(record.lot) and hash_fraction(record.lot, f"{seed}/held out") < share
    is_copy = query.document not in (None, *record.ids)
    return SourceHit(
        run, label, source_key(record.source), record.content, record.ids, held_out, is_copy, record.dialogue, repeat
    )


def _search(
    settings: Mapping[str, Any], query: _RecordFilter, read: Records, run: Run, ledger: Ledger
) -> tuple[str, list[SourceRecord], str | None]:
    """Return the name of the source, the matching records, and the problem that prevented a complete search."""
    label = str(settings.get("name") or settings.get("huggingface") or "the built-in world")
    try:
        path = settings.get("path")
        content = str(path["content"]) if isinstance(path, Mapping) else None
        alone = path if isinstance(path, str) else None
        location = location_of(content, run, ledger) if content else alone
        label = location or label
        if settings.get("huggingface"):
            return label, [], "a data set of the hub is not looked through"
        if content and location is None:
            return f"the content {content[:12]}", [], "its path was not recorded"
        values = {**settings, "path": location, "on_bad_row": "drop", "repeat": 1.0}
        source = build(Source, values, where=f"{run.life}/{run.step}.sources")
        records = [record for record in read(source) if query.fits(record)]
        if query.query.document is None:
            records = [replace(record, dialogue=None) for record in records]  # only their number matters
        if records:
            return label, records, None
        if content and location and content_digest(location, ledger, where=run.step) != content:
            return label, [], f"it has changed since{masked_address_note(location)}"
    except (VitaError, OSError) as error:
        return label, [], error.problem or str(error) if isinstance(error, VitaError) else str(error)
    return label, [], None


def _of_documents(source: Source) -> Iterator[SourceRecord]:
    for record in documents(source, dropped=_ignore):
        yield SourceRecord((record.id,), record.source, content_hash(record), record.text, record.licence)


def _of_dialogues(source: Source) -> Iterator[SourceRecord]:
    for record in dialogues(source, dropped=_ignore):
        lot = messages_text(record.messages)
        yield SourceRecord((record.id,), record.source, content_hash(record), lot, record.licence, record)


def _of_opinions(source: Source) -> Iterator[SourceRecord]:
    for record in preferences_and_ratings(source, dropped=_ignore):
        row, _, which = record.id.rpartition("/")  # several of one row are numbered: `id/1`
        ids = (record.id, *([row] if which.isdigit() else ()), *map(str, record.metadata.get("requests", ())))
        lot = messages_text(record.prompt)
        yield SourceRecord(ids, record.source, content_hash(record), lot, record.licence)


def _of_prompts(source: Source) -> Iterator[SourceRecord]:
    for prompt in prompts(source):
        messages = Dialogue(prompt.id, prompt.messages, prompt.source)
        yield SourceRecord((prompt.id,), prompt.source, content_hash(messages), "", prompt.licence)


def _of_labelled_texts(source: Source) -> Iterator[SourceRecord]:
    for record in labelled_texts(source, dropped=_ignore):
        yield SourceRecord((record.id,), record.source, content_hash(record), "", record.licence)


def _of_text_pairs(source: Source) -> Iterator[SourceRecord]:
    for record in text_pairs(source, dropped=_ignore):
        yield SourceRecord((record.id,), record.source, content_hash(record), "", record.licence)


def _ignore(*_: Any) -> None:
    """Ignore a row that no stage can use."""


_READ_BY: Mapping[str, Records] = {
    "adapt": _of_documents,
    "sft": _of_dialogues,
    "dpo": _of_opinions,
    "reward": _of_opinions,
    "rlhf": _of_prompts,
    "pilot": _of_prompts,
    "classify": _of_labelled_texts,
    "contrastive": _of_text_pairs,
}
"""stage -> function that reads its sources; the records of `curate` are in its corpus."""

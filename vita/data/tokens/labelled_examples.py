"""Labelled texts in tokens, for training and evaluating a classifier.

    examples = read_examples(sources, columns, encoder, held_out=0.1, seed=0)
    examples.scheme.names, len(examples.train), examples.counts.summary()

A share of the texts is held out by the hash of their content, so that equal texts are on the same side. A text longer
than the encoder's length is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from vita.data.hash_sampling import hash_fraction, repeat_count
from vita.data.record_rights import Rights, rights_of
from vita.data.records import DroppedRecord, LabelledText
from vita.data.sources.columns import LabelColumns
from vita.data.sources.read import labelled_texts
from vita.data.sources.source import Source
from vita.data.tokens.label_scheme import LabelScheme, Problem, Target
from vita.data.tokens.row_counts import RecordCounts
from vita.data.tokens.row_documents import RowDocument
from vita.data.tokens.text_encoding import EncodedText, TextEncoder

ENCODED_AT_ONCE = 512


@dataclass(frozen=True)
class LabelledExample:
    """A labelled text in tokens."""

    id: str
    source: str
    texts: tuple[str, ...]
    encoded: EncodedText
    target: Target
    rights: Rights

    def documents(self) -> list[RowDocument]:
        """Return the record of the text, with the tokens of its row."""
        return [RowDocument(self.id, self.source, self.rights, len(self.encoded.ids))]


@dataclass
class ExampleSet:
    """The training and held-out examples, with counts."""

    scheme: LabelScheme
    counts: RecordCounts
    train: list[LabelledExample] = field(default_factory=list)
    heldout: list[LabelledExample] = field(default_factory=list)

    def facts(self) -> dict[str, int]:
        """Return the counts; repeated examples count each time in `texts`."""
        return {"texts": len(self.train), **self.counts.facts()}


@dataclass(frozen=True)
class _Read:
    """A record with the source and the side of the split to which it belongs."""

    record: LabelledText
    source: Source
    held_out: bool


def read_examples(
    sources: Sequence[Source],
    columns: LabelColumns,
    encoder: TextEncoder,
    *,
    heldout_sources: Sequence[Source] = (),
    held_out: float,
    seed: int,
    problem: Problem | Literal["auto"] = "auto",
    names: Sequence[str] = (),
    on_progress: Callable[[int], None] = lambda count: None,
) -> ExampleSet:
    """Read all labelled texts; with `heldout_sources`, these are held out and all texts of `sources` are trained on.

    A text of `sources` that also occurs in `heldout_sources` is dropped, because it would be evaluated on.
    """
    counts = RecordCounts("texts", encoder.length)
    evaluated = list(_read_all(heldout_sources, columns, counts, lambda record: True))
    excluded = {item.record.texts for item in evaluated}
    share = 0.0 if heldout_sources else held_out
    trained = _read_all(sources, columns, counts, lambda record: _fraction(record, seed) < share)
    kept: list[_Read] = []
    for item in trained:
        if item.record.texts in excluded:
            counts.drop("held_out_text")
        else:
            kept.append(item)
    scheme = LabelScheme.of(
        [item.record.label for item in kept if not item.held_out] or [item.record.label for item in kept],
        problem=problem,
        names=names,
    )
    examples = ExampleSet(scheme, counts)
    for item, encoded in _encoded([*kept, *evaluated], encoder, on_progress):
        record = item.record
        target = scheme.target(record.label, where=f"{record.source}: {record.id}")
        example = LabelledExample(record.id, record.source, record.texts, encoded, target, rights_of(record))
        counts.add_metadata(record.metadata, item.source)
        counts.keep(held_out=item.held_out, truncated=encoded.truncated)
        side = examples.heldout if item.held_out else examples.train
        side += [example] * (1 if item.held_out else repeat_count(item.source.repeat, record.id))
    return examples


def _read_all(
    sources: Iterable[Source],
    columns: LabelColumns,
    counts: RecordCounts,
    is_held_out: Callable[[LabelledText], bool],
) -> Iterator[_Read]:
    for source in sources:
        drops: list[DroppedRecord] = []
        for record in labelled_texts(source, columns, dropped=drops.append):
            yield _Read(record, source, is_held_out(record))
        for drop in drops:
            counts.drop_record(drop)


def _encoded(
    items: Sequence[_Read], encoder: TextEncoder, on_progress: Callable[[int], None]
) -> Iterator[tuple[_Read, EncodedText]]:
    remaining, done = iter(items), 0
    while batch := list(islice(remaining, ENCODED_AT_ONCE)):
        yield from zip(batch, encoder.encode([item.record.texts for item in batch]), strict=True)
        done += len(batch)
        on_progress(done)


def _fraction(record: LabelledText, seed: int) -> float:
    return hash_fraction("\0".join(record.texts), f"{seed}/held out")

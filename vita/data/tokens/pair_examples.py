"""Pairs of related texts in tokens, for training and evaluating embeddings.

    pairs = read_pair_examples(sources, PairColumns(), encoder, held_out=0.1, seed=0)
    len(pairs.train), pairs.heldout[0].anchor.ids

A share of the anchors is held out by the hash of their text. Where rows state a similarity, only similar pairs are
learned; all held-out pairs with a similarity are kept to correlate it with that of the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from vita.data.hash_sampling import hash_fraction, repeat_count
from vita.data.record_rights import rights_of
from vita.data.records import DroppedRecord, TextPair
from vita.data.sources.columns import PairColumns
from vita.data.sources.read import text_pairs
from vita.data.sources.source import Source
from vita.data.tokens.row_counts import RecordCounts
from vita.data.tokens.row_documents import RowDocument
from vita.data.tokens.text_encoding import EncodedText, TextEncoder

ENCODED_AT_ONCE = 256
SIMILAR_SHARE = 0.5
"""Share of the largest similarity from which a pair is learned, without the setting `min_score`."""


@dataclass(frozen=True)
class PairExample:
    """A pair in tokens."""

    id: str
    source: str
    pair: TextPair
    anchor: EncodedText
    positive: EncodedText
    negatives: tuple[EncodedText, ...]

    def documents(self) -> list[RowDocument]:
        """Return the record of the pair, with the tokens of its texts and its hard negatives."""
        tokens = sum(len(text.ids) for text in (self.anchor, self.positive, *self.negatives))
        return [RowDocument(self.id, self.source, rights_of(self.pair), tokens)]


@dataclass
class PairExamples:
    """The training and held-out pairs, with counts."""

    counts: RecordCounts
    train: list[PairExample] = field(default_factory=list)
    heldout: list[PairExample] = field(default_factory=list)
    """Held-out pairs that match, for retrieval."""
    scored: list[PairExample] = field(default_factory=list)
    """Held-out pairs with a similarity."""

    def facts(self) -> dict[str, int]:
        """Return the counts; repeated pairs of a source count each time in `pairs`."""
        return {"pairs": len(self.train), "scored_pairs": len(self.scored), **self.counts.facts()}


def read_pair_examples(
    sources: Sequence[Source],
    columns: PairColumns,
    encoder: TextEncoder,
    *,
    heldout_sources: Sequence[Source] = (),
    held_out: float,
    seed: int,
    negatives: int = 1,
    min_score: float | None = None,
    prompt: str = "",
    on_progress: Callable[[int], None] = lambda count: None,
) -> PairExamples:
    """Read all pairs; with `heldout_sources`, these are held out and all anchors of `sources` are trained on.

    At most `negatives` hard negatives of a pair are used.
    """
    counts = RecordCounts("pairs", encoder.length)
    examples = PairExamples(counts)
    evaluated = list(_read(heldout_sources, columns, counts))
    excluded = {pair.anchor for pair, _ in evaluated}
    share = 0.0 if heldout_sources else held_out
    trained = list(_read(sources, columns, counts))
    limit = _limit([pair for pair, _ in (*trained, *evaluated)], min_score)
    rows: list[tuple[TextPair, Source, bool]] = [(pair, source, True) for pair, source in evaluated]
    for pair, source in trained:
        is_held_out = hash_fraction(pair.anchor, f"{seed}/held out") < share
        if pair.anchor in excluded:
            counts.drop("held_out_text")
        elif pair.anchor == pair.positive:
            counts.drop("same_texts")
        else:
            rows.append((pair, source, is_held_out))
    remaining, done = iter(rows), 0
    while batch := list(islice(remaining, ENCODED_AT_ONCE)):
        encoded = _encoded([pair for pair, _, _ in batch], encoder, negatives, prompt)
        for example, (pair, source, is_held_out) in zip(encoded, batch, strict=True):
            matches = pair.score is None or pair.score >= limit
            if is_held_out and pair.score is not None:
                examples.scored.append(example)
            if not matches and not is_held_out:
                counts.drop("not_similar")
                continue
            counts.add_metadata(pair.metadata, source)
            truncated = any(text.truncated for text in (example.anchor, example.positive, *example.negatives))
            counts.keep(held_out=is_held_out, truncated=truncated)
            if matches:
                side = examples.heldout if is_held_out else examples.train
                side += [example] * (1 if is_held_out else repeat_count(source.repeat, pair.id))
        done += len(batch)
        on_progress(done)
    return examples


def _read(sources: Sequence[Source], columns: PairColumns, counts: RecordCounts) -> list[tuple[TextPair, Source]]:
    pairs: list[tuple[TextPair, Source]] = []
    for source in sources:
        drops: list[DroppedRecord] = []
        pairs += [(pair, source) for pair in text_pairs(source, columns, dropped=drops.append)]
        for drop in drops:
            counts.drop_record(drop)
    return pairs


def _limit(pairs: Sequence[TextPair], min_score: float | None) -> float:
    """Return the similarity from which a pair is learned: more than half of the largest, by default."""
    if min_score is not None:
        return min_score
    largest = max((pair.score for pair in pairs if pair.score is not None), default=0.0)
    return SIMILAR_SHARE * largest if largest <= 1 else 0.8 * largest


def _encoded(pairs: Sequence[TextPair], encoder: TextEncoder, negatives: int, prompt: str) -> list[PairExample]:
    texts = [(prompt + text,) for pair in pairs for text in (pair.anchor, pair.positive, *pair.negatives[:negatives])]
    encoded = iter(encoder.encode(texts))
    return [
        PairExample(
            pair.id,
            pair.source,
            pair,
            next(encoded),
            next(encoded),
            tuple(next(encoded) for _ in pair.negatives[:negatives]),
        )
        for pair in pairs
    ]

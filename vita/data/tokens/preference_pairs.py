"""Preference pairs in tokens, and rows for training that always contain both answers of a pair.

    pairs = read_pairs(sources, tokenizer, template, length=512)
    pairs.counts.summary()
    rows = PairDataset(pairs.train, pad=tokenizer.pad, context=512)
    rows.take(rows.order(step, rows=16, seed=0))        # ids and learn: [16, 2, tokens]

Only the tokens of an answer are learned or scored, with its end of turn. Drops are counted by reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from vita.data.hash_sampling import hash_fraction, messages_text, repeat_count
from vita.data.record_rights import Rights, rights_of
from vita.data.records import (
    NO_VARIABLES,
    DroppedRecord,
    Message,
    Preference,
    TemplateVariables,
    UnpairedPreference,
)
from vita.data.sources.read import Source, preferences, ratings
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.dialogue_encoding import EncodedDialogue, encode, encode_prompt
from vita.data.tokens.permutation import step_items
from vita.data.tokens.row_counts import RecordCounts
from vita.data.tokens.row_documents import RowDocument
from vita.data.tokens.tokenizer import Tokenizer
from vita.data.tokens.truncation import OnLong, fit
from vita.data.tokens.tuning_examples import EncodingSettings, refused_by_template
from vita.spine.config import InputPath
from vita.spine.errors import ConfigError, DataError

WIDTHS = 16
"""Rows are as wide as a multiple of this, so that few different shapes occur."""


@dataclass(frozen=True)
class TokenPair:
    """Two answers to one prompt: chosen and rejected, or a rated answer and an answer to another prompt."""

    id: str
    source: str
    prompt: tuple[Message, ...]
    answers: tuple[EncodedDialogue, EncodedDialogue]
    rights: Rights
    margin: float = 0.0
    good: bool = True
    """True if a rated answer was rated good."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the row, which rewards can use."""
    truncated: bool = False
    """True if an answer was truncated."""
    mismatched: RowDocument | None = None
    """The record of the second answer, if it is an answer to another prompt."""

    def documents(self) -> list[RowDocument]:
        """Return the record of the pair, and that of an answer to another prompt, with the tokens of both rows."""
        tokens = sum(len(answer.ids) for answer in self.answers)
        if self.mismatched is None:
            return [RowDocument(self.id, self.source, self.rights, tokens)]
        return [RowDocument(self.id, self.source, self.rights, tokens - self.mismatched.tokens), self.mismatched]

    def swapped(self) -> TokenPair:
        """Return the pair with its answers swapped."""
        return replace(self, answers=(self.answers[1], self.answers[0]))


@dataclass
class PairSet:
    """The training and held-out pairs of the sources, with counts."""

    counts: RecordCounts
    train: list[TokenPair] = field(default_factory=list)
    heldout: list[TokenPair] = field(default_factory=list)

    def facts(self) -> dict[str, int]:
        """Return the counts; repeated pairs of a source count each time in `pairs`."""
        return {"pairs": len(self.train), "heldout_pairs": len(self.heldout), **self.counts.facts()}


def pair_sources(sources: Sequence[Source], preferences_folder: Path | None, *, where: str) -> list[Source]:
    """Return the sources, preceded by the preferences artifact if there is one; raise an error if both are missing."""
    artifact = [Source(path=InputPath(str(preferences_folder)), name="preferences")] if preferences_folder else []
    if not sources and not artifact:
        raise ConfigError(f"{where}.sources", "is required, or the input `preferences`")
    return [*sources, *artifact]


def read_pairs(
    sources: Iterable[Source],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    *,
    length: int,
    on_long: OnLong = "drop",
    held_out: float = 0.0,
    seed: int = 0,
    shuffle_labels: bool = False,
    on_progress: Callable[[int], None] = lambda count: None,
) -> PairSet:
    """Read every pair of the sources; a share of the *prompts* is held out, so that no prompt is in both splits.

    `shuffle_labels` swaps the answers of a random half of the training pairs: a control without a signal to learn.
    """
    counts = RecordCounts("pairs", length)
    pairs = PairSet(counts)
    settings = EncodingSettings(length, on_long)
    for source in sources:
        for pair in examine_pairs([source], tokenizer, template, settings):
            if isinstance(pair, DroppedRecord):
                counts.drop_record(pair)
                continue
            counts.add_metadata(pair.columns, source)
            is_held_out = _is_held_out(pair.prompt, held_out, seed)
            if shuffle_labels and not is_held_out and hash_fraction(pair.id, f"{seed}/label") < 0.5:
                pair = pair.swapped()
            side = pairs.heldout if is_held_out else pairs.train
            side += [pair] * (1 if is_held_out else repeat_count(source.repeat, pair.id))
            counts.keep(held_out=is_held_out, truncated=pair.truncated)
            counts.note_template(pair.answers)
            on_progress(len(pairs.train) + len(pairs.heldout))
    return pairs


def examine_pairs(
    sources: Iterable[Source], tokenizer: Tokenizer, template: ChatTemplate, settings: EncodingSettings
) -> Iterator[TokenPair | DroppedRecord]:
    """Yield all pairs of the sources in order, including dropped ones, for `dpo`, `reward` and `data show`."""
    drops: list[DroppedRecord] = []
    for source in sources:
        for preference in preferences(source, dropped=drops.append):
            yield from drops
            drops.clear()
            try:
                pair = _pair(preference, tokenizer, template, length=settings.length, on_long=settings.on_long)
            except DataError as error:
                yield refused_by_template(error, preference.id, preference.source, source)
                continue
            yield DroppedRecord(preference.id, preference.source, pair) if isinstance(pair, str) else pair
        yield from drops
        drops.clear()


def read_ratings(
    sources: Iterable[Source],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    *,
    length: int,
    on_long: OnLong = "drop",
    held_out: float = 0.0,
    seed: int = 0,
    shuffle_labels: bool = False,
    on_progress: Callable[[int], None] = lambda count: None,
) -> PairSet:
    """Read every rated answer of the sources, each with an answer to another prompt, as KTO requires."""
    counts = RecordCounts("answers", length)
    pairs = PairSet(counts)
    answers_by_split: dict[bool, list[tuple[UnpairedPreference, EncodedAnswer]]] = {False: [], True: []}
    settings = EncodingSettings(length, on_long)
    for source in sources:
        for answer in examine_ratings([source], tokenizer, template, settings):
            if isinstance(answer, DroppedRecord):
                counts.drop_record(answer)
                continue
            rated, halves = answer
            counts.add_metadata(rated.metadata, source)
            is_held_out = _is_held_out(rated.prompt, held_out, seed)
            answers_by_split[is_held_out] += [(rated, halves)] * (
                1 if is_held_out else repeat_count(source.repeat, rated.id)
            )
            counts.keep(held_out=is_held_out, truncated=len(halves.encoded.ids) > length)
            counts.note_template([halves.encoded])
            on_progress(sum(map(len, answers_by_split.values())))
    if any(
        len({rated.prompt for rated, _ in side}) == 1 for side in answers_by_split.values()
    ):  # without another's answer
        answers_by_split = {False: answers_by_split[False] + answers_by_split[True], True: []}
    pairs.train, pairs.heldout = (
        _pair_with_mismatched(answers_by_split[is_held_out], length, seed) for is_held_out in (False, True)
    )
    if shuffle_labels:
        order = sorted(range(len(pairs.train)), key=lambda index: hash_fraction(pairs.train[index].id, f"{seed}/label"))
        goods = [pairs.train[index].good for index in order]
        pairs.train = [replace(pair, good=good) for pair, good in zip(pairs.train, goods, strict=True)]
    return pairs


def examine_ratings(
    sources: Iterable[Source], tokenizer: Tokenizer, template: ChatTemplate, settings: EncodingSettings
) -> Iterator[tuple[UnpairedPreference, EncodedAnswer] | DroppedRecord]:
    """Yield all rated answers of the sources in order, including dropped ones, as `kto` reads them."""
    drops: list[DroppedRecord] = []
    for source in sources:
        for rated in ratings(source, dropped=drops.append):
            yield from drops
            drops.clear()
            try:
                halves = _halves(rated, tokenizer, template)
            except DataError as error:
                yield refused_by_template(error, rated.id, rated.source, source)
                continue
            fitted = fit(halves.encoded, length=settings.length, on_long=settings.on_long)
            yield DroppedRecord(rated.id, rated.source, fitted) if isinstance(fitted, str) else (rated, halves)
        yield from drops
        drops.clear()


class PairBatch(NamedTuple):
    """Both answers of each pair, padded on the right."""

    ids: Int64[np.ndarray, "pairs 2 width"]
    learn: Bool[np.ndarray, "pairs 2 width"]
    """The tokens of the answers."""


class PairDataset:
    """Pairs by their number; every epoch has an order of its own."""

    def __init__(self, pairs: Sequence[TokenPair], *, pad: int, context: int) -> None:
        """No row is wider than `context`, what the model reads at once."""
        self.pairs, self.pad, self.context = list(pairs), pad, context

    def __len__(self) -> int:
        return len(self.pairs)

    @cached_property
    def tokens(self) -> Int64[np.ndarray, "pairs 2"]:
        """Return the number of tokens of each answer."""
        return np.array([[sum(answer.learn) for answer in pair.answers] for pair in self.pairs], dtype=np.int64)

    @cached_property
    def lengths(self) -> Int64[np.ndarray, "pairs"]:
        """Return the number of tokens of the longer answer with its prompt."""
        return np.array([max(len(answer.ids) for answer in pair.answers) for pair in self.pairs], dtype=np.int64)

    def order(self, step: int, *, rows: int, seed: int) -> list[int]:
        """Return the pairs of `step`, over all processes."""
        return step_items(step, rows=rows, size=len(self.pairs), seed=seed)

    def width(self, numbers: Sequence[int]) -> int:
        """Return the width of rows for these pairs."""
        return min(-(-int(self.lengths[list(numbers)].max()) // WIDTHS) * WIDTHS, self.context)

    def take(self, numbers: Sequence[int], *, width: int | None = None) -> PairBatch:
        """Return rows by number, as wide as the longest of them or `width`."""
        shape = (len(numbers), 2, width or self.width(numbers))
        ids, learn = np.full(shape, self.pad, dtype=np.int64), np.zeros(shape, dtype=bool)
        for row, number in enumerate(numbers):
            for at, answer in enumerate(self.pairs[number].answers):
                ids[row, at, : len(answer.ids)] = answer.ids
                learn[row, at, : len(answer.ids)] = answer.learn
        return PairBatch(ids, learn)


# -- answers in tokens


class EncodedAnswer(NamedTuple):
    """An encoded prompt with its answer, and the position where the answer begins."""

    encoded: EncodedDialogue
    start: int


def encode_answer(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    prompt: Sequence[Message],
    answer: Sequence[Message],
    variables: TemplateVariables = NO_VARIABLES,
) -> EncodedDialogue:
    """Encode a dialogue of which only the tokens of the answer are learned, not earlier assistant messages."""
    return _encoded(tokenizer, template, prompt, answer, variables).encoded


def _encoded(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    prompt: Sequence[Message],
    answer: Sequence[Message],
    variables: TemplateVariables,
) -> EncodedAnswer:
    encoded = encode(tokenizer, template, [*prompt, *answer], variables, learn_from=len(prompt))
    prompt_ids = encode_prompt(tokenizer, template, prompt, variables)
    # The common prefix: if the first letters of the answer merge with the last token of the prompt, it begins there.
    pairs = enumerate(zip(prompt_ids, encoded.ids, strict=False))
    start = next((at for at, (a, b) in pairs if a != b), min(len(prompt_ids), len(encoded.ids)))
    return EncodedAnswer(replace(encoded, learn=[False] * start + encoded.learn[start:]), start)


def _halves(rated: UnpairedPreference, tokenizer: Tokenizer, template: ChatTemplate) -> EncodedAnswer:
    return _encoded(tokenizer, template, rated.prompt, rated.answer, rated.variables)


def _pair(
    preference: Preference, tokenizer: Tokenizer, template: ChatTemplate, *, length: int, on_long: OnLong
) -> TokenPair | str:
    """Return the pair in tokens, or the reason for its drop."""
    sides = [
        encode_answer(tokenizer, template, preference.prompt, answer, preference.variables)
        for answer in (preference.chosen, preference.rejected)
    ]
    fitted = [fit(side, length=length, on_long=on_long) for side in sides]
    reason = next((side for side in fitted if isinstance(side, str)), None)
    if reason:
        return reason
    truncated = any(len(side.ids) > length for side in sides)
    chosen, rejected = (_cut(side, length) for side in sides)
    if chosen.ids == rejected.ids:
        return "same_after_cut" if truncated else "same"
    return TokenPair(
        preference.id,
        preference.source,
        preference.prompt,
        (chosen, rejected),
        rights_of(preference),
        preference.margin or 0.0,
        columns=preference.metadata,
        truncated=truncated,
    )


def _cut(side: EncodedDialogue, length: int) -> EncodedDialogue:
    return replace(side, ids=side.ids[:length], learn=side.learn[:length])


def _pair_with_mismatched(
    rated_answers: list[tuple[UnpairedPreference, EncodedAnswer]], length: int, seed: int
) -> list[TokenPair]:
    """Pair each rated answer with an answer to another prompt, selected once by hash so that it is scored once."""
    order = sorted(
        range(len(rated_answers)), key=lambda index: hash_fraction(rated_answers[index][0].id, f"{seed}/stray")
    )
    strays = {index: _mismatched_index(order, position, rated_answers) for position, index in enumerate(order)}
    pairs = []
    for index, (rated, halves) in enumerate(rated_answers):
        stray, other = rated_answers[strays[index]]
        ids = halves.encoded.ids[: halves.start] + other.encoded.ids[other.start :]
        learn = [False] * halves.start + other.encoded.learn[other.start :]
        token_pairs = (_cut(halves.encoded, length), _cut(EncodedDialogue(ids, learn), length))
        fields = rated.id, rated.source, rated.prompt
        mismatched_tokens = max(0, len(token_pairs[1].ids) - halves.start)
        pairs.append(
            TokenPair(
                *fields,
                token_pairs,
                rights_of(rated),
                good=rated.good,
                columns=rated.metadata,
                mismatched=RowDocument(stray.id, stray.source, rights_of(stray), mismatched_tokens),
            )
        )
    return pairs


def _mismatched_index(order: list[int], position: int, answers: list[tuple[UnpairedPreference, EncodedAnswer]]) -> int:
    """Return the nearest previous answer in hash order that belongs to another prompt."""
    prompt = answers[order[position]][0].prompt
    candidates = (order[position - back] for back in range(1, len(order)))
    other = next((index for index in candidates if answers[index][0].prompt != prompt), None)
    if other is None:
        raise DataError("kto", "every answer is to the same prompt", hint="kto needs answers to two prompts or more")
    return other


def _is_held_out(prompt: Sequence[Message], share: float, seed: int) -> bool:
    """Return True if the prompt is held out, so that no answer to it is learned."""
    return hash_fraction(messages_text(prompt), f"{seed}/held out") < share

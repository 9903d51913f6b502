"""Two answers to a prompt in tokens, and rows of them for training, in which both always stand together.

    found = read_pairs(sources, tokenizer, template, length=512)
    found.counts.summary()
    rows = PairRows(found.learnt, pad=tokenizer.pad, context=512)
    rows.take(rows.order(step, rows=16, seed=0))        # ids and learn: [16, 2, tokens]

Only an answer's own tokens are learnt or scored, with its end of turn. What is dropped is counted by its reason.
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
from vita.data.records import Drop, Message, Preference, Rated
from vita.data.sources.read import Source, preferences, ratings
from vita.data.tokens.chat_template import ChatTemplate, Encoded, encode, encode_prompt
from vita.data.tokens.permutation import shuffled
from vita.data.tokens.row_counts import Counts
from vita.data.tokens.tokenizer import Tokenizer
from vita.data.tokens.truncation import OnLong, fit
from vita.data.tokens.tuning_examples import TuningSettings, refused_by_template
from vita.spine.config import InputPath
from vita.spine.errors import ConfigError, DataError

WIDTHS = 16
"""Rows are as wide as a multiple of this, so that few different shapes occur."""


@dataclass(frozen=True)
class TokenPair:
    """Two answers to one prompt: the better and the worse one, or a rated answer and somebody else's."""

    id: str
    source: str
    prompt: tuple[Message, ...]
    answers: tuple[Encoded, Encoded]
    margin: float = 0.0
    good: bool = True
    """Of a rated answer: whether it was found good."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What else the row holds, which a reward is told."""
    truncated: bool = False
    """Whether an answer lost its end."""

    def turned(self) -> TokenPair:
        """The other way round."""
        return replace(self, answers=(self.answers[1], self.answers[0]))


@dataclass
class Found:
    """What the sources hold."""

    counts: Counts
    learnt: list[TokenPair] = field(default_factory=list)
    heldout: list[TokenPair] = field(default_factory=list)

    def facts(self) -> dict[str, int]:
        """The counts; a pair that its source repeats counts as often in `pairs`."""
        return {"pairs": len(self.learnt), "heldout_pairs": len(self.heldout), **self.counts.facts()}


def asked_of(sources: Sequence[Source], cleaned: Path | None, *, where: str) -> list[Source]:
    """The sources, and preferences that were cleaned already where there are any; none at all are refused."""
    own = [Source(path=InputPath(str(cleaned)), name="preferences")] if cleaned else []
    if not sources and not own:
        raise ConfigError(f"{where}.sources", "is required, or the input `preferences`")
    return [*sources, *own]


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
    tell: Callable[[int], None] = lambda count: None,
) -> Found:
    """Every pair of the sources; a share of the *prompts* is held out, so that none is on both sides.

    `shuffle_labels` turns half of the learnt pairs round, by a coin: a control in which there is nothing to learn.
    """
    counts = Counts("pairs", length)
    found = Found(counts)
    settings = TuningSettings(length, on_long)
    for source in sources:
        for pair in examine_pairs([source], tokenizer, template, settings):
            if isinstance(pair, Drop):
                counts.drop_record(pair)
                continue
            counts.add_metadata(pair.columns, source)
            aside = _is_held_out(pair.prompt, held_out, seed)
            if shuffle_labels and not aside and hash_fraction(pair.id, f"{seed}/label") < 0.5:
                pair = pair.turned()
            side = found.heldout if aside else found.learnt
            side += [pair] * (1 if aside else repeat_count(source.repeat, pair.id))
            counts.keep(held_out=aside, truncated=pair.truncated)
            counts.note_template(pair.answers)
            tell(len(found.learnt) + len(found.heldout))
    return found


def examine_pairs(
    sources: Iterable[Source], tokenizer: Tokenizer, template: ChatTemplate, settings: TuningSettings
) -> Iterator[TokenPair | Drop]:
    """All pairs of the sources in order, with those that are dropped; `dpo`, `reward` and `data show` read this."""
    drops: list[Drop] = []
    for source in sources:
        for preference in preferences(source, dropped=drops.append):
            yield from drops
            drops.clear()
            try:
                pair = _pair(preference, tokenizer, template, length=settings.length, on_long=settings.on_long)
            except DataError as error:
                yield refused_by_template(error, preference.id, preference.source, source)
                continue
            yield Drop(preference.id, preference.source, pair) if isinstance(pair, str) else pair
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
    tell: Callable[[int], None] = lambda count: None,
) -> Found:
    """Every rated answer of the sources, each beside an answer that belongs to another prompt, as KTO wants it."""
    counts = Counts("answers", length)
    found = Found(counts)
    alone: dict[bool, list[tuple[Rated, Halves]]] = {False: [], True: []}
    settings = TuningSettings(length, on_long)
    for source in sources:
        for answer in examine_ratings([source], tokenizer, template, settings):
            if isinstance(answer, Drop):
                counts.drop_record(answer)
                continue
            rated, halves = answer
            counts.add_metadata(rated.metadata, source)
            aside = _is_held_out(rated.prompt, held_out, seed)
            alone[aside] += [(rated, halves)] * (1 if aside else repeat_count(source.repeat, rated.id))
            counts.keep(held_out=aside, truncated=len(halves.whole.ids) > length)
            counts.note_template([halves.whole])
            tell(sum(map(len, alone.values())))
    if any(len({rated.prompt for rated, _ in side}) == 1 for side in alone.values()):  # without another's answer
        alone = {False: alone[False] + alone[True], True: []}
    found.learnt, found.heldout = (_beside_strays(alone[aside], length, seed) for aside in (False, True))
    if shuffle_labels:
        order = sorted(range(len(found.learnt)), key=lambda at: hash_fraction(found.learnt[at].id, f"{seed}/label"))
        goods = [found.learnt[at].good for at in order]
        found.learnt = [replace(pair, good=good) for pair, good in zip(found.learnt, goods, strict=True)]
    return found


def examine_ratings(
    sources: Iterable[Source], tokenizer: Tokenizer, template: ChatTemplate, settings: TuningSettings
) -> Iterator[tuple[Rated, Halves] | Drop]:
    """All rated answers of the sources in order, with those that are dropped; as `kto` reads them."""
    drops: list[Drop] = []
    for source in sources:
        for rated in ratings(source, dropped=drops.append):
            yield from drops
            drops.clear()
            try:
                halves = _halves(rated, tokenizer, template)
            except DataError as error:
                yield refused_by_template(error, rated.id, rated.source, source)
                continue
            fitted = fit(halves.whole, length=settings.length, on_long=settings.on_long)
            yield Drop(rated.id, rated.source, fitted) if isinstance(fitted, str) else (rated, halves)
        yield from drops
        drops.clear()


class Rows(NamedTuple):
    """Both answers of each pair, padded on the right."""

    ids: Int64[np.ndarray, "pairs 2 width"]
    learn: Bool[np.ndarray, "pairs 2 width"]
    """The answers' own tokens."""


class PairRows:
    """Pairs by their number; every epoch has an order of its own."""

    def __init__(self, pairs: Sequence[TokenPair], *, pad: int, context: int) -> None:
        """No row is wider than `context`, what the model reads at once."""
        self.pairs, self.pad, self.context = list(pairs), pad, context

    def __len__(self) -> int:
        return len(self.pairs)

    @cached_property
    def tokens(self) -> Int64[np.ndarray, "pairs 2"]:
        """Of each answer."""
        return np.array([[sum(one.learn) for one in pair.answers] for pair in self.pairs], dtype=np.int64)

    @cached_property
    def lengths(self) -> Int64[np.ndarray, "pairs"]:
        """Tokens of the longer answer with its prompt."""
        return np.array([max(len(one.ids) for one in pair.answers) for pair in self.pairs], dtype=np.int64)

    def order(self, step: int, *, rows: int, seed: int) -> list[int]:
        """Which pairs `step` learns from, over all processes."""
        runs = shuffled(step * rows, rows, size=len(self.pairs), seed=seed)
        return [pair for _, run in runs for pair in run.tolist()]

    def width(self, numbers: Sequence[int]) -> int:
        """How wide rows for these pairs are."""
        return min(-(-int(self.lengths[list(numbers)].max()) // WIDTHS) * WIDTHS, self.context)

    def take(self, numbers: Sequence[int], *, width: int | None = None) -> Rows:
        """Rows by their number, as wide as the longest of them or `width`."""
        shape = (len(numbers), 2, width or self.width(numbers))
        ids, learn = np.full(shape, self.pad, dtype=np.int64), np.zeros(shape, dtype=bool)
        for row, number in enumerate(numbers):
            for at, answer in enumerate(self.pairs[number].answers):
                ids[row, at, : len(answer.ids)] = answer.ids
                learn[row, at, : len(answer.ids)] = answer.learn
        return Rows(ids, learn)


# -- answers in tokens


class Halves(NamedTuple):
    """A prompt and an answer, and where the one ends and the other begins."""

    whole: Encoded
    start: int


def encode_answer(
    tokenizer: Tokenizer, template: ChatTemplate, prompt: Sequence[Message], answer: Sequence[Message]
) -> Encoded:
    """A dialogue of which only the answer's tokens are learnt, not what the assistant said before."""
    return _encoded(tokenizer, template, prompt, answer).whole


def _encoded(
    tokenizer: Tokenizer, template: ChatTemplate, prompt: Sequence[Message], answer: Sequence[Message]
) -> Halves:
    whole = encode(tokenizer, template, [*prompt, *answer], learn_from=len(prompt))
    before = encode_prompt(tokenizer, template, prompt)
    # As far as both agree: where the answer's first letters join the last token of the prompt, it begins there.
    pairs = enumerate(zip(before, whole.ids, strict=False))
    start = next((at for at, (a, b) in pairs if a != b), min(len(before), len(whole.ids)))
    return Halves(replace(whole, learn=[False] * start + whole.learn[start:]), start)


def _halves(rated: Rated, tokenizer: Tokenizer, template: ChatTemplate) -> Halves:
    return _encoded(tokenizer, template, rated.prompt, rated.answer)


def _pair(
    preference: Preference, tokenizer: Tokenizer, template: ChatTemplate, *, length: int, on_long: OnLong
) -> TokenPair | str:
    """The pair in tokens, or the reason for which it is dropped."""
    sides = [
        encode_answer(tokenizer, template, preference.prompt, answer)
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
        preference.margin or 0.0,
        columns=preference.metadata,
        truncated=truncated,
    )


def _cut(side: Encoded, length: int) -> Encoded:
    return replace(side, ids=side.ids[:length], learn=side.learn[:length])


def _beside_strays(alone: list[tuple[Rated, Halves]], length: int, seed: int) -> list[TokenPair]:
    """Each rated answer with another one's put in its place: whose is drawn once, so that it can be scored once."""
    order = sorted(range(len(alone)), key=lambda at: hash_fraction(alone[at][0].id, f"{seed}/stray"))
    strays = {at: _stray(order, place, alone) for place, at in enumerate(order)}
    pairs = []
    for at, (rated, halves) in enumerate(alone):
        _, other = alone[strays[at]]
        ids = halves.whole.ids[: halves.start] + other.whole.ids[other.start :]
        learn = [False] * halves.start + other.whole.learn[other.start :]
        answers = (_cut(halves.whole, length), _cut(Encoded(ids, learn), length))
        own = rated.id, rated.source, rated.prompt
        pairs.append(TokenPair(*own, answers, good=rated.good, columns=rated.metadata))
    return pairs


def _stray(order: list[int], place: int, alone: list[tuple[Rated, Halves]]) -> int:
    """The nearest one before in the drawn order that answers another prompt."""
    own = alone[order[place]][0].prompt
    others = (order[place - back] for back in range(1, len(order)))
    other = next((at for at in others if alone[at][0].prompt != own), None)
    if other is None:
        raise DataError("kto", "every answer is to the same prompt", hint="kto needs answers to two prompts or more")
    return other


def _is_held_out(prompt: Sequence[Message], share: float, seed: int) -> bool:
    """By the prompt, so that no answer to it is learnt."""
    return hash_fraction(messages_text(prompt), f"{seed}/held out") < share

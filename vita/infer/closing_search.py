"""Search of short completions: tokens that bring a constrained answer to an accepted end.

    search = ClosingSearch(order, stops)
    completion = search.find(matcher, 40)

The quick search follows a single path and takes the token that is most likely to close the text at each step. Where no
token leads on, as in a text of a minimum length, it repeats the longest word. If its completion is too long, it is
shortened (`vita.infer.completion_shortening`). The thorough search follows several paths of each length at the same
time (beam search) and returns the shortest that reaches an end. Of the paths of equal length, it keeps those with the
fewest deviations from the preferred tokens. Two paths of equal length that allow the same next tokens count as equal:
the second is dropped. Each search ends when its effort is used up (`vita.infer.grammar_states`).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Int

from vita.infer.completion_shortening import shortened
from vita.infer.grammar_states import Effort, EffortSpent, GrammarState, allowed_tokens

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from vita.data.tokens.tokenizer import Tokenizer

# V tokens of the tokenizer, W words, N tokens

_STRING_FIRST = 10_000
"""Larger than all ranks of tokens."""
_RARE_LETTERS = (b"q", b"z", b"Q", b"Z")
_CLOSERS = (b'"', b"}", b"]", b")", b">", b",")
_LONGEST_COMPLETION = 1024
"""Largest number of tokens of a completion."""
_BEAM_WIDTH = 8
"""Largest number of paths of equal length in the thorough search."""
_MOST_BRANCHES = 24
"""Largest number of tokens that the thorough search tries after one path."""
_FREE_TEXT = 64
"""Number of allowed bytes from which on a place belongs to a free text."""
_SHORT_TEXT = 16
"""Number of words that are tried in a free text before other tokens."""
_MOST_QUICK_EFFORT, _MOST_EFFORT = 100_000, 55_000
"""Effort of the quick search, and of shortening its completion and the thorough search together (`Effort`).

The quick search takes that much only with a tokenizer of more than 100,000 tokens: about 20 units for each token that
is not forced with a small one, and 300 with a large one.
"""
_EFFORT_OF_CONTINUATION, _EFFORT_OF_QUICK_SEARCH = 3_000, 8_000
"""Effort with which a token is joined to the completion before it, and of a quick search where that fails."""
_SHARE_OF_SHORTENING = 0.9
"""Share of the effort after the quick search that the shortening may take; the thorough search has the rest."""
_LONGEST_JUNCTION = 12
"""Largest number of steps between a token and the rest of the completion before it."""


_FIRST_TOKENS = 1024
"""Number of tokens of an order that are looked up before all others."""
_NO_TOKENS = np.zeros(0, dtype=np.int64)


class ClosingOrder(NamedTuple):
    """The order in which a completion prefers the tokens."""

    names: Sequence[bytes]
    """The bytes of each token."""
    ranks: Int[np.ndarray, "V"]
    is_byte: Bool[np.ndarray, "V"]
    """Tokens of a single byte."""
    letters: Int[np.ndarray, "N"]
    """Tokens of a rare letter, which no part of JSON outside of strings begins with."""
    closings: Sequence[Sequence[int]] = ()
    """Sequences of tokens that are preferred to all other tokens where the grammar allows them."""
    by_rank: Int[np.ndarray, "V"] = _NO_TOKENS
    """The tokens in the order of their ranks."""
    by_rank_in_string: Int[np.ndarray, "V"] = _NO_TOKENS
    """The tokens in the order of their ranks within a string, where those that end it come first."""
    words: Int[np.ndarray, "W"] = _NO_TOKENS
    """The tokens of letters and digits alone, the longest first."""
    text_lengths: Int[np.ndarray, "V"] = _NO_TOKENS
    """The number of characters of tokens of letters and digits alone; 0 for other tokens."""
    literals: Sequence[Sequence[int]] = ()
    """Words of the grammar; a completion uses them where they end the answer or where no single token leads on."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self:
        """Return the order of the tokens of a tokenizer."""
        names = [tokenizer.token_bytes(token) for token in range(tokenizer.vocabulary)]
        ranks = np.array([_closing_rank(name) for name in names], dtype=np.int64)
        ends_string = np.array([name.startswith(b'"') and not name[1:].strip(b"}]") for name in names])
        lengths = np.array([_text_length(name) for name in names], dtype=np.int64)
        words = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
        return cls(
            names,
            ranks,
            np.array([len(name) == 1 for name in names]),
            np.array([token for token, name in enumerate(names) if name in _RARE_LETTERS], int),
            by_rank=np.argsort(ranks, kind="stable"),
            by_rank_in_string=np.argsort(np.where(ends_string, ranks - _STRING_FIRST, ranks), kind="stable"),
            words=words,
            text_lengths=lengths,
        )


class ClosingSearch:
    """Searches completions of the state of a grammar, which is not changed."""

    def __init__(self, order: ClosingOrder, stops: frozenset[int]) -> None:
        self.order, self._stops = order, stops
        self.digits = [token for token in np.flatnonzero(order.is_byte).tolist() if order.names[token].isdigit()]
        """The tokens of a single digit."""
        letters = [token for token in np.flatnonzero(order.is_byte).tolist() if order.names[token].isalpha()]
        self.text_letters = [token for token in letters if order.names[token] not in (b"e", b"E")]
        """The tokens of a single letter that no number contains."""
        self._first_completions: dict[tuple[tuple[int, ...], int], list[int] | None] = {}

    def first(self, matcher: LLMatcher, forced: tuple[int, ...], limit: int) -> list[int] | None:
        """Return `find` of the start of an answer after forced tokens; the answers to a request share the search."""
        key = forced, limit
        if key not in self._first_completions:
            self._first_completions[key] = self.find(matcher, limit)
        completion = self._first_completions[key]
        return None if completion is None else list(completion)

    def find(self, matcher: LLMatcher, limit: int, *, share: float = 1.0) -> list[int] | None:
        """Return a completion of at most `limit` tokens, with the token that ends the answer; None if none is found.

        `share` is the part of the largest effort that this search may take.
        """
        completion = self._quick(self._state(matcher, Effort(share * _MOST_QUICK_EFFORT)), _LONGEST_COMPLETION)
        effort = Effort(share * _MOST_EFFORT)
        state = self._state(matcher, effort)
        if completion is not None and len(completion) > limit:
            body, stop = completion[:-1], completion[-1]
            with effort.part(_SHARE_OF_SHORTENING):
                tokens = shortened(self, state, body, limit - 1)
            completion = None if tokens is None else [*tokens, stop]
        return completion or self._thorough(state, limit)

    def quick(self, matcher: LLMatcher, limit: int) -> list[int] | None:
        """Return a short completion of at most `limit` tokens, with the token that ends the answer; None without."""
        return self._quick(self._state(matcher, Effort(_EFFORT_OF_QUICK_SEARCH)), min(limit, _LONGEST_COMPLETION))

    def thorough(self, matcher: LLMatcher, limit: int) -> list[int] | None:
        """Return the shortest completion of the beam search, as `quick` does."""
        return self._thorough(self._state(matcher, Effort(_MOST_EFFORT)), limit)

    def continued(self, matcher: LLMatcher, completion: Sequence[int], token: int) -> list[int] | None:
        """Return a completion of the state after `token` that ends as `completion` does, a completion before it.

        Preferred tokens may lead from the token to the rest, which is the complete completion or leaves out as many
        bytes as were added. None if the grammar accepts none of these.
        """
        *body, stop = completion
        state, junction = self._state(matcher, Effort(_EFFORT_OF_CONTINUATION)), list[int]()
        start, bytes_left_out = 0, len(self.order.names[token])
        try:
            for _ in range(_LONGEST_JUNCTION):
                while start < len(body) and bytes_left_out > 0:
                    bytes_left_out -= len(self.order.names[body[start]])
                    start += 1
                for rest in (body[start:], body):
                    if state.completes(rest):
                        return [*junction, *rest, stop]
                following = self.preferred_tokens(state)
                if not following:
                    return None
                state = state.after(following)
                junction += following
                bytes_left_out += sum(len(self.order.names[following_token]) for following_token in following)
        except EffortSpent:
            pass
        return None

    def allowed(self, matcher: LLMatcher) -> Bool[np.ndarray, "V"]:
        """Return the tokens that may come next."""
        return allowed_tokens(matcher, vocabulary=len(self.order.ranks), stops=self._stops)

    def kind(self, token: int) -> str:
        """Return the kind of a token: `lower`, `upper` or `digit`, or a mark of its own."""
        return _kind(self.order.names[token])

    def preferred_tokens(self, state: GrammarState) -> list[int]:
        """Return the tokens that must follow, or the preferred token; none if no token may follow."""
        if forced := self._forced(state):
            return forced
        preferred = self._preferred(state.allowed)
        return [] if preferred is None else [preferred]

    def quick_tokens(self, state: GrammarState, limit: int) -> list[int] | None:
        """Return the tokens of a quick completion of less than `limit` tokens, without the end; None without."""
        completion = self._quick(state, limit)
        return None if completion is None else completion[:-1]

    def _state(self, matcher: LLMatcher, effort: Effort) -> GrammarState:
        return GrammarState(matcher, vocabulary=len(self.order.ranks), stops=self._stops, effort=effort)

    def _quick(self, state: GrammarState, limit: int) -> list[int] | None:
        """Return a completion of at most `limit` tokens along a single path; None without, or without effort."""
        tokens, repetitions = list[int](), _Repetitions()
        try:
            while len(tokens) < limit:
                if state.is_complete:
                    return [*tokens, min(self._stops)]
                if following := self._forced(state):
                    state = state.after(following)
                else:
                    following, state = self._progress(state, repetitions, limit - len(tokens))
                if not following:
                    return None
                tokens += following
        except EffortSpent:
            pass
        return None

    def _thorough(self, start: GrammarState, limit: int) -> list[int] | None:
        """Return the shortest completion of the beam search; None without, or without effort."""
        limit = min(limit, _LONGEST_COMPLETION)
        paths: list[tuple[int, int, int, list[int], GrammarState, list[int]]] = [(0, 0, 0, [], start, [])]
        states, widths, count = set[tuple[int, bytes]](), Counter[int](), 0
        try:
            while paths:
                length, deviation, _, tokens, before, following = heapq.heappop(paths)
                if length >= limit or widths[length] >= _BEAM_WIDTH:
                    continue
                after = before.after(following) if following else before
                tokens = tokens + following
                if after.is_complete:
                    return [*tokens, min(self._stops)]
                branches = [forced] if (forced := self._forced(after)) else None
                if branches is None:
                    state = length, after.allowed.tobytes()
                    if state in states:
                        continue
                    states.add(state)
                    widths[length] += 1
                    branches = [[token] for token in self.candidates(after.allowed)[:_MOST_BRANCHES]]
                for position, branch in enumerate(branches):
                    count += 1
                    heapq.heappush(paths, (length + len(branch), deviation + position, count, tokens, after, branch))
        except EffortSpent:
            pass
        return None

    def _forced(self, state: GrammarState) -> list[int] | None:
        """Return the tokens that must follow, or a closing sequence that ends a text here.

        Within a text that may contain a closing sequence, the sequence can be repeated, and it ends nothing.
        """
        if forced := state.forced():
            return forced
        for tokens in map(list, self.order.closings):
            if state.accepts(tokens):
                after = state.after(tokens)
                if after.is_complete or not after.accepts(tokens):
                    return tokens
        return None

    def _progress(self, state: GrammarState, repetitions: _Repetitions, limit: int) -> tuple[list[int], GrammarState]:
        """Return the next tokens and the state after them: of the preferred token if it changes what may follow.

        Otherwise, it is another token that changes what may follow. Without such a token, as within a text of a minimum
        length, the longest word is repeated, at most to `limit` tokens. In a free text, a few words are tried first.
        """
        preferred = self._preferred(state.allowed)
        if preferred is None:
            return [], state
        after = self._changed(state, [preferred])
        if after is not None:
            return [preferred], after
        longest = self._longest(preferred, state.allowed)
        if np.count_nonzero(state.allowed & self.order.is_byte) >= _FREE_TEXT:
            tokens, after = self._repeated(state, longest, min(limit, _SHORT_TEXT))
            if len(tokens) < _SHORT_TEXT:
                return tokens, after
        if repetitions.is_next_search(state):
            literals = [tokens for tokens in map(list, self.order.literals) if state.accepts(tokens)]
            for tokens in literals:
                if (after := state.after(tokens)).is_complete:
                    return tokens, after
            marks = [[token] for token in self.candidates(state.allowed) if self.kind(token) != "rare"]
            for tokens in [*marks, *literals]:
                if (after := self._changed(state, tokens)) is not None:
                    return tokens, after
        return self._repeated(state, longest, limit)

    def _repeated(self, state: GrammarState, token: int, limit: int) -> tuple[list[int], GrammarState]:
        """Return as many repetitions of a token as leave the allowed tokens the same, at least one, and their end.

        The number is doubled as long as possible, and the further number is halved then.
        """
        after, count, further, is_doubled = state.after([token]), 1, 1, True
        if _is_changed(state, after):
            return [token], after
        while further and count < limit:
            tokens = [token] * min(further, limit - count)
            next_state = after.after(tokens) if after.accepts(tokens) else None
            if next_state is not None and not _is_changed(state, next_state):
                after, count = next_state, count + len(tokens)
            else:
                is_doubled = False
            further = 2 * further if is_doubled else further // 2
        return [token] * count, after

    def _longest(self, preferred: int, allowed: Bool[np.ndarray, "V"]) -> int:
        """Return the longest allowed token of letters and digits if it is longer than the preferred token."""
        longest = _first_allowed(self.order.words, allowed)
        if longest is None or self.order.text_lengths[longest] <= len(self.order.names[preferred]):
            return preferred
        return longest

    def _changed(self, state: GrammarState, tokens: list[int]) -> GrammarState | None:
        """Return the state after tokens that end the text or an object or list in it, or change the allowed tokens.

        After the end of an object in another one, the same tokens can be allowed as before. None for other tokens.
        """
        after = state.after(tokens)
        is_in_string = state.allowed[self.order.letters].any()
        is_end = not is_in_string and self.order.names[tokens[0]].strip(b'"')[:1] in (b"}", b"]")
        return after if is_end or _is_changed(state, after) else None

    def _preferred(self, allowed: Bool[np.ndarray, "V"]) -> int | None:
        """Return the allowed token of the smallest rank; within a string, where letters are allowed, an end of it."""
        is_in_string = allowed[self.order.letters].any()
        return _first_allowed(self.order.by_rank_in_string if is_in_string else self.order.by_rank, allowed)

    def candidates(self, allowed: Bool[np.ndarray, "V"], *, most_of_kind: int | None = None) -> list[int]:
        """Return the tokens of a single byte to try: closing marks, one token of each kind of character, the others.

        Where no single byte is allowed, these are the other allowed tokens, such as special tokens. `most_of_kind`
        limits the number of letters, of digits and of rare bytes.
        """
        names, order, kinds = self.order.names, list[tuple[int, int]](), Counter[str]()
        single = allowed & self.order.is_byte
        candidates = np.flatnonzero(single if single.any() else allowed)
        for token in candidates[np.argsort(self.order.ranks[candidates], kind="stable")].tolist():
            name = names[token]
            kind = _kind(name)
            kinds[kind] += 1
            if most_of_kind is not None and kinds[kind] > most_of_kind:
                continue
            later = 2 if kind == "rare" else kinds[kind] > 1
            position = _CLOSERS.index(name) if name in _CLOSERS else len(_CLOSERS) + later
            order.append((position, token))
        return [token for _, token in sorted(order, key=lambda entry: entry[0])]


class _Repetitions:
    """Decides when a token that changes what may follow is searched: after 0, 1, 3, 7, ... failures in equal places."""

    def __init__(self) -> None:
        self._searches, self._omissions = Counter[bytes](), Counter[bytes]()

    def is_next_search(self, state: GrammarState) -> bool:
        """Return True if a search is due in a state; states that allow the same tokens count as equal."""
        place = state.allowed.tobytes()
        if self._omissions[place]:
            self._omissions[place] -= 1
            return False
        self._searches[place] += 1
        self._omissions[place] = 2 ** (self._searches[place] - 1) - 1
        return True


def _first_allowed(tokens: Int[np.ndarray, "N"], allowed: Bool[np.ndarray, "V"]) -> int | None:
    """Return the first of `tokens` that is allowed; None without."""
    for part in (tokens[:_FIRST_TOKENS], tokens[_FIRST_TOKENS:]):
        if (is_allowed := allowed[part]).any():
            return int(part[is_allowed.argmax()])
    return None


def _is_changed(before: GrammarState, after: GrammarState) -> bool:
    """Return True if the text is complete or other tokens may follow."""
    return after.is_complete or not np.array_equal(after.allowed, before.allowed)


def _kind(name: bytes) -> str:
    """Return the kind of a character: each mark is a kind of its own.

    Rare are bytes that only begin a character or an escape sequence, after which the same text may follow as before.
    """
    if name == b"\\" or not name.isascii():
        return "rare"
    if name.isdigit():
        return "digit"
    if name.isalpha():
        return "lower" if name.islower() else "upper"
    return name.decode()


def _text_length(name: bytes) -> int:
    """Return the number of characters of a token of letters and digits; 0 for other tokens."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return 0
    return len(text) if text.isalnum() else 0


def _closing_rank(name: bytes) -> int:
    """Return the rank of a token in a completion: ends of objects and strings, digits, short texts, then the rest."""
    closing = name.strip(b'"')
    if name and not closing.strip(b"}]"):
        return 10 - min(len(closing), 9) if closing else 11 + len(name)
    if name.isdigit():
        return 20 + len(name)
    opening = any(mark in name for mark in (b"{", b"[", b",", b"\\", b"-", b".")) or name in (b"e", b"E")
    return (1000 if opening else 100) + len(name)

"""Search of short completions: tokens that bring a constrained answer to an accepted end.

    search = ClosingSearch(order, stops)
    completion = search.find(matcher, 40)

The quick search follows a single path and takes the token that is most likely to close the text at each step. If its
completion is too long, it is shortened (`vita.infer.completion_shortening`). The thorough search follows several paths
of each length at the same time (beam search) and returns the shortest that reaches an end. Of the paths of equal
length, it keeps those with the fewest deviations from the preferred tokens. Two paths of equal length that allow the
same next tokens count as equal: the second is dropped.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Int

from vita.infer.completion_shortening import MOST_CHECKS, advanced_by, is_complete, shortened

if TYPE_CHECKING:
    from llguidance import LLMatcher

    from vita.data.tokens.tokenizer import Tokenizer

# V tokens of the tokenizer

log = logging.getLogger(__name__)

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
_MOST_STEPS = 1500
"""Largest number of tokens that one thorough search tries."""
_MOST_REPETITIONS = 63
"""Largest number of steps of a repetition in which the quick search does not look for a token that ends it."""


_NO_TOKENS = np.zeros(0, dtype=np.int64)


class ClosingOrder(NamedTuple):
    """The order in which a completion prefers the tokens."""

    names: Sequence[bytes]
    """The bytes of each token."""
    ranks: Int[np.ndarray, "V"]
    is_byte: Bool[np.ndarray, "V"]
    """Tokens of a single byte."""
    ends_string: Bool[np.ndarray, "V"]
    """Tokens that begin with a quotation mark, followed by nothing but ends of objects and lists."""
    letters: Int[np.ndarray, "N"]
    """Tokens of a rare letter, which no part of JSON outside of strings begins with."""
    closings: Sequence[Sequence[int]] = ()
    """Sequences of tokens that are preferred to all other tokens where the grammar allows them."""
    text_lengths: Int[np.ndarray, "V"] = _NO_TOKENS
    """The number of bytes of tokens of letters and digits alone; 0 for other tokens."""
    literals: Sequence[Sequence[int]] = ()
    """Words of the grammar; a completion uses them where they end the answer or where no single token leads on."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self:
        """Return the order of the tokens of a tokenizer."""
        names = [tokenizer.token_bytes(token) for token in range(tokenizer.vocabulary)]
        return cls(
            names,
            np.array([_closing_rank(name) for name in names], dtype=np.int64),
            np.array([len(name) == 1 for name in names]),
            np.array([name.startswith(b'"') and not name[1:].strip(b"}]") for name in names]),
            np.array([token for token, name in enumerate(names) if name in _RARE_LETTERS], int),
            text_lengths=np.array([len(name) if name.isalnum() else 0 for name in names], dtype=np.int64),
        )


class ClosingSearch:
    """Searches completions of the state of a grammar, which is not changed."""

    def __init__(self, order: ClosingOrder, stops: frozenset[int]) -> None:
        self.order, self._stops = order, stops
        self.digits = [token for token in np.flatnonzero(order.is_byte).tolist() if order.names[token].isdigit()]
        """The tokens of a single digit."""

    def find(self, matcher: LLMatcher, limit: int, *, share: float = 1.0) -> list[int] | None:
        """Return a completion of at most `limit` tokens, with the token that ends the answer; None if none is found.

        `share` is the part of the largest effort that this search may take.
        """
        completion = self.quick(matcher, _LONGEST_COMPLETION)
        if completion is not None and len(completion) > limit:
            tokens = shortened(self, matcher, completion[:-1], limit - 1, checks=int(share * MOST_CHECKS))
            completion = None if tokens is None else [*tokens, completion[-1]]
        return completion or self.thorough(matcher, limit, steps=int(share * _MOST_STEPS))

    def quick(self, matcher: LLMatcher, limit: int) -> list[int] | None:
        """Return a short completion of at most `limit` tokens, with the token that ends the answer; None without."""
        matcher, tokens = matcher.deep_copy(), list[int]()
        pause = remaining_pause = 0
        while len(tokens) < min(limit, _LONGEST_COMPLETION):
            if is_complete(matcher):
                return [*tokens, min(self._stops)]
            is_repetition, following = False, self._forced(matcher)
            if not following:
                following, is_repetition = self._progress(matcher, is_repeated=remaining_pause > 0)
            if not following or not matcher.consume_tokens(following):
                return None
            if not is_repetition:
                pause = remaining_pause = 0
            elif remaining_pause:
                remaining_pause -= 1
            else:
                pause = remaining_pause = min(2 * pause + 1, _MOST_REPETITIONS)
            tokens += following
        return None

    def continued(self, matcher: LLMatcher, completion: Sequence[int], token: int) -> list[int] | None:
        """Return a completion of the state after `token` that is a part of `completion`, a completion before it.

        It is the complete one, or the one without as many bytes as the token has; None if the grammar accepts neither.
        """
        *body, stop = completion
        size, bytes_left_out = 0, len(self.order.names[token])
        while size < len(body) and bytes_left_out > 0:
            bytes_left_out -= len(self.order.names[body[size]])
            size += 1
        for start in dict.fromkeys((size, 0)):
            advanced = matcher.deep_copy()
            if advanced.validate_tokens(body[start:]) == len(body) - start:
                advanced.consume_tokens(body[start:])
                if is_complete(advanced):
                    return [*body[start:], stop]
        return None

    def thorough(self, matcher: LLMatcher, limit: int, *, steps: int = _MOST_STEPS) -> list[int] | None:
        """Return the shortest completion of the beam search, which tries at most `steps` tokens, as `quick` does."""
        limit = min(limit, _LONGEST_COMPLETION)
        paths: list[tuple[int, int, int, list[int], LLMatcher, list[int]]] = [(0, 0, 0, [], matcher, [])]
        states, widths, count = set[tuple[int, bytes]](), Counter[int](), 0
        for _ in range(steps):
            if not paths:
                return None
            length, deviation, _, tokens, before, following = heapq.heappop(paths)
            if length >= limit or widths[length] >= _BEAM_WIDTH:
                continue
            after = before.deep_copy()
            if following and not after.consume_tokens(following):
                continue
            tokens = tokens + following
            if is_complete(after):
                return [*tokens, min(self._stops)]
            branches = [forced] if (forced := self._forced(after)) else None
            if branches is None:
                allowed = self.allowed(after)
                state = length, allowed.tobytes()
                if state in states:
                    continue
                states.add(state)
                widths[length] += 1
                branches = [[token] for token in self.candidates(allowed)[:_MOST_BRANCHES]]
            for position, branch in enumerate(branches):
                count += 1
                heapq.heappush(paths, (length + len(branch), deviation + position, count, tokens, after, branch))
        return None

    def allowed(self, matcher: LLMatcher) -> Bool[np.ndarray, "V"]:
        """Return the tokens that may come next."""
        allowed = np.zeros(len(self.order.ranks), dtype=bool)
        if matcher.is_stopped() and not matcher.is_error():
            allowed[list(self._stops)] = True
            return allowed
        bits = None if matcher.is_error() else np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        if bits is None or matcher.is_error():  # no token is allowed, which fails this request alone
            log.debug("a grammar failed: %s", matcher.get_error().partition("\n")[0])
            return allowed
        return np.unpackbits(bits, bitorder="little")[: len(allowed)].astype(bool)

    def kind(self, token: int) -> str:
        """Return the kind of a token: `lower`, `upper` or `digit`, or a mark of its own."""
        return _kind(self.order.names[token])

    def preferred_tokens(self, matcher: LLMatcher, allowed: Bool[np.ndarray, "V"]) -> list[int]:
        """Return the tokens that must follow, or the preferred token; none if no token may follow."""
        if forced := self._forced(matcher):
            return forced
        preferred = self._preferred(allowed)
        return [] if preferred is None else [preferred]

    def _forced(self, matcher: LLMatcher) -> list[int] | None:
        """Return the tokens that must follow, or a closing sequence that ends a text here.

        Within a text that may contain a closing sequence, the sequence can be repeated, and it ends nothing.
        """
        if forced := matcher.compute_ff_tokens():
            return forced
        for tokens in map(list, self.order.closings):
            if matcher.validate_tokens(tokens) == len(tokens):
                advanced = advanced_by(matcher, tokens)
                if advanced.is_accepting() or advanced.validate_tokens(tokens) < len(tokens):
                    return tokens
        return None

    def _progress(self, matcher: LLMatcher, *, is_repeated: bool) -> tuple[list[int], bool]:
        """Return the preferred token; instead of one that is only a repetition, a token that changes what may follow.

        Without such a token, as within a text of a minimum length, the longest word is a step all the same; the second
        value is True for it. `is_repeated` leaves out the search for a token that changes what may follow.
        """
        allowed = self.allowed(matcher)
        preferred = self._preferred(allowed)
        if preferred is None:
            return [], False
        if self._changes(matcher, [preferred], allowed):
            return [preferred], False
        if is_repeated:
            return [self._longest(preferred, allowed)], True
        literals = [
            tokens for tokens in map(list, self.order.literals) if matcher.validate_tokens(tokens) == len(tokens)
        ]
        for tokens in literals:
            if is_complete(advanced_by(matcher, tokens)):
                return tokens, False
        for token in self.candidates(allowed):
            if _kind(self.order.names[token]) != "rare" and self._changes(matcher, [token], allowed):
                return [token], False
        for tokens in literals:
            if self._changes(matcher, tokens, allowed):
                return tokens, False
        return [self._longest(preferred, allowed)], True

    def _longest(self, preferred: int, allowed: Bool[np.ndarray, "V"]) -> int:
        """Return the longest allowed token of letters and digits in place of a single one, which is preferred."""
        if not self.order.text_lengths[preferred]:
            return preferred
        return int((self.order.text_lengths * allowed).argmax())

    def _changes(self, matcher: LLMatcher, tokens: list[int], allowed: Bool[np.ndarray, "V"]) -> bool:
        """Return True if tokens end the text or an object or list in it, or change the allowed tokens.

        After the end of an object in another one, the same tokens can be allowed as before.
        """
        is_in_string = allowed[self.order.letters].any()
        if not is_in_string and self.order.names[tokens[0]].strip(b'"')[:1] in (b"}", b"]"):
            return True
        advanced = advanced_by(matcher, tokens)
        return is_complete(advanced) or not np.array_equal(self.allowed(advanced), allowed)

    def _preferred(self, allowed: Bool[np.ndarray, "V"]) -> int | None:
        """Return the allowed token of the smallest rank; within a string, where letters are allowed, an end of it."""
        candidates = np.flatnonzero(allowed)
        if not len(candidates):
            return None
        ranks = self.order.ranks[candidates]
        if allowed[self.order.letters].any():
            ranks = np.where(self.order.ends_string[candidates], ranks - _STRING_FIRST, ranks)
        return int(candidates[ranks.argmin()])

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


def _closing_rank(name: bytes) -> int:
    """Return the rank of a token in a completion: ends of objects and strings, digits, short texts, then the rest."""
    closing = name.strip(b'"')
    if name and not closing.strip(b"}]"):
        return 10 - min(len(closing), 9) if closing else 11 + len(name)
    if name.isdigit():
        return 20 + len(name)
    opening = any(mark in name for mark in (b"{", b"[", b",", b"\\", b"-", b".")) or name in (b"e", b"E")
    return (1000 if opening else 100) + len(name)

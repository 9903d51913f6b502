"""Shortening of a completion by local changes: a part is left out, or replaced by a shorter one.

The grammar decides whether the rest of the completion may follow at another place: a property that is not required, the
digits of a number and the items of a list can be left out, and a value can be replaced by one of another alternative.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool

if TYPE_CHECKING:
    from llguidance import LLMatcher

_MOST_STEPS = 800
"""Largest number of steps of all replacements of one pass."""
MOST_CHECKS = 12_000
"""Largest number of checks whether a rest may follow, which limits the time of a shortening."""
_CHECKS_OF_STEP = 3
"""Number of checks that take the time of a step."""
_LONGEST_REPLACEMENT = 12
"""Largest number of steps of a replacement."""
_FEW_BRANCHES, _MOST_BRANCHES = 8, 40
"""Largest number of tokens with which a replacement begins at one place, in the first pass and in the second."""
_MOST_OF_KIND = 4
"""Largest number of letters, and of digits, with which a replacement begins at one place."""
_LONGEST_NUMBER = 3
"""Largest number of digits of a number that replaces another."""
_LONGER = 96
"""Largest number of tokens by which a completion that is shortened in turn may be longer."""
_MOST_RESTARTS = 4
"""Largest number of other completions that are shortened."""
_ALPHANUMERIC = {"lower", "upper", "digit"}
_FREE_TEXT = 64
"""Number of allowed tokens from which on a place belongs to a free text, whose characters are interchangeable."""


class StepSearch(Protocol):
    """The steps of the search that made the completion."""

    @property
    def digits(self) -> Sequence[int]:
        """The tokens of a single digit."""
        ...

    def allowed(self, matcher: LLMatcher) -> Bool[np.ndarray, "V"]:
        """Return the tokens that may come next."""
        ...

    def candidates(self, allowed: Bool[np.ndarray, "V"], *, most_of_kind: int) -> list[int]:
        """Return the tokens to try, the preferred ones first; of letters, digits and rare bytes a few of each."""
        ...

    def quick(self, matcher: LLMatcher, limit: int) -> list[int] | None:
        """Return a short completion of at most `limit` tokens, with the token that ends the answer; None without."""
        ...

    def kind(self, token: int) -> str:
        """Return the kind of a token: `lower`, `upper` or `digit`, or a mark of its own."""
        ...

    def preferred_tokens(self, matcher: LLMatcher, allowed: Bool[np.ndarray, "V"]) -> list[int]:
        """Return the tokens that must follow, or the preferred token; none if no token may follow."""
        ...


class _Change(NamedTuple):
    """A replacement of the tokens from `start` to `end`."""

    start: int
    tokens: Sequence[int]
    end: int

    @property
    def gain(self) -> int:
        """The number of tokens by which the completion gets shorter."""
        return self.end - self.start - len(self.tokens)


class _State(NamedTuple):
    """A state of the grammar, and the tokens that it allows."""

    matcher: LLMatcher
    allowed: Bool[np.ndarray, "V"]

    def after(self, search: StepSearch, tokens: Sequence[int]) -> _State:
        """Return the state after tokens."""
        matcher = advanced_by(self.matcher, tokens)
        return _State(matcher, search.allowed(matcher))


def shortened(
    search: StepSearch, matcher: LLMatcher, tokens: Sequence[int], limit: int, *, checks: int = MOST_CHECKS
) -> list[int] | None:
    """Return a completion of at most `limit` tokens, without the token that ends the answer; None if none is found.

    `checks` limits the number of times that the grammar is asked whether a rest may follow.
    """
    return _Shortening(search, matcher, list(tokens), limit, restarts=_MOST_RESTARTS, checks=checks).result()


class _Shortening:
    """A completion that is shortened until it has at most `limit` tokens."""

    def __init__(
        self, search: StepSearch, matcher: LLMatcher, body: list[int], limit: int, *, restarts: int, checks: int
    ) -> None:
        self._search, self._body, self._limit, self._restarts = search, body, limit, restarts
        self.checks = checks
        """Number of remaining checks whether a rest may follow."""
        self._others: list[list[int]] = []
        """Completions that are not shorter, but can perhaps be shortened."""
        self._steps = _MOST_STEPS
        self._states = [_State(matcher, search.allowed(matcher))]
        """The state before each token, and after the last."""
        self._add_states()

    def result(self) -> list[int] | None:
        """Return the shortened completion."""
        for replacement in (self._replacement, self._replacement_of_many, self._other_end):
            place, self._steps = 0, _MOST_STEPS
            while len(self._body) > self._limit:
                change = self._omission() or self._shorter_number() or replacement(place)
                if change is not None:
                    place = change.start
                    self._apply(change)
                elif place == 0 or self._steps <= 0 or self.checks <= 0:
                    break
                else:
                    place = 0
            if len(self._body) <= self._limit:
                return self._body
        for body in sorted(self._others, key=len)[: self._restarts]:
            other = _Shortening(
                self._search, self._states[0].matcher, body, self._limit, restarts=0, checks=self.checks
            )
            if (tokens := other.result()) is not None:
                return tokens
            self.checks = other.checks
        return None

    def _apply(self, change: _Change) -> None:
        self._body[change.start : change.end] = change.tokens
        del self._states[change.start + 1 :]
        self._add_states()

    def _add_states(self) -> None:
        for token in self._body[len(self._states) - 1 :]:
            self._states.append(self._states[-1].after(self._search, [token]))

    def _omission(self) -> _Change | None:
        """Return the longest part that can be left out."""
        best = None
        for start in range(len(self._body)):
            end = self._rejoined(self._states[start], start + 1 + (best.gain if best else 0))
            if end is not None:
                best = _Change(start, [], end)
        return best

    def _shorter_number(self) -> _Change | None:
        """Return a replacement of digits by fewer digits, such as 100 by 57 where the minimum is 57."""
        digits = self._search.digits
        start = 0
        while start < len(self._body):
            end = start
            while end < len(self._body) and self._body[end] in digits:
                end += 1
            rest = self._body[end:]
            for length in range(1, min(end - start, _LONGEST_NUMBER + 1)):
                for number in product(digits, repeat=length):
                    if self._follows(self._states[start].matcher, [*number, *rest]):
                        return _Change(start, number, end)
            start = end + 1
        return None

    def _count_step(self) -> None:
        self._steps -= 1
        self.checks -= _CHECKS_OF_STEP

    def _follows(self, matcher: LLMatcher, tokens: list[int]) -> bool:
        """Return True if tokens may follow a state and complete the text; False if no check remains."""
        self.checks -= 1
        if self.checks < 0:
            return False
        return matcher.validate_tokens(tokens) == len(tokens) and is_complete(advanced_by(matcher, tokens))

    def _replacement_of_many(self, place: int) -> _Change | None:
        """Return the best replacement as `_replacement` does, of more tokens."""
        return self._replacement(place, most=_MOST_BRANCHES)

    def _other_end(self, place: int) -> _Change | None:
        """Return the first other token from `place` on after which a quick completion is shorter than the rest."""
        for start in range(place, len(self._body)):
            room = len(self._body) - start - 1
            for token, after in self._branches(start, most=_FEW_BRANCHES):
                tokens = self._search.quick(after.matcher, room + _LONGER)
                self._steps -= room + _LONGER if tokens is None else len(tokens)
                if tokens is not None and len(tokens) <= room:
                    return _Change(start, [token, *tokens[:-1]], len(self._body))
                if tokens is not None:
                    self._others.append([*self._body[:start], token, *tokens[:-1]])
        return None

    def _branches(self, start: int, *, most: int) -> Iterator[tuple[int, _State]]:
        """Yield tokens that may replace the token at a place, and the states after them."""
        before, current = self._states[start], self._body[start]
        if (
            start
            and self._body[start - 1] == current
            and np.array_equal(self._states[start - 1].allowed, before.allowed)
        ):
            return  # a repetition, such as of digits
        is_free = np.count_nonzero(before.allowed) >= _FREE_TEXT
        interchangeable = set[str]()
        for token in self._search.candidates(before.allowed, most_of_kind=_MOST_OF_KIND)[:most]:
            kind = self._search.kind(token)
            if token == current or kind in interchangeable or self._steps <= 0 or self.checks <= 0:
                continue
            self._count_step()
            after = before.after(self._search, [token])
            is_similar = is_free or {kind, self._search.kind(current)} <= _ALPHANUMERIC
            if is_similar and np.array_equal(after.allowed, self._states[start + 1].allowed):
                interchangeable.add(kind)
            else:
                yield token, after

    def _replacement(self, place: int, *, most: int = _FEW_BRANCHES) -> _Change | None:
        """Return the best replacement at the first place from `place` on that has one."""
        for start in range(place, len(self._body)):
            best: _Change | None = None
            for token, after in self._branches(start, most=most):
                best = self._replacement_with(token, after, start, best) or best
            if best is not None:
                return best
        return None

    def _replacement_with(self, token: int, state: _State, start: int, best: _Change | None) -> _Change | None:
        """Return a better replacement than `best` that begins with a token; None if there is none.

        `state` is the state after the token.
        """
        branch, improved = [token], None
        for _ in range(_LONGEST_REPLACEMENT):
            least = start + len(branch) + 1 + (best.gain if best else 0)
            if least > len(self._body) or not state.allowed.any():
                return improved
            end = self._rejoined(state, least)
            if end is not None:
                best = improved = _Change(start, list(branch), end)
            if is_complete(state.matcher) or not (following := self._search.preferred_tokens(*state)):
                return improved
            self._count_step()
            state = state.after(self._search, following)
            branch += following
        return improved

    def _rejoined(self, state: _State, least: int) -> int | None:
        """Return the last position from `least` on from which the rest of the completion may follow and end a state."""
        if is_complete(state.matcher):
            return len(self._body)
        for end in (least + np.flatnonzero(state.allowed[self._body[least:]]))[::-1].tolist():
            if self._follows(state.matcher, self._body[end:]):
                return end
        return None


def is_complete(matcher: LLMatcher) -> bool:
    """Return True if the text is accepted as it is."""
    return not matcher.is_error() and (matcher.is_accepting() or matcher.is_stopped())


def advanced_by(matcher: LLMatcher, tokens: Sequence[int]) -> LLMatcher:
    """Return the state after tokens."""
    advanced = matcher.deep_copy()
    advanced.consume_tokens(list(tokens))
    return advanced

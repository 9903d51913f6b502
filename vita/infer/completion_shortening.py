"""Shortening of a completion by local changes: a part is left out, or replaced by a shorter one.

The grammar decides whether the rest of the completion may follow at another place: a property that is not required, the
digits of a number and the items of a list can be left out, and a value can be replaced by one of another alternative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import product
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool

from vita.infer.grammar_states import EffortSpent, GrammarState

# V tokens of the tokenizer

_SHARES_OF_PASSES = (0.65, 0.6, 0.8)
"""Share of the remaining effort that each pass may take; completions that are shortened in turn have the rest."""
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

    @property
    def text_letters(self) -> Sequence[int]:
        """The tokens of a single letter that no number contains."""
        ...

    def candidates(self, allowed: Bool[np.ndarray, "V"], *, most_of_kind: int) -> list[int]:
        """Return the tokens to try, the preferred ones first; of letters, digits and rare bytes a few of each."""
        ...

    def quick_tokens(self, state: GrammarState, limit: int) -> list[int] | None:
        """Return the tokens of a quick completion of less than `limit` tokens, without the end; None without."""
        ...

    def kind(self, token: int) -> str:
        """Return the kind of a token: `lower`, `upper` or `digit`, or a mark of its own."""
        ...

    def preferred_tokens(self, state: GrammarState) -> list[int]:
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


def shortened(search: StepSearch, start: GrammarState, tokens: Sequence[int], limit: int) -> list[int] | None:
    """Return a completion of at most `limit` tokens, without the token that ends the answer; None if none is found.

    The search ends when the effort of `start` is used up.
    """
    with suppress(EffortSpent):
        return _Shortening(search, start, list(tokens), limit, restarts=_MOST_RESTARTS).result()
    return None


class _Shortening:
    """A completion that is shortened until it has at most `limit` tokens."""

    def __init__(self, search: StepSearch, start: GrammarState, body: list[int], limit: int, *, restarts: int) -> None:
        self._search, self._start, self._body, self._limit, self._restarts = search, start, body, limit, restarts
        self._others: list[list[int]] = []
        """Completions that are not shorter, but can perhaps be shortened."""
        self._states = [start]
        """The state before each token, and after the last, as far as they are known."""

    def result(self) -> list[int] | None:
        """Return the shortened completion; raises `EffortSpent`."""
        effort = self._start.effort
        passes = (self._replacement, self._replacement_of_many, self._other_end)
        for replacement, share in zip(passes, _SHARES_OF_PASSES, strict=True):
            with effort.part(share):
                self._shorten(replacement)
            if len(self._body) <= self._limit:
                return self._body
        for body in sorted(self._others, key=len)[: self._restarts]:
            other = _Shortening(self._search, self._start, body, self._limit, restarts=0)
            if (tokens := other.result()) is not None:
                return tokens
        return None

    def _shorten(self, replacement: Callable[[int], _Change | None]) -> None:
        """Apply changes until the completion is short enough, or until no change is found."""
        place, is_changed = 0, True
        while len(self._body) > self._limit and (place > 0 or is_changed):
            is_changed = is_changed and place > 0
            change = self._omission(place) or self._shorter_number(place) or replacement(place)
            if change is None:
                place = 0
            else:
                place, is_changed = change.start, True
                self._body[change.start : change.end] = change.tokens
                del self._states[change.start + 1 :]

    def _state(self, place: int) -> GrammarState:
        """Return the state before the token at a place."""
        while len(self._states) <= place:
            self._states.append(self._states[-1].after([self._body[len(self._states) - 1]]))
        return self._states[place]

    def _is_repetition(self, place: int) -> bool:
        """Return True for a token that repeats the one before it where the same tokens are allowed."""
        return (
            place > 0
            and self._body[place - 1] == self._body[place]
            and np.array_equal(self._state(place - 1).allowed, self._state(place).allowed)
        )

    def _omission(self, place: int) -> _Change | None:
        """Return the longest part that can be left out at the first place from `place` on that has one.

        It begins at the first token of a repetition.
        """
        for start in range(place, len(self._body)):
            if self._is_repetition(start):
                continue
            end = self._rejoined(self._state(start), start + 1)
            if end is not None:
                return _Change(start, [], end)
        return None

    def _shorter_number(self, place: int) -> _Change | None:
        """Return a replacement of digits from `place` on by fewer digits, such as 100 by 57 where the minimum is 57."""
        digits = self._search.digits
        start = place
        while start < len(self._body):
            end = start
            while end < len(self._body) and self._body[end] in digits:
                end += 1
            rest = self._body[end:]
            lengths = range(1, min(end - start, _LONGEST_NUMBER + 1))
            if lengths and self._state(start + 1).allowed[self._search.text_letters].any():
                lengths = range(0)  # digits in a text
            for length in lengths:
                for number in product(digits, repeat=length):
                    if self._state(start).completes([*number, *rest]):
                        return _Change(start, number, end)
            start = end + 1
        return None

    def _replacement_of_many(self, place: int) -> _Change | None:
        """Return the best replacement as `_replacement` does, of more tokens."""
        return self._replacement(place, most=_MOST_BRANCHES)

    def _other_end(self, place: int) -> _Change | None:
        """Return the first other token from `place` on after which a quick completion is shorter than the rest."""
        for start in range(place, len(self._body)):
            room = len(self._body) - start - 1
            for token, after in self._branches(start, most=_FEW_BRANCHES):
                tokens = self._search.quick_tokens(after, room + _LONGER)
                if tokens is not None and len(tokens) < room:
                    return _Change(start, [token, *tokens], len(self._body))
                if tokens is not None:
                    self._others.append([*self._body[:start], token, *tokens])
        return None

    def _branches(self, start: int, *, most: int) -> Iterator[tuple[int, GrammarState]]:
        """Yield tokens that may replace the token at a place, and the states after them."""
        if self._is_repetition(start):
            return
        before, current = self._state(start), self._body[start]
        is_free = np.count_nonzero(before.allowed) >= _FREE_TEXT
        interchangeable = set[str]()
        for token in self._search.candidates(before.allowed, most_of_kind=_MOST_OF_KIND)[:most]:
            kind = self._search.kind(token)
            if token == current or kind in interchangeable:
                continue
            after = before.after([token])
            is_similar = is_free or {kind, self._search.kind(current)} <= _ALPHANUMERIC
            if is_similar and np.array_equal(after.allowed, self._state(start + 1).allowed):
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

    def _replacement_with(self, token: int, state: GrammarState, start: int, best: _Change | None) -> _Change | None:
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
            if state.is_complete or not (following := self._search.preferred_tokens(state)):
                return improved
            state = state.after(following)
            branch += following
        return improved

    def _rejoined(self, state: GrammarState, least: int) -> int | None:
        """Return the last position from `least` on from which the rest of the completion may follow and end a state."""
        if state.is_complete:
            return len(self._body)
        for end in (least + np.flatnonzero(state.allowed[self._body[least:]]))[::-1].tolist():
            if state.completes(self._body[end:]):
                return end
        return None

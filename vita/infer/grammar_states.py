"""States of a grammar in a search, whose operations are counted.

    state = GrammarState(matcher, vocabulary=320, stops=stops, effort=Effort(10_000))
    state.after([65, 66]).allowed

The count depends on the grammar and the tokens alone and not on the speed of the machine, so that a search that ends
with its effort has the same result everywhere. An operation raises `EffortSpent` when the effort is used up.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

if TYPE_CHECKING:
    from llguidance import LLMatcher

# V tokens of the tokenizer

log = logging.getLogger(__name__)

_STEP, _MASK, _CHECK = 10, 10, 3
"""Units of a step to another state, of the allowed tokens, and of a check whether tokens may follow."""
_TOKENS_OF_MASK, _TOKENS_OF_CHECK = 400, 4
"""Number of tokens of the tokenizer, and of checked tokens, that take a further unit."""
_BEGINNING = 8
"""Number of tokens of a rest that are validated before the whole rest."""


class EffortSpent(Exception):
    """The effort of a search is used up."""


class Effort:
    """The remaining effort of a search. A unit is about a microsecond of a common processor."""

    def __init__(self, units: float) -> None:
        self.units = units

    def spend(self, units: float) -> None:
        """Subtract the effort of an operation; raises `EffortSpent` if less is left."""
        if units > self.units:
            self.units = 0
            raise EffortSpent
        self.units -= units

    @contextmanager
    def part(self, share: float) -> Iterator[None]:
        """Run a part of a search with a share of the remaining effort; the part ends when its share is used up."""
        reserve = (1 - share) * self.units
        self.units -= reserve
        try:
            with suppress(EffortSpent):
                yield
        finally:
            self.units += reserve


class GrammarState:
    """A state of a grammar, which does not change."""

    def __init__(self, matcher: LLMatcher, *, vocabulary: int, stops: frozenset[int], effort: Effort) -> None:
        self._matcher, self._vocabulary, self._stops, self.effort = matcher, vocabulary, stops, effort

    @cached_property
    def is_complete(self) -> bool:
        """True if the text is accepted as it is."""
        return not self._matcher.is_error() and (self._matcher.is_accepting() or self._matcher.is_stopped())

    @cached_property
    def allowed(self) -> Bool[np.ndarray, "V"]:
        """The tokens that may come next."""
        self.effort.spend(_MASK + self._vocabulary // _TOKENS_OF_MASK)
        return allowed_tokens(self._matcher, vocabulary=self._vocabulary, stops=self._stops)

    def forced(self) -> list[int]:
        """Return the tokens that must follow."""
        self.effort.spend(1)
        return self._matcher.compute_ff_tokens()

    def accepts(self, tokens: Sequence[int]) -> bool:
        """Return True if tokens may follow."""
        tokens = list(tokens)
        beginning = tokens[:_BEGINNING]
        count = self._matcher.validate_tokens(beginning)
        self.effort.spend(_CHECK)
        if count < len(beginning) or len(tokens) == count:
            return count == len(tokens)
        self.effort.spend(len(tokens) / _TOKENS_OF_CHECK)
        return self._matcher.validate_tokens(tokens) == len(tokens)

    def completes(self, tokens: Sequence[int]) -> bool:
        """Return True if tokens may follow and complete the text."""
        return self.accepts([*tokens, min(self._stops)]) if tokens else self.is_complete

    def after(self, tokens: Sequence[int]) -> GrammarState:
        """Return the state after tokens that may follow."""
        self.effort.spend(_STEP + len(tokens))
        matcher = self._matcher.deep_copy()
        matcher.consume_tokens(list(tokens))
        return GrammarState(matcher, vocabulary=self._vocabulary, stops=self._stops, effort=self.effort)


def allowed_tokens(matcher: LLMatcher, *, vocabulary: int, stops: frozenset[int]) -> Bool[np.ndarray, "V"]:
    """Return the tokens that may come next; none after an error of the grammar, and the stops after its end."""
    if not matcher.is_error() and not matcher.is_stopped():
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        if not matcher.is_error():
            return np.unpackbits(bits, bitorder="little", count=vocabulary).view(np.bool_)
    allowed = np.zeros(vocabulary, dtype=bool)
    if matcher.is_error():  # no token is allowed, which fails this request alone
        log.debug("a grammar failed: %s", matcher.get_error().partition("\n")[0])
    else:
        allowed[list(stops)] = True
    return allowed

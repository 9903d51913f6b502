"""Answers of another program whose text a grammar accepts.

    async for token in ConstrainedAnswer(client, request, constraint, vocabulary=1024).tokens(): ...

Each token of the program is checked against the grammar in this process. A token that the grammar does not allow is
drawn again among the allowed tokens only, in a request of its own: the distribution is that of constrained decoding.
A program that reads the grammar itself proposes no other tokens, so that one request is enough. The tokens that the
grammar forces at the start of the answer belong to the prompt (`Constraint.forced`): such a program, which reads a
grammar from its start, generates them again, and they are no tokens of the answer. The end of the text
before the limit of tokens is computed here, as for the answers of Vita (`vita.infer.grammars`).
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from vita.infer.grammars import Constraint
from vita.infer.request import TokenScore
from vita.server.backends.engine_client import AnswerRequest, EngineClient, EngineEnd, EngineRefusal, EngineToken
from vita.spine.errors import ModelError

# V tokens of the model

_MOST_SINGLE_STEPS = 32
"""Maximum number of tokens that are requested one by one before the program may propose several again."""
_SEED_STEP = 7919
"""Difference between the seeds of two requests of one answer at neighbouring positions."""


class ConstrainedAnswer:
    """One answer while its tokens are requested."""

    def __init__(
        self, client: EngineClient, request: AnswerRequest, constraint: Constraint, *, vocabulary: int
    ) -> None:
        """`constraint` is advanced with the answer; `vocabulary` is the number of tokens of the model."""
        self._client, self._request, self._constraint, self._vocabulary = client, request, constraint, vocabulary
        self._ids: list[int] = []
        self._ended = False

    async def tokens(self) -> AsyncGenerator[EngineToken | EngineEnd]:
        """Yield the tokens of the answer, and its end; closing the generator cancels the computation."""
        grammar = self._constraint.grammar if self._follows_grammar() else None
        single_steps = 1
        while not self._ended:
            accepted = len(self._ids)
            request, forced = self._rest(), list[int]()
            if grammar is not None and (forced := list(self._constraint.forced)):
                prompt, limit = request.prompt[: -len(forced)], request.limit + len(forced)
                request = replace(request, prompt=prompt, limit=limit)
            async with aclosing(self._proposed(replace(request, grammar=grammar), forced=forced)) as proposed:
                async for token in proposed:
                    yield token
            accepted = len(self._ids) - accepted
            single_steps = 1 if accepted else min(2 * single_steps, _MOST_SINGLE_STEPS)
            grammar = None  # the program would begin the grammar again
            for _ in range(single_steps):
                if not self._ended:
                    async for token in self._next():
                        yield token

    def _follows_grammar(self) -> bool:
        """Return True if the first request contains the grammar.

        A program whose penalties ignore the prompt would count the forced tokens, which it generates.
        """
        counts_forced = self._constraint.forced and not self._client.penalizes_prompt
        if counts_forced and (self._request.presence or self._request.frequency):
            return False
        return self._client.reads_grammar(self._constraint.grammar)

    async def _proposed(
        self, request: AnswerRequest, *, forced: Sequence[int]
    ) -> AsyncGenerator[EngineToken | EngineEnd]:
        """Yield the tokens of one request up to the first that the grammar does not allow.

        The tokens `forced`, with which the program begins, are left out.
        """
        remaining_forced = list(forced)
        try:
            async with aclosing(self._client.answer(request)) as tokens:
                async for token in tokens:
                    if remaining_forced:
                        if isinstance(token, EngineEnd) or token.score.id != remaining_forced.pop(0):
                            return  # other tokens of the same text
                        continue
                    if isinstance(token, EngineEnd):
                        if token.finish != "stop" or self._constraint.can_end:
                            self._ended = True
                            yield token
                        return
                    if token.data is not None or not self._constraint.allows(token.score.id):
                        return
                    async for accepted in self._accepted(token):
                        yield accepted
                    if self._ended:
                        return
        except EngineRefusal:
            if request.grammar is None:
                raise

    async def _next(self) -> AsyncGenerator[EngineToken | EngineEnd]:
        """Yield one token, drawn among the allowed tokens."""
        allowed = self._allowed()
        candidates = np.flatnonzero(allowed)
        if not len(candidates):
            raise self._constraint.failure or ModelError("backend", "the grammar allows no further token")
        if len(candidates) == 1 and not self._request.scored:
            token = EngineToken(TokenScore(int(candidates[0]), math.nan))
        else:
            token = await self._client.next_token(self._rest(), allowed=allowed)
            if not self._constraint.allows(token.score.id):
                problem = f"the program returns the token {token.score.id}, which the request does not allow"
                raise ModelError("backend", problem)
        async for accepted in self._accepted(token):
            yield accepted

    async def _accepted(self, token: EngineToken) -> AsyncGenerator[EngineToken | EngineEnd]:
        """Yield a token, or the completion of the text if too few tokens would be left after it."""
        accepted_id = self._constraint.accept(token.score.id, remaining=self._request.limit - len(self._ids))
        if accepted_id == token.score.id:
            self._append(accepted_id)
            yield token
            return
        for completing_id in (accepted_id, *self._constraint.completion):
            yield EngineToken(await self._score(completing_id))
            self._append(completing_id)
        self._ended = True

    def _append(self, token: int) -> None:
        self._ids.append(token)
        self._ended = self._constraint.is_stop(token) or len(self._ids) >= self._request.limit

    async def _score(self, token: int) -> TokenScore:
        """Return the score of a token that the program did not draw; without a log-probability if none is needed."""
        if not self._request.scored:
            return TokenScore(token, math.nan)
        candidates = max(self._client.scored_candidates, self._request.top)
        scores = await self._client.next_scores([*self._request.prompt, *self._ids], top=candidates)
        top = tuple(scores.items())[: self._request.top]
        return TokenScore(token, scores.get(token, math.nan), top)

    def _allowed(self) -> Bool[np.ndarray, "V"]:
        allowed = np.zeros(self._vocabulary, dtype=bool)
        mask = self._constraint.allowed()
        allowed[: len(mask)] = mask
        return allowed

    def _rest(self) -> AnswerRequest:
        """Return the request of the rest of the answer: its tokens until now belong to the prompt."""
        request, count = self._request, len(self._ids)
        seed = (request.sampling.seed + count * _SEED_STEP) % 2**63
        return replace(
            request,
            prompt=[*request.prompt, *self._ids],
            limit=request.limit - count,
            sampling=request.sampling.model_copy(update={"seed": seed}),
            biases={**(request.biases or {}), **dict(self._penalties())},
        )

    def _penalties(self) -> Iterator[tuple[int, float]]:
        """Yield the biases of the tokens of the answer, for a program whose penalties ignore the prompt."""
        request, biases = self._request, self._request.biases or {}
        if self._client.penalizes_prompt or not (request.presence or request.frequency):
            return
        for token in set(self._ids):
            penalty = request.presence + request.frequency * self._ids.count(token)
            yield token, biases.get(token, 0.0) - penalty

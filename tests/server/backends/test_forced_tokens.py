"""The forced beginning of a constrained answer belongs to the prompt of another program."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Mapping, Sequence

import numpy as np

from vita.infer.answer_formats.call_source import arguments_rule
from vita.infer.grammars import GrammarCompiler, json_grammar
from vita.infer.request import TokenScore
from vita.infer.sampling import Sampling
from vita.server.backends.constrained_answers import ConstrainedAnswer
from vita.server.backends.engine_client import AnswerRequest, EngineClient, EngineEnd, EngineToken
from vita.server.backends.program_grammars import single_lark
from vita.testing import byte_tokenizer

TOKENIZER = byte_tokenizer()
SCHEMA = {"type": "object", "properties": {"age": {"enum": [7]}}, "required": ["age"], "additionalProperties": False}
GRAMMAR = json_grammar({"anyOf": [SCHEMA, {**SCHEMA, "properties": {"age": {"enum": [8]}}}]})
PROMPT = [*TOKENIZER.encode("a cat: ")]
FORCED = '{"age": '
"""Beginning of both texts of the grammar."""


class ScriptedClient(EngineClient):
    """A program whose answer is a text, or its rest after the forced text in a request without a grammar."""

    follows_grammars = True

    def __init__(self, *, reads: bool, text: str, penalizes: bool = True) -> None:
        super().__init__("http://127.0.0.1:1")
        self._reads, self._text, self.penalizes_prompt = reads, text, penalizes  # type: ignore[misc]
        self.requests: list[AnswerRequest] = []

    @property
    def version(self) -> str:
        return ""

    def reads_grammar(self, grammar: str) -> bool:
        return self._reads

    async def answer(self, request: AnswerRequest) -> AsyncGenerator[EngineToken | EngineEnd]:
        self.requests.append(request)
        text = self._text if request.grammar else self._text.removeprefix(FORCED)
        for token in TOKENIZER.encode(text)[: request.limit]:
            yield EngineToken(TokenScore(token, math.nan))
        yield EngineEnd("stop")

    async def next_token(self, request: AnswerRequest, *, allowed: np.ndarray) -> EngineToken:
        self.requests.append(request)
        return EngineToken(TokenScore(int(np.flatnonzero(allowed)[0]), math.nan))

    async def probe(self) -> None: ...


def text_of(client: ScriptedClient, *, limit: int = 8, presence: float = 0.0) -> str:
    """Return the text of an answer after its forced beginning, whose tokens are read with the prompt."""
    constraint = GrammarCompiler(TOKENIZER).compile(GRAMMAR)
    forced = constraint.take_forced(99)
    assert TOKENIZER.decode(forced) == FORCED and constraint.copy().forced == tuple(forced)
    request = AnswerRequest([*PROMPT, *forced], Sampling(temperature=0), limit=limit, presence=presence)

    async def tokens() -> list[int]:
        answer = ConstrainedAnswer(client, request, constraint, vocabulary=TOKENIZER.vocabulary)
        ids = [token.score.id async for token in answer.tokens() if isinstance(token, EngineToken)]
        await client.close()
        return ids

    return TOKENIZER.decode([token for token in asyncio.run(tokens()) if token not in TOKENIZER.stops])


def prompts(client: ScriptedClient) -> Sequence[str]:
    return [TOKENIZER.decode(list(request.prompt)) for request in client.requests]


def test_a_program_that_reads_the_grammar_generates_the_forced_text_beside_the_limit() -> None:
    client = ScriptedClient(reads=True, text=FORCED + "8}")
    assert text_of(client, limit=3) == "8}"
    assert prompts(client) == ["a cat: "] and client.requests[0].limit == 3 + len(FORCED)
    assert client.requests[0].grammar == GRAMMAR


def test_a_program_that_reads_no_grammar_continues_the_forced_text() -> None:
    client = ScriptedClient(reads=False, text=FORCED + "8}")
    assert text_of(client, limit=3) == "8}"
    assert prompts(client) == ["a cat: " + FORCED] and client.requests[0].limit == 3
    assert client.requests[0].grammar is None


def test_other_tokens_than_the_forced_ones_are_dropped_and_the_forced_text_is_continued() -> None:
    client = ScriptedClient(reads=True, text="7}")
    assert text_of(client, limit=3) == "7}"
    assert prompts(client)[:2] == ["a cat: ", "a cat: " + FORCED] and client.requests[1].limit == 3


def test_penalties_of_a_program_that_counts_only_its_own_tokens_ignore_the_forced_text() -> None:
    client = ScriptedClient(reads=True, text=FORCED + "8}", penalizes=False)
    assert text_of(client, presence=1.0) == "8}"
    assert prompts(client)[0] == "a cat: " + FORCED


class ScoringClient(ScriptedClient):
    """A program that knows the log-probabilities of many tokens, the first of which are the most likely."""

    scored_candidates = 300

    async def next_scores(self, prompt: Sequence[int], *, top: int) -> Mapping[int, float]:
        return {token: -float(token) for token in range(top)}


def test_the_tokens_that_complete_an_answer_have_log_probabilities_although_they_are_unlikely() -> None:
    constraint = GrammarCompiler(TOKENIZER).compile(json_grammar({"type": "string"}))
    prompt = [*PROMPT, *constraint.take_forced(99)]
    client = ScoringClient(reads=False, text="aaaa")
    request = AnswerRequest(prompt, Sampling(temperature=0), limit=2, top=3, scored=True)

    async def scores() -> list[TokenScore]:
        answer = ConstrainedAnswer(client, request, constraint, vocabulary=TOKENIZER.vocabulary)
        tokens = [token.score async for token in answer.tokens() if isinstance(token, EngineToken)]
        await client.close()
        return tokens

    (quote,), top = TOKENIZER.encode('"'), ((0, 0.0), (1, -1.0), (2, -2.0))
    first, end = asyncio.run(scores())
    assert first == TokenScore(quote, -float(quote), top)
    assert end.id in TOKENIZER.stops and end == TokenScore(end.id, -float(end.id), top)


def test_a_program_gets_only_options_of_grammars_that_its_version_knows() -> None:
    """The llguidance of llama.cpp refuses a grammar with an option that it does not know."""
    calls = "start: calls\n" + arguments_rule(0, {"name": "f", "parameters": SCHEMA})
    for grammar in (
        GRAMMAR,
        calls,
        json.dumps({"grammars": [{"lark_grammar": "start: @a"}, {"name": "a", **schema_part()}]}),
    ):
        lark = single_lark(grammar)
        assert lark is not None and "key_separator" in lark and "json_allowed_escapes" not in lark


def schema_part() -> dict[str, object]:
    """Return the JSON schema of a grammar beside others."""
    return {"json_schema": json.loads(GRAMMAR)["grammars"][0]["json_schema"]}

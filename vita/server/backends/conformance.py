"""The comparison of a program with the golden answers of a release, before its replica is ready.

A golden answer is the greedy answer of the release in float32, with the sum of its log-probabilities. The program
computes the log-probabilities of the same tokens. Where its most likely token differs, it continues after the golden
token, which must be among its `CANDIDATES` most likely ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from vita.infer.sampling import Sampling
from vita.server.backends.engine_client import AnswerRequest, EngineClient, EngineToken
from vita.spine.errors import ModelError

CANDIDATES = 5
"""Number of most likely tokens that are compared; the largest number of the OpenAI API for completions."""
WHERE = "release.golden"


@dataclass(frozen=True)
class Conformance:
    """The result of a comparison."""

    answers: int
    difference: float
    """Largest difference of the log-probability of a golden answer, in nats per token."""
    tolerance: float
    """Allowed difference."""
    quantization: str | None = None
    """Number format of quantized weights of the backend `vita`."""

    def record(self) -> dict[str, Any]:
        """Return the result for `/ready` and `/v1/models`."""
        return {"answers": self.answers, "difference": round(self.difference, 6), "tolerance": self.tolerance}


def no_golden_answers(program: str) -> ModelError:
    """Return the error for a release without answers to compare with."""
    hint = "create the release with `vita release`, or let `vita serve --backend` create it"
    return ModelError(WHERE, f"holds no golden answers with which `{program}` could be compared", hint=hint)


async def check_conformance(
    client: EngineClient, golden: Sequence[Mapping[str, Any]], *, tolerance: float, program: str
) -> Conformance:
    """Compare the program with all golden answers; raise `ModelError` with the figure of the first that differs."""
    answers = [answer for answer in golden if answer.get("prompt") and answer.get("greedy")]
    if not answers:
        raise no_golden_answers(program)
    largest = 0.0
    for number, answer in enumerate(answers, 1):
        difference = await _difference(client, answer, tolerance=tolerance, program=program, number=number)
        largest = max(largest, difference)
    return Conformance(len(answers), largest, tolerance)


async def _difference(
    client: EngineClient, answer: Mapping[str, Any], *, tolerance: float, program: str, number: int
) -> float:
    """Return the difference of the log-probability of one golden answer, in nats per token."""
    golden_ids, recorded = list(answer["greedy"]), float(answer["logprob"])
    total = 0.0
    position = 0
    while position < len(golden_ids):
        prompt = [*answer["prompt"], *golden_ids[:position]]
        scores = await _scores(client, prompt, golden_ids[position:])
        if not scores and (candidates := await client.next_scores(prompt, top=CANDIDATES)):
            scores = [dict(candidates)]  # the program reports this position only outside of a stream
        for score, golden_token in zip(scores, golden_ids[position:], strict=False):
            if golden_token not in score:
                raise _mismatch(
                    program, number, f"token {position + 1} among the {CANDIDATES} most likely ones", "another token"
                )
            total += score[golden_token]
            position += 1
        if not scores:
            raise _mismatch(program, number, f"{len(golden_ids)} tokens", f"the end after {position} tokens")
        if total < recorded - tolerance * len(golden_ids):
            break  # the sum only decreases
    difference = abs(total - recorded) / len(golden_ids)
    # The condition is negated so that NaN fails also.
    if not difference <= tolerance:
        is_partial = position < len(golden_ids)
        raise _mismatch(
            program, number, f"log-probability {recorded:.4f} (+-{tolerance:g} per token)",
            f"{total:.4f}{' or less' if is_partial else ''}, a difference of {difference:.4f} per token",
        )  # fmt: skip
    return difference


async def _scores(client: EngineClient, prompt: list[int], golden_ids: list[int]) -> list[dict[int, float]]:
    """Return the log-probabilities of candidates at each position, up to the first token that is not golden."""
    request = AnswerRequest(prompt, Sampling(temperature=0), limit=len(golden_ids), top=CANDIDATES)
    scores: list[dict[int, float]] = []
    async with aclosing(client.answer(request)) as tokens:
        async for token in tokens:
            if not isinstance(token, EngineToken):
                break
            score = token.score
            if math.isnan(score.logprob):
                break
            scores.append({**dict(score.top), score.id: score.logprob})
            if len(scores) == len(golden_ids) or score.id != golden_ids[len(scores) - 1]:
                break
    return scores


def _mismatch(program: str, number: int, expected: str, got: str) -> ModelError:
    hint = f"`{program}` computes another model, or with a lower precision; `tolerance` is a setting of the backend"
    return ModelError(f"{WHERE} {number}", expected=expected, got=got, hint=hint)

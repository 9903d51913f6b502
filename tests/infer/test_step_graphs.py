"""Recorded decoding steps compute the tokens of steps that are not recorded, bit by bit.

The recorder of these tests computes a step again on its inputs, at the same addresses. `tests/gpu` records CUDA graphs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.nn.test_experts import mixture
from vita.infer.batch import GenerationBatch
from vita.infer.batch_invariance import BatchWidths, ExactWidths, decoding_widths
from vita.infer.completion import CompletionBuilder
from vita.infer.request import Event, FinishedEvent, GenerationRequest, Job, TokenEvent
from vita.infer.sampling import Sampling
from vita.infer.step_graphs import MAX_GRAPHS, Recorder, StepGraphs, StepOutput
from vita.nn.init import initialize
from vita.nn.transformer import Transformer
from vita.testing import byte_tokenizer, tiny_model


class RepeatedComputation:
    """A recorder without a device: counts recordings and replays."""

    def __init__(self) -> None:
        self.num_recorded = self.num_replayed = 0

    def __call__(self, compute: Callable[[], StepOutput]) -> tuple[StepOutput, Callable[[], None]]:
        self.num_recorded += 1
        output = compute()
        return output, lambda: self.replay(output, compute)

    def replay(self, output: StepOutput, compute: Callable[[], StepOutput]) -> None:
        self.num_replayed += 1
        for tensor, content in zip(output, compute(), strict=True):
            tensor.copy_(content)


def answers(
    model: Transformer, recorder: Recorder | None, *, widths: BatchWidths, request: dict[str, Any] | None = None
) -> dict[int, list[tuple[int, float]]]:
    """Generate answers of different lengths, which begin and end at different steps; return tokens and scores."""
    tokenizer = byte_tokenizer()
    tokens: dict[int, list[tuple[int, float]]] = {}
    jobs: deque[Job] = deque()
    for number in range(5):
        prompt = tuple(range(1, 4 + 12 * (number % 4)))
        filters: dict[str, Any] = {"top_k": 40, "top_p": 0.8} if number == 3 else {}
        sampling = Sampling(temperature=0.7 * (number % 2), max_tokens=6 + 9 * (number % 3), seed=number, **filters)
        builder = CompletionBuilder(list(prompt), sampling, tokenizer, limit=sampling.max_tokens)

        def listen(event: Event, number: int = number) -> None:
            assert isinstance(event, (TokenEvent, FinishedEvent)) or "Prompt" in type(event).__name__, event
            if isinstance(event, TokenEvent):
                tokens.setdefault(number, []).append((event.score.id, event.score.logprob))

        changes = request if request and number == 1 else {}
        jobs.append(Job(GenerationRequest(prompt, answers=1, **changes), [builder], listen, at=0.0))
    batch = GenerationBatch(model, rows=3, widths=widths, tokens=tokenizer.vocabulary, recorder=recorder)
    with torch.inference_mode():
        while jobs or batch.busy:
            batch.admit(lambda: jobs.popleft() if jobs else None)
            batch.step()
    return tokens


@pytest.mark.parametrize(
    "sizes",
    [
        {"context": 512, "layers": 1},
        {"context": 128, "window": 16, "layers": 2, "window_layers": (1,)},
    ],
)
def test_recorded_steps_give_the_bits_of_other_steps(sizes: dict[str, Any]) -> None:
    model = tiny_model(std=0.3, **sizes)
    recorder = RepeatedComputation()
    widths = decoding_widths(model, 3)
    expected = answers(model, None, widths=widths)
    assert answers(model, recorder, widths=widths) == expected
    assert {len(tokens) for tokens in expected.values()} == {6, 15, 24}
    assert 0 < recorder.num_recorded < recorder.num_replayed
    assert recorder.num_recorded <= MAX_GRAPHS


@pytest.mark.parametrize("request_changes", [{"biases": {65: 4.0}}, {"repetition": 1.3}, {"min_p": 0.05}])
def test_adjusted_answers_are_chosen_after_the_recorded_step(request_changes: dict[str, Any]) -> None:
    model = tiny_model(std=0.3, context=128, layers=1)
    recorder, widths = RepeatedComputation(), decoding_widths(model, 3)
    expected = answers(model, None, widths=widths, request=request_changes)
    assert expected != answers(model, None, widths=widths)
    assert answers(model, recorder, widths=widths, request=request_changes) == expected
    assert recorder.num_replayed


def test_a_step_that_cannot_be_recorded_is_logged_and_computed(caplog: pytest.LogCaptureFixture) -> None:
    num_attempts = 0

    def fail(compute: Callable[[], StepOutput]) -> tuple[StepOutput, Callable[[], None]]:
        nonlocal num_attempts
        num_attempts += 1
        raise RuntimeError("operation not permitted when stream is capturing")

    model = tiny_model(std=0.3, context=128, layers=1)
    widths = decoding_widths(model, 3)
    assert answers(model, fail, widths=widths) == answers(model, None, widths=widths)
    assert num_attempts == 1
    assert [record.message for record in caplog.records] == [
        "steps are not recorded as CUDA graphs, which makes decoding slower: "
        "operation not permitted when stream is capturing"
    ]


def test_recorded_steps_without_padding_have_the_same_tokens() -> None:
    model = tiny_model(std=0.3, context=128, layers=1)
    recorder = RepeatedComputation()
    expected = answers(model, None, widths=ExactWidths())
    recorded = answers(model, recorder, widths=ExactWidths())
    assert recorder.num_replayed
    for number, tokens in expected.items():
        assert [token for token, _ in recorded[number]] == [token for token, _ in tokens]


def test_a_step_whose_shape_depends_on_the_tokens_is_not_recorded() -> None:
    architecture = mixture(dense_layers=(0,), shared=32).model_copy(
        update={"vocabulary": 259, "layers": 2, "context": 128}
    )
    model = Transformer(architecture)
    initialize(model, "fan_in")
    assert not StepGraphs.supports(model)
    recorder = RepeatedComputation()
    assert len(answers(model, recorder, widths=ExactWidths())) == 5
    assert not recorder.num_recorded

"""The scheduler: an answer depends only on its request, and every request gets a final event."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vita.infer.batch_invariance import BatchWidths, decoding_widths
from vita.infer.engine import Engine
from vita.infer.request import (
    Event,
    FailedEvent,
    FinishedEvent,
    GenerationRequest,
    PromptEvent,
    QueueFull,
    SchedulerClosed,
    TokenEvent,
)
from vita.infer.sampling import Sampling
from vita.infer.scheduler import Scheduler
from vita.spine.errors import DataError, ModelError
from vita.testing import byte_tokenizer, tiny_model

GREEDY = Sampling(temperature=0, max_tokens=24)


def engine(**sizes: Any) -> Engine:
    return Engine(tiny_model(std=0.3, **sizes), byte_tokenizer())


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    scheduler = Scheduler(engine(), rows=5, queue=20)
    yield scheduler
    scheduler.close()


def create_requests(count: int, *, context: int) -> list[GenerationRequest]:
    """Return requests with prompts of many lengths and different settings."""
    generator = torch.Generator().manual_seed(0)
    created_requests = []
    for index in range(count):
        length = int(torch.randint(1, context * 3 // 4, (1,), generator=generator))
        prompt = [256, *torch.randint(0, 256, (length,), generator=generator).tolist()]
        sampling = Sampling(
            seed=index, temperature=(0.0, 1.0, 1.7)[index % 3], top_p=(1.0, 0.8)[index % 2],
            top_k=(0, 9)[index % 5 == 4], max_tokens=1 + index * 7 % 16,
        )  # fmt: skip
        extras: dict[str, Any] = {"top": 3} if index % 4 == 1 else {}
        if index % 4 == 2:
            extras = {"presence": 0.5, "frequency": 0.3, "biases": {65: 5.0}}
        created_requests.append(GenerationRequest(prompt, sampling, answers=1 + (index % 6 == 5), **extras))
    return created_requests


def answer_pieces(events: list[Event]) -> list[Any]:
    """Return the tokens of the answers in order, without times."""
    pieces = [(e.answer, e.score, e.text, e.finish) for e in events if isinstance(e, TokenEvent)]
    return sorted(pieces, key=lambda piece: piece[0])


def collect(scheduler: Scheduler, requests: list[GenerationRequest], *, interval: float = 0.0) -> list[list[Event]]:
    """Submit requests at an interval in seconds and return the events of each."""
    boxes: list[queue.SimpleQueue[Event]] = [queue.SimpleQueue() for _ in requests]
    for request, box in zip(requests, boxes, strict=True):
        scheduler.submit(request, box.put)
        time.sleep(interval)
    request_events = []
    for box in boxes:
        events = [box.get(timeout=60)]
        while not isinstance(events[-1], (FinishedEvent, FailedEvent)):
            events.append(box.get(timeout=60))
        request_events.append(events)
    return request_events


# -- determinism


@pytest.mark.parametrize(
    "sizes",
    [
        {"context": 64},
        {"context": 100, "width": 64, "heads": 1, "kv_heads": 1, "head_dim": 16},
        {"context": 100, "width": 256, "heads": 8, "kv_heads": 4, "head_dim": 32, "feedforward": 768},
    ],
    ids=["tiny", "one head", "wide"],
)
def test_an_answer_is_bitwise_equal_alone_and_in_any_batch(sizes: dict[str, int]) -> None:
    requests = create_requests(10, context=sizes["context"])
    for request in requests:
        assert len(request.prompt) < sizes["context"]
    shared_engine = engine(**sizes)
    single_scheduler, batch_scheduler = (
        Scheduler(shared_engine, rows=5, queue=64),
        Scheduler(shared_engine, rows=5, queue=64),
    )
    expected = [answer_pieces(single_scheduler.answer(request_number)) for request_number in requests]
    for order, interval in ((1, 0.0), (-1, 0.002)):
        for request_number, events in zip(
            range(len(requests))[::order], collect(batch_scheduler, requests[::order], interval=interval), strict=True
        ):
            assert answer_pieces(events) == expected[request_number]
    single_scheduler.close()
    batch_scheduler.close()


def test_two_schedulers_give_the_same_answers(scheduler: Scheduler) -> None:
    second_scheduler = Scheduler(engine(), rows=5)
    requests = create_requests(6, context=64)
    assert list(map(answer_pieces, collect(scheduler, requests))) == list(
        map(answer_pieces, collect(second_scheduler, requests))
    )
    second_scheduler.close()


def test_answers_equal_those_of_the_engine(scheduler: Scheduler) -> None:
    requests = [request for request in create_requests(8, context=64) if request.answers == 1 and not request.biases]
    for request, events in zip(requests, collect(scheduler, requests), strict=True):
        (expected,) = scheduler.engine.generate([request.prompt], request.sampling)
        pieces = [event for event in events if isinstance(event, TokenEvent)]
        assert [piece.score.id for piece in pieces] == list(expected.ids)
        assert "".join(piece.text for piece in pieces) == expected.text
        assert tuple(piece.score.logprob for piece in pieces) == expected.logprobs, "to the last bit"
        assert pieces[-1].finish == expected.finish


def test_several_answers_equal_single_answers_with_their_seeds(scheduler: Scheduler) -> None:
    sampling = Sampling(seed=3, max_tokens=12)
    events = answer_pieces(scheduler.answer(GenerationRequest([256, 1, 2], sampling, answers=6)))
    samplings = [sampling, *sampling.varied(5)]
    for index, seed_sampling in enumerate(samplings):
        single = answer_pieces(scheduler.answer(GenerationRequest([256, 1, 2], seed_sampling)))
        assert [event[1:] for event in events if event[0] == index] == [event[1:] for event in single]
    assert len({tuple(event[1].id for event in events if event[0] == index) for index in range(6)}) > 3


def test_chunked_prefill_equals_prefill_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vita.infer.prompts.PASS_TOKENS", 16)
    monkeypatch.setattr("vita.infer.prompts.SHORT", 16)
    scheduler = Scheduler(engine(), rows=2)
    prompt = [256, *range(50)]
    prompt_event, *_ = scheduler.answer(GenerationRequest(prompt, GREEDY, prompt_logprobs=True, embedding=True, top=2))
    assert isinstance(prompt_event, PromptEvent)
    assert prompt_event.scores is not None
    (score,) = scheduler.engine.score([(prompt[:1], prompt[1:])])
    assert [token_score.logprob for token_score in prompt_event.scores] == pytest.approx(score.logprobs, abs=1e-4)
    assert [token_score.id for token_score in prompt_event.scores] == prompt[1:]
    hidden = scheduler.engine.model.hidden(torch.tensor([prompt]))[0].mean(0)
    assert prompt_event.embedding == pytest.approx((hidden / hidden.norm()).tolist(), abs=1e-5)
    scheduler.close()


# -- log-probabilities, biases and penalties


def test_the_greedy_token_is_the_first_of_the_top_logprobs(scheduler: Scheduler) -> None:
    prompt_event, *events = scheduler.answer(GenerationRequest([256, 1, 2, 3], GREEDY, top=4, prompt_logprobs=True))
    assert isinstance(prompt_event, PromptEvent)
    assert prompt_event.scores is not None
    for piece in events[:-1]:
        assert isinstance(piece, TokenEvent)
        assert piece.score.logprob == max(logprob for _, logprob in piece.score.top)
        assert piece.score.id == piece.score.top[0][0]
    assert [len(token_score.top) for token_score in prompt_event.scores] == [4, 4, 4]


def test_biases_force_and_forbid_tokens_without_changing_logprobs(scheduler: Scheduler) -> None:
    forced_pieces = answer_pieces(scheduler.answer(GenerationRequest([256, 1], GREEDY, biases={65: 100.0})))
    assert {scored.id for _, scored, _, _ in forced_pieces} == {65}
    assert any(scored.logprob < -0.1 for _, scored, _, _ in forced_pieces)
    unbiased_pieces = answer_pieces(scheduler.answer(GenerationRequest([256, 1], GREEDY)))
    forbidden_pieces = answer_pieces(
        scheduler.answer(GenerationRequest([256, 1], GREEDY, biases={unbiased_pieces[0][1].id: -100.0}))
    )
    assert unbiased_pieces[0][1].id not in {scored.id for _, scored, _, _ in forbidden_pieces}
    with pytest.raises(DataError, match=r"biases: expected token ids from 0 to 258, got 259"):
        scheduler.answer(GenerationRequest([256], biases={259: 1.0}))


def test_presence_and_frequency_penalties_follow_their_formula(scheduler: Scheduler) -> None:
    model, prompt, answer_ids = scheduler.engine.model, [256, 7], []
    for _, scored, _, _ in answer_pieces(
        scheduler.answer(GenerationRequest(prompt, GREEDY, presence=0.7, frequency=0.4))
    ):
        logits = model(torch.tensor([[*prompt, *answer_ids]]))[0, -1].detach()
        for token in set(answer_ids):
            logits[token] -= 0.7 + 0.4 * answer_ids.count(token)
        assert scored.id == int(logits.argmax())
        answer_ids.append(scored.id)


def test_a_prompt_without_an_answer_may_fill_the_context(scheduler: Scheduler) -> None:
    prompt_event, finished_event = scheduler.answer(GenerationRequest([256] * 64, answers=0, prompt_logprobs=True))
    assert isinstance(prompt_event, PromptEvent)
    assert prompt_event.scores is not None
    assert len(prompt_event.scores) == 63
    assert isinstance(finished_event, FinishedEvent)
    with pytest.raises(DataError, match="at most 63 tokens"):
        scheduler.answer(GenerationRequest([256] * 64))


def test_an_answer_may_fill_the_context(scheduler: Scheduler) -> None:
    pieces = answer_pieces(
        scheduler.answer(GenerationRequest([256] * 60, Sampling(max_tokens=100), biases={66: 100.0}))
    )
    assert len(pieces) == 4
    assert pieces[-1][3] == "length"


# -- the queue


def test_a_full_queue_refuses_a_group_of_requests_as_a_unit() -> None:
    release = threading.Event()
    scheduler = Scheduler(engine(), rows=1, queue=2, queue_tokens=100)
    slow_request = GenerationRequest([256], Sampling(max_tokens=50), biases={66: 100.0})
    events = queue.SimpleQueue()

    def wait_for_release(event: Event) -> None:
        release.wait(20)
        events.put(event)

    scheduler.submit(slow_request, wait_for_release)
    with pytest.raises(QueueFull, match="1 answers are computed or waiting, of at most 3"):
        scheduler.submit(GenerationRequest([256], GREEDY, answers=3), events.put)
    box: queue.SimpleQueue[Event] = queue.SimpleQueue()
    with pytest.raises(QueueFull):
        scheduler.submit_all([(slow_request, box.put)] * 3)
    assert scheduler.in_flight == 1
    scheduler.submit_all([(slow_request, box.put)] * 2)
    with pytest.raises(QueueFull) as error:
        scheduler.check_room(1)
    assert error.value.reason == "requests"
    release.set()
    finished_count = 0
    while finished_count < 2:
        finished_count += isinstance(box.get(timeout=20), FinishedEvent)
    assert scheduler.in_flight == scheduler.waiting == scheduler.running == 0
    scheduler.close()


def test_queued_prompts_are_counted_in_tokens() -> None:
    release = threading.Event()
    scheduler = Scheduler(engine(), rows=1, queue=20, queue_tokens=100)

    def wait_for_release(event: Event) -> None:
        release.wait(20)

    scheduler.submit(GenerationRequest([256], GREEDY), wait_for_release)
    scheduler.submit(GenerationRequest([256] * 60), lambda event: None)
    with pytest.raises(QueueFull) as error:
        scheduler.submit(GenerationRequest([256] * 60), lambda event: None)
    assert error.value.reason == "tokens"
    release.set()
    scheduler.close()


def test_a_cancelled_request_frees_its_row_and_queue_entry(scheduler: Scheduler) -> None:
    box: queue.SimpleQueue[Event] = queue.SimpleQueue()
    request = GenerationRequest([256], Sampling(max_tokens=60), answers=5, biases={66: 100.0})
    running = scheduler.submit(request, box.put)
    waiting = scheduler.submit(request, box.put)
    while not isinstance(box.get(timeout=20), TokenEvent):
        pass
    waiting.cancel()
    running.cancel()
    assert answer_pieces(scheduler.answer(GenerationRequest([256, 9], GREEDY)))
    assert scheduler.in_flight == 0
    cancellations = []
    while not box.empty():
        event = box.get()
        cancellations += [event.cancelled] if isinstance(event, FinishedEvent) else []
    assert cancellations == [True, True]
    running.cancel()


def test_a_drained_scheduler_finishes_and_accepts_no_requests(scheduler: Scheduler) -> None:
    box: queue.SimpleQueue[Event] = queue.SimpleQueue()
    scheduler.submit(GenerationRequest([256], GREEDY), box.put)
    scheduler.drain()
    with pytest.raises(SchedulerClosed):
        scheduler.submit(GenerationRequest([256], GREEDY), box.put)
    events = [box.get(timeout=20)]
    while not isinstance(events[-1], FinishedEvent):
        events.append(box.get(timeout=20))
    assert answer_pieces(events)


# -- errors


def test_nan_logits_fail_only_their_request() -> None:
    nan_engine = Engine(tiny_model(std=0.3, tied=False), byte_tokenizer())
    with torch.no_grad():
        nan_engine.model.model.embed_tokens.weight[65] = float("nan")
    scheduler = Scheduler(nan_engine, rows=2, queue=40)
    valid_requests = [
        GenerationRequest([256, 1], Sampling(seed=seed, max_tokens=9), biases={65: -100.0}) for seed in range(3)
    ]
    nan_request = GenerationRequest([256, 2], Sampling(max_tokens=30), biases={65: 100.0}, answers=2)
    nan_prompt_request = GenerationRequest([256, 65], GREEDY, prompt_logprobs=True)
    requests = [valid_requests[0], nan_request, valid_requests[1], nan_prompt_request, *valid_requests[2:]]
    request_events = collect(scheduler, requests)
    single_answers = [answer_pieces(scheduler.answer(request)) for request in valid_requests]
    for request, events in zip(requests, request_events, strict=True):
        if request in valid_requests:
            assert answer_pieces(events) == single_answers[valid_requests.index(request)]
        else:
            assert isinstance(events[-1], FailedEvent)
            assert isinstance(events[-1].error, ModelError)
    assert scheduler.in_flight == 0
    scheduler.close()


def test_a_worker_error_fails_waiting_requests_and_later_ones_are_served(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answer_pieces(scheduler.answer(GenerationRequest([256, 1], GREEDY)))
    with monkeypatch.context() as patch:
        patch.setattr("vita.infer.batch.GenerationBatch.step", lambda self: 1 / 0)
        for events in collect(scheduler, [GenerationRequest([256, 1], GREEDY, answers=3)] * 3):
            assert isinstance(events[-1], FailedEvent)
            assert isinstance(events[-1].error, ZeroDivisionError)
    assert scheduler.alive
    assert scheduler.in_flight == 0
    assert answer_pieces(scheduler.answer(GenerationRequest([256, 1], GREEDY))) == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_stopped_worker_fails_waiting_and_later_requests(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vita.infer.batch.GenerationBatch.step", lambda self: 1 / 0)
    monkeypatch.setattr(scheduler, "_reset", lambda: 1 / 0)
    for events in collect(scheduler, [GenerationRequest([256, 1], GREEDY)]):
        assert isinstance(events[-1], FailedEvent)
        assert isinstance(events[-1].error, SchedulerClosed)
    with pytest.raises(SchedulerClosed):
        scheduler.submit(GenerationRequest([256, 1], GREEDY), print)


def test_a_failing_listener_does_not_affect_other_requests(scheduler: Scheduler) -> None:
    def raise_error(event: Event) -> None:
        raise RuntimeError("nobody listens")

    scheduler.submit(GenerationRequest([256], GREEDY), raise_error)
    assert answer_pieces(scheduler.answer(GenerationRequest([256, 9], GREEDY)))
    assert scheduler.in_flight == 0


def test_closing_ends_all_running_requests() -> None:
    scheduler = Scheduler(engine(), rows=1)
    boxes: list[queue.SimpleQueue[Event]] = [queue.SimpleQueue() for _ in range(3)]
    for box in boxes:
        scheduler.submit(GenerationRequest([256], Sampling(max_tokens=60), biases={66: 100.0}), box.put)
    scheduler.close()
    assert not scheduler.alive
    for box in boxes:
        events = []
        while not box.empty():
            events.append(box.get())
        assert isinstance(events[-1], (FinishedEvent, FailedEvent))


# -- batch widths


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 5, 16, 64, 700])
def test_the_batch_width_is_close_to_the_row_count(count: int) -> None:
    widths = decoding_widths(tiny_model(width=64, feedforward=200), count)
    assert widths.invariant
    assert widths.most_rows(count) == count
    for rows in range(1, count + 1, 11):
        width = widths.smallest(rows)
        assert width is not None
        assert rows <= width <= max(16, 2 * rows)


def test_widths_with_different_results_are_not_used() -> None:
    numbers = {16: torch.tensor([1.0]), 8: torch.tensor([1.0]), 32: torch.tensor([1.0]), 4: torch.tensor([2.0])}
    widths = BatchWidths(numbers.get, [16])
    assert widths.invariant
    assert [widths.smallest(rows) for rows in (1, 9, 17, 33)] == [8, 16, 32, None]
    assert widths.most_rows(100) == 32
    assert not BatchWidths(lambda width: None, [16]).invariant


@pytest.mark.parametrize("batch_invariance", [True, False])
def test_without_batch_invariance_passes_have_no_padding(batch_invariance: bool) -> None:
    answering = engine()
    widths: list[int] = []
    answering.model.model.embed_tokens.register_forward_hook(lambda module, inputs, output: widths.append(len(output)))
    scheduler = Scheduler(answering, rows=5, batch_invariance=batch_invariance)
    try:
        requests = [GenerationRequest([256, *range(40, 42 + 3 * n)], GREEDY) for n in range(3)]
        together = collect(scheduler, requests)
        alone = [collect(scheduler, [request])[0] for request in requests]
    finally:
        scheduler.close()
    assert scheduler.batch_invariant is batch_invariance
    if batch_invariance:
        assert [answer_pieces(events) for events in together] == [answer_pieces(events) for events in alone]
        assert 1 not in widths[-20:], "a single text is computed in at least two rows"
        return
    assert {1, 3} <= set(widths), "as many rows as texts"
    for events, expected in zip(together, alone, strict=True):
        scores, single_scores = token_scores(events), token_scores(expected)
        assert [score.id for score in scores] == [score.id for score in single_scores]
        assert [score.logprob for score in scores] == pytest.approx([s.logprob for s in single_scores], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{}, {"heads": 4, "kv_heads": 4}, {"width": 90, "head_dim": 18, "feedforward": 201}])
def test_log_probabilities_alone_and_in_a_batch_are_equal_with_several_threads(sizes: dict[str, int]) -> None:
    """The fused attention rounds differently in a second thread unless its buffers are aligned."""
    thread_count = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        scheduler = Scheduler(Engine(tiny_model(std=0.3, **sizes), byte_tokenizer()), rows=16)
        assert scheduler.widths.invariant
        requests = [
            GenerationRequest([256, *range(40, 42 + number)], Sampling(seed=number, max_tokens=12), top=3)
            for number in range(16)
        ]
        single_scores = [token_scores(scheduler.answer(request)) for request in requests]
        boxes: list[queue.SimpleQueue[Event]] = [queue.SimpleQueue() for _ in requests]
        scheduler.submit_all([(request, box.put) for request, box in zip(requests, boxes, strict=True)])
        for box, expected in zip(boxes, single_scores, strict=True):
            events: list[Event] = []
            while not events or not isinstance(events[-1], (FinishedEvent, FailedEvent)):
                events.append(box.get(timeout=20))
            assert token_scores(events) == expected, "every log-probability to the last bit"
        scheduler.close()
    finally:
        torch.set_num_threads(thread_count)


def token_scores(events: list[Event]) -> list[Any]:
    return [event.score for event in events if isinstance(event, TokenEvent)]


def test_the_cost_of_measuring_widths_does_not_depend_on_the_context() -> None:
    def operations(context: int) -> int:
        model = tiny_model(context=context)
        with FlopCounterMode(display=False) as counter:
            assert decoding_widths(model, 4).invariant
        return counter.get_total_flops()

    assert 0 < operations(131_072) == operations(1024)

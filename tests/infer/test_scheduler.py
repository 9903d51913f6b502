"""An answer is a function of its request, whoever else is asking; and nobody who asks is left waiting."""

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


def requests(count: int, *, context: int) -> list[GenerationRequest]:
    """Prompts of many lengths, settings of every sort."""
    chance = torch.Generator().manual_seed(0)
    asks = []
    for index in range(count):
        length = int(torch.randint(1, context * 3 // 4, (1,), generator=chance))
        prompt = [256, *torch.randint(0, 256, (length,), generator=chance).tolist()]
        sampling = Sampling(
            seed=index, temperature=(0.0, 1.0, 1.7)[index % 3], top_p=(1.0, 0.8)[index % 2],
            top_k=(0, 9)[index % 5 == 4], max_tokens=1 + index * 7 % 16,
        )  # fmt: skip
        extras: dict[str, Any] = {"top": 3} if index % 4 == 1 else {}
        if index % 4 == 2:
            extras = {"presence": 0.5, "frequency": 0.3, "biases": {65: 5.0}}
        asks.append(GenerationRequest(prompt, sampling, answers=1 + (index % 6 == 5), **extras))
    return asks


def told(events: list[Event]) -> list[Any]:
    """What the answers consist of, one after the other, without times."""
    pieces = [(e.answer, e.score, e.text, e.finish) for e in events if isinstance(e, TokenEvent)]
    return sorted(pieces, key=lambda piece: piece[0])


def collect(scheduler: Scheduler, asks: list[GenerationRequest], *, apart: float = 0.0) -> list[list[Event]]:
    """Every request's events when all are asked, `apart` seconds from one another."""
    boxes: list[queue.SimpleQueue[Event]] = [queue.SimpleQueue() for _ in asks]
    for ask, box in zip(asks, boxes, strict=True):
        scheduler.submit(ask, box.put)
        time.sleep(apart)
    found = []
    for box in boxes:
        events = [box.get(timeout=60)]
        while not isinstance(events[-1], (FinishedEvent, FailedEvent)):
            events.append(box.get(timeout=60))
        found.append(events)
    return found


# -- the law


@pytest.mark.parametrize(
    "sizes",
    [
        {"context": 64},
        {"context": 100, "width": 64, "heads": 1, "kv_heads": 1, "head_dim": 16},
        {"context": 100, "width": 256, "heads": 8, "kv_heads": 4, "head_dim": 32, "feedforward": 768},
    ],
    ids=["tiny", "one head", "wide"],
)
def test_an_answer_is_bit_for_bit_the_same_alone_and_in_any_company(sizes: dict[str, int]) -> None:
    asks = requests(10, context=sizes["context"])
    for asked in asks:
        assert len(asked.prompt) < sizes["context"]
    shared = engine(**sizes)
    alone, crowd = Scheduler(shared, rows=5, queue=64), Scheduler(shared, rows=5, queue=64)
    expected = [told(alone.answer(ask)) for ask in asks]
    for order, apart in ((1, 0.0), (-1, 0.002)):
        for ask, events in zip(range(len(asks))[::order], collect(crowd, asks[::order], apart=apart), strict=True):
            assert told(events) == expected[ask]
    alone.close()
    crowd.close()


def test_two_schedulers_of_one_release_agree(scheduler: Scheduler) -> None:
    other = Scheduler(engine(), rows=5)
    asks = requests(6, context=64)
    assert list(map(told, collect(scheduler, asks))) == list(map(told, collect(other, asks)))
    other.close()


def test_answers_are_those_of_the_engine(scheduler: Scheduler) -> None:
    asks = [ask for ask in requests(8, context=64) if ask.answers == 1 and not ask.biases]
    for ask, events in zip(asks, collect(scheduler, asks), strict=True):
        (expected,) = scheduler.engine.generate([ask.prompt], ask.sampling)
        pieces = [event for event in events if isinstance(event, TokenEvent)]
        assert [piece.score.id for piece in pieces] == list(expected.ids)
        assert "".join(piece.text for piece in pieces) == expected.text
        assert tuple(piece.score.logprob for piece in pieces) == expected.logprobs, "to the last bit"
        assert pieces[-1].finish == expected.finish


def test_several_answers_are_those_of_their_own_seeds(scheduler: Scheduler) -> None:
    sampling = Sampling(seed=3, max_tokens=12)
    events = told(scheduler.answer(GenerationRequest([256, 1, 2], sampling, answers=6)))
    seeds = [sampling, *sampling.varied(5)]
    for index, own in enumerate(seeds):
        single = told(scheduler.answer(GenerationRequest([256, 1, 2], own)))
        assert [event[1:] for event in events if event[0] == index] == [event[1:] for event in single]
    assert len({tuple(event[1].id for event in events if event[0] == index) for index in range(6)}) > 3


def test_a_long_prompt_read_in_pieces_is_read_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vita.infer.prompts.PASS_TOKENS", 16)
    monkeypatch.setattr("vita.infer.prompts.SHORT", 16)
    pieces = Scheduler(engine(), rows=2)
    prompt = [256, *range(50)]
    read, *_ = pieces.answer(GenerationRequest(prompt, GREEDY, prompt_logprobs=True, embedding=True, top=2))
    assert isinstance(read, PromptEvent)
    assert read.scores is not None
    (score,) = pieces.engine.score([(prompt[:1], prompt[1:])])
    assert [one.logprob for one in read.scores] == pytest.approx(score.logprobs, abs=1e-4)
    assert [one.id for one in read.scores] == prompt[1:]
    hidden = pieces.engine.model.hidden(torch.tensor([prompt]))[0].mean(0)
    assert read.embedding == pytest.approx((hidden / hidden.norm()).tolist(), abs=1e-5)
    pieces.close()


# -- what is told


def test_the_likeliest_token_has_the_very_number_of_the_list(scheduler: Scheduler) -> None:
    read, *rest = scheduler.answer(GenerationRequest([256, 1, 2, 3], GREEDY, top=4, prompt_logprobs=True))
    assert isinstance(read, PromptEvent)
    assert read.scores is not None
    for piece in rest[:-1]:
        assert isinstance(piece, TokenEvent)
        assert piece.score.logprob == max(logprob for _, logprob in piece.score.top)
        assert piece.score.id == piece.score.top[0][0]
    assert [len(one.top) for one in read.scores] == [4, 4, 4]


def test_a_bias_forces_and_forbids_and_the_logprob_stays_the_models(scheduler: Scheduler) -> None:
    forced = told(scheduler.answer(GenerationRequest([256, 1], GREEDY, biases={65: 100.0})))
    assert {scored.id for _, scored, _, _ in forced} == {65}
    assert any(scored.logprob < -0.1 for _, scored, _, _ in forced)
    free = told(scheduler.answer(GenerationRequest([256, 1], GREEDY)))
    forbidden = told(scheduler.answer(GenerationRequest([256, 1], GREEDY, biases={free[0][1].id: -100.0})))
    assert free[0][1].id not in {scored.id for _, scored, _, _ in forbidden}
    with pytest.raises(DataError, match=r"biases: expected token ids from 0 to 258, got 259"):
        scheduler.answer(GenerationRequest([256], biases={259: 1.0}))


def test_penalties_follow_their_formula(scheduler: Scheduler) -> None:
    model, prompt, said = scheduler.engine.model, [256, 7], []
    for _, scored, _, _ in told(scheduler.answer(GenerationRequest(prompt, GREEDY, presence=0.7, frequency=0.4))):
        logits = model(torch.tensor([[*prompt, *said]]))[0, -1].detach()
        for token in set(said):
            logits[token] -= 0.7 + 0.4 * said.count(token)
        assert scored.id == int(logits.argmax())
        said.append(scored.id)


def test_a_prompt_may_be_read_without_an_answer_up_to_the_whole_context(scheduler: Scheduler) -> None:
    read, ended = scheduler.answer(GenerationRequest([256] * 64, answers=0, prompt_logprobs=True))
    assert isinstance(read, PromptEvent)
    assert read.scores is not None
    assert len(read.scores) == 63
    assert isinstance(ended, FinishedEvent)
    with pytest.raises(DataError, match="at most 63 tokens"):
        scheduler.answer(GenerationRequest([256] * 64))


def test_an_answer_fills_the_context_to_the_last_token(scheduler: Scheduler) -> None:
    pieces = told(scheduler.answer(GenerationRequest([256] * 60, Sampling(max_tokens=100), biases={66: 100.0})))
    assert len(pieces) == 4
    assert pieces[-1][3] == "length"


# -- the queue


def test_a_full_queue_refuses_before_any_work_and_all_or_none() -> None:
    held = threading.Event()
    scheduler = Scheduler(engine(), rows=1, queue=2, queue_tokens=100)
    slow = GenerationRequest([256], Sampling(max_tokens=50), biases={66: 100.0})
    first = queue.SimpleQueue()

    def hold(event: Event) -> None:
        held.wait(20)
        first.put(event)

    scheduler.submit(slow, hold)
    with pytest.raises(QueueFull, match="1 answers are being generated or waiting, of at most 3"):
        scheduler.submit(GenerationRequest([256], GREEDY, answers=3), first.put)
    box: queue.SimpleQueue[Event] = queue.SimpleQueue()
    with pytest.raises(QueueFull):
        scheduler.submit_all([(slow, box.put)] * 3)
    assert scheduler.in_flight == 1
    scheduler.submit_all([(slow, box.put)] * 2)
    with pytest.raises(QueueFull) as error:
        scheduler.check_room(1)
    assert error.value.reason == "requests"
    held.set()
    ended = 0
    while ended < 2:
        ended += isinstance(box.get(timeout=20), FinishedEvent)
    assert scheduler.in_flight == scheduler.waiting == scheduler.running == 0
    scheduler.close()


def test_waiting_prompts_are_counted_in_tokens() -> None:
    held = threading.Event()
    scheduler = Scheduler(engine(), rows=1, queue=20, queue_tokens=100)

    def hold(event: Event) -> None:
        held.wait(20)

    scheduler.submit(GenerationRequest([256], GREEDY), hold)
    scheduler.submit(GenerationRequest([256] * 60), lambda event: None)
    with pytest.raises(QueueFull) as error:
        scheduler.submit(GenerationRequest([256] * 60), lambda event: None)
    assert error.value.reason == "tokens"
    held.set()
    scheduler.close()


def test_a_cancelled_request_frees_its_row_and_its_seat(scheduler: Scheduler) -> None:
    box: queue.SimpleQueue[Event] = queue.SimpleQueue()
    endless = GenerationRequest([256], Sampling(max_tokens=60), answers=5, biases={66: 100.0})
    running = scheduler.submit(endless, box.put)
    waiting = scheduler.submit(endless, box.put)
    while not isinstance(box.get(timeout=20), TokenEvent):
        pass
    waiting.cancel()
    running.cancel()
    assert told(scheduler.answer(GenerationRequest([256, 9], GREEDY)))
    assert scheduler.in_flight == 0
    ends = []
    while not box.empty():
        event = box.get()
        ends += [event.cancelled] if isinstance(event, FinishedEvent) else []
    assert ends == [True, True]
    running.cancel()


def test_a_drained_scheduler_finishes_and_takes_no_more(scheduler: Scheduler) -> None:
    box: queue.SimpleQueue[Event] = queue.SimpleQueue()
    scheduler.submit(GenerationRequest([256], GREEDY), box.put)
    scheduler.drain()
    with pytest.raises(SchedulerClosed):
        scheduler.submit(GenerationRequest([256], GREEDY), box.put)
    events = [box.get(timeout=20)]
    while not isinstance(events[-1], FinishedEvent):
        events.append(box.get(timeout=20))
    assert told(events)


# -- faults


def test_logits_that_are_not_numbers_fail_their_request_alone() -> None:
    broken = Engine(tiny_model(std=0.3, tied=False), byte_tokenizer())
    with torch.no_grad():
        broken.model.model.embed_tokens.weight[65] = float("nan")
    scheduler = Scheduler(broken, rows=2, queue=40)
    good = [GenerationRequest([256, 1], Sampling(seed=seed, max_tokens=9), biases={65: -100.0}) for seed in range(3)]
    bad = GenerationRequest([256, 2], Sampling(max_tokens=30), biases={65: 100.0}, answers=2)
    poisoned = GenerationRequest([256, 65], GREEDY, prompt_logprobs=True)
    mixed = [good[0], bad, good[1], poisoned, *good[2:]]
    found = collect(scheduler, mixed)
    alone = [told(scheduler.answer(ask)) for ask in good]
    for ask, events in zip(mixed, found, strict=True):
        if ask in good:
            assert told(events) == alone[good.index(ask)]
        else:
            assert isinstance(events[-1], FailedEvent)
            assert isinstance(events[-1].error, ModelError)
    assert scheduler.in_flight == 0
    scheduler.close()


def test_a_fault_of_the_worker_reaches_those_who_wait_and_the_next_are_served(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = told(scheduler.answer(GenerationRequest([256, 1], GREEDY)))
    with monkeypatch.context() as patch:
        patch.setattr("vita.infer.batch.GenerationBatch.step", lambda self: 1 / 0)
        for events in collect(scheduler, [GenerationRequest([256, 1], GREEDY, answers=3)] * 3):
            assert isinstance(events[-1], FailedEvent)
            assert isinstance(events[-1].error, ZeroDivisionError)
    assert scheduler.alive
    assert scheduler.in_flight == 0
    assert told(scheduler.answer(GenerationRequest([256, 1], GREEDY))) == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_end_of_the_worker_reaches_those_who_wait_and_those_who_come(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vita.infer.batch.GenerationBatch.step", lambda self: 1 / 0)
    monkeypatch.setattr(scheduler, "_reset", lambda: 1 / 0)
    for events in collect(scheduler, [GenerationRequest([256, 1], GREEDY)]):
        assert isinstance(events[-1], FailedEvent)
        assert isinstance(events[-1].error, SchedulerClosed)
    with pytest.raises(SchedulerClosed):
        scheduler.submit(GenerationRequest([256, 1], GREEDY), print)


def test_a_listener_that_fails_stops_nobody_else(scheduler: Scheduler) -> None:
    def fails(event: Event) -> None:
        raise RuntimeError("nobody listens")

    scheduler.submit(GenerationRequest([256], GREEDY), fails)
    assert told(scheduler.answer(GenerationRequest([256, 9], GREEDY)))
    assert scheduler.in_flight == 0


def test_closing_fails_what_is_under_way() -> None:
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


# -- rows


@pytest.mark.parametrize("count", [1, 5, 16, 64, 700])
def test_the_width_of_a_step_holds_its_rows_and_few_more(count: int) -> None:
    widths = decoding_widths(tiny_model(width=64, feedforward=200), count)
    assert widths.invariant
    assert widths.most_rows(count) == count
    for rows in range(1, count + 1, 11):
        width = widths.smallest(rows)
        assert width is not None
        assert rows <= width <= max(16, 2 * rows)


def test_widths_whose_numbers_differ_are_not_used() -> None:
    numbers = {16: torch.tensor([1.0]), 8: torch.tensor([1.0]), 32: torch.tensor([1.0]), 4: torch.tensor([2.0])}
    widths = BatchWidths(numbers.get, [16])
    assert widths.invariant
    assert [widths.smallest(rows) for rows in (1, 9, 17, 33)] == [8, 16, 32, None]
    assert widths.most_rows(100) == 32
    assert not BatchWidths(lambda width: None, [16]).invariant


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{}, {"heads": 4, "kv_heads": 4}, {"width": 90, "head_dim": 18, "feedforward": 201}])
def test_log_probabilities_alone_and_in_a_batch_are_equal_with_several_threads(sizes: dict[str, int]) -> None:
    """The fused attention rounds differently in a second thread unless its buffers are aligned."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        scheduler = Scheduler(Engine(tiny_model(std=0.3, **sizes), byte_tokenizer()), rows=16)
        assert scheduler.widths.invariant
        asks = [
            GenerationRequest([256, *range(40, 42 + place)], Sampling(seed=place, max_tokens=12), top=3)
            for place in range(16)
        ]
        alone = [pieces(scheduler.answer(ask)) for ask in asks]
        boxes: list[queue.SimpleQueue[Event]] = [queue.SimpleQueue() for _ in asks]
        scheduler.submit_all([(ask, box.put) for ask, box in zip(asks, boxes, strict=True)])
        for box, expected in zip(boxes, alone, strict=True):
            events: list[Event] = []
            while not events or not isinstance(events[-1], (FinishedEvent, FailedEvent)):
                events.append(box.get(timeout=20))
            assert pieces(events) == expected, "every log-probability to the last bit"
        scheduler.close()
    finally:
        torch.set_num_threads(before)


def pieces(events: list[Event]) -> list[Any]:
    return [event.score for event in events if isinstance(event, TokenEvent)]


def test_what_is_tried_at_the_start_costs_the_same_for_any_context() -> None:
    def operations(context: int) -> int:
        model = tiny_model(context=context)
        with FlopCounterMode(display=False) as counter:
            assert decoding_widths(model, 4).invariant
        return counter.get_total_flops()

    assert 0 < operations(131_072) == operations(1024)

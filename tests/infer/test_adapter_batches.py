"""Requests to several adapters are computed in one batch, and each has the bits of a replica with its adapter alone."""

from __future__ import annotations

import json
import queue
import threading
from typing import Any

import pytest
import torch

from tests.infer.test_mixtures import mixture
from tests.infer.test_prefix_cache import assert_same_bits
from tests.infer.test_scheduler import answer_pieces, collect, create_requests
from tests.nn.adapters.test_batched import EXPERTS, PLAIN, adapted_copy
from tests.nn.test_latent_attention import ARCHITECTURE
from vita.infer.adapter_scheduler import AdapterBatches, AdapterScheduler
from vita.infer.decoding_pass import DecodingPass
from vita.infer.drafts import NgramDrafter
from vita.infer.engine import Engine
from vita.infer.grammars import json_grammar
from vita.infer.prompts import PromptReader, PromptState
from vita.infer.request import (
    Event,
    FailedEvent,
    FinishedEvent,
    GenerationRequest,
    Job,
    PromptEvent,
    QueueFull,
    SchedulerClosed,
    TokenEvent,
)
from vita.infer.sampling import Sampling
from vita.infer.scheduler import Scheduler
from vita.nn.init import initialize
from vita.nn.int8 import has_exact_products
from vita.nn.transformer import Transformer
from vita.nn.weight_quantization import quantize_weights
from vita.testing import byte_tokenizer, tiny_model

KINDS: tuple[dict[str, Any], ...] = (
    PLAIN,
    {**PLAIN, "rank": 5, "use_dora": True, "bias": "all"},
    {**PLAIN, "use_rslora": True, "modules_to_save": ("norm", "lm_head", "embed_tokens")},
)
UNENDING = {65: 100.0}
"""A bias that makes an answer continue to its limit."""


class Replica:
    """A scheduler and the adapters in its batch."""

    def __init__(self, model: Transformer, *kinds: dict[str, Any], seeds: tuple[int, ...] = (1, 2, 3), **options: Any):
        model.pack()
        model.requires_grad_(False)
        if kinds:
            model.split_projections()
        self.scheduler = Scheduler(Engine(model, byte_tokenizer()), **{"rows": 8, "queue": 64, **options})
        batches = AdapterBatches(self.scheduler)
        self.adapters: list[AdapterScheduler] = []
        for seed, kind in zip(seeds, kinds, strict=False):
            engine = Engine(adapted_copy(model, seed, kind), byte_tokenizer())
            adapter = batches.add(engine, salt=bytes([seed]) * 32, rows=8, queue=64)
            assert adapter is not None
            self.adapters.append(adapter)

    def close(self) -> None:
        for adapter in self.adapters:
            adapter.close()
        self.scheduler.close()


def dense(**sizes: Any) -> Transformer:
    return tiny_model(std=0.3, tied=False, biases=("qkv",), **{"context": 64, **sizes})


def experts(**_: Any) -> Transformer:
    sizes = {"vocabulary": 259, "layers": 3, "context": 64}
    model = Transformer(mixture(dense_layers=(0,), shared=32).model_copy(update=sizes))
    initialize(model, "fan_in")
    return model


def latent(**_: Any) -> Transformer:
    model = Transformer(ARCHITECTURE.model_copy(update={"vocabulary": 259}))
    initialize(model, "fan_in", seed=1)
    return model


def int8(**_: Any) -> Transformer:
    model = tiny_model(std=0.3, width=64, feedforward=128)
    quantize_weights(model, "int8")
    return model


MODELS: dict[str, tuple[Any, tuple[dict[str, Any], ...]]] = {
    "dense": (dense, KINDS),
    "experts": (experts, ({**PLAIN, "target_parameters": EXPERTS}, PLAIN, {**PLAIN, "modules_to_save": ("mlp.gate",)})),
    "int8": (int8, (PLAIN, {**PLAIN, "use_dora": True}, {**PLAIN, "target_modules": ("q_proj", "up_proj")})),
    "latent": (latent, ({**PLAIN, "target_modules": ("q_b_proj", "o_proj")}, PLAIN, {**PLAIN, "use_dora": True})),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["dense", *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name != "dense")]
)
def test_an_answer_has_the_bits_of_a_replica_with_its_adapter_alone(name: str) -> None:
    if name == "int8" and not has_exact_products():
        pytest.skip("8-bit products are not exact here")
    create_model, kinds = MODELS[name]
    requests = create_requests(3, context=64)
    together = Replica(create_model(), *kinds)
    queues = [together.scheduler, *together.adapters]
    assert all(scheduler.batch_invariant for scheduler in queues)
    results: dict[int, list[list[Event]]] = {}

    def send(index: int) -> None:
        results[index] = collect(queues[index], requests, interval=0.001)  # pyright: ignore[reportArgumentType]

    threads = [threading.Thread(target=send, args=(index,)) for index in range(len(queues))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together.close()
    for index in (0, 2) if name == "dense" else range(len(queues)):  # a test of the replica compares all
        alone = Replica(create_model(), *kinds[index - 1 : index], seeds=(index,))
        scheduler = alone.adapters[0] if index else alone.scheduler
        for request, events in zip(requests, results[index], strict=True):
            assert answer_pieces(events) == answer_pieces(scheduler.answer(request)) != []
        alone.close()
    assert len({str(answer_pieces(results[index][0])) for index in results}) == len(queues)


@pytest.mark.slow
def test_answers_of_adapters_with_grammars_have_the_same_bits_alone_and_in_one_batch() -> None:
    properties = {"number": {"type": "integer"}, "tame": {"type": "boolean"}}
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    grammar = json_grammar(schema)
    replica = Replica(dense(context=160), *KINDS)
    queues = [replica.scheduler, *replica.adapters]
    constraint = Engine(dense(context=160), byte_tokenizer()).grammars.compile(grammar)
    requests = [
        GenerationRequest([256, 1, 2, seed], Sampling(temperature=1.0, seed=seed, max_tokens=90), constraint=rule)
        for seed, rule in ((1, constraint), (2, None), (3, constraint))
    ]
    results: dict[int, list[list[Event]]] = {}

    def send(index: int) -> None:
        results[index] = collect(queues[index], requests)  # pyright: ignore[reportArgumentType]

    threads = [threading.Thread(target=send, args=(index,)) for index in range(len(queues))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, scheduler in enumerate(queues):
        for request, events in zip(requests, results[index], strict=True):
            assert answer_pieces(events) == answer_pieces(scheduler.answer(request)) != []
            text = "".join(event.text for event in events if isinstance(event, TokenEvent))
            if request.constraint is not None:
                value = json.loads(text)
                assert set(value) == set(properties) and type(value["tame"]) is bool
    replica.close()
    assert len({str(answer_pieces(results[index][0])) for index in results}) == len(queues), (
        "each adapter has an effect"
    )


@pytest.mark.parametrize("prompt_tokens", [6, 300])
def test_prompt_scores_and_embeddings_are_those_of_the_adapter(prompt_tokens: int) -> None:
    prompt = torch.randint(0, 250, (prompt_tokens,), generator=torch.Generator().manual_seed(1)).tolist()
    request = GenerationRequest(prompt, answers=0, prompt_logprobs=True, top=2, embedding=True)
    together = Replica(dense(context=512), *KINDS)
    results = [scheduler.answer(request)[0] for scheduler in (together.scheduler, *together.adapters)]
    for adapter, result in zip(together.adapters, results[1:], strict=True):
        assert isinstance(result, PromptEvent) and result.scores is not None and result.embedding is not None
        (expected,) = adapter.engine.score([(prompt[:1], prompt[1:])])
        assert [score.logprob for score in result.scores] == pytest.approx(list(expected.logprobs), abs=1e-4)
    assert len({str(result) for result in results}) == len(results)
    together.close()


@torch.inference_mode()
@pytest.mark.slow
def test_short_prompts_of_different_adapters_are_read_in_one_pass() -> None:
    replica = Replica(dense(), *KINDS)
    model, generator = replica.scheduler.model, torch.Generator().manual_seed(1)
    adapters = [None, *(adapter.adapter for adapter in replica.adapters), replica.adapters[0].adapter]
    texts = [torch.randint(0, 250, (length,), generator=generator).tolist() for length in (9, 4, 17, 6, 1)]
    reader, passes = PromptReader(model), list[int]()
    alone, together = (
        [PromptState(ids, adapter=adapter) for ids, adapter in zip(texts, adapters, strict=True)] for _ in range(2)
    )
    reader.read([PromptState(ids, adapter=adapter) for ids, adapter in zip(texts, adapters, strict=True)])
    for prompt in alone:  # the widths are measured now
        assert reader.is_short(prompt)
        reader.read([prompt])
    with model.model.register_forward_pre_hook(lambda _, arguments: passes.append(arguments[0].shape[1])):
        reader.read(together)
    assert passes == [48]  # 37 tokens
    for first, second in zip(alone, together, strict=True):
        assert_same_bits(first, second)
    replica.close()


@pytest.mark.slow
def test_adapters_share_no_blocks_of_the_prefix_cache() -> None:
    prompt = torch.randint(0, 250, (400,), generator=torch.Generator().manual_seed(1)).tolist()
    request = GenerationRequest(prompt, Sampling(temperature=0, max_tokens=4))
    replica = Replica(dense(context=512), *KINDS, prefix_bytes=2**22)
    schedulers = [replica.scheduler, *replica.adapters]
    for scheduler in schedulers:
        scheduler.answer(request)
    events = [scheduler.answer(request) for scheduler in schedulers]
    reused = [event.reused_tokens for answer in events for event in answer if isinstance(event, PromptEvent)]
    assert reused == [384] * 4
    alone = Replica(dense(context=512), KINDS[1], seeds=(2,))
    assert answer_pieces(replica.adapters[1].answer(request)) == answer_pieces(alone.adapters[0].answer(request))
    alone.close()
    replica.close()


@pytest.mark.slow
def test_rows_of_all_adapters_advance_in_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = Replica(dense(), *KINDS)
    taken: list[int] = []
    begin = DecodingPass.begin

    def count_rows(step: DecodingPass, rows: int, tokens: int) -> Any:
        taken.append(len(step.places))
        return begin(step, rows, tokens)

    monkeypatch.setattr(DecodingPass, "begin", count_rows)
    request = GenerationRequest([256, 1, 2], Sampling(max_tokens=30), biases=UNENDING)
    for scheduler in (replica.scheduler, *replica.adapters):
        scheduler.answer(request)  # the widths are measured
    taken.clear()
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    for scheduler in (replica.scheduler, *replica.adapters) * 2:
        scheduler.submit(request, events.put)
    finished = 0
    while finished < 8:
        finished += isinstance(events.get(timeout=60), FinishedEvent)
    assert max(taken) == 8
    assert len(taken) < 3 * 30  # schedulers of their own need four times 30 steps
    replica.close()


def test_waiting_requests_of_one_adapter_do_not_delay_those_of_another() -> None:
    replica = Replica(dense(), *KINDS, rows=2)
    busy, quiet = replica.adapters[:2]
    order: list[str] = []
    done = threading.Event()

    def listener(name: str) -> Any:
        def listen(event: Event) -> None:
            if isinstance(event, FinishedEvent):
                order.append(name)
                if len(order) == 13:
                    done.set()

        return listen

    request = GenerationRequest([256, 1], Sampling(max_tokens=10), biases=UNENDING)
    for _ in range(12):
        busy.submit(request, listener("busy"))
    quiet.submit(request, listener("quiet"))
    assert done.wait(60)
    assert order.index("quiet") <= 6
    replica.close()


def test_long_prompts_of_one_adapter_do_not_delay_the_requests_of_others() -> None:
    replica = Replica(dense(context=4096), *KINDS, rows=6)
    order: list[str] = []
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def listener(name: str) -> Any:
        def listen(event: Event) -> None:
            if isinstance(event, (PromptEvent, FailedEvent)):
                order.append(name)
            events.put(event)

        return listen

    busy, quiet, third = replica.adapters
    long, short = (GenerationRequest([65] * count, Sampling(max_tokens=1)) for count in (4000, 5))
    medium = GenerationRequest([66] * 1500, Sampling(max_tokens=1))
    replica.scheduler.submit_jobs(
        [
            Job(request, adapter.engine.new_completions(request), listener(name), at=0.0, adapter=adapter.adapter)
            for name, adapter, request in [
                ("long", busy, long),
                ("second long", busy, long),
                ("short", quiet, short),
                ("medium", third, medium),
            ]
        ]
    )
    finished = 0
    while finished < 4:
        finished += isinstance(events.get(timeout=60), FinishedEvent)
    assert order == ["short", "medium", "long", "second long"]
    replica.close()


def test_an_adapter_has_its_own_limit_within_that_of_the_replica() -> None:
    replica = Replica(dense(), PLAIN, rows=2, queue=2)
    (adapter,) = replica.adapters
    adapter.rows, adapter.queue = 1, 1
    request = GenerationRequest([256, 1], Sampling(max_tokens=60), biases=UNENDING)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    jobs = [adapter.submit(request, events.put) for _ in range(2)]
    with pytest.raises(QueueFull, match="of at most 2"):
        adapter.submit(request, events.put)
    jobs += [replica.scheduler.submit(request, events.put) for _ in range(2)]
    with pytest.raises(QueueFull, match="of at most 4"):
        replica.scheduler.submit(request, events.put)
    assert (adapter.in_flight, replica.scheduler.in_flight) == (2, 4)
    for job in jobs:
        job.cancel()
    finished = 0
    while finished < 4:
        finished += isinstance(events.get(timeout=60), FinishedEvent)
    assert adapter.in_flight == 0
    replica.close()


@pytest.mark.slow
def test_closing_an_adapter_fails_its_requests_and_no_others() -> None:
    replica = Replica(dense(), *KINDS, rows=2)
    request = GenerationRequest([256, 1], Sampling(max_tokens=60), biases=UNENDING)
    queues = [queue.SimpleQueue[Event]() for _ in range(4)]
    schedulers = [replica.adapters[0], replica.scheduler, replica.adapters[0], replica.adapters[1]]
    for scheduler, events in zip(schedulers, queues, strict=True):
        scheduler.submit(request, events.put)
    assert isinstance(queues[0].get(timeout=60), PromptEvent)
    replica.adapters[0].close()
    last = []
    for events in queues:
        event = events.get(timeout=60)
        while not isinstance(event, (FinishedEvent, FailedEvent)):
            event = events.get(timeout=60)
        last.append(event)
    assert [type(event) for event in last] == [FailedEvent, FinishedEvent, FailedEvent, FinishedEvent]
    assert isinstance(last[0], FailedEvent) and isinstance(last[0].error, SchedulerClosed)
    assert replica.scheduler.in_flight == 0
    with pytest.raises(SchedulerClosed):
        replica.adapters[0].submit(request, lambda event: None)
    replica.close()


def test_an_adapter_whose_rows_cannot_be_computed_together_is_left_to_a_scheduler_of_its_own() -> None:
    model = latent()
    model.requires_grad_(False)
    scheduler = Scheduler(Engine(model, byte_tokenizer()), rows=4)
    kind = {**PLAIN, "target_modules": ("kv_b_proj",), "lora_bias": True}
    adapted = Engine(adapted_copy(model, 1, kind), byte_tokenizer())
    assert AdapterBatches(scheduler).add(adapted, salt=b"", rows=4, queue=4) is None
    answer = [event for event in scheduler.answer(GenerationRequest([256, 1])) if isinstance(event, TokenEvent)]
    assert answer
    scheduler.close()


@pytest.mark.slow
def test_drafts_beside_rows_of_other_adapters_leave_the_bits_unchanged() -> None:
    prompt = [256, *[65, 66, 67, 68] * 6]
    request = GenerationRequest(prompt, Sampling(temperature=0.3, seed=1, max_tokens=20), biases={65: 4, 66: 4, 67: 4})
    drafter = NgramDrafter(tokens=4)
    together = Replica(dense(), *KINDS, drafter=drafter)
    events: list[queue.SimpleQueue[Event]] = []
    for scheduler in [together.scheduler, *together.adapters]:
        events.append(queue.SimpleQueue())
        scheduler.submit(request, events[-1].put)
    for index, box in enumerate(events):
        answer = [box.get(timeout=60)]
        while not isinstance(answer[-1], (FinishedEvent, FailedEvent)):
            answer.append(box.get(timeout=60))
        alone = Replica(dense(), *KINDS[index - 1 : index], seeds=(index,))
        scheduler = alone.adapters[0] if index else alone.scheduler
        assert answer_pieces(answer) == answer_pieces(scheduler.answer(request))
        alone.close()
    assert drafter.num_drafted
    together.close()

"""Speculative decoding: drafts save passes of the model, and never change a bit of an answer."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from typing import Any

import pytest
import torch

from tests.infer.test_scheduler import GREEDY, answer_pieces, collect, create_requests, engine
from tests.nn.test_experts import mixture
from tests.nn.test_latent_attention import ARCHITECTURE as LATENT_ARCHITECTURE
from vita.infer.drafts import Drafter, DraftLength, DraftRequest, ModelDrafter, NgramDrafter
from vita.infer.engine import Engine
from vita.infer.grammars import json_grammar
from vita.infer.request import ActiveAnswer, GenerationRequest, TokenEvent
from vita.infer.sampler import Sampler
from vita.infer.sampling import Sampling
from vita.infer.scheduler import Scheduler
from vita.nn.init import initialize
from vita.nn.int8 import has_exact_products
from vita.nn.transformer import Transformer
from vita.nn.weight_quantization import quantize_weights
from vita.testing import byte_tokenizer, tiny_model


class KnownAnswers(Drafter):
    """Proposes the known answers, with a share of wrong tokens, in drafts of random lengths."""

    def __init__(self, answers: dict[Any, list[int]], *, wrong: float, tokens: int = 5) -> None:
        super().__init__(tokens=tokens)
        self.answers, self.wrong, self.chance = answers, wrong, random.Random(0)

    def propose(self, requests: Sequence[DraftRequest]) -> list[list[int]]:
        return [self._draft(answer, ids, count) for answer, ids, count in requests]

    def forget(self, answer: Hashable) -> None:
        pass

    def _draft(self, answer: Hashable, ids: Sequence[int], count: int) -> list[int]:
        assert isinstance(answer, ActiveAnswer)
        prompt = tuple(answer.job.request.prompt)
        rest = self.answers[prompt, answer.index][len(ids) - len(prompt) :]
        length = self.chance.randint(0, count) if self.wrong else count
        return [token if self.chance.random() >= self.wrong else (token + 1) % 256 for token in rest[:length]]


def known_answers(requests: list[GenerationRequest], events: list[list[Any]]) -> dict[Any, list[int]]:
    """Return the tokens of each answer by its prompt and its index."""
    return {
        (tuple(request.prompt), index): [event.score.id for event in answer_events if _is_of(event, index)]
        for request, answer_events in zip(requests, events, strict=True)
        for index in range(request.answers)
    }


def _is_of(event: Any, answer: int) -> bool:
    return isinstance(event, TokenEvent) and event.answer == answer


def with_window() -> Engine:
    return engine(window=8, window_layers=(1,), context=64)


def with_experts() -> Engine:
    architecture = mixture(dense_layers=(0,), shared=32).model_copy(update={"vocabulary": 259, "layers": 2})
    model = Transformer(architecture)
    initialize(model, "fan_in")
    return Engine(model.eval(), byte_tokenizer())


def with_latent_attention() -> Engine:
    model = Transformer(LATENT_ARCHITECTURE.model_copy(update={"vocabulary": 259}))
    initialize(model, "fan_in")
    return Engine(model.eval(), byte_tokenizer())


def packed() -> Engine:
    model = tiny_model(std=0.3)
    model.pack()
    return Engine(model, byte_tokenizer())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("create", "wrong"),
    [
        (engine, 0.0),
        (packed, 0.3),
        (with_window, 0.3),
        *(pytest.param(create, 0.3, marks=pytest.mark.slow) for create in (with_experts, with_latent_attention)),
    ],
)
def test_drafts_do_not_change_a_bit_of_any_answer(create: Any, wrong: float) -> None:
    shared = create()
    requests = create_requests(14, context=shared.model.architecture.context)
    plain = Scheduler(shared, rows=6, queue=64)
    expected = collect(plain, requests)
    plain.close()
    drafter = KnownAnswers(known_answers(requests, expected), wrong=wrong)
    scheduler = Scheduler(shared, rows=6, queue=64, drafter=drafter)
    for events, expected_events in zip(collect(scheduler, requests), expected, strict=True):
        assert answer_pieces(events) == answer_pieces(expected_events)
    for request, expected_events in zip(requests[:5], expected, strict=False):
        assert answer_pieces(scheduler.answer(request)) == answer_pieces(expected_events), "alone"
    scheduler.close()
    assert drafter.num_accepted > 10
    assert (drafter.num_accepted < drafter.num_drafted) == bool(wrong)


def with_int8_weights() -> Engine:
    if not has_exact_products():
        pytest.skip("8-bit products are not exact here")
    model = tiny_model(std=0.3, width=64, feedforward=128, context=64)
    quantize_weights(model, "int8")
    return Engine(model.eval(), byte_tokenizer())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("create", "create_draft"),
    [
        (lambda: engine(context=64), lambda: engine(context=48)),
        (lambda: engine(context=64), lambda: engine(context=48, layers=1)),
        (lambda: engine(context=64), with_int8_weights),
        (with_int8_weights, lambda: engine(context=48, layers=1)),
    ],
    ids=["the same model", "a smaller model", "an int8 draft model", "a draft model of int8 weights"],
)
def test_drafts_of_a_model_do_not_change_a_bit(create: Any, create_draft: Any) -> None:
    shared = create()
    requests = create_requests(10, context=64)
    plain = Scheduler(shared, rows=4, queue=64)
    expected = [answer_pieces(events) for events in collect(plain, requests)]
    plain.close()
    drafter = ModelDrafter(create_draft().model, tokens=3, rows=3)
    scheduler = Scheduler(shared, rows=4, queue=64, drafter=drafter)
    for repetition in range(2):
        assert [answer_pieces(events) for events in collect(scheduler, requests)] == expected, repetition
    scheduler.close()
    assert drafter.num_drafted > 0
    assert not drafter._texts and not drafter._cache.lengths, "the state of ended answers is removed"


def test_all_drafts_of_the_same_model_are_accepted_when_it_is_greedy() -> None:
    shared = engine(context=64)
    drafter = ModelDrafter(shared.model, tokens=3, rows=2)
    scheduler = Scheduler(shared, rows=4, drafter=drafter)
    scheduler.answer(GenerationRequest([256, 7, 9, 11], GREEDY))
    scheduler.close()
    assert drafter.num_accepted == drafter.num_drafted > 0


def test_an_accepted_draft_saves_its_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 tokens: one from the prompt; 15 in steps of 1, or in steps of 1 + 4 draft tokens."""
    shared = engine(context=64)
    sampling = Sampling(temperature=1.3, seed=5, max_tokens=16)
    request = GenerationRequest([256, 1, 2, 3], sampling)
    passes: list[int] = []
    forward = shared.model.hidden

    def counted(*arguments: Any, **options: Any) -> Any:
        passes.append(1)
        return forward(*arguments, **options)

    plain = Scheduler(shared, rows=4)
    answer = plain.answer(request)  # also measures the widths
    tokens = known_answers([request], [answer])
    monkeypatch.setattr(shared.model, "hidden", counted)
    plain.answer(request)
    plain.close()
    assert len(passes) == 1 + 15
    scheduler = Scheduler(shared, rows=4, drafter=KnownAnswers(tokens, wrong=0, tokens=4))
    scheduler.answer(request)
    passes.clear()
    scheduler.answer(request)
    scheduler.close()
    assert len(passes) == 1 + 3


def test_drafts_obey_grammars_and_stop_texts() -> None:
    shared = engine(context=120)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}, "required": ["a"]}
    constraint = shared.grammars.compile(json_grammar(schema))
    sampling = Sampling(temperature=1.0, seed=2, max_tokens=60)
    requests = [
        GenerationRequest([256, 1, 2], sampling, constraint=constraint),
        GenerationRequest([256, 4, 2], sampling.model_copy(update={"stop": ("a",)})),
    ]
    plain = Scheduler(shared, rows=4)
    expected = collect(plain, requests)
    plain.close()
    drafter = KnownAnswers(known_answers(requests, expected), wrong=0.2)
    scheduler = Scheduler(shared, rows=4, drafter=drafter)
    for events, expected_events in zip(collect(scheduler, requests), expected, strict=True):
        assert answer_pieces(events) == answer_pieces(expected_events)
    scheduler.close()
    assert drafter.num_accepted > 3


def test_the_longest_earlier_occurrence_is_continued() -> None:
    drafter = NgramDrafter(tokens=4)
    text = [1, 2, 3, 4, 5, 9, 3, 4, 6, 2, 3, 4]
    assert drafter.propose([("a", text, 4)]) == [[5, 9, 3, 4]], "after 2 3 4, not after the later 3 4"
    assert drafter.propose([("a", [*text, 6], 2)]) == [[2, 3]], "after 3 4 6"
    assert drafter.propose([("b", [1, 2, 3], 4)]) == [[]]
    assert drafter.propose([("c", [8, 8, 8], 2)]) == [[8]], "the text ends there"


def test_the_length_of_drafts_follows_their_acceptance() -> None:
    length = DraftLength(4)
    assert length.next() == 4
    length.update(drafted=4, accepted=0)
    assert length.next() == 2
    length.update(drafted=2, accepted=0)
    assert length.next() == 1
    length.update(drafted=1, accepted=0)
    assert [length.next() for _ in range(3)] == [0, 1, 1], "a pause of one step"
    length.update(drafted=1, accepted=0)
    assert [length.next() for _ in range(3)] == [0, 0, 1], "a pause of two steps"
    length.update(drafted=1, accepted=1)
    assert length.next() == 2


def test_a_number_read_ahead_is_the_number_of_that_token() -> None:
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    settings = [Sampling(seed=3, temperature=1.5)]
    ahead, in_turn = Sampler(settings), Sampler(settings)
    chosen, _ = ahead.choose(logits, [(0, offset) for offset in range(6)])
    assert chosen.tolist() == [int(in_turn(row[None])[0]) for row in logits]
    ahead.advance(0, 2)
    assert int(ahead(logits[2:3])[0]) == chosen[2]


def test_a_model_whose_frequencies_depend_on_the_length_gets_no_drafts() -> None:
    scaling = {"type": "dynamic", "factor": 2.0, "original_context": 32}
    shared = engine(context=64, rope_scaling=scaling)
    assert shared.model.architecture.rope_depends_on_length
    drafter = NgramDrafter(tokens=4)
    scheduler = Scheduler(shared, rows=4, drafter=drafter)
    scheduler.answer(GenerationRequest([256, *[5, 6, 7] * 6], GREEDY))
    scheduler.close()
    assert drafter.num_drafted == 0

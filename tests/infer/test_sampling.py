"""Tokens are chosen as often as they should be, and only those that may be."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vita.infer.sampler import Sampler, allowed_tokens
from vita.infer.sampling import Sampling
from vita.spine.config import build
from vita.spine.errors import ConfigError

LOGITS = torch.tensor([[0.5, 2.0, -1.0, 1.0, 2.0]]).log_softmax(-1)


def choices(sampling: Sampling, *, count: int = 4000) -> Tensor:
    """How often each token is chosen, over as many requests with seeds of their own."""
    sampler = Sampler(sampling.varied(count))
    chosen, _ = sampler(LOGITS.expand(count, -1))
    return chosen.bincount(minlength=5) / count


def test_frequencies_are_the_probabilities() -> None:
    torch.testing.assert_close(choices(Sampling()), LOGITS[0].exp(), atol=0.03, rtol=0)
    halved = (LOGITS[0] / 2).softmax(-1)
    torch.testing.assert_close(choices(Sampling(temperature=2.0)), halved, atol=0.03, rtol=0)


def test_top_k_leaves_the_likeliest_in_proportion() -> None:
    found = choices(Sampling(top_k=3))
    expected = LOGITS[0].exp() * torch.tensor([0.0, 1, 0, 1, 1])
    torch.testing.assert_close(found, expected / expected.sum(), atol=0.03, rtol=0)
    assert found[0] == found[2] == 0


def test_top_p_is_reached_and_not_passed() -> None:
    # Likeliest first: 1 and 4 (0.379 each), 3 (0.139), 0 (0.085), 2.
    assert [name for name, share in enumerate(choices(Sampling(top_p=0.39))) if share] == [1, 4]
    assert [name for name, share in enumerate(choices(Sampling(top_p=0.36))) if share] == [1]
    assert [name for name, share in enumerate(choices(Sampling(top_p=0.8))) if share] == [1, 3, 4]


def test_top_p_counts_within_top_k() -> None:
    # Of the three that top-k leaves, the two likeliest hold 0.845.
    kept = allowed_tokens(LOGITS, top_k=torch.tensor([[3]]), top_p=torch.tensor([[0.8]]))
    assert kept.tolist() == [[False, True, False, False, True]]


def test_temperature_zero_takes_the_likeliest_and_of_equals_the_first() -> None:
    chosen, logprobs = Sampler([Sampling(temperature=0)])(LOGITS)
    assert chosen.tolist() == [1]
    assert logprobs.item() == pytest.approx(LOGITS[0, 1].item(), abs=1e-6)


def test_a_tiny_temperature_is_not_a_division_by_nothing() -> None:
    for temperature in (1e-9, 1e-30, 1e-320):
        chosen, _ = Sampler([Sampling(temperature=temperature)])(torch.tensor([[0.0, 500.0, 499.0]]))
        assert chosen.tolist() == [1]


def test_the_logprob_is_the_models_own_whatever_the_filter() -> None:
    chosen, logprobs = Sampler([Sampling(temperature=3.0, top_k=2, seed=4)])(LOGITS)
    assert logprobs.item() == pytest.approx(LOGITS[0, chosen[0]].item(), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.builds(
            Sampling,
            temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
            top_k=st.sampled_from([0, 1, 5]),
            top_p=st.sampled_from([0.3, 0.9, 1.0]),
            seed=st.integers(0, 2**60),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_request_is_answered_alike_alone_and_in_company(requests: list[Sampling]) -> None:
    chance = torch.Generator().manual_seed(1)
    steps = [torch.randn(len(requests), 50, generator=chance) for _ in range(4)]
    together = Sampler(requests)
    found = [together(logits)[0].tolist() for logits in steps]
    for row, request in enumerate(requests):
        alone = Sampler([request])
        assert [alone(logits[row : row + 1])[0].item() for logits in steps] == [step[row] for step in found]


def test_a_request_keeps_its_generator_in_another_row() -> None:
    requests = Sampling().varied(3)
    logits = torch.zeros(3, 1000)
    whole, moved = Sampler(requests), Sampler(requests)
    assert whole(logits)[0].tolist() == moved(logits)[0].tolist()
    moved.move(2, 0)
    expected = whole(logits)[0].tolist()
    assert moved(logits[:2])[0].tolist() == [expected[2], expected[1]]


def test_seeds_vary_reproducibly() -> None:
    seeds = [request.seed for request in Sampling(seed=5).varied(4)]
    assert len(set(seeds)) == 4
    assert seeds == [request.seed for request in Sampling(seed=5).varied(4)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "sampling.temperature: expected greater than or equal to 0, got -0.1"),
        ({"top_p": 0}, "sampling.top_p: expected greater than 0"),
        ({"max_tokens": 0}, "sampling.max_tokens: expected greater than or equal to 1"),
        ({"temprature": 1}, "did you mean `temperature`"),
        ({"temperature": math.nan}, "sampling.temperature"),
        ({"stop": ("",)}, "sampling.stop"),
    ],
)
def test_nonsense_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(Sampling, values, where="sampling")
    assert message in str(error.value)

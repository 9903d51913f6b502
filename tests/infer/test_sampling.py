"""Sampled tokens have the expected frequencies and pass the filters."""

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


def token_frequencies(sampling: Sampling, *, count: int = 4000) -> Tensor:
    """Return the frequency of each token over `count` requests with different seeds."""
    sampler = Sampler(sampling.varied(count))
    chosen, _ = sampler(LOGITS.expand(count, -1))
    return chosen.bincount(minlength=5) / count


def test_token_frequencies_equal_the_probabilities() -> None:
    torch.testing.assert_close(token_frequencies(Sampling()), LOGITS[0].exp(), atol=0.03, rtol=0)
    halved = (LOGITS[0] / 2).softmax(-1)
    torch.testing.assert_close(token_frequencies(Sampling(temperature=2.0)), halved, atol=0.03, rtol=0)


def test_top_k_keeps_the_likeliest_tokens_in_proportion() -> None:
    frequencies = token_frequencies(Sampling(top_k=3))
    expected = LOGITS[0].exp() * torch.tensor([0.0, 1, 0, 1, 1])
    torch.testing.assert_close(frequencies, expected / expected.sum(), atol=0.03, rtol=0)
    assert frequencies[0] == frequencies[2] == 0


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    # Likeliest first: 1 and 4 (0.379 each), 3 (0.139), 0 (0.085), 2.
    assert [name for name, share in enumerate(token_frequencies(Sampling(top_p=0.39))) if share] == [1, 4]
    assert [name for name, share in enumerate(token_frequencies(Sampling(top_p=0.36))) if share] == [1]
    assert [name for name, share in enumerate(token_frequencies(Sampling(top_p=0.8))) if share] == [1, 3, 4]


def test_top_p_is_applied_within_top_k() -> None:
    # The two likeliest of the three tokens in top-k have a probability of 0.845.
    allowed = allowed_tokens(LOGITS, top_k=torch.tensor([[3]]), top_p=torch.tensor([[0.8]]))
    assert allowed.tolist() == [[False, True, False, False, True]]


def test_temperature_zero_takes_the_first_of_the_likeliest_tokens() -> None:
    chosen, logprobs = Sampler([Sampling(temperature=0)])(LOGITS)
    assert chosen.tolist() == [1]
    assert logprobs.item() == pytest.approx(LOGITS[0, 1].item(), abs=1e-6)


def test_a_tiny_temperature_is_greedy() -> None:
    for temperature in (1e-9, 1e-30, 1e-320):
        chosen, _ = Sampler([Sampling(temperature=temperature)])(torch.tensor([[0.0, 500.0, 499.0]]))
        assert chosen.tolist() == [1]


def test_the_logprob_does_not_depend_on_the_filters() -> None:
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
def test_a_request_gets_the_same_tokens_alone_and_in_a_batch(requests: list[Sampling]) -> None:
    generator = torch.Generator().manual_seed(1)
    steps = [torch.randn(len(requests), 50, generator=generator) for _ in range(4)]
    batch_sampler = Sampler(requests)
    batch_tokens = [batch_sampler(logits)[0].tolist() for logits in steps]
    for row, request in enumerate(requests):
        single_sampler = Sampler([request])
        assert [single_sampler(logits[row : row + 1])[0].item() for logits in steps] == [
            step[row] for step in batch_tokens
        ]


def test_a_request_keeps_its_generator_in_another_row() -> None:
    requests = Sampling().varied(3)
    logits = torch.zeros(3, 1000)
    sampler, moved_sampler = Sampler(requests), Sampler(requests)
    assert sampler(logits)[0].tolist() == moved_sampler(logits)[0].tolist()
    moved_sampler.move(2, 0)
    expected = sampler(logits)[0].tolist()
    assert moved_sampler(logits[:2])[0].tolist() == [expected[2], expected[1]]


def test_varied_seeds_are_reproducible() -> None:
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
def test_invalid_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(Sampling, values, where="sampling")
    assert message in str(error.value)

"""Widths whose sums differ only in rare rounded outputs are found, so that answers in bfloat16 keep their bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vita.infer.batch_invariance import decoding_widths
from vita.infer.engine import Engine
from vita.infer.prompts import PromptReader
from vita.infer.rounded_products import layer_products
from vita.infer.sampling import Sampling
from vita.nn.feedforward import Linear
from vita.testing import byte_tokenizer, tiny_model

NARROW = {"width": 64, "heads": 4, "kv_heads": 2, "head_dim": 16}


def reverse_order(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the products of passes with `rows` rows from the last input to the first."""

    def forward(layer: Linear, states: Tensor) -> Tensor:
        if states.numel() != rows * states.shape[-1]:
            return F.linear(states, layer.weight, layer.bias)
        return F.linear(states.flip(-1).contiguous(), layer.weight.flip(-1).contiguous(), layer.bias)

    monkeypatch.setattr(Linear, "forward", forward)


@pytest.mark.slow
def test_a_width_that_adds_in_another_order_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(std=0.3, **NARROW).to(torch.bfloat16)
    with torch.inference_mode():
        assert decoding_widths(model, 16).smallest(7) == 8
        assert PromptReader(model).widths.smallest(7) == 8
        reverse_order(8, monkeypatch)
        widths = decoding_widths(model, 16)
        assert widths.invariant and widths.smallest(7) == 16
        assert PromptReader(model).widths.smallest(7) == 16
        reverse_order(16, monkeypatch)
        assert decoding_widths(model, 16).smallest(7) == 16, "16 is the width that others are compared with"


@pytest.mark.slow
def test_products_are_those_of_each_row_alone_up_to_rounding() -> None:
    model = tiny_model(std=0.3, layers=1, **NARROW).to(torch.bfloat16)
    with torch.inference_mode():
        narrow, wide = layer_products(model, 16), layer_products(model, 48)
    assert narrow is not None and wide is not None and len(narrow) > 300_000
    assert torch.allclose(narrow.float(), wide.float(), rtol=2e-2, atol=2e-2)


@pytest.mark.slow
def test_an_answer_in_bfloat16_has_the_same_bits_alone_and_in_a_batch() -> None:
    engine = Engine(tiny_model(std=0.3, **NARROW).to(torch.bfloat16), byte_tokenizer(), rows=4)
    prompts = [engine.text_ids(text) for text in ("hello", "What is a cat?", "one two three four", "a")]
    samplings = [Sampling(seed=seed, max_tokens=16, temperature=0.8) for seed in range(len(prompts))]
    together = engine.generate(prompts, samplings)
    for prompt, sampling, answer in zip(prompts, samplings, together, strict=True):
        assert engine.generate([prompt], sampling)[0] == answer

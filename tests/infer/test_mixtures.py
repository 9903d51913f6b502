"""Answers of mixtures of experts have the same bits alone and in a batch, though batches share experts."""

from __future__ import annotations

import pytest

from tests.nn.test_experts import mixture
from vita.data.tokens.chat_template import ChatTemplate
from vita.infer.batch_invariance import decoding_widths
from vita.infer.engine import Engine
from vita.infer.prompts import PromptReader
from vita.infer.sampling import Sampling
from vita.nn.init import initialize
from vita.nn.transformer import Transformer
from vita.testing import byte_tokenizer


@pytest.fixture(scope="module")
def model() -> Transformer:
    architecture = mixture(dense_layers=(0,), shared=32).model_copy(update={"vocabulary": 259, "layers": 3})
    model = Transformer(architecture)
    initialize(model, "fan_in")
    return model.eval()


def test_the_passes_of_a_mixture_are_measured_as_batch_invariant(model: Transformer) -> None:
    assert decoding_widths(model, 16).invariant
    assert PromptReader(model).widths.invariant


def test_an_answer_of_a_mixture_has_the_same_bits_alone_and_in_a_batch(model: Transformer) -> None:
    crowded, lone = (Engine(model, byte_tokenizer(), template=ChatTemplate.default(), rows=16) for _ in range(2))
    prompts = [crowded.text_ids(text) for text in ("hello", "What is a cat?", "é", "one two three four")]
    samplings = [Sampling(seed=index, temperature=index, max_tokens=6 + 3 * index) for index in range(4)]
    together = crowded.generate(prompts, samplings)
    for prompt, sampling, answer in zip(prompts, samplings, together, strict=True):
        assert lone.generate([prompt], sampling) == [answer]

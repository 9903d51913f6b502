"""Generation on a CUDA device: answers as on the CPU, and independent of the batch."""

from __future__ import annotations

import pytest
import torch

from tests.gpu.device import DEVICE, gpu
from vita.infer.engine import Engine
from vita.infer.sampling import Sampling
from vita.testing import byte_tokenizer, tiny_model

pytestmark = gpu
PROMPTS = ["hello", "What is a cat?", "one two three four", "a"]


def engine(device: str, *, dtype: torch.dtype = torch.float32) -> Engine:
    model = tiny_model(std=0.3, width=64, heads=4, kv_heads=2, head_dim=16)
    return Engine(model.to(dtype), byte_tokenizer(), device=device)


def test_greedy_answers_equal_those_of_the_cpu() -> None:
    device_engine, cpu_engine = engine(DEVICE), engine("cpu")
    prompts = [cpu_engine.text_ids(text) for text in PROMPTS]
    greedy = Sampling(temperature=0.0, max_tokens=16)
    answers, expected = (part.generate(prompts, greedy) for part in (device_engine, cpu_engine))
    assert [answer.ids for answer in answers] == [answer.ids for answer in expected]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_answer_has_the_same_bits_alone_and_in_a_batch(dtype: torch.dtype) -> None:
    generator = engine(DEVICE, dtype=dtype)
    prompts = [generator.text_ids(text) for text in PROMPTS]
    samplings = [Sampling(seed=seed, max_tokens=16, temperature=0.8) for seed in range(len(prompts))]
    together = generator.generate(prompts, samplings)
    for prompt, sampling, answer in zip(prompts, samplings, together, strict=True):
        (alone,) = generator.generate([prompt], sampling)
        assert alone == answer, "every log-probability to the last bit"

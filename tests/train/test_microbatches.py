"""Micro-batches of a step: complete rows, chunks of logits, and their predicted memory."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vita.design.forecast import prediction
from vita.design.scaling_rules import training_plan
from vita.nn.transformer import OutputHead
from vita.testing import tiny_architecture
from vita.train.losses import next_token
from vita.train.microbatches import LOGIT_BYTES, logit_memory, loss_chunk_size, micro_batch_size


class LargestTensor(TorchDispatchMode):
    """Records the bytes of the largest tensor that any operation returns."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.bytes = max(self.bytes, result.numel() * result.element_size())
        return result


@pytest.mark.parametrize(
    ("rows", "tokens", "expected"), [(16, 1024, 16), (32, 1024, 16), (24, 1024, 12), (7, 4096, 1), (4, 99999, 1)]
)
def test_a_micro_batch_is_the_largest_divisor_of_the_rows_that_fits(rows: int, tokens: int, expected: int) -> None:
    assert micro_batch_size(rows, tokens_per_row=tokens) == expected


def test_the_loss_never_holds_more_logits_than_predicted() -> None:
    positions, vocabulary, width = 3000, 40_000, 4
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, positions, width, generator=generator, requires_grad=True)
    head = torch.randn(vocabulary, width, generator=generator, requires_grad=True)
    targets = torch.randint(vocabulary, (1, positions), generator=generator)
    with LargestTensor() as largest:
        next_token(hidden, OutputHead(head), targets).loss.backward()
    predicted_bytes = logit_memory(positions, vocabulary=vocabulary)
    assert 2 * largest.bytes == predicted_bytes <= 2 * LOGIT_BYTES < 2 * 4 * positions * vocabulary
    assert loss_chunk_size(positions, vocabulary=vocabulary, number_bytes=4) * vocabulary * 4 == largest.bytes


def test_predicted_memory_is_that_of_one_micro_batch() -> None:
    """A step of a million tokens is split into micro-batches, so it needs the memory of one micro-batch."""
    shape = tiny_architecture(vocabulary=50_000, context=1024)
    plan = training_plan(shape, tokens=10 * 2**20, tokens_per_step=2**20)
    memory = prediction(shape, plan, text="english")["memory"]
    assert memory["logits"] <= 2 * LOGIT_BYTES
    assert memory["activations"] == shape.memory(tokens=16384, logits=0)["activations"]

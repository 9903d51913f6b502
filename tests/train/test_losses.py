"""The language modelling loss: parity with PyTorch, values worked by hand, and equal results in chunks."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from vita.data.tokens.dialogue_encoding import EncodedDialogue
from vita.data.tokens.packing import PackedDataset
from vita.nn.transformer import OutputHead
from vita.testing import tiny_model
from vita.train import microbatches
from vita.train.losses import language_modelling, next_token


def loss_inputs(
    *, rows: int = 3, length: int = 7, width: int = 5, vocabulary: int = 11, dtype: torch.dtype = torch.float64
):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, length, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    head = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(vocabulary, (rows, length), generator=generator)
    mask = torch.rand(rows, length, generator=generator) < 0.6
    return hidden, head, targets, mask


def reference_loss(
    hidden, head, targets, mask, *, z_loss: float = 0.0, scale: float = 1.0, softcap: float | None = None
):
    logits = hidden @ head.mT * scale
    logits = softcap * torch.tanh(logits / softcap) if softcap else logits
    token_losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    token_losses = token_losses + z_loss * torch.logsumexp(logits.flatten(0, 1), -1) ** 2
    return (token_losses * mask.flatten()).sum()


def test_the_loss_of_two_tokens_worked_by_hand():
    """With the logits 1 and 0 the first token has the probability 1 / (1 + 1/e)."""
    hidden, head = torch.tensor([[[1.0]]]), torch.tensor([[1.0], [0.0]])
    assert next_token(hidden, OutputHead(head), torch.tensor([[0]])).loss.item() == pytest.approx(
        math.log(1 + math.exp(-1))
    )
    result = next_token(hidden, OutputHead(head), torch.tensor([[1]]))
    assert result.loss.item() == pytest.approx(math.log(1 + math.e))
    assert (result.correct.item(), result.targets.item()) == (0.0, 1.0)


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
@pytest.mark.parametrize("chunk_bytes", [2**26, 11 * 8 * 4])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.125, None), (1.0, 2.5), (0.5, 1.5)])
def test_chunked_loss_and_gradients_equal_the_reference(monkeypatch, z_loss, chunk_bytes, scale, softcap):
    monkeypatch.setattr(microbatches, "LOGIT_BYTES", chunk_bytes)
    hidden, head, targets, mask = loss_inputs()
    result = next_token(hidden, OutputHead(head, scale, softcap), targets, mask, z_loss=z_loss)
    expected_loss = reference_loss(hidden, head, targets, mask, z_loss=z_loss, scale=scale, softcap=softcap)
    assert result.loss.item() == pytest.approx(expected_loss.item(), rel=1e-12)
    assert result.targets.item() == mask.sum().item()
    gradients = torch.autograd.grad(result.loss * 0.7, (hidden, head))
    for gradient, expected_gradient in zip(
        gradients, torch.autograd.grad(expected_loss * 0.7, (hidden, head)), strict=True
    ):
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)


def test_correct_counts_the_targets_with_the_highest_logit():
    hidden, head, targets, mask = loss_inputs()
    predictions = (hidden @ head.mT).argmax(-1)
    assert (
        next_token(hidden, OutputHead(head), targets, mask).correct.item()
        == ((predictions == targets) & mask).sum().item()
    )


def test_loss_and_gradient_in_bfloat16_are_close_to_float32():
    hidden, head, targets, mask = loss_inputs(rows=8, length=32, width=64, vocabulary=128, dtype=torch.float32)
    expected_loss = reference_loss(hidden, head, targets, mask)
    loss = next_token(hidden.bfloat16(), OutputHead(head), targets, mask).loss
    assert loss.item() == pytest.approx(expected_loss.item(), rel=5e-3)
    for gradient, expected_gradient in zip(
        torch.autograd.grad(loss, (hidden, head)), torch.autograd.grad(expected_loss, (hidden, head)), strict=True
    ):
        assert (gradient - expected_gradient).norm() / expected_gradient.norm() < 0.02


def test_loss_and_gradient_are_zero_without_targets():
    hidden, head, targets, mask = loss_inputs()
    result = next_token(hidden, OutputHead(head), targets, torch.zeros_like(mask))
    assert result.loss.item() == 0.0 and result.targets.item() == 0.0
    for gradient in torch.autograd.grad(result.loss, (hidden, head)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_huge_logits_do_not_overflow():
    hidden, head = torch.tensor([[[1e4]]], requires_grad=True), torch.tensor([[1e4], [-1e4]], requires_grad=True)
    result = next_token(hidden, OutputHead(head), torch.tensor([[1]]))
    assert result.loss.item() == pytest.approx(2e8)
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(result.loss, (hidden, head)))


def test_packed_and_padded_dialogues_have_equal_losses():
    """The sums agree to a relative 1e-6, and the gradients to 1e-4."""
    generator = torch.Generator().manual_seed(1)
    sizes = [5, 9, 3, 12, 7, 8]
    dialogues = [
        EncodedDialogue(torch.randint(1, 250, (size,), generator=generator).tolist(), [i > 1 for i in range(size)])
        for size in sizes
    ]
    model = tiny_model(seed=1)

    def total_loss(packing: PackedDataset) -> tuple[torch.Tensor, list[torch.Tensor]]:
        rows = packing.take(range(len(packing.rows)))
        names = ("ids", "learn", "documents", "positions")
        loss, _ = language_modelling(model, {name: torch.from_numpy(getattr(rows, name)) for name in names})
        return loss, list(torch.autograd.grad(loss, list(model.parameters())))

    packed = PackedDataset(dialogues, context=16, pad=0)
    padded = PackedDataset(dialogues, context=16, pad=0)
    padded.rows = [[number] for number in range(padded.dialogues)]
    assert len(packed.rows) < len(padded.rows)
    (packed_loss, packed_gradients), (padded_loss, padded_gradients) = total_loss(packed), total_loss(padded)
    assert packed_loss.item() == pytest.approx(padded_loss.item(), rel=1e-6)
    for packed_gradient, padded_gradient in zip(packed_gradients, padded_gradients, strict=True):
        torch.testing.assert_close(packed_gradient, padded_gradient, rtol=1e-4, atol=2e-5)

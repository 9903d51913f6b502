"""The loss against PyTorch's and against numbers worked by hand, and the laws that make chunks add up to the whole."""

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


def case(*, rows: int = 3, length: int = 7, width: int = 5, vocabulary: int = 11, dtype: torch.dtype = torch.float64):
    chance = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, length, width, generator=chance, dtype=torch.float64).to(dtype).requires_grad_()
    head = torch.randn(vocabulary, width, generator=chance, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(vocabulary, (rows, length), generator=chance)
    mask = torch.rand(rows, length, generator=chance) < 0.6
    return hidden, head, targets, mask


def plain(hidden, head, targets, mask, *, z_loss: float = 0.0, scale: float = 1.0, softcap: float | None = None):
    logits = hidden @ head.mT * scale
    logits = softcap * torch.tanh(logits / softcap) if softcap else logits
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    each = each + z_loss * torch.logsumexp(logits.flatten(0, 1), -1) ** 2
    return (each * mask.flatten()).sum()


def test_two_tokens_worked_by_hand():
    """Logits 1 and 0: the first is chosen with 1 / (1 + 1/e)."""
    hidden, head = torch.tensor([[[1.0]]]), torch.tensor([[1.0], [0.0]])
    assert next_token(hidden, OutputHead(head), torch.tensor([[0]])).loss.item() == pytest.approx(
        math.log(1 + math.exp(-1))
    )
    found = next_token(hidden, OutputHead(head), torch.tensor([[1]]))
    assert found.loss.item() == pytest.approx(math.log(1 + math.e))
    assert (found.correct.item(), found.targets.item()) == (0.0, 1.0)


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
@pytest.mark.parametrize("bytes_at_once", [2**26, 11 * 8 * 4])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.125, None), (1.0, 2.5), (0.5, 1.5)])
def test_loss_and_gradients_are_those_of_the_plain_formula_in_any_chunks(
    monkeypatch, z_loss, bytes_at_once, scale, softcap
):
    monkeypatch.setattr(microbatches, "LOGIT_BYTES", bytes_at_once)
    hidden, head, targets, mask = case()
    found = next_token(hidden, OutputHead(head, scale, softcap), targets, mask, z_loss=z_loss)
    wanted = plain(hidden, head, targets, mask, z_loss=z_loss, scale=scale, softcap=softcap)
    assert found.loss.item() == pytest.approx(wanted.item(), rel=1e-12)
    assert found.targets.item() == mask.sum().item()
    got = torch.autograd.grad(found.loss * 0.7, (hidden, head))
    for mine, theirs in zip(got, torch.autograd.grad(wanted * 0.7, (hidden, head)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_hits_count_the_targets_that_were_likeliest():
    hidden, head, targets, mask = case()
    best = (hidden @ head.mT).argmax(-1)
    assert next_token(hidden, OutputHead(head), targets, mask).correct.item() == ((best == targets) & mask).sum().item()


def test_in_bfloat16_loss_and_gradient_stay_close():
    hidden, head, targets, mask = case(rows=8, length=32, width=64, vocabulary=128, dtype=torch.float32)
    wanted = plain(hidden, head, targets, mask)
    found = next_token(hidden.bfloat16(), OutputHead(head), targets, mask).loss
    assert found.item() == pytest.approx(wanted.item(), rel=5e-3)
    for mine, theirs in zip(
        torch.autograd.grad(found, (hidden, head)), torch.autograd.grad(wanted, (hidden, head)), strict=True
    ):
        assert (mine - theirs).norm() / theirs.norm() < 0.02


def test_without_a_single_target_nothing_is_lost_and_nothing_is_learnt():
    hidden, head, targets, mask = case()
    found = next_token(hidden, OutputHead(head), targets, torch.zeros_like(mask))
    assert found.loss.item() == 0.0 and found.targets.item() == 0.0
    for gradient in torch.autograd.grad(found.loss, (hidden, head)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_huge_logits_overflow_nothing():
    hidden, head = torch.tensor([[[1e4]]], requires_grad=True), torch.tensor([[1e4], [-1e4]], requires_grad=True)
    found = next_token(hidden, OutputHead(head), torch.tensor([[1]]))
    assert found.loss.item() == pytest.approx(2e8)
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(found.loss, (hidden, head)))


def test_packed_dialogues_lose_what_padded_ones_do():
    """Sums agree to 1e-6 of the whole, and so do the gradients."""
    chance = torch.Generator().manual_seed(1)
    sizes = [5, 9, 3, 12, 7, 8]
    dialogues = [
        EncodedDialogue(torch.randint(1, 250, (size,), generator=chance).tolist(), [i > 1 for i in range(size)])
        for size in sizes
    ]
    model = tiny_model(seed=1)

    def total(packing: PackedDataset) -> tuple[torch.Tensor, list[torch.Tensor]]:
        rows = packing.take(range(len(packing.rows)))
        names = ("ids", "learn", "documents", "positions")
        loss, _ = language_modelling(model, {name: torch.from_numpy(getattr(rows, name)) for name in names})
        return loss, list(torch.autograd.grad(loss, list(model.parameters())))

    packed = PackedDataset(dialogues, context=16, pad=0)
    padded = PackedDataset(dialogues, context=16, pad=0)
    padded.rows = [[number] for number in range(padded.dialogues)]
    assert len(packed.rows) < len(padded.rows)
    (one, gradients), (other, others) = total(packed), total(padded)
    assert one.item() == pytest.approx(other.item(), rel=1e-6)
    for mine, theirs in zip(gradients, others, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-5)

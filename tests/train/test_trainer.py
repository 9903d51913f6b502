"""One optimizer step: the same however it is cut, in float32 masters, and not taken when it cannot be used."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vita.nn.transformer import Transformer
from vita.spine.errors import TrainingError
from vita.testing import tiny_model
from vita.train.losses import Tensors, language_modelling
from vita.train.schedule import Schedule
from vita.train.trainer import StepBatch, Trainer, TrainerConfig


def trainer(model: Transformer | None = None, *, loss: Any = language_modelling, **changes: Any) -> Trainer:
    settings = {"schedule": Schedule(steps=100), "precision": "float32", "compile": "no", **changes}
    return Trainer(model or tiny_model(), loss, TrainerConfig.model_validate(settings), threads=1)


def work(step: int = 0, *, rows: int = 4, length: int = 16, learn: bool = True) -> StepBatch:
    chance = torch.Generator().manual_seed(step)
    ids = torch.randint(259, (rows, length + 1), generator=chance)
    if not learn:
        return StepBatch({"ids": ids}, targets=rows * length)
    mask = torch.rand(ids.shape, generator=chance) < 0.4
    mask[0] = False  # a micro-batch without any target must do no harm
    return StepBatch({"ids": ids, "learn": mask}, targets=int(mask[:, 1:].sum()))


def weights(one: Trainer) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in one.model.named_parameters()}


def test_four_micro_batches_of_one_row_are_one_of_four():
    """Loss, gradient and new weights; targets are spread unevenly over the rows."""
    whole, pieces = trainer(), trainer(micro_batch_tokens=16)
    one, other = whole.step(work()), pieces.step(work())
    assert one.loss == pytest.approx(other.loss, rel=1e-6)
    assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-5)
    assert one.figures == pytest.approx(other.figures)
    for (name, mine), theirs in zip(whole.master_params.items(), pieces.master_params.values(), strict=True):
        assert mine.grad is not None and theirs.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)
    for name, mine in weights(whole).items():
        torch.testing.assert_close(mine, weights(pieces)[name], rtol=1e-3, atol=1e-4)


def test_the_gradient_is_that_of_the_mean_over_all_targets():
    one, model = trainer(max_grad_norm=1e9), tiny_model()
    given = work(learn=False)
    outcome = one.step(given)
    logits = model(given.tensors["ids"][:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), given.tensors["ids"][:, 1:].flatten())
    loss.backward()
    assert outcome.loss == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(one.master_params[name].grad, parameter.grad, rtol=1e-3, atol=1e-6)


def test_in_bfloat16_masters_stay_float32_and_the_loss_close():
    exact, quick = trainer(), trainer(precision="bfloat16")
    losses = [(exact.step(work(step)).loss, quick.step(work(step)).loss) for step in range(5)]
    assert all(one == pytest.approx(other, rel=0.02) for one, other in losses)
    assert all(parameter.dtype == torch.float32 for parameter in quick.model.parameters())
    assert all(tensor.dtype == torch.float32 for tensor in quick.optimizer.state().values())
    copies = [copied for _, copied in quick.compute_params.values()]
    assert len(copies) == 2 * 7 and all(copied.dtype == torch.bfloat16 for copied in copies)
    for master, copied in quick.compute_params.values():
        assert torch.equal(copied, master.bfloat16())


def test_what_is_clipped_is_the_length_of_all_gradients_together():
    one = trainer(max_grad_norm=0.01)
    outcome = one.step(work())
    assert outcome.gradient_norm > 0.01
    gradients = [parameter.grad for parameter in one.master_params.values() if parameter.grad is not None]
    assert torch.nn.utils.get_total_norm(gradients).item() == pytest.approx(0.01, rel=1e-3)


def test_a_loss_that_is_no_number_changes_nothing_and_healthy_steps_go_on():
    def spoilt(model: Transformer, tensors: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        loss, figures = language_modelling(model, tensors)
        return loss * tensors["factor"].sum(), figures

    one = trainer(loss=spoilt)

    def given(step: int, factor: float) -> StepBatch:
        plain = work(step)
        return StepBatch({**plain.tensors, "factor": torch.full((4, 1), factor / 4)}, targets=plain.targets)

    one.step(given(0, 1.0))
    before, state = weights(one), {name: tensor.clone() for name, tensor in one.optimizer.state().items()}
    outcome = one.step(given(1, float("nan")))
    assert outcome.skip_reason == "loss nan" and one.done == 2 and one.optimizer.steps == 1
    assert all(torch.equal(tensor, weights(one)[name]) for name, tensor in before.items())
    assert all(torch.equal(tensor, one.optimizer.state()[name]) for name, tensor in state.items())
    assert one.step(given(2, 1.0)).skip_reason is None
    assert any(not torch.equal(tensor, weights(one)[name]) for name, tensor in before.items())


def test_a_step_without_targets_is_left_out():
    one, given = trainer(), work()
    before = weights(one)
    nothing = torch.zeros_like(given.tensors["learn"])
    outcome = one.step(StepBatch({**given.tensors, "learn": nothing}, targets=0))
    assert outcome.skip_reason == "no targets" and outcome.loss == 0.0
    assert all(torch.equal(tensor, weights(one)[name]) for name, tensor in before.items())


def test_training_that_only_fails_gives_up_with_advice():
    def hopeless(model: Transformer, tensors: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        return language_modelling(model, tensors)[0] * float("inf"), {}

    one = trainer(loss=hopeless, patience=2)
    one.step(work())
    with pytest.raises(TrainingError, match="2 steps in a row were skipped"):
        one.step(work())


def test_looking_at_held_out_text_changes_nothing():
    one, other = trainer(precision="bfloat16"), trainer(precision="bfloat16")
    for step in range(3):
        one.step(work(step))
        other.step(work(step))
        assert one.evaluate(iter([work(98), work(99)])) == one.evaluate(iter([work(98), work(99)]))
    assert all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


def test_held_out_loss_weighs_every_target_alike():
    one = trainer()
    few, many = work(1, rows=1, length=4, learn=False), work(2, rows=4, length=16, learn=False)
    apart = [one.evaluate(iter([piece]))["loss"] for piece in (few, many)]
    together = one.evaluate(iter([few, many]))["loss"]
    assert together == pytest.approx((4 * apart[0] + 64 * apart[1]) / 68)


@pytest.mark.parametrize("tied", [True, False])
def test_it_learns(tied):
    one = trainer(tiny_model(std=0.05, tied=tied), optimization={"matrix_rate": 0.02, "embedding_rate": 0.01})
    losses = [one.step(work(0, learn=False)).loss for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_compiling_waits_for_a_run_that_is_long_enough(monkeypatch):
    monkeypatch.setattr("vita.train.trainer._can_compile", lambda device: True)
    settings = TrainerConfig(schedule=Schedule(steps=1))
    assert not Trainer(tiny_model(), language_modelling, settings, flops=1e9).compiled
    assert Trainer(tiny_model(), language_modelling, settings, flops=1e15).compiled


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's compiler gives them by itself
def test_compiled_steps_are_those_that_are_not():
    plain, quick = trainer(precision="bfloat16"), trainer(precision="bfloat16", compile="yes")
    for step in range(4):
        one, other = plain.step(work(step)), quick.step(work(step))
        assert one.loss == pytest.approx(other.loss, rel=0.01)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=0.05)

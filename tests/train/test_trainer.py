"""Optimizer steps: micro-batches, float32 master weights, and skipped steps."""

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


def create_trainer(model: Transformer | None = None, *, loss: Any = language_modelling, **changes: Any) -> Trainer:
    settings = {"schedule": Schedule(steps=100), "precision": "float32", "compile": "no", **changes}
    return Trainer(model or tiny_model(), loss, TrainerConfig.model_validate(settings), threads=1)


def step_batch(step: int = 0, *, rows: int = 4, length: int = 16, learn: bool = True) -> StepBatch:
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(259, (rows, length + 1), generator=generator)
    if not learn:
        return StepBatch({"ids": ids}, targets=rows * length)
    mask = torch.rand(ids.shape, generator=generator) < 0.4
    mask[0] = False  # one micro-batch has no target
    return StepBatch({"ids": ids, "learn": mask}, targets=int(mask[:, 1:].sum()))


def weights(step_trainer: Trainer) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in step_trainer.model.named_parameters()}


def test_four_micro_batches_of_one_row_equal_one_batch_of_four():
    """Compare loss, gradient and new weights, with targets spread unevenly over the rows."""
    full_trainer, micro_trainer = create_trainer(), create_trainer(micro_batch_tokens=16)
    full_outcome, micro_outcome = full_trainer.step(step_batch()), micro_trainer.step(step_batch())
    assert full_outcome.loss == pytest.approx(micro_outcome.loss, rel=1e-6)
    assert full_outcome.gradient_norm == pytest.approx(micro_outcome.gradient_norm, rel=1e-5)
    assert full_outcome.figures == pytest.approx(micro_outcome.figures)
    for (name, parameter), micro_parameter in zip(
        full_trainer.master_params.items(), micro_trainer.master_params.values(), strict=True
    ):
        assert parameter.grad is not None and micro_parameter.grad is not None
        torch.testing.assert_close(parameter.grad, micro_parameter.grad, rtol=1e-4, atol=1e-6, msg=name)
    for name, parameter in weights(full_trainer).items():
        torch.testing.assert_close(parameter, weights(micro_trainer)[name], rtol=1e-3, atol=1e-4)


def test_the_gradient_is_that_of_the_mean_over_targets():
    trainer, model = create_trainer(max_grad_norm=1e9), tiny_model()
    batch = step_batch(learn=False)
    outcome = trainer.step(batch)
    logits = model(batch.tensors["ids"][:, :-1])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.tensors["ids"][:, 1:].flatten())
    loss.backward()
    assert outcome.loss == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(trainer.master_params[name].grad, parameter.grad, rtol=1e-3, atol=1e-6)


def test_bfloat16_keeps_float32_masters_and_a_close_loss():
    float32_trainer, bfloat16_trainer = create_trainer(), create_trainer(precision="bfloat16")
    losses = [
        (float32_trainer.step(step_batch(step)).loss, bfloat16_trainer.step(step_batch(step)).loss) for step in range(5)
    ]
    assert all(exact_loss == pytest.approx(rounded_loss, rel=0.02) for exact_loss, rounded_loss in losses)
    assert all(parameter.dtype == torch.float32 for parameter in bfloat16_trainer.model.parameters())
    assert all(tensor.dtype == torch.float32 for tensor in bfloat16_trainer.optimizer.state().values())
    copies = [copy for _, copy in bfloat16_trainer.compute_params.values()]
    assert len(copies) == 2 * 7 and all(copy.dtype == torch.bfloat16 for copy in copies)
    for master, copy in bfloat16_trainer.compute_params.values():
        assert torch.equal(copy, master.bfloat16())


def test_clipping_limits_the_total_gradient_norm():
    trainer = create_trainer(max_grad_norm=0.01)
    outcome = trainer.step(step_batch())
    assert outcome.gradient_norm > 0.01
    gradients = [parameter.grad for parameter in trainer.master_params.values() if parameter.grad is not None]
    assert torch.nn.utils.get_total_norm(gradients).item() == pytest.approx(0.01, rel=1e-3)


def test_a_nan_loss_changes_no_weight_and_later_steps_continue():
    def scaled_loss(model: Transformer, tensors: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        loss, figures = language_modelling(model, tensors)
        return loss * tensors["factor"].sum(), figures

    trainer = create_trainer(loss=scaled_loss)

    def scaled_batch(step: int, factor: float) -> StepBatch:
        batch = step_batch(step)
        return StepBatch({**batch.tensors, "factor": torch.full((4, 1), factor / 4)}, targets=batch.targets)

    trainer.step(scaled_batch(0, 1.0))
    initial_weights, state = (
        weights(trainer),
        {name: tensor.clone() for name, tensor in trainer.optimizer.state().items()},
    )
    outcome = trainer.step(scaled_batch(1, float("nan")))
    assert outcome.skip_reason == "loss nan" and trainer.done == 2 and trainer.optimizer.steps == 1
    assert all(torch.equal(tensor, weights(trainer)[name]) for name, tensor in initial_weights.items())
    assert all(torch.equal(tensor, trainer.optimizer.state()[name]) for name, tensor in state.items())
    assert trainer.step(scaled_batch(2, 1.0)).skip_reason is None
    assert any(not torch.equal(tensor, weights(trainer)[name]) for name, tensor in initial_weights.items())


def test_a_step_without_targets_is_skipped():
    trainer, batch = create_trainer(), step_batch()
    initial_weights = weights(trainer)
    empty_mask = torch.zeros_like(batch.tensors["learn"])
    outcome = trainer.step(StepBatch({**batch.tensors, "learn": empty_mask}, targets=0))
    assert outcome.skip_reason == "no targets" and outcome.loss == 0.0
    assert all(torch.equal(tensor, weights(trainer)[name]) for name, tensor in initial_weights.items())


def test_repeatedly_skipped_steps_stop_training():
    def infinite_loss(model: Transformer, tensors: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        return language_modelling(model, tensors)[0] * float("inf"), {}

    trainer = create_trainer(loss=infinite_loss, patience=2)
    trainer.step(step_batch())
    with pytest.raises(TrainingError, match="2 steps in a row were skipped"):
        trainer.step(step_batch())


def test_evaluation_does_not_change_training():
    evaluated, reference = create_trainer(precision="bfloat16"), create_trainer(precision="bfloat16")
    for step in range(3):
        evaluated.step(step_batch(step))
        reference.step(step_batch(step))
        assert evaluated.evaluate(iter([step_batch(98), step_batch(99)])) == evaluated.evaluate(
            iter([step_batch(98), step_batch(99)])
        )
    assert all(torch.equal(tensor, weights(reference)[name]) for name, tensor in weights(evaluated).items())


def test_held_out_loss_weights_every_target_equally():
    trainer = create_trainer()
    small_batch, large_batch = (
        step_batch(1, rows=1, length=4, learn=False),
        step_batch(2, rows=4, length=16, learn=False),
    )
    batch_losses = [trainer.evaluate(iter([batch]))["loss"] for batch in (small_batch, large_batch)]
    joint_loss = trainer.evaluate(iter([small_batch, large_batch]))["loss"]
    assert joint_loss == pytest.approx((4 * batch_losses[0] + 64 * batch_losses[1]) / 68)


@pytest.mark.parametrize("tied", [True, False])
def test_training_lowers_the_loss(tied):
    trainer = create_trainer(
        tiny_model(std=0.05, tied=tied), optimization={"matrix_rate": 0.02, "embedding_rate": 0.01}
    )
    losses = [trainer.step(step_batch(0, learn=False)).loss for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_only_long_runs_are_compiled(monkeypatch):
    monkeypatch.setattr("vita.train.compilation.can_compile", lambda device: True)
    settings = TrainerConfig(schedule=Schedule(steps=1))
    assert not Trainer(tiny_model(), language_modelling, settings, flops=1e9).compiled
    assert Trainer(tiny_model(), language_modelling, settings, flops=1e15).compiled


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by the compiler of PyTorch
def test_compiled_steps_are_close_to_eager_steps():
    eager_trainer, compiled_trainer = (
        create_trainer(precision="bfloat16"),
        create_trainer(precision="bfloat16", compile="yes"),
    )
    for step in range(4):
        eager_outcome, compiled_outcome = eager_trainer.step(step_batch(step)), compiled_trainer.step(step_batch(step))
        assert eager_outcome.loss == pytest.approx(compiled_outcome.loss, rel=0.01)
        assert eager_outcome.gradient_norm == pytest.approx(compiled_outcome.gradient_norm, rel=0.05)

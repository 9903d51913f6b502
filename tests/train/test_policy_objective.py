"""The policy objective in the training loop: sums over the step that do not depend on micro-batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.train.test_advantage import assert_close
from vita.nn.critic import ActorCritic
from vita.testing import tiny_model
from vita.train.optim import Optimizer, OptimizerConfig
from vita.train.policy_losses import token_weights
from vita.train.policy_objective import (
    PolicyLossConfig,
    compute_token_stats,
    objective,
    token_stats_in_chunks,
    values_in_chunks,
)
from vita.train.schedule import Schedule
from vita.train.trainer import StepBatch, Trainer, TrainerConfig


def answers(model: ActorCritic) -> dict[str, Tensor]:
    """Return four answers of different lengths to prompts of two tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(259, (4, 9), generator=generator)
    mask = (torch.arange(8) >= 1) & (torch.arange(8) < torch.tensor([[3], [8], [5], [2]]))
    old = token_stats_in_chunks(model, ids, mask, rows=2)
    share = token_weights(mask, aggregation="dapo")
    return {
        "ids": ids,
        "mask": mask,
        "old": old.logprobs,
        "reference": old.logprobs - 0.1 * mask,
        "advantages": torch.randn(4, 1, generator=generator).expand(4, 8).contiguous(),
        "weights": token_weights(mask, aggregation="grpo"),
        "share": share,
        "values": values_in_chunks(model, ids, rows=3) * mask,
        "returns": torch.ones(4, 8) * mask,
        "value_weights": share,
    }


def test_log_probabilities_of_answers_equal_those_from_all_logits() -> None:
    model = tiny_model()
    tensors = answers(ActorCritic.of(model))
    logs = model(tensors["ids"][:, :-1]).log_softmax(-1)
    stats = compute_token_stats(model, tensors["ids"], tensors["mask"])
    expected = logs.gather(2, tensors["ids"][:, 1:, None])[..., 0] * tensors["mask"]
    assert_close(stats.logprobs, expected.detach(), 1e-5)
    assert_close(stats.entropy, (-(logs.exp() * logs).sum(-1) * tensors["mask"]).detach(), 1e-5)


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_initial_ratios_are_1_and_micro_batches_do_not_change_a_step(kl: float) -> None:
    weights = []
    for micro_tokens in (1000, 8):
        model = ActorCritic.of(tiny_model())
        tensors = answers(model)
        training = TrainerConfig(
            schedule=Schedule(steps=2),
            optimization=OptimizerConfig(matrices="adamw", matrix_rate=1e-3, epsilon=1e-4),
            micro_batch_tokens=micro_tokens,
            precision="float32",
            compile="no",
            outliers=False,
        )
        trainer = Trainer(model, objective(PolicyLossConfig(kl=kl)), training)
        outcome = trainer.step(StepBatch(tensors, targets=1.0))
        assert outcome.figures["ratio_deviation"] < 1e-5 and outcome.figures["clip_fraction"] == 0
        assert outcome.figures["value_loss"] == pytest.approx(0.5)
        assert trainer.step(StepBatch(tensors, targets=1.0)).figures["ratio_deviation"] > 1e-4
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert (weights[0] - weights[1]).abs().max() < 2e-5


def test_a_check_gets_the_figures_and_can_prevent_the_step() -> None:
    def refuse(figures: object) -> None:
        raise ValueError("not so")

    model = ActorCritic.of(tiny_model())
    before = model.head_weight.detach().clone()
    training = TrainerConfig(schedule=Schedule(steps=1), precision="float32", compile="no")
    trainer = Trainer(model, objective(PolicyLossConfig()), training)
    with pytest.raises(ValueError, match="not so"):
        trainer.step(StepBatch(answers(model), targets=1.0, check=refuse))
    assert torch.equal(model.head_weight, before) and trainer.done == 0


def test_a_critic_has_its_own_learning_rate() -> None:
    parameters = dict(ActorCritic.of(tiny_model()).named_parameters())
    optimizer = Optimizer(parameters, OptimizerConfig(matrices="adamw", critic_rate=0.5))
    assert optimizer.groups["critic"].rate == 0.5
    assert all(name.startswith("critic.") for name in optimizer.groups["critic"].names)
    other_groups = [group for part, group in optimizer.groups.items() if part != "critic"]
    assert not [name for group in other_groups for name in group.names if "critic" in name]


def test_outliers_among_tiny_losses_are_detected_only_on_request() -> None:
    from vita.train.step_filter import StepFilter

    def skip_reasons(outliers: bool) -> list[str | None]:
        step_filter = StepFilter(outliers=outliers)
        for step in range(20):
            step_filter.judge(step, loss=1e-9 * (step % 2), gradient_norm=1.0)
        return [
            step_filter.judge(20, loss=0.5, gradient_norm=1.0),
            step_filter.judge(21, loss=float("nan"), gradient_norm=1.0),
        ]

    assert skip_reasons(outliers=False) == [None, "loss nan"]
    assert "is an outlier" in (skip_reasons(outliers=True)[0] or "")

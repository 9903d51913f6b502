"""The loss of answers with advantages, as the loop sees it: sums of the whole step, the same in any pieces."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.train.test_advantage import close
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
    """Four answers of unequal length to prompts of two tokens."""
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(259, (4, 9), generator=chance)
    mask = (torch.arange(8) >= 1) & (torch.arange(8) < torch.tensor([[3], [8], [5], [2]]))
    old = token_stats_in_chunks(model, ids, mask, rows=2)
    share = token_weights(mask, aggregation="dapo")
    return {
        "ids": ids,
        "mask": mask,
        "old": old.logprobs,
        "reference": old.logprobs - 0.1 * mask,
        "advantages": torch.randn(4, 1, generator=chance).expand(4, 8).contiguous(),
        "weights": token_weights(mask, aggregation="grpo"),
        "share": share,
        "values": values_in_chunks(model, ids, rows=3) * mask,
        "returns": torch.ones(4, 8) * mask,
        "value_weights": share,
    }


def test_log_probabilities_of_answers_are_those_of_the_whole_logits() -> None:
    model = tiny_model()
    tensors = answers(ActorCritic.of(model))
    logs = model(tensors["ids"][:, :-1]).log_softmax(-1)
    found = compute_token_stats(model, tensors["ids"], tensors["mask"])
    want = logs.gather(2, tensors["ids"][:, 1:, None])[..., 0] * tensors["mask"]
    close(found.logprobs, want.detach(), 1e-5)
    close(found.entropy, (-(logs.exp() * logs).sum(-1) * tensors["mask"]).detach(), 1e-5)


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_at_first_ratios_are_1_and_a_step_in_pieces_is_the_same_step(kl: float) -> None:
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


def test_a_check_sees_the_figures_and_stops_the_step_before_it_is_taken() -> None:
    def refuse(told: object) -> None:
        raise ValueError("not so")

    model = ActorCritic.of(tiny_model())
    before = model.head_weight.detach().clone()
    training = TrainerConfig(schedule=Schedule(steps=1), precision="float32", compile="no")
    trainer = Trainer(model, objective(PolicyLossConfig()), training)
    with pytest.raises(ValueError, match="not so"):
        trainer.step(StepBatch(answers(model), targets=1.0, check=refuse))
    assert torch.equal(model.head_weight, before) and trainer.done == 0


def test_a_critic_has_a_rate_of_its_own() -> None:
    named = dict(ActorCritic.of(tiny_model()).named_parameters())
    optimizer = Optimizer(named, OptimizerConfig(matrices="adamw", critic_rate=0.5))
    assert optimizer.groups["critic"].rate == 0.5
    assert all(name.startswith("critic.") for name in optimizer.groups["critic"].names)
    rest = [group for part, group in optimizer.groups.items() if part != "critic"]
    assert not [name for group in rest for name in group.names if "critic" in name]


def test_losses_near_nothing_are_no_outliers_unless_they_are_asked_for() -> None:
    from vita.train.step_filter import StepFilter

    def judged(outliers: bool) -> list[str | None]:
        guard = StepFilter(outliers=outliers)
        for step in range(20):
            guard.judge(step, loss=1e-9 * (step % 2), gradient_norm=1.0)
        return [guard.judge(20, loss=0.5, gradient_norm=1.0), guard.judge(21, loss=float("nan"), gradient_norm=1.0)]

    assert judged(outliers=False) == [None, "loss nan"]
    assert "is an outlier" in (judged(outliers=True)[0] or "")

"""Policy losses: general laws, and parity with TRL and torchtune in losses and gradients."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.train.test_advantage import assert_close, parity  # noqa: F401 - a fixture
from vita.nn.transformer import OutputHead, Transformer
from vita.testing import tiny_model
from vita.train.advantage import rloo_advantage
from vita.train.policy_losses import (
    Aggregation,
    cispo,
    clipped,
    divergence,
    plain,
    ratios,
    token_logprobs,
    token_weights,
    value_loss,
    without_truncated,
)

AGGREGATIONS: list[Aggregation] = ["grpo", "bnpo", "dapo", "dr_grpo", "luspo"]


@dataclass
class Batch:
    """Three answers of different lengths."""

    logprobs: Tensor
    old: Tensor
    advantages: Tensor
    mask: Tensor

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.logprobs, self.old, self.advantages, self.mask


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    logprobs = (-3 * torch.rand(3, 5, generator=generator)).requires_grad_()
    old = logprobs.detach() + 0.4 * torch.randn(3, 5, generator=generator)
    mask = torch.arange(5) < torch.tensor([[2], [5], [3]])
    return Batch(logprobs, old, torch.tensor([[1.0], [-0.5], [0.3]]).expand(3, 5), mask)


def gradient(loss: Tensor, parameter: Tensor) -> Tensor:
    return torch.autograd.grad(loss, [parameter], retain_graph=True)[0]


# -- laws


@pytest.mark.parametrize("importance", ["token", "sequence", "sum"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_first_step_has_ratio_1_no_clipping_and_the_reinforce_gradient(
    batch: Batch, importance: Any, aggregation: Aggregation
) -> None:
    logprobs, _, advantages, mask = batch.parts
    weights = token_weights(mask, aggregation=aggregation, max_tokens=5)
    terms = clipped(logprobs, logprobs.detach(), advantages, mask, importance=importance)
    assert (terms.ratio == 1).all() and not terms.clipped.any()
    reinforce = plain(logprobs, logprobs.detach(), advantages, mask)
    actual, expected = (gradient((weights * loss_terms.loss).sum(), logprobs) for loss_terms in (terms, reinforce))
    if importance == "sum":  # every token has the ratio of the answer
        expected = gradient(-((weights * mask).sum(1) * advantages[:, 0] * (logprobs * mask).sum(1)).sum(), logprobs)
    elif importance == "sequence":
        expected = gradient(
            -((weights.sum(1) * advantages[:, 0]) * (logprobs * mask).sum(1) / mask.sum(1)).sum(), logprobs
        )
    assert_close(actual, expected, 1e-6)
    assert (actual[~mask] == 0).all()


def test_clipping_removes_the_gradient_only_beyond_the_limits() -> None:
    old = torch.zeros(1, 4)
    logprobs = torch.tensor([[0.5, -0.5, 0.5, -0.5]], requires_grad=True)
    advantages, mask = torch.tensor([[1.0, 1.0, -1.0, -1.0]]), torch.ones(1, 4, dtype=torch.bool)
    terms = clipped(logprobs, old, advantages, mask, low=0.2, high=0.28)
    assert terms.clipped.tolist() == [[True, False, False, True]]
    assert_close(terms.loss, [[-1.28, -float(np.exp(-0.5)), float(np.exp(0.5)), 0.8]], 1e-6)
    assert (gradient(terms.loss.sum(), logprobs)[0] != 0).tolist() == [False, True, True, False]


def test_a_dual_clip_bounds_the_loss_of_a_bad_answer() -> None:
    old, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    logprobs = torch.tensor([[2.0, 2.0]], requires_grad=True)
    terms = clipped(logprobs, old, torch.tensor([[-1.0, 1.0]]), mask, dual=3.0)
    assert_close(terms.loss, [[3.0, -1.2]], 1e-6)
    assert terms.clipped.tolist() == [[True, True]] and not gradient(terms.loss.sum(), logprobs).any()


def test_a_clipped_token_keeps_its_gradient_with_cispo() -> None:
    logprobs = torch.tensor([[2.0]], requires_grad=True)
    terms = cispo(logprobs, torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool), high=5.0)
    assert terms.clipped.all() and gradient(terms.loss.sum(), logprobs).item() == -5.0


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_padding_does_not_change_loss_or_gradient(batch: Batch, aggregation: Aggregation) -> None:
    logprobs, old, advantages, mask = batch.parts

    def step(logprobs: Tensor, old: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        wide = advantages[:, :1].expand_as(mask)
        terms = clipped(logprobs, old, wide, mask)
        kl = divergence(logprobs, old, old - 0.1, mask)
        loss = (token_weights(mask, aggregation=aggregation, max_tokens=5) * (terms.loss + 0.1 * kl)).sum()
        return loss, gradient(loss, logprobs)

    loss, slope = step(logprobs, old, mask)
    noise = torch.where(mask, 0, 50 * torch.randn(3, 5, generator=torch.Generator().manual_seed(1)))
    other, other_slope = step((logprobs + noise).detach().requires_grad_(), old - noise, mask)
    assert torch.equal(loss, other) and torch.equal(slope, other_slope)
    far = torch.nn.functional.pad
    padded, padded_slope = step(
        far(logprobs.detach(), (0, 3), value=-9).requires_grad_(), far(old, (0, 3)), far(mask, (0, 3))
    )
    assert_close(padded, loss.detach(), 1e-6)
    assert_close(padded_slope[:, :5], slope, 1e-6)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_micro_batches_do_not_change_the_loss(batch: Batch, aggregation: Aggregation) -> None:
    logprobs, old, advantages, mask = batch.parts
    weights = token_weights(mask, aggregation=aggregation, max_tokens=5)
    full_loss = (weights * clipped(*batch.parts).loss).sum()
    summed_loss = sum(
        (weights[row] * clipped(logprobs[row], old[row], advantages[row], mask[row]).loss).sum()
        for row in (slice(0, 1), slice(1, 3))
    )
    assert_close(torch.as_tensor(summed_loss), full_loss.detach(), 1e-6)


def test_aggregations_worked_by_hand() -> None:
    mask = torch.tensor([[True, False, False], [True, True, True]])
    loss = torch.tensor([[6.0, 0, 0], [1.0, 2.0, 3.0]])
    losses = {
        aggregation: (token_weights(mask, aggregation=aggregation, max_tokens=4) * loss).sum().item()
        for aggregation in AGGREGATIONS
    }
    assert losses == pytest.approx({"grpo": 4.0, "bnpo": 3.0, "dapo": 3.0, "dr_grpo": 12 / 8, "luspo": 6.0})


def test_truncated_answers_do_not_count_in_the_token_mean() -> None:
    mask = torch.tensor([[True, True], [True, True]])
    remaining_mask = without_truncated(mask, torch.tensor([True, False]))
    assert remaining_mask.tolist() == [[True, True], [False, False]]
    assert (
        token_weights(remaining_mask, aggregation="dapo").sum() == 1.0
        and token_weights(remaining_mask, aggregation="dapo")[0, 0] == 0.5
    )
    assert not token_weights(torch.zeros_like(mask), aggregation="dapo").any()


def test_value_clipping_limits_the_change_of_the_critic() -> None:
    values = torch.tensor([[1.0, 0.1]], requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    loss = value_loss(values, torch.zeros(1, 2), torch.full((1, 2), 2.0), mask, clip=0.2)
    assert_close(loss, [[0.5 * 1.8**2, 0.5 * 1.9**2]], 1e-6)
    assert (gradient(loss.sum(), values)[0] != 0).tolist() == [False, True]
    unclipped_loss = value_loss(values, torch.zeros(1, 2), torch.full((1, 2), 2.0), mask, clip=None)
    assert_close(unclipped_loss, [[0.5, 0.5 * 1.9**2]], 1e-6)


def test_the_corrected_off_policy_gradient_equals_that_of_the_kl_divergence() -> None:
    """With samples of an older policy, k3 weighted by the ratio has the expectation and gradient of the KL."""
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    old, reference = (torch.tensor(p, dtype=torch.float64).log()[:, None] for p in ([0.3, 0.3, 0.4], [0.2, 0.2, 0.6]))
    logs = logits.log_softmax(0)[:, None]
    mask = torch.ones(3, 1, dtype=torch.bool)
    exact = (logs.exp() * (logs - reference)).sum()
    estimate = (old.exp() * divergence(logs, old, reference, mask)).sum()
    assert_close(estimate, exact.detach(), 1e-12)
    assert_close(gradient(estimate, logits), gradient((logs.exp() * (logs - reference)).sum(), logits), 1e-12)


def test_chunked_log_probabilities_equal_unchunked_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(11, 6, generator=generator).requires_grad_()
    hidden = torch.randn(9, 6, generator=generator).requires_grad_()
    tokens = torch.randint(11, (9,), generator=generator)
    unchunked, chunked = (
        token_logprobs(hidden, OutputHead(head), tokens, **options) for options in ({}, {"chunk_logits": 22})
    )
    assert_close(chunked.logprobs, unchunked.logprobs.detach(), 1e-6)
    assert_close(chunked.entropy, unchunked.entropy.detach(), 1e-6)
    for parameter in (hidden, head):
        slopes = [gradient((stats.logprobs * 2 - stats.entropy).sum(), parameter) for stats in (chunked, unchunked)]
        assert_close(slopes[0], slopes[1], 1e-6)
    logs = (hidden @ head.mT).log_softmax(-1)
    assert_close(unchunked.entropy, -(logs.exp() * logs).sum(-1).detach(), 1e-6)


def test_one_step_of_each_loss_raises_the_probability_of_the_better_answer() -> None:
    for loss in (clipped, cispo, plain):
        model = tiny_model(std=0.05)
        before = answers(model)
        terms = loss(before, before.detach(), torch.tensor([[1.0], [-1.0]]).expand_as(before), MASK)
        (token_weights(MASK, aggregation="dapo") * terms.loss).sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad if parameter.grad is not None else 0
        change = (answers(model) - before).sum(1)
        assert change[0] > 0 > change[1], loss


MASK = torch.ones(2, 4, dtype=torch.bool)


def answers(model: Transformer) -> Tensor:
    ids = torch.tensor([[1, 2, 3, 4, 5], [1, 9, 8, 7, 6]])
    return token_logprobs(model.hidden(ids[:, :-1]).flatten(0, 1), model.head, ids[:, 1:].flatten()).logprobs.view(2, 4)


# -- parity with TRL 1.16 and, for PPO, with TRL 1.12 and torchtune 0.6.1

WEIGHT = "model.layers.0.self_attn.q_proj.weight"


@dataclass
class Reference:
    """Recorded values of a run of TRL, and its model."""

    numbers: dict[str, Any]
    tensors: dict[str, Tensor]
    model: Any

    def logprobs(self, section: str) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities of the completions, with their mask."""
        token_ids = {name: self.tensors[f"{section}/{name}"] for name in ("prompt_ids", "completion_ids")}
        masks = [self.tensors[f"{section}/{name}"] for name in ("prompt_mask", "completion_mask")]
        ids, attention_mask = torch.cat([token_ids["prompt_ids"], token_ids["completion_ids"]], 1), torch.cat(masks, 1)
        logits = self.model(input_ids=ids, attention_mask=attention_mask).logits[:, :-1]
        length = masks[1].shape[1]
        logs = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0][:, -length:]
        return logs, masks[1].bool()

    def parameter_gradient(self, loss: Tensor) -> Tensor:
        return gradient(loss, self.model.get_parameter(WEIGHT))


@pytest.fixture(scope="module")
def trl(shared: Path) -> Reference:
    folder = shared / "parity" / "fixtures"
    if not folder.is_dir():
        pytest.skip("needs the reference values in `shared/parity`")
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    tensors = {name: torch.tensor(array) for name, array in np.load(folder / "parity.npz").items()}
    return Reference(json.loads((folder / "parity.json").read_text()), tensors, model)


@pytest.mark.slow
def test_grpo_variants_have_the_losses_clip_fractions_and_gradients_of_trl(trl: Reference) -> None:
    names = ("advantages", "old_per_token_logps", "ref_per_token_logps")
    advantages, old, reference = (trl.tensors[f"grpo_inputs/{name}"] for name in names)
    cases = [name for name in trl.numbers if name.startswith("grpo/")]
    assert len(cases) > 30
    for case in cases:
        logprobs, mask = trl.logprobs("grpo_inputs")
        on_policy = case.endswith("onpolicy")
        kind, _, kl_settings = case[5:].partition("_kl")
        aggregation, importance = ("dapo", "token") if on_policy else kind.rsplit("_", 1)
        old_logprobs = logprobs.detach() if on_policy else old
        inputs = logprobs, old_logprobs, advantages[:, None].expand_as(logprobs), mask
        if aggregation == "cispo":
            terms = cispo(*inputs, high=5.0)
        else:
            terms = clipped(*inputs, low=0.2, high=0.28, importance=importance)  # type: ignore[arg-type]
        per_token, corrected = terms.loss, case.endswith("isKL")
        if kl_settings.startswith("0.04"):
            kl = divergence(logprobs, old_logprobs, reference, mask, corrected=corrected and importance == "token")
            if (
                corrected and importance == "sequence"
            ):  # TRL weights the divergence by the ratio of the answer here; Vita does not
                kl = kl * terms.ratio
            per_token = per_token + 0.04 * kl
            assert_close((kl * mask).sum() / mask.sum(), trl.numbers[case]["metrics"]["kl"])
        weights = token_weights(mask, aggregation="dapo" if aggregation == "cispo" else aggregation, max_tokens=12)  # type: ignore[arg-type]
        loss = (weights * per_token).sum()
        assert_close(loss, trl.numbers[case]["loss"])
        share = trl.numbers[case].get("metrics", {}).get("clip_ratio/region_mean")
        if share is not None:
            clip_fraction = (
                terms.clipped[:, 0].float().mean() if importance == "sequence" else terms.clipped.sum() / mask.sum()
            )
            assert_close(clip_fraction, share)
        expected = trl.tensors[f"{case}/grad_q0"]
        assert_close(trl.parameter_gradient(loss) / expected.norm(), expected / expected.norm(), 1e-4)


def test_rloo_has_the_advantages_and_losses_of_trl(trl: Reference) -> None:
    for name in ("rloo/normFalse", "rloo/normTrue"):
        logprobs, mask = trl.logprobs(name)
        old, advantages = trl.tensors[f"{name}/old_logps"], trl.tensors[f"{name}/advantages"]
        # TRL stores one old log-probability per answer; every distribution over its tokens has the same sum.
        spread = torch.where(mask, old[:, None] / mask.sum(1, keepdim=True), 0)
        inputs = logprobs, spread, advantages[:, None].expand_as(logprobs), mask
        terms = clipped(*inputs, low=0.2, high=0.2, importance="sum")
        assert_close((token_weights(mask, aggregation="grpo") * terms.loss).sum(), trl.numbers[name]["loss"])
    reference = torch.where(mask, trl.tensors["grpo_inputs/ref_per_token_logps"], 0)
    rewards = trl.tensors["grpo_inputs/rewards"] - 0.05 * ((logprobs.detach() * mask).sum(1) - reference.sum(1))
    assert_close(rloo_advantage(rewards, size=4), trl.tensors["rloo/normFalse/advantages"])


def test_truncated_answers_are_not_counted_as_in_trl(trl: Reference) -> None:
    mask = trl.tensors["grpo_inputs/completion_mask"].bool()
    ended = torch.tensor([(trl.tensors["grpo_inputs/completion_ids"][row] == 4).any() for row in range(len(mask))])
    remaining_mask = without_truncated(mask, ended)
    assert torch.equal(remaining_mask, trl.tensors["grpo_adv/mask_truncated/completion_mask"].bool())
    assert remaining_mask.sum() == trl.numbers["grpo_adv/mask_truncated"]["num_items_in_batch"]


def test_ppo_has_the_losses_of_trl_and_torchtune(parity: Path) -> None:  # noqa: F811
    recorded = np.load(parity / "ppo.npz")
    values = {name.split("/")[1]: torch.tensor(recorded[name]) for name in recorded if name.startswith("ppo/")}
    numbers = json.loads((parity / "ppo.json").read_text())
    mask, value_mask = values["token_mask"], values["value_mask"]
    terms = clipped(values["new_logps"], values["old_logps"], values["advantages"], mask, low=0.2, high=0.2)
    policy = (token_weights(mask, aggregation="dapo") * terms.loss).sum()
    critic = (
        value_loss(values["values"], values["values"], values["returns"], value_mask, clip=0.2).sum() / value_mask.sum()
    )
    assert_close(policy, numbers["trl_ppo_step"]["loss/policy_avg"])
    assert_close(critic, numbers["trl_ppo_step"]["loss/value_avg"])
    assert_close(terms.clipped.sum() / mask.sum(), numbers["trl_ppo_step"]["policy/clipfrac_avg"])
    assert_close(policy + 0.1 * critic, numbers["torchtune"]["loss"], 1e-6)


def test_ratios_are_1_outside_the_mask(batch: Batch) -> None:
    for importance in ("token", "sequence", "sum"):
        importance_ratios = ratios(batch.logprobs, batch.old, batch.mask, importance=importance)
        assert importance_ratios.shape == batch.mask.shape
    assert (ratios(batch.logprobs, batch.old, batch.mask, importance="token")[~batch.mask] == 1).all()

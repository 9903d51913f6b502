"""Policy losses: their laws, and the losses and gradients of TRL and torchtune on the same answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.train.test_advantage import close, parity  # noqa: F401 - a fixture
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

HOWS: list[Aggregation] = ["grpo", "bnpo", "dapo", "dr_grpo", "luspo"]


@dataclass
class Batch:
    """Three answers of unequal length."""

    logprobs: Tensor
    old: Tensor
    advantages: Tensor
    mask: Tensor

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.logprobs, self.old, self.advantages, self.mask


@pytest.fixture
def batch() -> Batch:
    chance = torch.Generator().manual_seed(0)
    logprobs = (-3 * torch.rand(3, 5, generator=chance)).requires_grad_()
    old = logprobs.detach() + 0.4 * torch.randn(3, 5, generator=chance)
    mask = torch.arange(5) < torch.tensor([[2], [5], [3]])
    return Batch(logprobs, old, torch.tensor([[1.0], [-0.5], [0.3]]).expand(3, 5), mask)


def gradient(loss: Tensor, by: Tensor) -> Tensor:
    return torch.autograd.grad(loss, [by], retain_graph=True)[0]


# -- laws


@pytest.mark.parametrize("importance", ["token", "sequence", "sum"])
@pytest.mark.parametrize("how", HOWS)
def test_on_the_first_step_the_ratio_is_1_nothing_is_clipped_and_the_gradient_is_reinforce(
    batch: Batch, importance: Any, how: Aggregation
) -> None:
    logprobs, _, advantages, mask = batch.parts
    weights = token_weights(mask, aggregation=how, max_tokens=5)
    terms = clipped(logprobs, logprobs.detach(), advantages, mask, importance=importance)
    assert (terms.ratio == 1).all() and not terms.clipped.any()
    reinforce = plain(logprobs, logprobs.detach(), advantages, mask)
    got, want = (gradient((weights * one.loss).sum(), logprobs) for one in (terms, reinforce))
    if importance == "sum":  # every token carries the whole answer's ratio
        want = gradient(-((weights * mask).sum(1) * advantages[:, 0] * (logprobs * mask).sum(1)).sum(), logprobs)
    elif importance == "sequence":
        want = gradient(-((weights.sum(1) * advantages[:, 0]) * (logprobs * mask).sum(1) / mask.sum(1)).sum(), logprobs)
    close(got, want, 1e-6)
    assert (got[~mask] == 0).all()


def test_clipping_takes_the_gradient_of_what_went_far_enough_and_of_nothing_else() -> None:
    old = torch.zeros(1, 4)
    logprobs = torch.tensor([[0.5, -0.5, 0.5, -0.5]], requires_grad=True)
    advantages, mask = torch.tensor([[1.0, 1.0, -1.0, -1.0]]), torch.ones(1, 4, dtype=torch.bool)
    terms = clipped(logprobs, old, advantages, mask, low=0.2, high=0.28)
    assert terms.clipped.tolist() == [[True, False, False, True]]
    close(terms.loss, [[-1.28, -float(np.exp(-0.5)), float(np.exp(0.5)), 0.8]], 1e-6)
    assert (gradient(terms.loss.sum(), logprobs)[0] != 0).tolist() == [False, True, True, False]


def test_a_dual_clip_bounds_what_a_bad_answer_may_cost() -> None:
    old, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    logprobs = torch.tensor([[2.0, 2.0]], requires_grad=True)
    terms = clipped(logprobs, old, torch.tensor([[-1.0, 1.0]]), mask, dual=3.0)
    close(terms.loss, [[3.0, -1.2]], 1e-6)
    assert terms.clipped.tolist() == [[True, True]] and not gradient(terms.loss.sum(), logprobs).any()


def test_a_clipped_token_still_teaches_under_cispo() -> None:
    logprobs = torch.tensor([[2.0]], requires_grad=True)
    terms = cispo(logprobs, torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool), high=5.0)
    assert terms.clipped.all() and gradient(terms.loss.sum(), logprobs).item() == -5.0


@pytest.mark.parametrize("how", HOWS)
def test_padding_and_what_stands_in_it_do_not_matter(batch: Batch, how: Aggregation) -> None:
    logprobs, old, advantages, mask = batch.parts

    def step(logprobs: Tensor, old: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        wide = advantages[:, :1].expand_as(mask)
        terms = clipped(logprobs, old, wide, mask)
        kl = divergence(logprobs, old, old - 0.1, mask)
        loss = (token_weights(mask, aggregation=how, max_tokens=5) * (terms.loss + 0.1 * kl)).sum()
        return loss, gradient(loss, logprobs)

    loss, slope = step(logprobs, old, mask)
    noise = torch.where(mask, 0, 50 * torch.randn(3, 5, generator=torch.Generator().manual_seed(1)))
    other, other_slope = step((logprobs + noise).detach().requires_grad_(), old - noise, mask)
    assert torch.equal(loss, other) and torch.equal(slope, other_slope)
    far = torch.nn.functional.pad
    padded, padded_slope = step(
        far(logprobs.detach(), (0, 3), value=-9).requires_grad_(), far(old, (0, 3)), far(mask, (0, 3))
    )
    close(padded, loss.detach(), 1e-6)
    close(padded_slope[:, :5], slope, 1e-6)


@pytest.mark.parametrize("how", HOWS)
def test_a_step_cut_in_pieces_is_the_same_step(batch: Batch, how: Aggregation) -> None:
    logprobs, old, advantages, mask = batch.parts
    weights = token_weights(mask, aggregation=how, max_tokens=5)
    whole = (weights * clipped(*batch.parts).loss).sum()
    pieces = sum(
        (weights[row] * clipped(logprobs[row], old[row], advantages[row], mask[row]).loss).sum()
        for row in (slice(0, 1), slice(1, 3))
    )
    close(torch.as_tensor(pieces), whole.detach(), 1e-6)


def test_ways_to_average_are_as_worked_by_hand() -> None:
    mask = torch.tensor([[True, False, False], [True, True, True]])
    loss = torch.tensor([[6.0, 0, 0], [1.0, 2.0, 3.0]])
    found = {how: (token_weights(mask, aggregation=how, max_tokens=4) * loss).sum().item() for how in HOWS}
    assert found == pytest.approx({"grpo": 4.0, "bnpo": 3.0, "dapo": 3.0, "dr_grpo": 12 / 8, "luspo": 6.0})


def test_answers_that_did_not_end_leave_the_count_of_tokens_too() -> None:
    mask = torch.tensor([[True, True], [True, True]])
    kept = without_truncated(mask, torch.tensor([True, False]))
    assert kept.tolist() == [[True, True], [False, False]]
    assert token_weights(kept, aggregation="dapo").sum() == 1.0 and token_weights(kept, aggregation="dapo")[0, 0] == 0.5
    assert not token_weights(torch.zeros_like(mask), aggregation="dapo").any()


def test_a_critic_is_held_near_what_it_said() -> None:
    values = torch.tensor([[1.0, 0.1]], requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    loss = value_loss(values, torch.zeros(1, 2), torch.full((1, 2), 2.0), mask, clip=0.2)
    close(loss, [[0.5 * 1.8**2, 0.5 * 1.9**2]], 1e-6)
    assert (gradient(loss.sum(), values)[0] != 0).tolist() == [False, True]
    free = value_loss(values, torch.zeros(1, 2), torch.full((1, 2), 2.0), mask, clip=None)
    close(free, [[0.5, 0.5 * 1.9**2]], 1e-6)


def test_corrected_the_gradient_off_policy_is_that_of_the_divergence() -> None:
    """Samples of an older policy, enumerated: weighed by the ratio, k3 has the expectation and gradient of KL."""
    logits = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    old, reference = (torch.tensor(p, dtype=torch.float64).log()[:, None] for p in ([0.3, 0.3, 0.4], [0.2, 0.2, 0.6]))
    logs = logits.log_softmax(0)[:, None]
    mask = torch.ones(3, 1, dtype=torch.bool)
    exact = (logs.exp() * (logs - reference)).sum()
    found = (old.exp() * divergence(logs, old, reference, mask)).sum()
    close(found, exact.detach(), 1e-12)
    close(gradient(found, logits), gradient((logs.exp() * (logs - reference)).sum(), logits), 1e-12)


def test_log_probabilities_in_pieces_are_those_of_the_whole() -> None:
    chance = torch.Generator().manual_seed(0)
    head = torch.randn(11, 6, generator=chance).requires_grad_()
    hidden = torch.randn(9, 6, generator=chance).requires_grad_()
    tokens = torch.randint(11, (9,), generator=chance)
    whole, parts = (token_logprobs(hidden, OutputHead(head), tokens, **pieces) for pieces in ({}, {"chunk_logits": 22}))
    close(parts.logprobs, whole.logprobs.detach(), 1e-6)
    close(parts.entropy, whole.entropy.detach(), 1e-6)
    for by in (hidden, head):
        slopes = [gradient((one.logprobs * 2 - one.entropy).sum(), by) for one in (parts, whole)]
        close(slopes[0], slopes[1], 1e-6)
    logs = (hidden @ head.mT).log_softmax(-1)
    close(whole.entropy, -(logs.exp() * logs).sum(-1).detach(), 1e-6)


def test_one_step_of_each_loss_makes_the_better_answer_likelier() -> None:
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


# -- the same numbers as TRL 1.16 and, for PPO, TRL 1.12 and torchtune 0.6.1

WEIGHT = "model.layers.0.self_attn.q_proj.weight"


@dataclass
class Reference:
    """What was kept of a run of TRL, and its model."""

    numbers: dict[str, Any]
    tensors: dict[str, Tensor]
    model: Any

    def logprobs(self, section: str) -> tuple[Tensor, Tensor]:
        """Of the completions under the model, with their mask."""
        get = {name: self.tensors[f"{section}/{name}"] for name in ("prompt_ids", "completion_ids")}
        masks = [self.tensors[f"{section}/{name}"] for name in ("prompt_mask", "completion_mask")]
        ids, seen = torch.cat([get["prompt_ids"], get["completion_ids"]], 1), torch.cat(masks, 1)
        logits = self.model(input_ids=ids, attention_mask=seen).logits[:, :-1]
        length = masks[1].shape[1]
        logs = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0][:, -length:]
        return logs, masks[1].bool()

    def slope(self, loss: Tensor) -> Tensor:
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


def test_grpo_and_its_relatives_have_the_losses_clip_shares_and_gradients_of_trl(trl: Reference) -> None:
    names = ("advantages", "old_per_token_logps", "ref_per_token_logps")
    advantages, old, reference = (trl.tensors[f"grpo_inputs/{name}"] for name in names)
    cases = [name for name in trl.numbers if name.startswith("grpo/")]
    assert len(cases) > 30
    for case in cases:
        logprobs, mask = trl.logprobs("grpo_inputs")
        on_policy = case.endswith("onpolicy")
        kind, _, rest = case[5:].partition("_kl")
        how, importance = ("dapo", "token") if on_policy else kind.rsplit("_", 1)
        then = logprobs.detach() if on_policy else old
        inputs = logprobs, then, advantages[:, None].expand_as(logprobs), mask
        if how == "cispo":
            terms = cispo(*inputs, high=5.0)
        else:
            terms = clipped(*inputs, low=0.2, high=0.28, importance=importance)  # type: ignore[arg-type]
        per_token, corrected = terms.loss, case.endswith("isKL")
        if rest.startswith("0.04"):
            kl = divergence(logprobs, then, reference, mask, corrected=corrected and importance == "token")
            if corrected and importance == "sequence":  # TRL weighs it by the whole answer here; Vita never does
                kl = kl * terms.ratio
            per_token = per_token + 0.04 * kl
            close((kl * mask).sum() / mask.sum(), trl.numbers[case]["metrics"]["kl"])
        weights = token_weights(mask, aggregation="dapo" if how == "cispo" else how, max_tokens=12)  # type: ignore[arg-type]
        loss = (weights * per_token).sum()
        close(loss, trl.numbers[case]["loss"])
        share = trl.numbers[case].get("metrics", {}).get("clip_ratio/region_mean")
        if share is not None:
            every = terms.clipped[:, 0].float().mean() if importance == "sequence" else terms.clipped.sum() / mask.sum()
            close(every, share)
        want = trl.tensors[f"{case}/grad_q0"]
        close(trl.slope(loss) / want.norm(), want / want.norm(), 1e-4)


def test_rloo_has_the_advantages_and_losses_of_trl(trl: Reference) -> None:
    for name in ("rloo/normFalse", "rloo/normTrue"):
        logprobs, mask = trl.logprobs(name)
        old, advantages = trl.tensors[f"{name}/old_logps"], trl.tensors[f"{name}/advantages"]
        # TRL keeps one old log-probability an answer; any spread over its tokens has the same sum.
        spread = torch.where(mask, old[:, None] / mask.sum(1, keepdim=True), 0)
        inputs = logprobs, spread, advantages[:, None].expand_as(logprobs), mask
        terms = clipped(*inputs, low=0.2, high=0.2, importance="sum")
        close((token_weights(mask, aggregation="grpo") * terms.loss).sum(), trl.numbers[name]["loss"])
    reference = torch.where(mask, trl.tensors["grpo_inputs/ref_per_token_logps"], 0)
    rewards = trl.tensors["grpo_inputs/rewards"] - 0.05 * ((logprobs.detach() * mask).sum(1) - reference.sum(1))
    close(rloo_advantage(rewards, size=4), trl.tensors["rloo/normFalse/advantages"])


def test_truncated_answers_leave_the_count_as_in_trl(trl: Reference) -> None:
    mask = trl.tensors["grpo_inputs/completion_mask"].bool()
    ended = torch.tensor([(trl.tensors["grpo_inputs/completion_ids"][row] == 4).any() for row in range(len(mask))])
    kept = without_truncated(mask, ended)
    assert torch.equal(kept, trl.tensors["grpo_adv/mask_truncated/completion_mask"].bool())
    assert kept.sum() == trl.numbers["grpo_adv/mask_truncated"]["num_items_in_batch"]


def test_ppo_has_the_losses_of_trl_and_torchtune(parity: Path) -> None:  # noqa: F811
    kept = np.load(parity / "ppo.npz")
    values = {name.split("/")[1]: torch.tensor(kept[name]) for name in kept if name.startswith("ppo/")}
    numbers = json.loads((parity / "ppo.json").read_text())
    mask, inside = values["token_mask"], values["value_mask"]
    terms = clipped(values["new_logps"], values["old_logps"], values["advantages"], mask, low=0.2, high=0.2)
    policy = (token_weights(mask, aggregation="dapo") * terms.loss).sum()
    critic = value_loss(values["values"], values["values"], values["returns"], inside, clip=0.2).sum() / inside.sum()
    close(policy, numbers["trl_ppo_step"]["loss/policy_avg"])
    close(critic, numbers["trl_ppo_step"]["loss/value_avg"])
    close(terms.clipped.sum() / mask.sum(), numbers["trl_ppo_step"]["policy/clipfrac_avg"])
    close(policy + 0.1 * critic, numbers["torchtune"]["loss"], 1e-6)


def test_ratios_stand_outside_of_the_mask_at_1(batch: Batch) -> None:
    for importance in ("token", "sequence", "sum"):
        found = ratios(batch.logprobs, batch.old, batch.mask, importance=importance)
        assert found.shape == batch.mask.shape
    assert (ratios(batch.logprobs, batch.old, batch.mask, importance="token")[~batch.mask] == 1).all()

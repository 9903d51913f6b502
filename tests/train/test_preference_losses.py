"""Preference losses: values worked by hand, and parity with TRL in value and gradient."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from vita.spine.errors import ConfigError
from vita.train.preference_losses import PREFERENCE_LOSSES, AnswerLogprobs, bradley_terry, estimate_kl_reference, kto
from vita.train.settings import PreferenceLossConfig as LossConfig

NAMES = PREFERENCE_LOSSES.names()


def answers(policy: list[float], reference: list[float], tokens: list[float]) -> AnswerLogprobs:
    return AnswerLogprobs(*(torch.tensor(values, dtype=torch.float64) for values in (policy, reference, tokens)))


CHOSEN = answers([-8.0, -6.0], [-9.0, -5.0], [4.0, 2.0])  # c = 1, -1
REJECTED = answers([-7.0, -9.0], [-5.0, -9.0], [2.0, 3.0])  # r = -2, 0


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


EXPECTED_LOSSES = {  # first pair, beta 0.5: beta (c - r) = 1.5, per token 0.5 (1/4 + 1) = 0.625
    "sigmoid": -math.log(sigmoid(1.5)),
    "sigmoid_norm": -math.log(sigmoid(0.625)),
    "cdpo": -0.9 * math.log(sigmoid(1.5)) - 0.1 * math.log(sigmoid(-1.5)),
    "robust": (-0.9 * math.log(sigmoid(1.5)) + 0.1 * math.log(sigmoid(-1.5))) / 0.8,
    "ipo": (3.0 - 1.0) ** 2,
    "ipo_norm": (1.25 - 1.0) ** 2,
    "hinge": 0.0,
    "apo_zero": 1 - sigmoid(0.5) + sigmoid(-1.0),
    "nca_pair": -math.log(sigmoid(0.5)) - 0.5 * math.log(sigmoid(-0.5)) - 0.5 * math.log(sigmoid(1.0)),
    "sft": 8.0 / 3.0,
    "orpo": -0.5 * math.log(sigmoid((-2.0 - math.log(1 - math.exp(-2.0))) - (-3.5 - math.log(1 - math.exp(-3.5))))),
    "simpo": -math.log(sigmoid(0.5 * (-2.0 + 3.5) - 0.25)),
    "cpo": -math.log(sigmoid(0.5 * (-8.0 + 7.0))),
}
CONFIG = LossConfig(beta=0.5, label_smoothing=0.1, simpo_gamma=0.25)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_a_pair_worked_by_hand(name: str) -> None:
    assert PREFERENCE_LOSSES[name].function(CHOSEN, REJECTED, CONFIG)[0].item() == pytest.approx(
        EXPECTED_LOSSES[name], rel=1e-7
    )


def test_all_losses_have_different_values() -> None:
    losses = {name: tuple(PREFERENCE_LOSSES[name].function(CHOSEN, REJECTED, CONFIG).tolist()) for name in NAMES}
    assert len(set(losses.values())) == len(NAMES) == len(EXPECTED_LOSSES)


def test_losses_with_a_reference_have_a_known_initial_value() -> None:
    config, smoothed_config = LossConfig(beta=0.3), LossConfig(beta=0.3, label_smoothing=0.2)
    initial_losses = {
        name: PREFERENCE_LOSSES[name].initial_loss(config) for name in NAMES if PREFERENCE_LOSSES[name].reference
    }
    assert initial_losses == pytest.approx(
        {
            **dict.fromkeys(["sigmoid", "sigmoid_norm", "cdpo", "robust"], math.log(2)),
            **dict.fromkeys(["ipo", "ipo_norm"], (1 / 0.6) ** 2),
            "hinge": 1.0,
            "apo_zero": 1.0,
            "nca_pair": 2 * math.log(2),
        }
    )
    assert PREFERENCE_LOSSES["robust"].initial_loss(smoothed_config) == pytest.approx(math.log(2))


def test_the_sft_term_is_the_token_mean_of_the_step_with_any_micro_batches() -> None:
    full_loss = PREFERENCE_LOSSES["sft"].function(CHOSEN, REJECTED, CONFIG).mean()
    assert full_loss.item() == pytest.approx(14 / 6)
    mean = torch.full((1,), 3.0, dtype=torch.float64)
    policy, reference, tokens = CHOSEN[:3]
    parts = [slice(0, 1), slice(1, 2)]
    micro_batches = [AnswerLogprobs(policy[part], reference[part], tokens[part], mean) for part in parts]
    micro_batch_loss = (
        sum(
            PREFERENCE_LOSSES["sft"].function(micro_batch, REJECTED, CONFIG).sum().item()
            for micro_batch in micro_batches
        )
        / 2
    )
    assert micro_batch_loss == pytest.approx(full_loss.item())


def test_label_smoothing_of_zero_is_dpo_and_mixes_flipped_pairs() -> None:
    plain = PREFERENCE_LOSSES["sigmoid"].function(CHOSEN, REJECTED, LossConfig(beta=0.5))
    for name in ("cdpo", "robust"):
        torch.testing.assert_close(PREFERENCE_LOSSES[name].function(CHOSEN, REJECTED, LossConfig(beta=0.5)), plain)
    flipped = PREFERENCE_LOSSES["sigmoid"].function(REJECTED, CHOSEN, LossConfig(beta=0.5))
    mixed = 0.9 * plain + 0.1 * flipped
    torch.testing.assert_close(PREFERENCE_LOSSES["cdpo"].function(CHOSEN, REJECTED, CONFIG), mixed)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("sft", "hinge")])
def test_every_loss_raises_the_chosen_answer_and_lowers_the_rejected_one(name: str) -> None:
    better, worse = (answers([-6.0], [-6.0], [3.0]) for _ in range(2))
    better.policy.requires_grad_()
    worse.policy.requires_grad_()
    PREFERENCE_LOSSES[name].function(better, worse, LossConfig(beta=0.5)).sum().backward()
    assert better.policy.grad is not None and worse.policy.grad is not None
    assert better.policy.grad.item() < 0 < worse.policy.grad.item()


def test_orpo_is_finite_for_an_answer_of_probability_one() -> None:
    certain_answer = answers([0.0], [0.0], [3.0])
    certain_answer.policy.requires_grad_()
    loss = PREFERENCE_LOSSES["orpo"].function(certain_answer, answers([-3.0], [-3.0], [3.0]), CONFIG)
    loss.sum().backward()
    assert (
        loss.isfinite().all() and certain_answer.policy.grad is not None and certain_answer.policy.grad.isfinite().all()
    )


def test_kto_worked_by_hand() -> None:
    labels = torch.tensor([True, False])
    kl_reference = estimate_kl_reference(torch.tensor([0.5, 0.1]))
    losses = kto(
        answers([-3.0, -4.0], [-4.0, -3.0], [1.0, 1.0]),
        labels,
        kl_reference=kl_reference,
        config=LossConfig(beta=0.5, undesirable_weight=2.0),
    )
    assert kl_reference.item() == pytest.approx(0.3)
    assert losses.tolist() == pytest.approx([1 - sigmoid(0.35), 2 * (1 - sigmoid(0.65))])
    assert estimate_kl_reference(torch.tensor([-1.0])).item() == 0.0


def test_bradley_terry_worked_by_hand() -> None:
    chosen, rejected = torch.tensor([2.0]), torch.tensor([0.5])
    assert bradley_terry(chosen, rejected).item() == pytest.approx(-math.log(sigmoid(1.5)))
    assert bradley_terry(chosen, rejected, margin=1.0).item() == pytest.approx(-math.log(sigmoid(0.5)))
    centred = bradley_terry(chosen, rejected, centering=0.01).item()
    assert centred == pytest.approx(-math.log(sigmoid(1.5)) + 0.01 * 2.5**2)


def test_an_unknown_loss_is_refused_with_the_closest_name() -> None:
    with pytest.raises(ConfigError, match=r"preference_loss: `sigmod` is not known here; did you mean `sigmoid`"):
        PREFERENCE_LOSSES["sigmod"]


# -- parity with TRL


@pytest.fixture(scope="module")
def parity(shared: Path) -> Path:
    folder = shared / "parity" / "fixtures"
    if not (folder / "parity.npz").is_file():
        pytest.skip("needs the reference values in `shared/parity`")
    return folder


@pytest.fixture(scope="module")
def arrays(parity: Path) -> dict[str, Tensor]:
    with np.load(parity / "parity.npz") as archive:
        return {name: torch.tensor(archive[name]) for name in archive.files}


@pytest.fixture(scope="module")
def values(parity: Path) -> dict[str, Any]:
    return json.loads((parity / "parity.json").read_text())


def fixture_answers(arrays: dict[str, Tensor]) -> tuple[AnswerLogprobs, AnswerLogprobs]:
    tokens = arrays["dpo_inputs/completion_mask"][:, 1:].sum(1).double().chunk(2)
    answers = [
        AnswerLogprobs(
            arrays[f"dpo_inputs/policy_{name}_logps"].double(), arrays[f"dpo_inputs/ref_{name}_logps"].double(), count
        )
        for name, count in zip(("chosen", "rejected"), tokens, strict=True)
    ]
    return answers[0], answers[1]


TRL_NAMES = {"ipo": "ipo_norm"}


def test_dpo_losses_equal_those_of_trl(arrays: dict[str, Tensor], values: dict[str, Any]) -> None:
    chosen, rejected = fixture_answers(arrays)
    names = set()
    for key, value in values.items():
        if not key.startswith("dpo/"):
            continue
        name, parameters = key.removeprefix("dpo/").rsplit("_b", 1)
        beta, smoothing = map(float, parameters.split("_ls"))
        entry = PREFERENCE_LOSSES[TRL_NAMES.get(name, name)]
        loss = entry.function(chosen, rejected, LossConfig(beta=beta, label_smoothing=smoothing)).mean().item()
        assert loss == pytest.approx(value["loss"], rel=2e-5, abs=2e-5), key
        rewards = value["metrics"]
        assert (beta * (chosen.log_ratio - rejected.log_ratio)).mean().item() == pytest.approx(
            rewards["rewards/margins"], rel=2e-5, abs=2e-5
        )
        names.add(name)
    assert names == {"sigmoid", "ipo", "sigmoid_norm", "hinge", "robust", "apo_zero", "nca_pair", "sft"}


def test_losses_without_a_reference_equal_those_of_trl(arrays: dict[str, Tensor], values: dict[str, Any]) -> None:
    chosen, rejected = fixture_answers(arrays)
    ones = torch.ones(len(arrays["orpo/avg_chosen_logps"]), dtype=torch.float64)
    means = [AnswerLogprobs(arrays[f"orpo/avg_{name}_logps"].double(), ones, ones) for name in ("chosen", "rejected")]
    losses = {
        "orpo": PREFERENCE_LOSSES["orpo"].function(means[0], means[1], LossConfig(beta=0.1)).mean().item(),
        "simpo": PREFERENCE_LOSSES["simpo"]
        .function(chosen, rejected, LossConfig(beta=2.0, simpo_gamma=1.0))
        .mean()
        .item(),
        "cpo": PREFERENCE_LOSSES["cpo"].function(chosen, rejected, LossConfig(beta=0.1)).mean().item(),
    }
    assert losses["orpo"] == pytest.approx(values["orpo"]["odds_ratio_term"], rel=2e-5)
    assert losses["simpo"] == pytest.approx(values["simpo"]["loss"], rel=2e-5)
    assert losses["cpo"] == pytest.approx(values["cpo"]["loss"], rel=2e-5)


def test_the_reward_loss_equals_that_of_trl(arrays: dict[str, Tensor], values: dict[str, Any]) -> None:
    chosen, rejected = arrays["rm_inputs/scores"].double().flatten().chunk(2)
    margin = arrays["rm_inputs/margin"].double()
    for name, pair_margin, centering in (
        ("plain", 0.0, 0.0),
        ("margin", margin, 0.0),
        ("center", 0.0, 0.01),
        ("margin_center", margin, 0.01),
    ):
        loss = bradley_terry(chosen, rejected, margin=pair_margin, centering=centering).mean().item()
        assert loss == pytest.approx(values[f"rm/{name}"]["loss"], rel=2e-5), name


def test_value_and_gradient_through_a_model_equal_those_of_trl(
    parity: Path, arrays: dict[str, Tensor], values: dict[str, Any]
) -> None:
    transformers = pytest.importorskip("transformers")
    policy, reference = (
        transformers.LlamaForCausalLM.from_pretrained(parity / name, dtype=torch.float32, attn_implementation="sdpa")
        for name in ("model", "ref_model")
    )

    def summed_logprobs(model: Any, section: str, prefix: str = "") -> Tensor:
        ids, mask, completion_mask = (
            arrays[f"{section}/{prefix}{name}"] for name in ("input_ids", "attention_mask", "completion_mask")
        )
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        return (logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0] * completion_mask[:, 1:]).sum(1)

    policy_logprobs = summed_logprobs(policy, "dpo_inputs").chunk(2)
    reference_logprobs = summed_logprobs(reference, "dpo_inputs").detach().chunk(2)
    tokens = arrays["dpo_inputs/completion_mask"][:, 1:].sum(1).float().chunk(2)
    sides = [AnswerLogprobs(*side) for side in zip(policy_logprobs, reference_logprobs, tokens, strict=True)]
    loss = PREFERENCE_LOSSES["sigmoid"].function(sides[0], sides[1], LossConfig(beta=0.1)).mean()
    weight = policy.get_parameter("model.layers.0.self_attn.q_proj.weight")
    (gradient,) = torch.autograd.grad(loss, [weight])
    expected_gradient = arrays["dpo/sigmoid_b0.1_ls0.0/grad_q0"]
    assert ((gradient - expected_gradient).norm() / expected_gradient.norm()).item() < 1e-4

    with torch.no_grad():
        answer_logprobs, kl_logprobs = (
            [summed_logprobs(model, "kto", prefix) for model in (policy, reference)] for prefix in ("", "KL_")
        )
    labels = values["kto"].get("label") or [True, False, True, False]
    ones = torch.ones_like(answer_logprobs[0])
    losses = kto(
        AnswerLogprobs(answer_logprobs[0], answer_logprobs[1], ones),
        torch.tensor(labels),
        kl_reference=estimate_kl_reference(kl_logprobs[0] - kl_logprobs[1]),
        config=LossConfig(beta=0.1),
    )
    assert losses.mean().item() == pytest.approx(values["kto"]["loss"], rel=2e-5)


def test_sigmoid_loss_is_finite_for_extreme_log_ratios() -> None:
    pair = answers([-2000.0], [0.0], [1.0]), answers([0.0], [-2000.0], [1.0])
    loss = PREFERENCE_LOSSES["sigmoid"].function(*pair, LossConfig(beta=1.0))
    assert loss.item() == pytest.approx(4000.0) and logsigmoid(torch.tensor(-4000.0)).isfinite()

"""Preference losses: pure functions of the log-probabilities of completions, one value per pair.

    dpo(AnswerLogprobs(policy, reference, tokens), AnswerLogprobs(...), PreferenceLossConfig(beta=0.1))
    PREFERENCE_LOSSES["sigmoid"].function(chosen, rejected, config)   # the same by name
    bradley_terry(chosen, rejected, margin=margins, centering=0.01)  # on the scores of a reward model

c and r are the log-ratios ln(policy / reference) of the chosen and the rejected completion. The log-probability of a
completion is the sum over its tokens including the end of turn; prompt tokens are excluded. A new loss is one decorated
function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from vita.spine.registry import Registry
from vita.train.settings import PreferenceLossConfig

# B pairs (or single answers, for kto)


LOSSES_BY_SETTING: Mapping[str, frozenset[str]] = {
    "label_smoothing": frozenset({"cdpo", "robust"}),
    "simpo_gamma": frozenset({"simpo"}),
    "desirable_weight": frozenset({"kto"}),
    "undesirable_weight": frozenset({"kto"}),
}
"""Setting -> the losses that use it, for settings that not all losses use."""


class AnswerLogprobs(NamedTuple):
    """Log-probabilities of one completion of each pair."""

    policy: Float[Tensor, "B"]
    """Log-probability under the policy."""
    reference: Float[Tensor, "B"]
    """Log-probability under the reference model."""
    tokens: Float[Tensor, "B"]
    """Number of tokens."""
    mean_tokens: Float[Tensor, "B"] | None = None
    """Mean of `tokens` over a whole step, for a part of its pairs."""

    @property
    def log_ratio(self) -> Float[Tensor, "B"]:
        """The log-ratio ln(policy / reference)."""
        return self.policy - self.reference

    @property
    def per_token(self) -> Float[Tensor, "B"]:
        """The mean log-probability per token."""
        return self.policy / self.tokens


PairLoss = Callable[[AnswerLogprobs, AnswerLogprobs, PreferenceLossConfig], Float[Tensor, "B"]]


@dataclass(frozen=True)
class PreferenceLoss:
    """A loss, and whether it uses the reference; such a loss has a known value before the first step."""

    function: PairLoss
    reference: bool

    def initial_loss(self, config: PreferenceLossConfig) -> float:
        """Return the loss of a policy that equals its reference."""
        answers = AnswerLogprobs(*(torch.full((1,), value) for value in (-1.0, -1.0, 1.0)))
        return self.function(answers, answers, config).item()


PREFERENCE_LOSSES: Registry[PreferenceLoss] = Registry("preference_loss", plural="preference_losses")


def preference_loss(name: str, *, reference: bool = True) -> Callable[[PairLoss], PairLoss]:
    """Return a decorator that registers a loss."""

    def register(loss: PairLoss) -> PairLoss:
        PREFERENCE_LOSSES.add(name)(PreferenceLoss(loss, reference))
        return loss

    return register


# -- losses with a reference


@preference_loss("sigmoid")
def dpo(chosen: AnswerLogprobs, rejected: AnswerLogprobs, config: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """-ln sigmoid(beta (c - r)) (Rafailov et al. 2023, eq. 7)."""
    return -logsigmoid(config.beta * _margin(chosen, rejected))


@preference_loss("sigmoid_norm")
def dpo_norm(chosen: AnswerLogprobs, rejected: AnswerLogprobs, config: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """-ln sigmoid(beta (c / n_c - r / n_r)): per token, so that length has no influence; use a beta of about 5."""
    return -logsigmoid(config.beta * _margin_per_token(chosen, rejected))


@preference_loss("cdpo")
def cdpo(chosen: AnswerLogprobs, rejected: AnswerLogprobs, config: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """-(1 - e) ln sigmoid(d) - e ln sigmoid(-d), d = beta (c - r): labels flipped with chance e (Mitchell 2023)."""
    margin, smoothing = config.beta * _margin(chosen, rejected), config.label_smoothing
    return -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)


@preference_loss("robust")
def robust(chosen: AnswerLogprobs, rejected: AnswerLogprobs, config: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """An unbiased estimate of the dpo loss without label noise (Chowdhury et al. 2024, eq. 12)."""
    margin, smoothing = config.beta * _margin(chosen, rejected), config.label_smoothing
    return (-(1 - smoothing) * logsigmoid(margin) + smoothing * logsigmoid(-margin)) / (1 - 2 * smoothing)


@preference_loss("ipo")
def ipo(chosen: AnswerLogprobs, rejected: AnswerLogprobs, config: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """(c - r - 1 / (2 beta))^2 on summed log-probabilities, as in the paper (Azar et al. 2023, eq. 17)."""
    return (_margin(chosen, rejected) - 1 / (2 * config.beta)) ** 2


@preference_loss("ipo_norm")
def ipo_norm(chosen: AnswerLogprobs, rejected: AnswerLogprobs, config: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """ipo per token, as in other libraries: the target is 1 / (2 beta) nats per *token*; use beta >= 1."""
    return (_margin_per_token(chosen, rejected) - 1 / (2 * config.beta)) ** 2


@preference_loss("hinge")
def hinge(chosen: AnswerLogprobs, rejected: AnswerLogprobs, config: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """max(0, 1 - beta (c - r)) (Zhao et al. 2023, SLiC; Liu et al. 2024, RSO)."""
    return relu(1 - config.beta * _margin(chosen, rejected))


@preference_loss("apo_zero")
def apo_zero(chosen: AnswerLogprobs, rejected: AnswerLogprobs, config: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """1 - sigmoid(beta c) + sigmoid(beta r): chosen up, rejected down (D'Oosterlinck et al. 2024)."""
    return 1 - torch.sigmoid(config.beta * chosen.log_ratio) + torch.sigmoid(config.beta * rejected.log_ratio)


@preference_loss("nca_pair")
def nca_pair(chosen: AnswerLogprobs, rejected: AnswerLogprobs, config: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """-ln sigmoid(beta c) - ln sigmoid(-beta c) / 2 - ln sigmoid(-beta r) / 2 (Chen et al. 2024, NCA)."""
    better, worse = config.beta * chosen.log_ratio, config.beta * rejected.log_ratio
    return -logsigmoid(better) - 0.5 * logsigmoid(-better) - 0.5 * logsigmoid(-worse)


# -- losses without a reference


@preference_loss("sft", reference=False)
def sft(chosen: AnswerLogprobs, rejected: AnswerLogprobs, config: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """The negative log-likelihood of the chosen completion; its mean over a step is -sum(logprobs) / sum(tokens).

    Combined with dpo it keeps the chosen completions likely, which dpo alone does not (Pang et al. 2024, RPO).
    """
    mean = chosen.tokens.mean() if chosen.mean_tokens is None else chosen.mean_tokens
    return -chosen.policy / mean


@preference_loss("orpo", reference=False)
def orpo(chosen: AnswerLogprobs, rejected: AnswerLogprobs, config: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """-beta ln sigmoid(ln odds of chosen - ln odds of rejected), by mean log-probabilities (Hong et al. 2024, eq. 7).

    The loss of the paper is this plus `sft`, each with weight 1.
    """
    better, worse = chosen.per_token, rejected.per_token
    return -config.beta * logsigmoid((better - worse) - (_log1mexp(better) - _log1mexp(worse)))


@preference_loss("simpo", reference=False)
def simpo(chosen: AnswerLogprobs, rejected: AnswerLogprobs, config: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """-ln sigmoid(beta (mean_c - mean_r) - gamma) (Meng et al. 2024, eq. 6); use beta >= 2."""
    return -logsigmoid(config.beta * (chosen.per_token - rejected.per_token) - config.simpo_gamma)


@preference_loss("cpo", reference=False)
def cpo(chosen: AnswerLogprobs, rejected: AnswerLogprobs, config: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """-ln sigmoid(beta (sum_c - sum_r)), dpo with a uniform reference (Xu et al. 2024, eq. 4); combine with `sft`."""
    return -logsigmoid(config.beta * (chosen.policy - rejected.policy))


# -- rated single completions, and scores


def kto(
    answers: AnswerLogprobs,
    desirable: Bool[Tensor, "B"],
    *,
    kl_reference: Float[Tensor, "B"] | Float[Tensor, ""],
    config: PreferenceLossConfig,
) -> Float[Tensor, "B"]:
    """1 - sigmoid(beta (x - z)) if desirable, 1 - sigmoid(beta (z - x)) if not (Ethayarajh et al. 2024, eq. 8).

    x is the log-ratio of the completion; z is `kl_reference`.
    """
    margin = config.beta * (answers.log_ratio - kl_reference)
    losses = 1 - torch.sigmoid(torch.where(desirable, margin, -margin))
    return torch.where(desirable, config.desirable_weight, config.undesirable_weight) * losses


def estimate_kl_reference(mismatched: Float[Tensor, "B"]) -> Float[Tensor, ""]:
    """Return the KL reference point of kto: the mean log-ratio of completions on mismatched prompts, at least 0.

    It has no gradient.
    """
    return mismatched.mean().clamp(min=0).detach()


def bradley_terry(
    chosen: Float[Tensor, "B"],
    rejected: Float[Tensor, "B"],
    *,
    margin: Float[Tensor, "B"] | float = 0.0,
    centering: float = 0.0,
) -> Float[Tensor, "B"]:
    """-ln sigmoid(s_c - s_r - margin) + centering (s_c + s_r)^2, on the scores of a reward model.

    Bradley & Terry 1952; margin: Touvron et al. 2023, eq. 2; the squared *sum* centres scores at zero without reducing
    their difference (Eisenstein et al. 2023).
    """
    return -logsigmoid(chosen - rejected - margin) + centering * (chosen + rejected) ** 2


def _margin(chosen: AnswerLogprobs, rejected: AnswerLogprobs) -> Float[Tensor, "B"]:
    return chosen.log_ratio - rejected.log_ratio


def _margin_per_token(chosen: AnswerLogprobs, rejected: AnswerLogprobs) -> Float[Tensor, "B"]:
    return chosen.log_ratio / chosen.tokens - rejected.log_ratio / rejected.tokens


def _log1mexp(logs: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """Compute ln(1 - e^x) for x < 0 without loss of precision (Maechler 2012)."""
    negative_logs = logs.clamp(max=-1e-7)  # probability 1 has no finite odds
    return torch.where(
        negative_logs > -math.log(2), torch.log(-torch.expm1(negative_logs)), torch.log1p(-torch.exp(negative_logs))
    )

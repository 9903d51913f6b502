"""What preferences ask of a model: pure losses on the log-probabilities of whole answers, one value for each pair.

    dpo(AnswerLogprobs(policy, reference, tokens), AnswerLogprobs(...), PreferenceLossConfig(beta=0.1))
    PREFERENCE_LOSSES["sigmoid"].of(chosen, rejected, knobs)         # the same by name
    bradley_terry(chosen, rejected, margin=margins, centering=0.01)  # of a reward model's scores

c and r are what the model has gained on its reference, ln(policy / reference), for the chosen and the rejected answer.
An answer's log-probability is the sum over its own tokens, its end of turn among them, and none of the prompt's.
A new loss is one decorated function.
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

from vita.spine.parts import Parts
from vita.train.settings import PreferenceLossConfig

# B pairs (or single answers, for kto)


READ_BY: Mapping[str, frozenset[str]] = {
    "label_smoothing": frozenset({"cdpo", "robust"}),
    "simpo_gamma": frozenset({"simpo"}),
    "desirable_weight": frozenset({"kto"}),
    "undesirable_weight": frozenset({"kto"}),
}
"""Coefficients that only some losses read, with the names of these losses."""


class AnswerLogprobs(NamedTuple):
    """One answer of each pair."""

    policy: Float[Tensor, "B"]
    """Its log-probability under the model that learns."""
    reference: Float[Tensor, "B"]
    """The same under the model that it began as."""
    tokens: Float[Tensor, "B"]
    """How many tokens it has."""
    mean_tokens: Float[Tensor, "B"] | None = None
    """The mean of `tokens` over a whole step, where these are only some of its pairs."""

    @property
    def gained(self) -> Float[Tensor, "B"]:
        """ln(policy / reference)."""
        return self.policy - self.reference

    @property
    def per_token(self) -> Float[Tensor, "B"]:
        """The mean log-probability of a token."""
        return self.policy / self.tokens


PairLoss = Callable[[AnswerLogprobs, AnswerLogprobs, PreferenceLossConfig], Float[Tensor, "B"]]


@dataclass(frozen=True)
class PreferenceLoss:
    """A loss, and whether it looks at the reference: such a loss has a known value before the first step."""

    of: PairLoss
    reference: bool

    def at_start(self, knobs: PreferenceLossConfig) -> float:
        """The loss of a model that still is its reference."""
        still = AnswerLogprobs(*(torch.full((1,), value) for value in (-1.0, -1.0, 1.0)))
        return self.of(still, still, knobs).item()


PREFERENCE_LOSSES: Parts[PreferenceLoss] = Parts("preference_loss")


def preference_loss(name: str, *, reference: bool = True) -> Callable[[PairLoss], PairLoss]:
    """Decorator: enter a loss in the table."""

    def enter(loss: PairLoss) -> PairLoss:
        PREFERENCE_LOSSES.add(name)(PreferenceLoss(loss, reference))
        return loss

    return enter


# -- beside a reference


@preference_loss("sigmoid")
def dpo(chosen: AnswerLogprobs, rejected: AnswerLogprobs, knobs: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """-ln sigmoid(beta (c - r)) (Rafailov et al. 2023, eq. 7)."""
    return -logsigmoid(knobs.beta * _ahead(chosen, rejected))


@preference_loss("sigmoid_norm")
def dpo_norm(chosen: AnswerLogprobs, rejected: AnswerLogprobs, knobs: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """-ln sigmoid(beta (c / n_c - r / n_r)): by the token, so that length does not count; wants a beta of about 5."""
    return -logsigmoid(knobs.beta * _ahead_per_token(chosen, rejected))


@preference_loss("cdpo")
def cdpo(chosen: AnswerLogprobs, rejected: AnswerLogprobs, knobs: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """-(1 - e) ln sigmoid(d) - e ln sigmoid(-d), d = beta (c - r): labels wrong with chance e (Mitchell 2023)."""
    ahead, wrong = knobs.beta * _ahead(chosen, rejected), knobs.label_smoothing
    return -(1 - wrong) * logsigmoid(ahead) - wrong * logsigmoid(-ahead)


@preference_loss("robust")
def robust(chosen: AnswerLogprobs, rejected: AnswerLogprobs, knobs: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """What dpo would be without the wrong labels, in expectation (Chowdhury et al. 2024, eq. 12)."""
    ahead, wrong = knobs.beta * _ahead(chosen, rejected), knobs.label_smoothing
    return (-(1 - wrong) * logsigmoid(ahead) + wrong * logsigmoid(-ahead)) / (1 - 2 * wrong)


@preference_loss("ipo")
def ipo(chosen: AnswerLogprobs, rejected: AnswerLogprobs, knobs: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """(c - r - 1 / (2 beta))^2 of whole answers, as in the paper (Azar et al. 2023, eq. 17)."""
    return (_ahead(chosen, rejected) - 1 / (2 * knobs.beta)) ** 2


@preference_loss("ipo_norm")
def ipo_norm(chosen: AnswerLogprobs, rejected: AnswerLogprobs, knobs: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """The same by the token, which others call ipo: it asks for 1 / (2 beta) nats a *token*; beta of 1 and more."""
    return (_ahead_per_token(chosen, rejected) - 1 / (2 * knobs.beta)) ** 2


@preference_loss("hinge")
def hinge(chosen: AnswerLogprobs, rejected: AnswerLogprobs, knobs: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """max(0, 1 - beta (c - r)) (Zhao et al. 2023, SLiC; Liu et al. 2024, RSO)."""
    return relu(1 - knobs.beta * _ahead(chosen, rejected))


@preference_loss("apo_zero")
def apo_zero(chosen: AnswerLogprobs, rejected: AnswerLogprobs, knobs: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """1 - sigmoid(beta c) + sigmoid(beta r): chosen up, rejected down (D'Oosterlinck et al. 2024)."""
    return 1 - torch.sigmoid(knobs.beta * chosen.gained) + torch.sigmoid(knobs.beta * rejected.gained)


@preference_loss("nca_pair")
def nca_pair(chosen: AnswerLogprobs, rejected: AnswerLogprobs, knobs: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """-ln sigmoid(beta c) - ln sigmoid(-beta c) / 2 - ln sigmoid(-beta r) / 2 (Chen et al. 2024, NCA)."""
    better, worse = knobs.beta * chosen.gained, knobs.beta * rejected.gained
    return -logsigmoid(better) - 0.5 * logsigmoid(-better) - 0.5 * logsigmoid(-worse)


# -- without one


@preference_loss("sft", reference=False)
def sft(chosen: AnswerLogprobs, rejected: AnswerLogprobs, knobs: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """The chosen answer's own loss; over a step its mean is -sum(log-probabilities) / sum(tokens).

    Beside dpo it keeps the chosen answers likely, which dpo alone does not (Pang et al. 2024, RPO).
    """
    mean = chosen.tokens.mean() if chosen.mean_tokens is None else chosen.mean_tokens
    return -chosen.policy / mean


@preference_loss("orpo", reference=False)
def orpo(chosen: AnswerLogprobs, rejected: AnswerLogprobs, knobs: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """-beta ln sigmoid(ln odds of chosen - ln odds of rejected), by mean log-probabilities (Hong et al. 2024, eq. 7).

    The paper's whole loss is this and `sft`, each with weight 1.
    """
    better, worse = chosen.per_token, rejected.per_token
    return -knobs.beta * logsigmoid((better - worse) - (_log1mexp(better) - _log1mexp(worse)))


@preference_loss("simpo", reference=False)
def simpo(chosen: AnswerLogprobs, rejected: AnswerLogprobs, knobs: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """-ln sigmoid(beta (mean_c - mean_r) - gamma) (Meng et al. 2024, eq. 6); wants a beta of 2 or more."""
    return -logsigmoid(knobs.beta * (chosen.per_token - rejected.per_token) - knobs.simpo_gamma)


@preference_loss("cpo", reference=False)
def cpo(chosen: AnswerLogprobs, rejected: AnswerLogprobs, knobs: PreferenceLossConfig) -> Float[Tensor, "B"]:
    """-ln sigmoid(beta (sum_c - sum_r)), dpo with a uniform reference (Xu et al. 2024, eq. 4); goes with `sft`."""
    return -logsigmoid(knobs.beta * (chosen.policy - rejected.policy))


# -- answers with a verdict, and scores


def kto(
    answers: AnswerLogprobs,
    good: Bool[Tensor, "B"],
    *,
    drift: Float[Tensor, "B"] | Float[Tensor, ""],
    knobs: PreferenceLossConfig,
) -> Float[Tensor, "B"]:
    """1 - sigmoid(beta (x - z)) of good answers, 1 - sigmoid(beta (z - x)) of bad ones (Ethayarajh et al. 2024, eq. 8).

    x is what the answer gained; z is `drift`.
    """
    ahead = knobs.beta * (answers.gained - drift)
    lost = 1 - torch.sigmoid(torch.where(good, ahead, -ahead))
    return torch.where(good, knobs.desirable_weight, knobs.undesirable_weight) * lost


def drift(mismatched: Float[Tensor, "B"]) -> Float[Tensor, ""]:
    """How far the model is from its reference: the mean gain of answers on prompts that are not theirs, at least 0.

    It is looked at and not learnt from.
    """
    return mismatched.mean().clamp(min=0).detach()


def bradley_terry(
    chosen: Float[Tensor, "B"],
    rejected: Float[Tensor, "B"],
    *,
    margin: Float[Tensor, "B"] | float = 0.0,
    centering: float = 0.0,
) -> Float[Tensor, "B"]:
    """-ln sigmoid(s_c - s_r - margin) + centering (s_c + s_r)^2 of a reward model's scores.

    Bradley & Terry 1952; margin: Touvron et al. 2023, eq. 2; the squared *sum* keeps scores around zero without pulling
    the two together (Eisenstein et al. 2023).
    """
    return -logsigmoid(chosen - rejected - margin) + centering * (chosen + rejected) ** 2


def _ahead(chosen: AnswerLogprobs, rejected: AnswerLogprobs) -> Float[Tensor, "B"]:
    return chosen.gained - rejected.gained


def _ahead_per_token(chosen: AnswerLogprobs, rejected: AnswerLogprobs) -> Float[Tensor, "B"]:
    return chosen.gained / chosen.tokens - rejected.gained / rejected.tokens


def _log1mexp(logs: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """ln(1 - e^x) of x < 0 without loss of digits (Maechler 2012)."""
    below = logs.clamp(max=-1e-7)  # a certain answer has no finite odds
    return torch.where(below > -math.log(2), torch.log(-torch.expm1(below)), torch.log1p(-torch.exp(below)))

"""Answers that a policy gives while it learns, and what an optimizer step learns from them.

    rollouts = Rollouts(trainer, engine, reference, asked, rewards, plan, seed=0)
    train(trainer, rollouts, ..., looks=[EvalHook(1, rollouts.tell)], checkpoint_steps=plan.updates)

A round is one set of answers, sampled from the pure policy (temperature 1, nothing filtered: else ratios and
divergences would belong to another distribution), and some optimizer steps on it. A round follows from the weights, the
seed and its number alone, so a run that was killed goes on from the end of a round as if nothing had happened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import fmean

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vita.data.sources.prompts import Prompt
from vita.infer.engine import Completion, Engine
from vita.infer.sampling import Sampling
from vita.nn.critic import ActorCritic
from vita.nn.transformer import Transformer
from vita.rl.before_after import earned, judged
from vita.rl.rewards import Rewards, RewardValues
from vita.spine.errors import TrainingError
from vita.train.advantage import (
    gae,
    group_relative_advantage,
    k1,
    per_token_rewards,
    rloo_advantage,
    whiten,
    zero_variance_groups,
)
from vita.train.choices import Aggregation, Method, Scale
from vita.train.policy_losses import token_weights, without_truncated
from vita.train.policy_objective import TokenStats, token_stats_in_chunks, values_in_chunks
from vita.train.trainer import StepBatch, Trainer

# N answers of a round, T their longest target

SAME = 1e-3
"""The maximum mean difference of two computations of a log-probability: float32 gives 1e-6, an error 0.1 or more."""
SAME_ROUNDED = 0.05
"""The same where training multiplies in bfloat16 and sampling does not."""


@dataclass(frozen=True)
class RolloutConfig:
    """The configuration of rollouts and of the updates on them."""

    method: Method
    prompts: int
    """Prompts in a round."""
    samples: int
    """Answers to each."""
    epochs: int
    """The number of epochs over the answers of a round."""
    minibatches: int
    """Optimizer steps in which they are learnt from once."""
    max_tokens: int
    kl: float
    """Price of the divergence, where it is a part of the reward."""
    gamma: float = 1.0
    lam: float = 0.95
    scale: Scale = "group"
    how: Aggregation = "dapo"
    mask_truncated: bool = False
    truncation_penalty: float = 0.0
    value_rounds: int = 0
    """First rounds in which the critic alone learns."""

    @property
    def updates(self) -> int:
        """Optimizer steps on one round."""
        return self.epochs * self.minibatches


@dataclass(frozen=True)
class SampledAnswers:
    """Answers to prompts, as text and as rows of tokens padded on the right."""

    prompts: list[Prompt]
    """The prompt of each answer."""
    completions: list[Completion]
    ids: Int[Tensor, "N T1"]
    mask: Bool[Tensor, "N T"]
    """The targets that were chosen: the answer with the token that ended it, told by its length and never by ids."""

    @property
    def ended(self) -> Bool[Tensor, "N"]:
        return torch.tensor([completion.finish == "stop" for completion in self.completions], device=self.ids.device)


@dataclass
class RolloutBatch:
    """A round's tensors, what it told, and its number."""

    number: int
    tensors: dict[str, Tensor]
    figures: dict[str, float] = field(default_factory=dict)


class Rollouts:
    """Gives the loop its batches; each round is made when its first step is asked for."""

    def __init__(
        self,
        trainer: Trainer,
        engine: Engine,
        reference: Transformer,
        prompts: Sequence[Prompt],
        rewards: Rewards,
        plan: RolloutConfig,
        *,
        seed: int,
    ) -> None:
        self.trainer, self.engine, self.reference, self.asked = trainer, engine, reference, list(prompts)
        self.rewards, self.plan, self.seed = rewards, plan, seed
        self.latest: RolloutBatch | None = None

    def __call__(self, step: int) -> StepBatch:
        number, update = divmod(step, self.plan.updates)
        if self.latest is None or self.latest.number != number:
            assert update == 0, "a run goes on from the end of a round"
            self.latest = self._round(number)
        tensors = self._part(self.latest, update)
        targets = float(bool(tensors["mask"].any()))
        return StepBatch(self._weighed(tensors, number), targets=targets, check=self._first if update == 0 else None)

    def tell(self, trainer: Trainer) -> Mapping[str, float]:
        """The latest round's figures, at its first step."""
        fresh = self.latest is not None and (trainer.done - 1) % self.plan.updates == 0
        return self.latest.figures if self.latest is not None and fresh else {}

    # -- a round

    def _round(self, number: int) -> RolloutBatch:
        plan = self.plan
        prompts = [prompt for prompt in self._drawn(number) for _ in range(plan.samples)]
        chance = Random(f"{self.seed}/answers/{number}")
        answers = answer(self.engine, prompts, max_tokens=plan.max_tokens, chance=chance)
        rewards = worth(self.rewards, answers, penalty=plan.truncation_penalty, seed=f"{self.seed}/{number}")
        scores = torch.tensor(
            [math.nan if reward is None else reward for reward in rewards.total], device=answers.ids.device
        )
        rows = max(1, self.trainer.training.micro_batch_tokens // max(1, answers.mask.shape[1]))
        policy = self.trainer.learner.model
        assert isinstance(policy, Transformer)
        old = token_stats_in_chunks(policy, answers.ids, answers.mask, rows=rows)
        reference = token_stats_in_chunks(self.reference, answers.ids, answers.mask, rows=rows).logprobs
        self._agrees(answers, old, number)
        figures = told(answers, rewards, old, reference, size=plan.samples)
        mask = answers.mask & ~scores.isnan()[:, None]
        if plan.mask_truncated:
            mask = without_truncated(mask, answers.ended)
        tensors = {"ids": answers.ids, "mask": mask, "old": old.logprobs, "reference": reference}
        if isinstance(policy, ActorCritic):
            tensors["values"] = torch.where(mask, values_in_chunks(policy, answers.ids, rows=rows), 0)
        return RolloutBatch(number, tensors | self._advantages(tensors, scores, number), figures)

    def _drawn(self, number: int) -> list[Prompt]:
        """The round's prompts: all come once, in an order of chance, before any comes again."""
        prompts: list[Prompt] = []
        for index in range(number * self.plan.prompts, (number + 1) * self.plan.prompts):
            lap, position = divmod(index, len(self.asked))
            order = list(range(len(self.asked)))
            Random(f"{self.seed}/prompts/{lap}").shuffle(order)
            prompts.append(self.asked[order[position]])
        return prompts

    def _advantages(self, tensors: Mapping[str, Tensor], scores: Float[Tensor, "N"], number: int) -> dict[str, Tensor]:
        plan, mask = self.plan, tensors["mask"]
        divergence = torch.where(mask, k1(tensors["old"], tensors["reference"]), 0)
        if plan.method == "ppo":
            rewards = per_token_rewards(scores.nan_to_num(), divergence, mask, kl=plan.kl)
            estimate = gae(rewards, tensors["values"], mask, gamma=plan.gamma, lam=plan.lam)
            return {"advantages": whiten(estimate.advantages, mask), "returns": estimate.returns}
        if plan.method == "grpo":  # the divergence is in the loss
            advantages = group_relative_advantage(scores, size=plan.samples, scale=plan.scale)
        else:
            paid = scores - plan.kl * divergence.sum(1)
            if plan.method == "rloo":
                advantages = rloo_advantage(paid, size=plan.samples)
            else:
                advantages = group_relative_advantage(
                    paid, size=plan.samples if plan.samples > 1 else len(paid), scale="none"
                )
        return {"advantages": advantages[:, None].expand(mask.shape).contiguous()}

    # -- an optimizer step

    def _part(self, latest: RolloutBatch, update: int) -> dict[str, Tensor]:
        """The answers of one step: all, or a part of them in an order that changes with each pass."""
        plan = self.plan
        if plan.minibatches == 1:
            return latest.tensors
        epoch, part = divmod(update, plan.minibatches)
        order = list(range(len(latest.tensors["ids"])))
        Random(f"{self.seed}/parts/{latest.number}/{epoch}").shuffle(order)
        chosen = sorted(order[part :: plan.minibatches])
        return {name: tensor[chosen] for name, tensor in latest.tensors.items()}

    def _weighed(self, tensors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
        mask, plan = tensors["mask"], self.plan
        share = token_weights(mask, aggregation="dapo")
        weights = token_weights(mask, aggregation=plan.how, max_tokens=plan.max_tokens)
        if number < plan.value_rounds:
            weights = torch.zeros_like(weights)
        values = {"value_weights": share} if "values" in tensors else {}
        return {**tensors, "weights": weights, "share": share, **values}

    # -- what must be so

    def _first(self, metrics: Mapping[str, float]) -> None:
        """On a round's first step nothing has moved yet: every ratio is 1 and nothing is clipped."""
        limit = SAME if self.trainer.precision.dtype == torch.float32 else SAME_ROUNDED
        if not metrics["ratio_deviation"] <= limit or metrics["clip_fraction"] > 0:
            got = f"ratios {metrics['ratio_deviation']:.3g} from 1 and {metrics['clip_fraction']:.1%} clipped"
            hint = "the model does not compute the same twice; is something random in it?"
            raise TrainingError(
                "rlhf, first step of a round", expected="ratio 1 and nothing clipped", got=got, hint=hint
            )

    def _agrees(self, answers: SampledAnswers, old: TokenStats, number: int) -> None:
        """Sampling and training must mean the same probabilities by the same tokens."""
        sampled = torch.zeros_like(old.logprobs)
        every = [logprob for completion in answers.completions for logprob in completion.logprobs]
        sampled[answers.mask] = torch.tensor(every, dtype=sampled.dtype, device=sampled.device)
        mean_difference = (sampled - old.logprobs).abs().sum().item() / max(1, int(answers.mask.sum()))
        if not mean_difference <= (SAME if self.trainer.precision.dtype == torch.float32 else SAME_ROUNDED):
            got = f"{mean_difference:.3g} nats apart on average"
            expected = "training to find the log-probabilities that sampling told"
            raise TrainingError(f"rlhf, round {number + 1}", expected=expected, got=got)


HEADLINE = ("reward", "kl", "entropy", "truncated", "length")
"""The figures reported for held-out prompts; the share of groups without variance comes from the rounds."""


@dataclass(frozen=True)
class HeldOutPrompts:
    """Prompts that the policy never learns from, answered with the same chance at each look."""

    engine: Engine
    reference: Transformer
    prompts: Sequence[Prompt]
    rewards: Rewards
    plan: RolloutConfig
    seed: int

    def look(self, trainer: Trainer) -> dict[str, float]:
        """Return the reward, the divergence from the initial model, and the entropy on held-out prompts."""
        seed, rows = f"{self.seed}/look", len(self.prompts)
        answers = answer(self.engine, self.prompts, max_tokens=self.plan.max_tokens, chance=Random(seed))
        rewards = worth(self.rewards, answers, penalty=self.plan.truncation_penalty, seed=seed)
        models = self.engine.model, self.reference
        now, start = (token_stats_in_chunks(model, answers.ids, answers.mask, rows=rows) for model in models)
        metrics = told(answers, rewards, now, start.logprobs, size=1)
        return {f"heldout_{name}": metrics[name] for name in HEADLINE if name in metrics}


# -- answers and their worth


def answer(engine: Engine, prompts: Sequence[Prompt], *, max_tokens: int, chance: Random) -> SampledAnswers:
    """An answer to each prompt by the pure policy."""
    prompts_ids = [engine.chat_ids(prompt.messages) for prompt in prompts]
    plain = Sampling(max_tokens=max_tokens)
    settings = [plain.model_copy(update={"seed": chance.getrandbits(48)}) for _ in prompts]
    completions = engine.generate(prompts_ids, settings)
    rows = [[*prompt_row, *completion.ids] for prompt_row, completion in zip(prompts_ids, completions, strict=True)]
    longest = max(map(len, rows))
    pad = engine.tokenizer.pad
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=engine.device)
    places = torch.arange(1, longest, device=engine.device)
    starts = torch.tensor([len(prompt_row) for prompt_row in prompts_ids], device=engine.device)[:, None]
    stops = torch.tensor([len(row) for row in rows], device=engine.device)[:, None]
    return SampledAnswers(list(prompts), completions, ids, (places >= starts) & (places < stops))


def worth(rewards: Rewards, answers: SampledAnswers, *, penalty: float, seed: str) -> RewardValues:
    """Compute the rewards of the answers; a truncated answer gets 0 minus `penalty`."""
    judged_rewards = judged(rewards, answers.prompts, answers.completions, seed=seed)
    pairs = zip(judged_rewards.total, answers.completions, strict=True)
    total = [earned(value, completion, penalty=penalty) for value, completion in pairs]
    return RewardValues(total, judged_rewards.each)


def told(
    answers: SampledAnswers, rewards: RewardValues, old: TokenStats, reference: Float[Tensor, "N T"], *, size: int
) -> dict[str, float]:
    """A round in figures: reward, divergence, entropy, shares of flat groups and of truncated answers, length."""
    known = [value for value in rewards.total if value is not None]
    tokens = answers.mask.sum(1).cpu().double()
    divergence = torch.where(answers.mask, k1(old.logprobs, reference), 0).sum(1)
    scores = torch.tensor([math.nan if reward is None else reward for reward in rewards.total])
    metrics = {
        "kl": divergence.cpu().double().mean().item(),
        "entropy": (old.entropy.cpu().double().sum() / tokens.sum()).item(),
        "truncated": 1 - answers.ended.cpu().double().mean().item(),
        "length": tokens.mean().item(),
        "unscored": 1 - len(known) / len(rewards.total),
    }
    if known:
        metrics["reward"] = fmean(known)
    if size > 1:
        metrics["zero_variance"] = zero_variance_groups(scores, size=size).cpu().double().mean().item()
    for name, values in rewards.each.items():
        known_rewards = [value for value in values if value is not None]
        if known_rewards and len(rewards.each) > 1:
            metrics[f"reward/{name}"] = fmean(known_rewards)
    return {name: round(value, 6) for name, value in metrics.items()}

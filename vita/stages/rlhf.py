"""Let the model try, and make likelier what was rewarded: reinforcement learning from a reward model or a function.

It answers prompts by chance, the answers are judged, and the policy moves towards those that were better than expected,
at a price for every step away from the model that it began from. At the end it stands beside that model on prompts that
it never saw: reward, what it still knows, divergence and length, with intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from pydantic import Field

from vita.data.sources.prompts import Prompt, prompts, unique_prompts
from vita.data.sources.read import Source
from vita.data.tokens.chat_template import omitted_roles
from vita.data.tokens.row_counts import RecordCounts, counts_in
from vita.data.tokens.tuning_examples import refused_by_template
from vita.design import scaling_rules
from vita.infer.sampling import Sampling
from vita.reporting.figures import ReportContent, write_report
from vita.reporting.training_report import MetricChart, last_value, mean_of_last, write_training_report
from vita.rl.rewards import RewardChoice, Rewards
from vita.rl.settings import (
    METHOD_DEFAULTS,
    ComparisonSettings,
    CriticSettings,
    MethodDefaults,
    PolicyLossSettings,
    RolloutSettings,
)
from vita.spine.errors import ConfigError, DataError
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Model, Reward
from vita.stages.training import TrainedModel, TrainingRun
from vita.train.choices import PrecisionChoice
from vita.train.settings import TrainingSettings, Uncompiled

if TYPE_CHECKING:
    from vita.infer.engine import Engine
    from vita.rl.before_after import BeforeAfter, Evaluators
    from vita.rl.rollouts import RolloutConfig
    from vita.train.loop import TrainResult
    from vita.train.policy_objective import PolicyLossConfig
    from vita.train.trainer import TrainerConfig

VERSION = 6

AUTO_SHARE, AUTO_CRITIC_SHARE = 0.03, 0.1
"""The learning rates `auto` of policy and critic, as shares of that of the norms in pretraining."""
AUTO_WARMUP_STEPS = 10
LOOKED_AT = 64
"""Held-out prompts that are answered at each look."""


class Config(RolloutSettings, PolicyLossSettings, CriticSettings, ComparisonSettings, TrainingSettings):
    """The prompts, the rewards, and the settings of the method."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Sources of prompts: dialogues, preferences, or rows with `prompt`, whose other columns are passed to the
    reward."""
    rewards: tuple[RewardChoice, ...] = Field((RewardChoice(use="reward"),), min_length=1)
    """Rewards of an answer, which are added by weight: names, `path/to/file.py:function`, or `reward` for the model."""
    schedule: str = "constant"
    precision: PrecisionChoice = "float32"
    compile: Uncompiled = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]


@dataclass(frozen=True)
class Inputs:
    model: Model
    reward: Reward | None = None
    """The reward model, for the reward `reward`."""


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Model]:
    from vita.infer.engine import Engine
    from vita.infer.pretrained import Pretrained
    from vita.nn.critic import ActorCritic
    from vita.rl.rollouts import HeldOutPrompts, Rollouts
    from vita.train.loop import EvalHook
    from vita.train.policy_objective import objective
    from vita.train.validation import gain_evidence

    settled = _settled(config)
    device = context.machine.device
    rewards, judges = _judges(config, inputs, device)
    pretrained = Pretrained.load(inputs.model.path)
    reference = Engine.of(pretrained.copy(), device=device)
    asked, aside, counts = _prompts(config, reference, context)
    judges.try_out(aside[0])
    policy, tokenizer, template = pretrained.model, reference.tokenizer, reference.template
    training = _training(config, settled, width=policy.architecture.width)
    run = TrainingRun("rlhf", config, context, source=pretrained.files, model=policy, training=training)
    model = ActorCritic.of(policy) if config.method == "ppo" else policy
    engine = Engine(model, tokenizer, template=template, device=device)
    plan = _plan(config, settled)
    with run.trainer(objective(_objective(config, settled)), model=model, alone=True) as trainer:
        rollouts = Rollouts(trainer, engine, reference.model, asked, rewards, plan, seed=config.seed)
        heldout = HeldOutPrompts(engine, reference.model, aside[:LOOKED_AT], rewards, plan, seed=config.seed)
        trained = run.train(
            trainer,
            rollouts,
            hooks=[EvalHook(1, rollouts.tell)],
            evaluate=heldout.look,
            steps_per_round=plan.updates,
            result=lambda model: model.policy() if isinstance(model, ActorCritic) else model,
        )
    trained.health()
    learnt = trained.learnt
    later = Engine(trained.model, tokenizer, template=template, device=device)
    found = judges.beside(
        reference,
        later,
        aside,
        samples=config.eval_samples,
        sampling=config.eval_sampling or Sampling(max_tokens=config.max_tokens),
        seed=config.seed,
    )
    gain = found.figures["reward/change"]
    shared = trained.facts(gain_evidence(gain.value, gain.low, gain.high, other_judge=bool(config.eval_rewards)))
    if -math.inf < gain.low <= 0 <= gain.high < math.inf:
        text = f"WARNING: no gain is shown: the reward on held-out prompts changed by {gain}; the model is kept"
        context.emit("note", text=text, level="warning")
    facts = _facts(config, learnt, found, asked=asked, aside=aside) | counts.facts() | shared
    context.emit("note", text=_story(facts, found))
    return Draft(Model, _written(config, inputs, trained, found, facts), facts)


# -- settings


def _settled(config: Config) -> MethodDefaults:
    """The method's defaults with the settings that override them."""
    names = [field.name for field in fields(MethodDefaults)]
    settings = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    values = replace(METHOD_DEFAULTS[config.method], **settings)
    _check(config, values)
    return values


def _check(config: Config, values: MethodDefaults) -> None:
    """Settings that are each possible and do not fit together."""
    method, answers, updates = (
        config.method,
        values.prompts_per_step * values.num_generations,
        values.epochs * config.minibatches,
    )
    alone = "1 for reinforce, which is right only for answers of the policy as it is"
    compares = f"at least 2, since {method} compares answers"
    own = "none for reinforce, whose loss has no ratios"
    unclipped = "reinforce" if method == "reinforce" else "cispo" if config.loss == "cispo" else ""
    never = f"fewer than `steps`, {config.steps}, or the policy never learns"
    for wrong, name, expected, got in (
        (
            method in ("grpo", "rloo") and values.num_generations < 2,
            "num_generations",
            compares,
            values.num_generations,
        ),
        (answers < 2, "prompts_per_step", "2 answers in a round or more", answers),
        (method == "reinforce" and updates > 1, "epochs", alone, updates),
        (method == "reinforce" and config.loss != "clip", "loss", own, config.loss),
        (method == "reinforce" and bool(config.importance), "importance", own, config.importance),
        (method == "reinforce" and config.clip_low is not None, "clip_low", own, config.clip_low),
        (method == "reinforce" and config.clip_high is not None, "clip_high", own, config.clip_high),
        (unclipped and config.dual_clip is not None, "dual_clip", f"none beside {unclipped}", config.dual_clip),
        (config.loss == "cispo" and config.clip_low is not None, "clip_low", "none beside cispo", config.clip_low),
        (config.minibatches > answers, "minibatches", f"at most {answers}, the answers of a round", config.minibatches),
        (
            method == "ppo" and config.critic_warmup_steps >= config.steps,
            "critic_warmup_steps",
            never,
            config.critic_warmup_steps,
        ),
    ):
        if wrong:
            raise ConfigError(f"rlhf.{name}", expected=expected, got=got)


def _plan(config: Config, settled: MethodDefaults) -> RolloutConfig:
    from vita.rl.rollouts import RolloutConfig

    same = {"gamma", "scale", "minibatches", "max_tokens", "mask_truncated", "truncation_penalty", "method"}
    return RolloutConfig(
        **{name: getattr(config, name) for name in same},
        prompts=settled.prompts_per_step,
        samples=settled.num_generations,
        epochs=settled.epochs,
        kl=0.0 if config.method == "grpo" else settled.kl_coef,
        lam=config.gae_lambda,
        how=settled.aggregation,
        value_rounds=config.critic_warmup_steps if config.method == "ppo" else 0,
    )


def _objective(config: Config, settled: MethodDefaults) -> PolicyLossConfig:
    from vita.train.policy_objective import PolicyLossConfig

    loss = "plain" if config.method == "reinforce" else config.loss
    return PolicyLossConfig(
        loss=loss,
        importance=settled.importance,
        low=settled.clip_low,
        high=(config.clip_high or 5.0) if loss == "cispo" else settled.clip_high,
        dual=config.dual_clip,
        kl=settled.kl_coef if config.method == "grpo" else 0.0,
        value_weight=config.value_coef,
        value_clip=config.value_clip,
    )


def _training(config: Config, settled: MethodDefaults, *, width: int) -> TrainerConfig:
    from vita.train.optim import OptimizerConfig
    from vita.train.trainer_config import schedule_of, trainer_config

    rule = scaling_rules.other_rate(width, 1)
    rate = rule * AUTO_SHARE if isinstance(config.learning_rate, str) else config.learning_rate
    critic = rule * AUTO_CRITIC_SHARE if isinstance(config.critic_learning_rate, str) else config.critic_learning_rate
    schedule = schedule_of(config, config.steps * settled.epochs * config.minibatches)
    if config.warmup_fraction is None:
        schedule = schedule.model_copy(update={"warmup": AUTO_WARMUP_STEPS})
    return trainer_config(
        config.model_copy(update={"compile": "no"}),  # answers differ in length from round to round
        schedule=schedule,
        optimization=OptimizerConfig(
            matrices="adamw",
            matrix_rate=rate,
            embedding_rate=rate,
            head_rate=rate,
            scalar_rate=rate,
            critic_rate=critic,
            epsilon=1e-8,
        ),
        outliers=False,
    )


# -- what is asked, and who judges


def _judges(config: Config, inputs: Inputs, device: str) -> tuple[Rewards, Evaluators]:
    """What answers are worth while learning, and who judges at the end."""
    from vita.rl.before_after import Evaluators

    world = next((source.world for source in config.sources if source.world is not None), None)
    scorer = _reward_model(inputs.reward, device) if inputs.reward else None

    def opened(choices: Sequence[RewardChoice], name: str) -> Rewards:
        return Rewards.open(choices, where=f"rlhf.{name}", model=scorer, world=world)

    rewards = opened(config.rewards, "rewards")
    final = opened(config.eval_rewards, "eval_rewards") if config.eval_rewards else rewards
    return rewards, Evaluators(final, opened([config.correctness], "correctness") if config.correctness else None)


def _reward_model(reward: Reward, device: str) -> Any:
    from vita.infer.reward import RewardModel

    return RewardModel.open(reward.path, device=device)


def _prompts(config: Config, engine: Engine, context: Context) -> tuple[list[Prompt], list[Prompt], RecordCounts]:
    """The prompts to learn from, those held out, and what became of all; none is on both sides."""
    counts = RecordCounts("prompts", engine.model.architecture.context - config.max_tokens)
    asked = [prompt for source in config.sources for prompt in _usable_prompts(source, engine, counts)]
    every = unique_prompts(iter(asked))
    counts.dropped.update({"repeated": len(asked) - len(every)} if len(asked) > len(every) else {})
    length = engine.model.architecture.context
    if config.max_tokens >= length:
        raise ConfigError(
            "rlhf.max_tokens", expected=f"fewer than {length}, the model's context", got=config.max_tokens
        )
    room = length - config.max_tokens
    kept = [one for one in every if len(engine.chat_ids(one.messages)) <= room]
    if len(every) > len(kept):
        counts.dropped["prompt_too_long"] = len(every) - len(kept)
    if len(kept) < 3:
        hint = f"dropped: {counts.causes()}" if counts.dropped else None
        raise DataError("rlhf", expected=f"3 prompts or more of at most {room} tokens", got=len(kept), hint=hint)
    Random(f"{config.seed}/held out").shuffle(kept)
    count = min(config.eval_prompts, len(kept) // 3)
    counts.learned, counts.heldout = len(kept) - count, count
    if engine.template:
        for prompt in kept:
            counts.note_omitted(omitted_roles(engine.tokenizer, engine.template, prompt.messages))
    counts.report(context.emit, where="rlhf")
    return kept[count:], kept[:count], counts


def _usable_prompts(source: Source, engine: Engine, counts: RecordCounts) -> Iterator[Prompt]:
    """The prompts of a source that the chat template writes; the others are dropped or refused."""
    for prompt in prompts(source, dropped=counts.drop_record):
        try:
            engine.chat_ids(prompt.messages)
        except DataError as error:
            counts.drop_record(refused_by_template(error, prompt.id, prompt.source, source))
            continue
        yield prompt


# -- what came of it


def _facts(
    config: Config, learnt: TrainResult, found: BeforeAfter, *, asked: Sequence[Prompt], aside: Sequence[Prompt]
) -> dict[str, Any]:
    """What a later step or a person wants to know; the five headline figures of the run among it."""
    from vita.rl.rollouts import HEADLINE

    curve = learnt.curve
    ends = {name: last_value(curve, f"heldout_{name}") for name in HEADLINE}
    begun = {f"{name}_before": curve[0].get(f"heldout_{name}") for name in ("reward", "entropy")}
    flat = mean_of_last(curve, "zero_variance", rows=len(curve))
    figures = {"heldout_" + name: value for name, value in (ends | begun).items()} | {"zero_variance": flat}
    return {
        "chat": True,
        "method": config.method,
        "rounds": config.steps,
        "prompts": len(asked),
        "held_out": len(aside),
        **{name: value for name, value in figures.items() if value is not None},
        **{f"comparison/{name}": value for name, value in found.facts().items()},
    }


def _story(facts: Mapping[str, Any], found: BeforeAfter) -> str:
    figures = found.figures
    text = f"held out: reward {figures['reward/before'].value:.3f} before, {figures['reward/after'].value:.3f} after, "
    text += f"change {figures['reward/change']}, {figures['kl'].value:.2f} nats from the start"
    if "accuracy/change" in figures:
        text += (
            f", accuracy {figures['accuracy/before'].value:.1%} before and {figures['accuracy/after'].value:.1%} after"
        )
    flat = facts.get("zero_variance")
    if flat is not None:
        text += f"; {flat:.0%} of the groups had no spread and taught nothing"
    return text + f"; {facts['heldout_truncated']:.0%} of the answers did not end"


CHARTS = (
    MetricChart("reward", {"rounds": "reward", "held out": "heldout_reward"}, "reward", "What answers were worth."),
    MetricChart(
        "kl", {"rounds": "kl", "held out": "heldout_kl"}, "nats a sequence", "How far the policy is from its start."
    ),
    MetricChart(
        "entropy", {"rounds": "entropy", "held out": "heldout_entropy"}, "nats a token", "How unsure the policy is."
    ),
    MetricChart(
        "shares",
        {"no spread": "zero_variance", "truncated": "truncated", "clipped": "clip_fraction"},
        "share",
        "Groups whose answers were all worth the same, answers that did not end, and tokens at the clip.",
    ),
    MetricChart("length", {"rounds": "length", "held out": "heldout_length"}, "tokens", "How long answers are."),
    MetricChart("value_loss", {"critic": "value_loss"}, "loss", "How wrong the critic was."),
)


def _written(
    config: Config, inputs: Inputs, trained: TrainedModel, found: BeforeAfter, facts: Mapping[str, Any]
) -> Path:
    folder, learnt = trained.save(), trained.learnt
    settings = {
        **config.model_dump(mode="json", exclude={"sources", "checkpoint_seconds"}),
        "learning_rate": facts["learning_rate"],
        "critic_learning_rate": trained.run.training.optimization.critic_rate,
    }
    lead = (
        f"{config.method} on {facts['prompts']:,} prompts, {config.steps:,} rounds. The loss itself says little here."
    )
    write_training_report(
        learnt.curve,
        folder / "report",
        title="Learning from rewards",
        lead=lead,
        facts=facts,
        settings=settings,
        charts=CHARTS,
        sections=[found.section()],
    )
    details = {"counts": counts_in(facts)}
    report = ReportContent.of("rlhf", found.groups(), baseline=inputs.model.digest, details=details)
    write_report(report, folder / "report")
    found.write_items(folder / "report")
    return folder

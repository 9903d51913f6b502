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
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from vita.data.sources.prompts import Prompt, prompts, unique_prompts
from vita.data.sources.read import Source
from vita.data.tokens.chat_template import omitted_roles
from vita.data.tokens.row_counts import Counts, counts_in
from vita.data.tokens.tuning_examples import refused_by_template
from vita.design import scaling_rules
from vita.infer.sampling import Sampling
from vita.reporting.figures import ReportContent, write_report
from vita.reporting.training_report import Picture, last, mean_of_last, write_learning
from vita.rl.rewards import RewardChoice, Rewards
from vita.spine.config import Settings, neutral
from vita.spine.errors import ConfigError, DataError
from vita.spine.model_files import ModelFiles
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Model, Reward
from vita.train.choices import Aggregation, Importance, Method, PrecisionChoice, Scale
from vita.train.schedule import Schedule

if TYPE_CHECKING:
    from vita.infer.engine import Engine
    from vita.nn.transformer import Transformer
    from vita.rl.before_after import Judges, Shift
    from vita.rl.rollouts import Plan
    from vita.train.loop import Learnt
    from vita.train.policy_objective import Objective
    from vita.train.trainer import Training

VERSION = 6

LOOKED_AT = 64
"""Held-out prompts that are answered at each look."""


@dataclass(frozen=True)
class Recipe:
    """What a method needs to work on models of one to ten million parameters; `Config` may say otherwise."""

    prompts: int
    samples: int
    epochs: int
    rate: float
    kl: float
    low: float = 0.2
    high: float = 0.2
    importance: Importance = "token"
    aggregation: Aggregation = "dapo"


RECIPES: Mapping[Method, Recipe] = {
    "ppo": Recipe(prompts=48, samples=1, epochs=4, rate=0.03, kl=0.05),
    "grpo": Recipe(prompts=8, samples=8, epochs=1, rate=0.03, kl=0.04, high=0.28),
    "rloo": Recipe(prompts=8, samples=8, epochs=1, rate=0.03, kl=0.05, importance="sum", aggregation="grpo"),
    "reinforce": Recipe(prompts=8, samples=8, epochs=1, rate=0.03, kl=0.05),
}


class Config(Settings):
    """What is asked, what is rewarded, and how the policy moves."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Where prompts come from: dialogues, preferences, or rows with `prompt` whose other columns the reward sees."""
    rewards: tuple[RewardChoice, ...] = Field((RewardChoice(use="reward"),), min_length=1)
    """What answers are worth: names, `path/to/file.py:function`, or `reward` for the reward model; added by weight."""
    judged_by: tuple[RewardChoice, ...] = ()
    """What the comparison at the end scores by; without it the rewards themselves. A control with `random_reward` is
    judged by what it did not learn from."""
    right: RewardChoice | None = None
    """What tells whether an answer is still right (a value of 0.5 and more), in the comparison at the end."""
    method: Method = "grpo"
    """ppo learns a critic beside the policy; grpo, rloo and reinforce compare answers to one prompt."""
    steps: int = Field(60, ge=1)
    """Rounds of answering and learning."""
    prompts: int | None = Field(None, ge=1)
    """Prompts in a round; without it 48 for ppo, else 8."""
    samples: int | None = Field(None, ge=1)
    """Answers to each prompt; without it 1 for ppo, else 8."""
    epochs: int | None = Field(None, ge=1)
    """How often a round's answers are learnt from; without it 4 for ppo, else 1."""
    minibatches: int = Field(1, ge=1)
    """Optimizer steps in which a round's answers are learnt from once."""
    max_tokens: int = Field(48, ge=1)
    """The longest answer; what does not end by then has earned nothing."""
    rate: float | None = Field(None, gt=0)
    """Learning rate, as a share of that of a model of this size in pretraining; without it 0.03 (9e-5 at width
    256)."""
    critic_rate: float = Field(0.1, gt=0)
    """The critic's learning rate, as the same kind of share."""
    warmup: int = Field(10, ge=0)
    """Optimizer steps over which the rates rise."""
    kl: float | None = Field(None, ge=0)
    """Price of a nat away from the starting model: in the reward for ppo, rloo and reinforce (0.05), in the loss
    for grpo (0.04). A rule that cannot be fooled needs none."""
    clip_low: float | None = Field(None, gt=0, lt=1)
    """How far a token's probability ratio may fall below 1 before it counts no more; without it 0.2."""
    clip_high: float | None = Field(None, gt=0)
    """How far it may rise above 1; without it 0.28 for grpo, else 0.2."""
    dual_clip: float | None = Field(None, gt=1)
    """What a bad answer that became likely may cost at most, as a multiple of its advantage."""
    loss: Literal["clip", "cispo"] = "clip"
    """clip stops at the clip; cispo holds the weight (at `clip_high`, 5 without it) and goes on teaching."""
    importance: Importance | None = None
    """What a ratio belongs to: token, sequence (GSPO), or sum (the default of rloo)."""
    aggregation: Aggregation | None = None
    """How tokens and answers are averaged: dapo (all tokens alike), grpo, dr_grpo, luspo."""
    scale: Scale = "group"
    """What grpo divides advantages by: the deviation of the group, of the batch, or none."""
    gamma: float = Field(1.0, gt=0, le=1)
    """ppo: what a reward one token later is worth."""
    lam: float = Field(0.95, ge=0, le=1)
    """ppo: 0 trusts the critic alone, 1 the outcome alone."""
    value_weight: float = Field(0.1, gt=0)
    """ppo: weight of the critic's loss."""
    value_clip: float | None = Field(0.2, gt=0)
    """ppo: how far the critic may go from what it said, in one round."""
    value_rounds: int = Field(2, ge=0)
    """ppo: first rounds in which the critic alone learns."""
    mask_truncated: bool = False
    """Learn nothing from answers that did not end, instead of taking them as worth nothing."""
    truncation_penalty: float = Field(0.0, ge=0)
    """What an answer that did not end loses."""
    held_out: int = Field(100, ge=1)
    """Prompts kept back for the comparison at the end; at most a third of all."""
    compared: Sampling | None = None
    """How both models answer them; without it by the pure model, in at most `max_tokens`."""
    compared_samples: int = Field(2, ge=1)
    """Answers of each model to each held-out prompt."""
    seed: int = 0
    """Another seed asks in another order, answers by other chance and holds out others."""
    looks: int = Field(4, ge=1)
    """How many times held-out prompts are answered on the way."""
    micro_tokens: int = Field(16384, ge=1)
    """Tokens that go through the model at once."""
    precision: PrecisionChoice = "float32"
    """What matrices are multiplied in; sampling is in float32 always, so that bfloat16 learns slightly off-policy."""
    allow_no_improvement: bool = neutral(False)
    """Keep the model also when the run shows no improvement; the report then says so."""
    checkpoint_seconds: float = neutral(30.0, ge=0)
    """Time between checkpoints: how much work a crash costs."""


@dataclass(frozen=True)
class Inputs:
    model: Model
    reward: Reward | None = None
    """The reward model, for the reward `reward`."""


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Model]:
    from vita.infer.engine import Engine
    from vita.infer.pretrained import Pretrained
    from vita.nn import hf
    from vita.nn.critic import ActorCritic
    from vita.rl.rollouts import HeldOut, Rollouts
    from vita.train.loop import Look, train
    from vita.train.parallel import World
    from vita.train.policy_objective import objective
    from vita.train.trainer import Trainer
    from vita.train.validation import RunCheck, fingerprint, gain_evidence

    settled = _settled(config)
    device = context.machine.device
    rewards, judges = _judges(config, inputs, device)
    pretrained = Pretrained.load(inputs.model.path)
    reference = Engine.of(pretrained.copy(), device=device)
    asked, aside, counts = _prompts(config, reference, context)
    judges.try_out(aside[0])
    policy, tokenizer, template = pretrained.model, reference.tokenizer, reference.template
    before = fingerprint(policy)
    model = ActorCritic.of(policy) if config.method == "ppo" else policy
    engine = Engine(model, tokenizer, template=template, device=device)
    training = _training(config, settled, width=model.architecture.width)
    trainer = Trainer(
        model,
        objective(_objective(config, settled)),
        training,
        world=World(device=device),
        threads=context.machine.threads,
    )
    plan = _plan(config, settled)
    rollouts = Rollouts(trainer, engine, reference.model, asked, rewards, plan, seed=config.seed)
    heldout = HeldOut(engine, reference.model, aside[:LOOKED_AT], rewards, plan, seed=config.seed)
    learnt = train(
        trainer,
        rollouts,
        folder=context.scratch,
        emit=context.emit,
        looks=[
            Look(1, rollouts.tell),
            Look(max(1, config.steps // config.looks) * plan.updates, heldout.look, at_start=True),
        ],
        checkpoint_seconds=config.checkpoint_seconds,
        checkpoint_steps=plan.updates,
    )
    context.record |= learnt.record
    final = model.policy() if isinstance(model, ActorCritic) else model
    hf.round_like(final, pretrained.files)
    check = RunCheck("rlhf", learnt, final, before, context.scratch, config.allow_no_improvement)
    check.health()
    later = Engine(final, tokenizer, template=template, device=device)
    found = judges.beside(
        reference,
        later,
        aside,
        samples=config.compared_samples,
        sampling=config.compared or Sampling(max_tokens=config.max_tokens),
        seed=config.seed,
    )
    gain = found.figures["score/gain"]
    improvement = check.improvement(gain_evidence(gain.value, gain.low, gain.high, other_judge=bool(config.judged_by)))
    if -math.inf < gain.low <= 0 <= gain.high < math.inf:
        text = f"WARNING: no gain is shown: the reward on held-out prompts changed by {gain}; the model is kept"
        context.emit("note", text=text, level="warning")
    facts = _facts(config, learnt, found, asked=asked, aside=aside) | counts.facts() | improvement
    context.emit("note", text=_story(facts, found))
    return Draft(
        Model, _written(config, inputs, pretrained.files, context, final, learnt, found, facts, training), facts
    )


# -- settings


def _settled(config: Config) -> Recipe:
    """The method's recipe with what the settings say otherwise."""
    given = {"low": config.clip_low, "high": config.clip_high}
    given |= {name: getattr(config, name) for name in (one.name for one in fields(Recipe)) if hasattr(config, name)}
    recipe = replace(RECIPES[config.method], **{name: one for name, one in given.items() if one is not None})
    _check(config, recipe)
    return recipe


def _check(config: Config, recipe: Recipe) -> None:
    """Settings that are each possible and do not fit together."""
    method, answers, updates = config.method, recipe.prompts * recipe.samples, recipe.epochs * config.minibatches
    alone = "1 for reinforce, which is right only for answers of the policy as it is"
    compares = f"at least 2, since {method} compares answers"
    own = "none for reinforce, whose loss has no ratios"
    unclipped = "reinforce" if method == "reinforce" else "cispo" if config.loss == "cispo" else ""
    never = f"fewer than `steps`, {config.steps}, or the policy never learns"
    for wrong, name, expected, got in (
        (method in ("grpo", "rloo") and recipe.samples < 2, "samples", compares, recipe.samples),
        (answers < 2, "prompts", "2 answers in a round or more", answers),
        (method == "reinforce" and updates > 1, "epochs", alone, updates),
        (method == "reinforce" and config.loss != "clip", "loss", own, config.loss),
        (method == "reinforce" and bool(config.importance), "importance", own, config.importance),
        (method == "reinforce" and config.clip_low is not None, "clip_low", own, config.clip_low),
        (method == "reinforce" and config.clip_high is not None, "clip_high", own, config.clip_high),
        (unclipped and config.dual_clip is not None, "dual_clip", f"none beside {unclipped}", config.dual_clip),
        (config.loss == "cispo" and config.clip_low is not None, "clip_low", "none beside cispo", config.clip_low),
        (config.minibatches > answers, "minibatches", f"at most {answers}, the answers of a round", config.minibatches),
        (method == "ppo" and config.value_rounds >= config.steps, "value_rounds", never, config.value_rounds),
    ):
        if wrong:
            raise ConfigError(f"rlhf.{name}", expected=expected, got=got)


def _plan(config: Config, settled: Recipe) -> Plan:
    from vita.rl.rollouts import Plan

    same = {"gamma", "lam", "scale", "minibatches", "max_tokens", "mask_truncated", "truncation_penalty", "method"}
    return Plan(
        **{name: getattr(config, name) for name in same},
        prompts=settled.prompts,
        samples=settled.samples,
        epochs=settled.epochs,
        kl=0.0 if config.method == "grpo" else settled.kl,
        how=settled.aggregation,
        value_rounds=config.value_rounds if config.method == "ppo" else 0,
    )


def _objective(config: Config, settled: Recipe) -> Objective:
    from vita.train.policy_objective import Objective

    loss = "plain" if config.method == "reinforce" else config.loss
    return Objective(
        loss=loss,
        importance=settled.importance,
        low=settled.low,
        high=(config.clip_high or 5.0) if loss == "cispo" else settled.high,
        dual=config.dual_clip,
        kl=settled.kl if config.method == "grpo" else 0.0,
        value_weight=config.value_weight,
        value_clip=config.value_clip,
    )


def _training(config: Config, settled: Recipe, *, width: int) -> Training:
    from vita.train.optim import Optimization
    from vita.train.trainer import Training

    usual = scaling_rules.other_rate(width, 1)
    rate = usual * settled.rate
    steps = config.steps * settled.epochs * config.minibatches
    return Training(
        schedule=Schedule(steps=steps, name="constant", warmup=config.warmup),
        optimization=Optimization(
            matrices="adamw",
            matrix_rate=rate,
            embedding_rate=rate,
            head_rate=rate,
            scalar_rate=rate,
            critic_rate=usual * config.critic_rate,
            epsilon=1e-8,
        ),
        micro_tokens=config.micro_tokens,
        precision=config.precision,
        compiled="no",  # answers differ in length from round to round
        outliers=False,
    )


# -- what is asked, and who judges


def _judges(config: Config, inputs: Inputs, device: str) -> tuple[Rewards, Judges]:
    """What answers are worth while learning, and who judges at the end."""
    from vita.rl.before_after import Judges

    world = next((source.world for source in config.sources if source.world is not None), None)
    scorer = _reward_model(inputs.reward, device) if inputs.reward else None

    def opened(choices: Sequence[RewardChoice], name: str) -> Rewards:
        return Rewards.open(choices, where=f"rlhf.{name}", model=scorer, world=world)

    rewards = opened(config.rewards, "rewards")
    final = opened(config.judged_by, "judged_by") if config.judged_by else rewards
    return rewards, Judges(final, opened([config.right], "right") if config.right else None)


def _reward_model(reward: Reward, device: str) -> Any:
    from vita.infer.reward import RewardModel

    return RewardModel.open(reward.path, device=device)


def _prompts(config: Config, engine: Engine, context: Context) -> tuple[list[Prompt], list[Prompt], Counts]:
    """The prompts to learn from, those held out, and what became of all; none is on both sides."""
    counts = Counts("prompts", engine.model.architecture.context - config.max_tokens)
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
    count = min(config.held_out, len(kept) // 3)
    counts.learned, counts.heldout = len(kept) - count, count
    if engine.template:
        for prompt in kept:
            counts.note_omitted(omitted_roles(engine.tokenizer, engine.template, prompt.messages))
    counts.report(context.emit, where="rlhf")
    return kept[count:], kept[:count], counts


def _usable_prompts(source: Source, engine: Engine, counts: Counts) -> Iterator[Prompt]:
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
    config: Config, learnt: Learnt, found: Shift, *, asked: Sequence[Prompt], aside: Sequence[Prompt]
) -> dict[str, Any]:
    """What a later step or a person wants to know; the five headline figures of the run among it."""
    from vita.rl.rollouts import HEADLINE

    curve = learnt.curve
    ends = {name: last(curve, f"heldout_{name}") for name in HEADLINE}
    begun = {f"{name}_before": curve[0].get(f"heldout_{name}") for name in ("reward", "entropy")}
    flat = mean_of_last(curve, "zero_variance", rows=len(curve))
    figures = {"heldout_" + name: value for name, value in (ends | begun).items()} | {"zero_variance": flat}
    return {
        "chat": True,
        "method": config.method,
        "rounds": config.steps,
        "prompts": len(asked),
        "held_out": len(aside),
        "left_out": learnt.left_out,
        **{name: value for name, value in figures.items() if value is not None},
        **{f"shift/{name}": value for name, value in found.facts().items()},
    }


def _story(facts: Mapping[str, Any], found: Shift) -> str:
    figures = found.figures
    text = f"held out: reward {figures['score/before'].value:.3f} before, {figures['score/after'].value:.3f} after, "
    text += f"gain {figures['score/gain']}, {figures['kl'].value:.2f} nats from the start"
    if "right/change" in figures:
        text += f", right {figures['right/before'].value:.1%} before and {figures['right/after'].value:.1%} after"
    flat = facts.get("zero_variance")
    if flat is not None:
        text += f"; {flat:.0%} of the groups had no spread and taught nothing"
    return text + f"; {facts['heldout_truncated']:.0%} of the answers did not end"


PICTURES = (
    Picture("reward", {"rounds": "reward", "held out": "heldout_reward"}, "reward", "What answers were worth."),
    Picture(
        "kl", {"rounds": "kl", "held out": "heldout_kl"}, "nats a sequence", "How far the policy is from its start."
    ),
    Picture(
        "entropy", {"rounds": "entropy", "held out": "heldout_entropy"}, "nats a token", "How unsure the policy is."
    ),
    Picture(
        "shares",
        {"no spread": "zero_variance", "truncated": "truncated", "clipped": "clip_fraction"},
        "share",
        "Groups whose answers were all worth the same, answers that did not end, and tokens at the clip.",
    ),
    Picture("length", {"rounds": "length", "held out": "heldout_length"}, "tokens", "How long answers are."),
    Picture("value_loss", {"critic": "value_loss"}, "loss", "How wrong the critic was."),
)


def _written(
    config: Config,
    inputs: Inputs,
    source: ModelFiles,
    context: Context,
    final: Transformer,
    learnt: Learnt,
    found: Shift,
    facts: Mapping[str, Any],
    training: Training,
) -> Path:
    from vita.nn import hf

    folder = context.draft_folder()
    hf.save_successor(final, folder, source=source, steps=learnt.steps)
    settings = {
        **config.model_dump(mode="json", exclude={"sources", "checkpoint_seconds"}),
        "matrix_rate": training.optimization.matrix_rate,
    }
    lead = (
        f"{config.method} on {facts['prompts']:,} prompts, {config.steps:,} rounds. The loss itself says little here."
    )
    write_learning(
        learnt.curve,
        folder / "report",
        title="Learning from rewards",
        lead=lead,
        facts=facts,
        settings=settings,
        pictures=PICTURES,
        sections=[found.section()],
    )
    details = {"counts": counts_in(facts)}
    report = ReportContent.of("rlhf", found.groups(), baseline=inputs.model.digest, details=details)
    write_report(report, folder / "report")
    found.write_items(folder / "report")
    return folder

"""Train a model with reinforcement learning (PPO, GRPO, RLOO, REINFORCE) and a reward model or reward functions.

The policy samples answers to prompts, the rewards score them, and the policy gradient makes answers with a higher score
than expected more likely, with a KL penalty towards the initial model. At the end both models answer held-out prompts:
reward, accuracy, KL divergence and length, with intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from pydantic import Field

from vita.data.record_rights import rights_of
from vita.data.sources.prompts import Prompt, prompts, unique_prompts
from vita.data.sources.read import Source
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.dialogue_encoding import encode_prompt, omitted_roles
from vita.data.tokens.row_counts import RecordCounts, counts_in
from vita.data.tokens.row_documents import RowDocument
from vita.data.tokens.tokenizer import Tokenizer
from vita.data.tokens.tuning_examples import refused_by_template
from vita.design import scaling_rules
from vita.infer.sampling import Sampling
from vita.nn.requirements import generates_text
from vita.reporting.figures import ReportContent
from vita.rights.example_rows import ExampleRows
from vita.rights.row_documents import StageRows
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
from vita.spine.events import Emit, Events
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Model, Reward
from vita.stages.training import TrainedModel, TrainingRun, last_value, mean_of_last
from vita.stages.tuning import adapter_rates, open_for_tuning
from vita.train.settings import AdapterTrainingSettings, Rounded, TrainingSettings, Uncompiled

if TYPE_CHECKING:
    from vita.rl.before_after import BeforeAfter, Evaluators
    from vita.rl.rollouts import RolloutConfig
    from vita.train.loop import TrainResult
    from vita.train.policy_objective import PolicyLossConfig
    from vita.train.trainer import TrainerConfig

VERSION = 7
NEEDS = {"model": (generates_text,)}

AUTO_SHARE, AUTO_CRITIC_SHARE = 0.03, 0.1
"""The learning rates `auto` of policy and critic, as shares of that of the norms in pretraining."""
AUTO_WARMUP_STEPS = 10
EVAL_PROMPTS = 64
"""Number of held-out prompts that are answered per evaluation during training."""


class Config(
    RolloutSettings, PolicyLossSettings, CriticSettings, ComparisonSettings, TrainingSettings, AdapterTrainingSettings
):
    """The prompts, the rewards, and the settings of the method."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Sources of prompts: dialogues, preferences, or rows with `prompt`, whose other columns are passed to the
    reward."""
    rewards: tuple[RewardChoice, ...] = Field((RewardChoice(use="reward"),), min_length=1)
    """Rewards of an answer, which are added by weight: names, `path/to/file.py:function`, or `reward` for the model."""
    schedule: str = "constant"
    precision: Rounded = "float32"  # pyright: ignore[reportIncompatibleVariableOverride]
    compile: Uncompiled = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]


@dataclass(frozen=True)
class Inputs:
    model: Model
    reward: Reward | None = None
    """The reward model, for the reward `reward`."""


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Model]:
    from vita.infer.engine import Engine
    from vita.nn.critic import ActorCritic
    from vita.rl.rollouts import HeldOutPrompts, Rollouts
    from vita.train.loop import EvalHook
    from vita.train.policy_objective import objective
    from vita.train.validation import gain_evidence

    resolved = _resolve(config)
    device = context.machine.device
    rewards, evaluators = _open_rewards(config, inputs, device)
    pretrained = open_for_tuning(inputs.model.path, config, context, where="rlhf", shared_with_engine=True)
    reference = Engine.of(pretrained.copy(), device=device)
    policy, tokenizer, template = pretrained.model, pretrained.tokenizer, pretrained.require_template()
    encoder = _PromptEncoder(tokenizer, template, policy.architecture.context)
    train_prompts, eval_prompts, counts = _prompts(config, encoder, context.emit)
    evaluators.check(eval_prompts[0])
    training = _training(config, resolved, width=policy.architecture.width)
    auto = scaling_rules.adapter_rate(training.optimization.matrix_rate)
    if rates := adapter_rates(policy, config.learning_rate, auto=auto):
        critic_rate, epsilon = training.optimization.critic_rate, training.optimization.epsilon
        if isinstance(config.critic_learning_rate, str):  # the critic has an adapter, too
            critic_rate = scaling_rules.adapter_rate(critic_rate)
        rates = rates.model_copy(update={"critic_rate": critic_rate, "epsilon": epsilon})
        training = training.model_copy(update={"optimization": rates})
    run = TrainingRun(
        "rlhf",
        config,
        context,
        source=pretrained.files,
        model=policy,
        training=training,
        initial=inputs.model.digest,
    )
    model = ActorCritic.of(policy) if config.method == "ppo" else policy
    engine = Engine(model, tokenizer, template=template, device=device)
    rollout = _plan(config, resolved)
    with run.trainer(objective(_objective(config, resolved)), model=model, alone=True) as trainer:
        rollouts = Rollouts(trainer, engine, reference.model, train_prompts, rewards, rollout, seed=config.seed)
        heldout = HeldOutPrompts(
            engine, reference.model, eval_prompts[:EVAL_PROMPTS], rewards, rollout, seed=config.seed
        )
        trained = run.train(
            trainer,
            rollouts,
            hooks=[EvalHook(1, rollouts.latest_metrics)],
            evaluate=heldout.evaluate,
            steps_per_round=rollout.updates,
            select_model=lambda model: model.policy() if isinstance(model, ActorCritic) else model,
        )
    trained.health()
    result = trained.result
    tuned = Engine(trained.model, tokenizer, template=template, device=device)
    comparison = evaluators.compare(
        reference,
        tuned,
        eval_prompts,
        samples=config.eval_samples,
        sampling=config.eval_sampling or Sampling(max_tokens=config.max_tokens),
        seed=config.seed,
    )
    gain = comparison.figures["reward/change"]
    shared_facts = trained.facts(gain_evidence(gain.value, gain.low, gain.high, other_judge=bool(config.eval_rewards)))
    if -math.inf < gain.low <= 0 <= gain.high < math.inf:
        text = f"WARNING: no gain is shown: the reward on held-out prompts changed by {gain}; the model is kept"
        context.emit("note", text=text, level="warning")
    facts = (
        _facts(config, result, comparison, train_prompts=train_prompts, eval_prompts=eval_prompts)
        | counts.facts()
        | shared_facts
    )
    context.emit("note", text=_summary(facts, comparison))
    return Draft(Model, _save(config, inputs, trained, comparison, facts), facts)


# -- settings


def _resolve(config: Config) -> MethodDefaults:
    """Return the defaults of the method with the settings that override them."""
    names = [field.name for field in fields(MethodDefaults)]
    settings = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    values = replace(METHOD_DEFAULTS[config.method], **settings)
    _check(config, values)
    return values


def _check(config: Config, values: MethodDefaults) -> None:
    """Raise a `ConfigError` for settings that are valid alone but not together."""
    method, answers, updates = (
        config.method,
        values.prompts_per_step * values.num_generations,
        values.epochs * config.minibatches,
    )
    one_update = "1 for reinforce, which needs answers of the current policy"
    several_answers = f"at least 2, since {method} compares answers"
    no_ratios = "none for reinforce, whose loss has no ratios"
    unclipped = "reinforce" if method == "reinforce" else "cispo" if config.loss == "cispo" else ""
    fewer_warmup_steps = f"fewer than `steps`, {config.steps}, or the policy is never updated"
    for wrong, name, expected, got in (
        (
            method in ("grpo", "rloo") and values.num_generations < 2,
            "num_generations",
            several_answers,
            values.num_generations,
        ),
        (answers < 2, "prompts_per_step", "2 answers in a round or more", answers),
        (method == "reinforce" and updates > 1, "epochs", one_update, updates),
        (method == "reinforce" and config.loss != "clip", "loss", no_ratios, config.loss),
        (method == "reinforce" and bool(config.importance), "importance", no_ratios, config.importance),
        (method == "reinforce" and config.clip_low is not None, "clip_low", no_ratios, config.clip_low),
        (method == "reinforce" and config.clip_high is not None, "clip_high", no_ratios, config.clip_high),
        (unclipped and config.dual_clip is not None, "dual_clip", f"none beside {unclipped}", config.dual_clip),
        (config.loss == "cispo" and config.clip_low is not None, "clip_low", "none beside cispo", config.clip_low),
        (config.minibatches > answers, "minibatches", f"at most {answers}, the answers of a round", config.minibatches),
        (
            method == "ppo" and config.critic_warmup_steps >= config.steps,
            "critic_warmup_steps",
            fewer_warmup_steps,
            config.critic_warmup_steps,
        ),
    ):
        if wrong:
            raise ConfigError(f"rlhf.{name}", expected=expected, got=got)


def _plan(config: Config, resolved: MethodDefaults) -> RolloutConfig:
    from vita.rl.rollouts import RolloutConfig

    names = {"gamma", "scale", "minibatches", "max_tokens", "mask_truncated", "truncation_penalty", "method"}
    return RolloutConfig(
        **{name: getattr(config, name) for name in names},
        prompts_per_step=resolved.prompts_per_step,
        num_generations=resolved.num_generations,
        epochs=resolved.epochs,
        kl=0.0 if config.method == "grpo" else resolved.kl_coef,
        gae_lambda=config.gae_lambda,
        aggregation=resolved.aggregation,
        critic_warmup_steps=config.critic_warmup_steps if config.method == "ppo" else 0,
    )


def _objective(config: Config, resolved: MethodDefaults) -> PolicyLossConfig:
    from vita.train.policy_objective import PolicyLossConfig

    loss = "plain" if config.method == "reinforce" else config.loss
    return PolicyLossConfig(
        loss=loss,
        importance=resolved.importance,
        low=resolved.clip_low,
        high=(config.clip_high or 5.0) if loss == "cispo" else resolved.clip_high,
        dual=config.dual_clip,
        kl=resolved.kl_coef if config.method == "grpo" else 0.0,
        value_weight=config.value_coef,
        value_clip=config.value_clip,
    )


def _training(config: Config, resolved: MethodDefaults, *, width: int) -> TrainerConfig:
    from vita.train.optim import OptimizerConfig
    from vita.train.trainer_config import schedule_of, trainer_config

    norm_rate = scaling_rules.other_rate(width, 1)
    rate, critic_rate = config.learning_rate, config.critic_learning_rate
    rate = norm_rate * AUTO_SHARE if isinstance(rate, str) else rate
    critic_rate = norm_rate * AUTO_CRITIC_SHARE if isinstance(critic_rate, str) else critic_rate
    schedule = schedule_of(config, config.steps * resolved.epochs * config.minibatches)
    if config.warmup_fraction is None:
        schedule = schedule.model_copy(update={"warmup": AUTO_WARMUP_STEPS})
    return trainer_config(
        config.model_copy(update={"compile": "no"}),  # the length of the answers varies between rounds
        schedule=schedule,
        optimization=OptimizerConfig(
            matrices="adamw",
            matrix_rate=rate,
            embedding_rate=rate,
            head_rate=rate,
            scalar_rate=rate,
            critic_rate=critic_rate,
            epsilon=1e-8,
        ),
        outliers=False,
    )


# -- prompts and rewards


def _open_rewards(config: Config, inputs: Inputs, device: str) -> tuple[Rewards, Evaluators]:
    """Open the rewards of training, and the evaluators of the final comparison."""
    from vita.rl.before_after import Evaluators

    world = next((source.world for source in config.sources if source.world is not None), None)
    reward_model = _load_reward_model(inputs.reward, device) if inputs.reward else None

    def open_rewards(choices: Sequence[RewardChoice], name: str) -> Rewards:
        return Rewards.open(choices, where=f"rlhf.{name}", model=reward_model, world=world)

    rewards = open_rewards(config.rewards, "rewards")
    eval_rewards = open_rewards(config.eval_rewards, "eval_rewards") if config.eval_rewards else rewards
    correctness = open_rewards([config.correctness], "correctness") if config.correctness else None
    return rewards, Evaluators(eval_rewards, correctness)


def _load_reward_model(reward: Reward, device: str) -> Any:
    from vita.infer.reward import RewardModel

    return RewardModel.open(reward.path, device=device)


def training_rows(config: Config, inputs: Inputs, folder: Path) -> StageRows:
    """Return the prompts of each step, one row per sampled answer, read and ordered as in training."""
    from vita.infer.pretrained import PretrainedText

    text = PretrainedText.load(inputs.model.path)
    encoder = _PromptEncoder(text.tokenizer, text.require_template(), text.architecture.context)
    prompts, _, _ = _prompts(config, encoder, Events().emit)
    order = _plan(config, _resolve(config)).order(prompts=len(prompts), seed=config.seed)
    documents = [
        [RowDocument(prompt.id, prompt.source, rights_of(prompt), len(encoder.encode(prompt)))] for prompt in prompts
    ]
    rows = ExampleRows(documents, order.prompts_of_step, -(-order.answers // order.minibatches))
    return StageRows((rows,), {"prompts": len(prompts)})


@dataclass(frozen=True)
class _PromptEncoder:
    """The parts of a model that its prompts depend on."""

    tokenizer: Tokenizer
    template: ChatTemplate
    context: int
    """Maximum tokens of a prompt and its answer."""

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the tokens of a prompt, by the chat template."""
        return encode_prompt(self.tokenizer, self.template, prompt.messages)


def _prompts(config: Config, encoder: _PromptEncoder, emit: Emit) -> tuple[list[Prompt], list[Prompt], RecordCounts]:
    """Return the prompts for training, those held out, and the counts of all; no prompt is in both."""
    length = encoder.context
    counts = RecordCounts("prompts", length - config.max_tokens)
    usable = [prompt for source in config.sources for prompt in _usable_prompts(source, encoder, counts)]
    unique = unique_prompts(iter(usable))
    counts.dropped.update({"repeated": len(usable) - len(unique)} if len(usable) > len(unique) else {})
    if config.max_tokens >= length:
        raise ConfigError(
            "rlhf.max_tokens", expected=f"fewer than {length}, the model's context", got=config.max_tokens
        )
    limit = length - config.max_tokens
    fitting = [prompt for prompt in unique if len(encoder.encode(prompt)) <= limit]
    if len(unique) > len(fitting):
        counts.dropped["prompt_too_long"] = len(unique) - len(fitting)
    if len(fitting) < 3:
        hint = f"dropped: {counts.causes()}" if counts.dropped else None
        raise DataError("rlhf", expected=f"3 prompts or more of at most {limit} tokens", got=len(fitting), hint=hint)
    Random(f"{config.seed}/held out").shuffle(fitting)
    count = min(config.eval_prompts, len(fitting) // 3)
    counts.learned, counts.heldout = len(fitting) - count, count
    for prompt in fitting:
        counts.note_omitted(omitted_roles(encoder.tokenizer, encoder.template, prompt.messages))
    counts.report(emit, where="rlhf")
    return fitting[count:], fitting[:count], counts


def _usable_prompts(source: Source, encoder: _PromptEncoder, counts: RecordCounts) -> Iterator[Prompt]:
    """Yield the prompts of a source that the chat template accepts; others are dropped or an error."""
    for prompt in prompts(source, dropped=counts.drop_record):
        try:
            encoder.encode(prompt)
        except DataError as error:
            counts.drop_record(refused_by_template(error, prompt.id, prompt.source, source))
            continue
        yield prompt


# -- report


def _facts(
    config: Config,
    result: TrainResult,
    comparison: BeforeAfter,
    *,
    train_prompts: Sequence[Prompt],
    eval_prompts: Sequence[Prompt],
) -> dict[str, Any]:
    """Return the facts of the run: counts, the metrics of the last evaluation, and the final comparison."""
    from vita.rl.rollouts import EVAL_METRICS

    curve = result.curve
    after = {name: last_value(curve, f"heldout_{name}") for name in EVAL_METRICS}
    before = {f"{name}_before": curve[0].get(f"heldout_{name}") for name in ("reward", "entropy")}
    zero_variance = mean_of_last(curve, "zero_variance", rows=len(curve))
    figures = {"heldout_" + name: value for name, value in (after | before).items()} | {"zero_variance": zero_variance}
    return {
        "chat": True,
        "method": config.method,
        "rounds": config.steps,
        "prompts": len(train_prompts),
        "held_out": len(eval_prompts),
        **{name: value for name, value in figures.items() if value is not None},
        **{f"comparison/{name}": value for name, value in comparison.facts().items()},
    }


def _summary(facts: Mapping[str, Any], comparison: BeforeAfter) -> str:
    figures = comparison.figures
    text = f"held out: reward {figures['reward/before'].value:.3f} before, {figures['reward/after'].value:.3f} after, "
    text += f"change {figures['reward/change']}, {figures['kl'].value:.2f} nats from the initial model"
    if "accuracy/change" in figures:
        text += (
            f", accuracy {figures['accuracy/before'].value:.1%} before and {figures['accuracy/after'].value:.1%} after"
        )
    zero_variance = facts.get("zero_variance")
    if zero_variance is not None:
        text += f"; {zero_variance:.0%} of the groups had equal rewards and gave no gradient"
    return text + f"; {facts['heldout_truncated']:.0%} of the answers were truncated"


def _save(
    config: Config, inputs: Inputs, trained: TrainedModel, comparison: BeforeAfter, facts: Mapping[str, Any]
) -> Path:
    folder = trained.save()
    settings = {
        **config.model_dump(mode="json", exclude={"sources", "checkpoint_seconds"}),
        "learning_rate": facts["learning_rate"],
        "critic_learning_rate": trained.run.training.optimization.critic_rate,
    }
    lead = (
        f"{config.method} on {facts['prompts']:,} prompts, {config.steps:,} rounds. The loss does not measure progress."
    )
    details = {"counts": counts_in(facts)}
    trained.write_report(
        folder,
        facts,
        title="Reinforcement learning",
        lead=lead,
        report=ReportContent.of("rlhf", comparison.groups(), baseline=inputs.model.digest, details=details),
        settings=settings,
    )
    comparison.write_items(folder / "report")
    return folder

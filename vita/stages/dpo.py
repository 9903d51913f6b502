"""Tune a model on preference pairs (direct preference optimization, DPO, and related losses).

The loss raises the likelihood of the chosen over the rejected answer, relative to the initial model. The additional
loss `sft` keeps the chosen answers likely. At the end the initial and the tuned model rank the same held-out pairs and
answer the same held-out prompts.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveFloat

from vita.data.hash_sampling import hash_fraction
from vita.data.sources.prompts import Prompt, unique_prompts
from vita.data.sources.read import Source
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.inspect import tokens
from vita.data.tokens.permutation import step_items
from vita.data.tokens.preference_pairs import (
    OnLong,
    PairDataset,
    PairSet,
    TokenPair,
    pair_sources,
    read_pairs,
    read_ratings,
)
from vita.data.tokens.row_counts import counts_in
from vita.data.tokens.tokenizer import Tokenizer
from vita.design import scaling_rules
from vita.infer.sampling import Sampling
from vita.nn.requirements import generates_text
from vita.reporting.figures import Groups, ReportContent
from vita.rights.example_rows import ExampleRows
from vita.rights.row_documents import StageRows
from vita.rl.preference_eval import PairValues, compare
from vita.rl.rewards import RewardChoice, Rewards
from vita.spine.config import neutral
from vita.spine.events import Emit, Events
from vita.spine.plain_text import counted
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Model, Preferences, Reward
from vita.stages.training import TrainedModel, TrainingRun, last_value, mean_of_last, row_length
from vita.stages.tuning import open_for_tuning, with_adapter_rates
from vita.stats.intervals import Interval
from vita.train.settings import Count, Fraction, PreferenceLossConfig, TuningSettings, Uncompiled

if TYPE_CHECKING:
    from torch import Tensor

    from vita.infer.engine import Engine
    from vita.infer.pretrained import Pretrained
    from vita.nn.transformer import Transformer
    from vita.rl.before_after import BeforeAfter, Evaluators
    from vita.train.preference_batches import PreferenceTrainingLoss
    from vita.train.trainer import StepBatch

VERSION = 8
PARALLEL = True
"""All processes run this stage together."""
NEEDS = {"model": (generates_text,)}

FIRST_STEP = {"float32": 1e-3, "bfloat16": 5e-2, "float8": 1e-1}
"""Tolerance of the check of the first step, by the number format of matrix products."""
WARNING_STEPS = 10
"""Number of steps over which a falling likelihood of the chosen answers gives a warning."""
GREEDY = {"temperature": 0.0, "max_tokens": 64}


class Config(TuningSettings, PreferenceLossConfig):
    """The preference pairs, the losses, and the final comparison."""

    sources: tuple[Source, ...] = ()
    """Sources of pairs, in addition to the input `preferences`; the format of a file is detected from its first row."""
    losses: dict[str, float] = Field(default_factory=lambda: {"sigmoid": 1.0, "sft": 1.0})
    """Losses and their weights. Pairwise losses: sigmoid (DPO), sigmoid_norm, ipo (as in the paper), ipo_norm, hinge,
    robust, cdpo, apo_zero, nca_pair, orpo, simpo, cpo. kto trains on single answers with a label. `sft` is the
    cross-entropy of the chosen answers; 0 leaves it out."""
    beta: PositiveFloat = 0.3
    epochs: PositiveFloat = 3.0
    batch_size: Count = 32  # pyright: ignore[reportIncompatibleVariableOverride]
    warmup_fraction: Fraction = 0.1  # pyright: ignore[reportIncompatibleVariableOverride]
    eval_fraction: Fraction = 0.1
    compile: Uncompiled = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]
    max_length: int | None = Field(None, ge=2)
    """Maximum tokens of a prompt and its answer. Default: the context of the model, at most 2,048."""
    on_long: OnLong = "drop"
    """Handling of pairs that are too long: drop, or truncate (if at least one token of each answer remains)."""
    shuffle_labels: bool = neutral(False)
    """Randomly swap the chosen and rejected answers. Use this for a control run, which must not improve the model."""
    eval_rewards: tuple[RewardChoice, ...] = ()
    """Rewards of the final comparison on held-out prompts: by name, `file.py:function`, or `reward` for the input; by
    default `world_politeness` if a source is the built-in world."""
    correctness: RewardChoice | None = None
    """Reward that is 1 for a correct and 0 for a wrong answer, to detect lost knowledge in the final comparison."""
    eval_prompts: int = Field(100, ge=0)
    """Maximum number of held-out prompts that both models answer in the final comparison. 0 skips the comparison."""
    eval_samples: int = Field(4, ge=1)
    """Number of answers per model and prompt. Greedy decoding always uses 1."""
    eval_sampling: Sampling = Field(default_factory=lambda: Sampling.model_validate(GREEDY))
    """Sampling of these answers."""

    def loss_config(self) -> PreferenceLossConfig:
        """Return the coefficients of the losses."""
        return PreferenceLossConfig(**{name: getattr(self, name) for name in PreferenceLossConfig.model_fields})


@dataclass(frozen=True)
class Inputs:
    model: Model
    preferences: Preferences | None = None
    """Pairs of an earlier step, such as `refine`."""
    reward: Reward | None = None
    """Reward model of the final comparison, for the reward `reward`."""


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Model]:
    from vita.train.preference_batches import (
        PairBatches,
        PairwiseLoss,
        build_preference_loss,
        first_step_check,
        reference_logprobs,
    )
    from vita.train.stops import save_stops
    from vita.train.trainer_config import preference_training
    from vita.train.validation import loss_evidence

    loss = build_preference_loss(config.losses, config.loss_config(), where="dpo.losses")
    pretrained = open_for_tuning(inputs.model.path, config, context, where="dpo")
    shape = pretrained.model.architecture
    length = row_length(config.max_length, shape, where="dpo.max_length")
    evaluators = _evaluators(config, inputs, context)
    tokenizer, template = pretrained.tokenizer, pretrained.require_template()
    pairs = _read(config, inputs, loss, tokenizer, template, context.emit, length=length)
    original = None  # the initial weights, for the final comparison
    if evaluators and (prompts := _eval_prompts(config, pairs)):
        evaluators.check(prompts[0])
        original = pretrained.copy() if context.machine.leads else None
    training = preference_training(
        config,
        pairs=len(pairs.train),
        auto=scaling_rules.preference_rate(shape.parameters()),
    )
    rate = scaling_rules.adapter_rate(scaling_rules.preference_rate(shape.parameters()))
    training = with_adapter_rates(training, pretrained.model, config.learning_rate, auto=rate)
    run = TrainingRun(
        "dpo",
        config,
        context,
        source=pretrained.files,
        model=pretrained.model,
        training=training,
        initial=inputs.model.digest,
        row_length=length,
    )

    with run.trainer(loss) as trainer:
        world = trainer.world
        all_pairs = PairDataset([*pairs.train, *pairs.heldout], pad=tokenizer.pad, context=shape.context)
        context.emit("note", text=f"computes the reference log-probabilities of {counted(len(all_pairs), 'pair')}")
        before = reference_logprobs(
            trainer,
            all_pairs,
            keep=context.scratch / "reference.safetensors",
            on_progress=lambda done: context.emit("progress", done=done, total=len(all_pairs), unit="pairs"),
        )
        count = len(pairs.train)
        train, heldout_pairs = (
            PairDataset(split, pad=tokenizer.pad, context=shape.context) for split in (pairs.train, pairs.heldout)
        )
        batches = PairBatches(train, before[:count], size=config.batch_size, seed=config.seed, world=world)
        heldout = PairBatches(heldout_pairs, before[count:], size=world.size, seed=config.seed, world=world)
        check = first_step_check(loss, where="dpo: the first step", tolerance=FIRST_STEP[trainer.precision.name])

        def next_batch(step: int) -> StepBatch:
            batch = batches.complete(batches(step), trainer)
            return batch if step else replace(batch, check=check)

        trained = run.train(
            trainer,
            next_batch,
            evaluate=heldout.evaluate if len(heldout_pairs) >= world.size else None,
            tokens_per_step=round(2 * config.batch_size * float(train.lengths.mean())),
            emit=_warn_of_falling_likelihood(context.emit),
        )
        trained.health()
        shared_facts = trained.facts(loss_evidence(trained.result, control=config.shuffle_labels))
        after = reference_logprobs(trainer, heldout_pairs)
    if not context.machine.leads:
        return Draft(Model, context.scratch, {})

    folder = trained.save(tokens=int(train.tokens.sum()))
    template.save_where_missing(folder)
    save_stops(tokenizer, template, folder)
    pair_figures = (
        _compare_pairs(before[count:], after, heldout_pairs, beta=config.beta) if isinstance(loss, PairwiseLoss) else {}
    )
    comparison = _compare_answers(config, original, evaluators, pairs, trained.open_engine(folder), context)
    facts = _facts(trained.result.curve, pairs, pair_figures, comparison, steps=run.steps)
    facts |= shared_facts | template.facts()
    _emit_summary(facts, context.emit)
    _write(config, inputs, trained, facts, pair_figures, comparison, folder)
    return Draft(Model, folder, facts)


# -- pairs


def training_rows(config: Config, inputs: Inputs, folder: Path) -> StageRows:
    """Return the pairs of each step, read and ordered as in training."""
    from vita.infer.pretrained import PretrainedText
    from vita.train.preference_batches import build_preference_loss

    text = PretrainedText.load(inputs.model.path)
    loss = build_preference_loss(config.losses, config.loss_config(), where="dpo.losses")
    length = row_length(config.max_length, text.architecture, where="dpo.max_length")
    pairs = _read(config, inputs, loss, text.tokenizer, text.require_template(), Events().emit, length=length).train
    order = partial(step_items, rows=config.batch_size, size=len(pairs), seed=config.seed)
    rows = ExampleRows([pair.documents() for pair in pairs], order, config.batch_size)
    return StageRows((rows,), {"pairs": len(pairs)})


def _read(
    config: Config,
    inputs: Inputs,
    loss: PreferenceTrainingLoss,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    emit: Emit,
    *,
    length: int,
) -> PairSet:
    """Read and encode all pairs, and emit their counts and the first pair."""
    from vita.train.preference_batches import PairwiseLoss

    read, unit = (read_pairs, "pairs") if isinstance(loss, PairwiseLoss) else (read_ratings, "labelled answers")
    pairs = read(
        pair_sources(config.sources, inputs.preferences and inputs.preferences.path, where="dpo"),
        tokenizer,
        template,
        length=length,
        on_long=config.on_long,
        held_out=config.eval_fraction,
        seed=config.seed,
        shuffle_labels=config.shuffle_labels,
        on_progress=lambda count: emit("progress", done=count, total=None, unit=unit) if count % 200 == 1 else None,
    )
    pairs.counts.report(emit, where="dpo")
    for name, answer in zip(_names(pairs.train[0], loss), pairs.train[0].answers, strict=True):
        emit(
            "note",
            text=f"the first {name} reads: {tokens(answer.ids, tokenizer, learn=answer.learn).plain}",
            level="detail",
        )
    return pairs


def _names(pair: TokenPair, loss: PreferenceTrainingLoss) -> tuple[str, str]:
    from vita.train.preference_batches import PairwiseLoss

    if isinstance(loss, PairwiseLoss):
        return "chosen answer", "rejected answer"
    return f"{'good' if pair.good else 'bad'} answer", "answer of another prompt"


def _warn_of_falling_likelihood(emit: Emit) -> Emit:
    """Return `emit` with one warning when the chosen answers become less likely than in the initial model."""
    log_ratios = deque[float](maxlen=WARNING_STEPS)
    warned = False

    def emit_with_warning(event: str, **fields: Any) -> None:
        nonlocal warned
        emit(event, **fields)
        if event == "metrics" and "log_ratio/chosen" in fields:
            log_ratios.append(fields["log_ratio/chosen"])
            if not warned and len(log_ratios) == WARNING_STEPS and sum(log_ratios) < 0:
                warned = True
                emit("note", text=f"step {fields['step']}: {FALLING_LIKELIHOOD}", level="warning")

    return emit_with_warning


FALLING_LIKELIHOOD = (
    "the chosen answers have become less likely than in the initial model (log_ratio/chosen below 0); "
    "increase the weight of the loss `sft`, raise `beta`, or lower `learning_rate`"
)


# -- comparison with the initial model


def _compare_pairs(before: Tensor, after: Tensor, pairs: PairDataset, *, beta: float) -> dict[str, Interval]:
    if not len(pairs):
        return {}
    logprobs = [[PairValues(*pair) for pair in sums.tolist()] for sums in (before, after)]
    tokens = [PairValues(*pair) for pair in pairs.tokens.tolist()]
    return compare(logprobs[0], logprobs[1], tokens, beta=beta, prompts=[pair.prompt for pair in pairs.pairs])


def _evaluators(config: Config, inputs: Inputs, context: Context) -> Evaluators | None:
    """Load the rewards of the comparison; a wrong name is an error before training starts."""
    from vita.infer.reward import RewardModel
    from vita.rl.before_after import Evaluators

    world = next((source.world for source in config.sources if source.world), None)
    choices, correctness = config.eval_rewards, config.correctness
    if world and not choices:
        choices = (RewardChoice(use="world_politeness"),)
        correctness = correctness or RewardChoice(use="world_correctness")
    if not choices or not config.eval_prompts:
        return None
    model = RewardModel.open(inputs.reward.path, device=context.machine.device) if inputs.reward else None
    rewards = Rewards.open(choices, where="dpo.eval_rewards", model=model, world=world)
    if correctness is None:
        return Evaluators(rewards)
    return Evaluators(rewards, Rewards.open([correctness], where="dpo.correctness", model=model, world=world))


def _eval_prompts(config: Config, pairs: PairSet) -> list[Prompt]:
    """Return a sample of the unique held-out prompts of all sources."""
    prompts = unique_prompts(Prompt(pair.id, pair.prompt, pair.source, pair.columns) for pair in pairs.heldout)
    return sorted(prompts, key=lambda prompt: hash_fraction(prompt.id, f"{config.seed}/asked"))[: config.eval_prompts]


def _compare_answers(
    config: Config,
    original: Pretrained[Transformer] | None,
    evaluators: Evaluators | None,
    pairs: PairSet,
    after: Engine,
    context: Context,
) -> BeforeAfter | None:
    from vita.infer.engine import Engine

    prompts = _eval_prompts(config, pairs)
    if evaluators is None or original is None:
        reason = "no prompt is held out" if evaluators else "`eval_rewards` is empty"
        context.emit("note", text=f"answers are not compared: {reason}", level="warning")
        return None
    context.emit("note", text=f"both models answer {len(prompts)} held-out prompts")
    before = Engine.of(original, device=context.machine.device)
    return evaluators.compare(
        before, after, prompts, samples=config.eval_samples, sampling=config.eval_sampling, seed=config.seed
    )


# -- report


def _facts(
    curve: list[dict[str, Any]],
    pairs: PairSet,
    pair_figures: Mapping[str, Interval],
    comparison: BeforeAfter | None,
    *,
    steps: int,
) -> dict[str, Any]:
    values = {
        "steps": steps,
        **pairs.facts(),
        "loss": mean_of_last(curve, "loss"),
        "heldout_loss_before": curve[0].get("heldout_loss"),
        "heldout_loss": last_value(curve, "heldout_loss"),
        "log_ratio/chosen": mean_of_last(curve, "log_ratio/chosen"),
        **{f"pairs/{name}": round(interval.value, 6) for name, interval in pair_figures.items()},
        **({f"comparison/{name}": value for name, value in comparison.facts().items()} if comparison else {}),
    }
    return {"chat": True, **{name: value for name, value in values.items() if value is not None}}


def _emit_summary(facts: Mapping[str, Any], emit: Emit) -> None:
    if facts.get("log_ratio/chosen", 0) < 0:
        emit("note", text=f"after training {FALLING_LIKELIHOOD}", level="warning")
    names = (
        "pairs/accuracy/before",
        "pairs/accuracy/after",
        "comparison/reward/change",
        "comparison/accuracy/change",
        "comparison/kl",
    )
    summary = ", ".join(f"{name} {facts[name]:.3f}" for name in names if name in facts)
    if summary:
        emit("note", text=f"held out: {summary}")


def _write(
    config: Config,
    inputs: Inputs,
    trained: TrainedModel,
    facts: Mapping[str, Any],
    pair_figures: Mapping[str, Interval],
    comparison: BeforeAfter | None,
    folder: Path,
) -> None:
    groups: Groups = {"held_out": {"pairs": pair_figures}, **(comparison.groups() if comparison else {})}
    details = {"counts": counts_in(facts)}
    trained.write_report(
        folder,
        facts,
        title="Preference tuning",
        lead=f"{facts['pairs']:,} pairs, {facts['steps']:,} steps of {config.batch_size}.",
        report=ReportContent.of("dpo", groups, baseline=inputs.model.digest, details=details),
        settings={"losses": json.dumps(config.losses), "beta": config.beta, "shuffle_labels": config.shuffle_labels},
    )
    if comparison:
        comparison.write_items(folder / "report")

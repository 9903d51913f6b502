"""Let the model learn what people prefer, from pairs of a better and a worse answer: direct preference optimization.

The better answer is to become likelier than the worse one, measured against the model as it was before. Alone this
would push both down, so the better answer is learnt as well (the `sft` term). At the end the model and the one it was
made from rank the same held-out pairs and answer the same held-out prompts.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from vita.data.hash_sampling import hash_fraction
from vita.data.sources.prompts import Prompt, unique_prompts
from vita.data.sources.read import Source
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.inspect import tokens
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
from vita.reporting.figures import Groups, ReportContent, write_report
from vita.reporting.page import Section
from vita.reporting.training_report import MetricChart, last_value, mean_of_last, write_training_report
from vita.rl.preference_eval import PairValues, compare, figures_section
from vita.rl.rewards import RewardChoice, Rewards
from vita.spine.config import neutral
from vita.spine.events import Emit
from vita.spine.plain_text import counted
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Model, Preferences, Reward
from vita.stages.training import TrainingRun, row_length
from vita.stats.intervals import Interval
from vita.train.settings import Count, Fraction, PreferenceLossConfig, Rate, TuningSettings, Uncompiled

if TYPE_CHECKING:
    from torch import Tensor

    from vita.infer.pretrained import Pretrained
    from vita.nn.transformer import Transformer
    from vita.rl.before_after import BeforeAfter, Evaluators
    from vita.train.preference_batches import PreferenceTrainingLoss
    from vita.train.trainer import StepBatch, TrainerConfig

VERSION = 7
PARALLEL = True
"""All processes carry it out together."""

FIRST_STEP = {"float32": 1e-3, "bfloat16": 5e-2}
"""How far from what is known the first step may be, by what matrices are multiplied in."""
WATCHED = 10
"""Steps over which it is seen whether the better answers become less likely."""
GREEDY = {"temperature": 0.0, "max_tokens": 64}


class Config(TuningSettings, PreferenceLossConfig):
    """The preference pairs, the losses, and the comparison at the end."""

    sources: tuple[Source, ...] = ()
    """Sources of pairs, in addition to the input `preferences`; the format of a file is detected from its first row."""
    losses: dict[str, float] = Field(default_factory=lambda: {"sigmoid": 1.0, "sft": 1.0})
    """Losses and their weights. Pairwise losses: sigmoid (DPO), sigmoid_norm, ipo (as in the paper), ipo_norm, hinge,
    robust, cdpo, apo_zero, nca_pair, orpo, simpo, cpo. kto trains on single answers with a label. `sft` is the
    cross-entropy of the chosen answers; 0 leaves it out."""
    beta: Rate = 0.3
    epochs: Rate = 3.0
    batch_size: Count = 32  # pyright: ignore[reportIncompatibleVariableOverride]
    warmup_fraction: Fraction = 0.1  # pyright: ignore[reportIncompatibleVariableOverride]
    eval_fraction: Fraction = 0.1
    compile: Uncompiled = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]
    max_length: int | None = Field(None, ge=2)
    """Maximum tokens of a prompt with its answer; by default the model's context."""
    on_long: OnLong = "drop"
    """Handling of a longer pair: drop it, or truncate it if a token of both answers remains."""
    shuffle_labels: bool = neutral(False)
    """Swap the answers of random pairs: a control run, which must not improve the model."""
    eval_rewards: tuple[RewardChoice, ...] = ()
    """Rewards of the final comparison on held-out prompts: by name, `file.py:function`, or `reward` for the input; by
    default `world_politeness` if a source is the embedded world."""
    correctness: RewardChoice | None = None
    """Reward that is 1 for a correct and 0 for a wrong answer, to detect lost knowledge in the final comparison."""
    eval_prompts: int = Field(100, ge=0)
    """Maximum number of held-out prompts that both models answer in the final comparison; 0 compares no answers."""
    eval_samples: int = Field(4, ge=1)
    """Answers of each model per prompt; 1 if they are greedy."""
    eval_sampling: Sampling = Field(default_factory=lambda: Sampling.model_validate(GREEDY))
    """Sampling of these answers."""

    def loss_config(self) -> PreferenceLossConfig:
        """The coefficients of the losses."""
        return PreferenceLossConfig(**{name: getattr(self, name) for name in PreferenceLossConfig.model_fields})


@dataclass(frozen=True)
class Inputs:
    model: Model
    preferences: Preferences | None = None
    """Pairs that were cleaned already."""
    reward: Reward | None = None
    """Judges the answers at the end, where `eval_rewards` names `reward`."""


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Model]:
    from vita.infer.pretrained import Pretrained
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

    learn = build_preference_loss(config.losses, config.loss_config(), where="dpo.losses")
    pretrained = Pretrained.load(inputs.model.path)
    shape = pretrained.model.architecture
    length = row_length(config.max_length, shape, where="dpo.max_length")
    judges = _judges(config, inputs, context)
    tokenizer, template = pretrained.tokenizer, pretrained.require_template()
    found = _read(config, inputs, learn, tokenizer, template, context, length=length)
    original = None  # the weights before training, which the comparison at the end answers with
    if judges and (asked := _asked(config, found)):
        judges.try_out(asked[0])
        original = pretrained.copy() if context.machine.leads else None
    training = preference_training(
        config,
        pairs=len(found.train),
        auto=scaling_rules.preference_rate(shape.parameters()),
    )
    run = TrainingRun(
        "dpo",
        config,
        context,
        source=pretrained.files,
        model=pretrained.model,
        training=training,
        row_length=length,
    )

    with run.trainer(learn) as trainer:
        world = trainer.world
        everything = PairDataset([*found.train, *found.heldout], pad=tokenizer.pad, context=shape.context)
        context.emit("note", text=f"takes the reference log-probabilities of {counted(len(everything), 'pair')}")
        before = reference_logprobs(
            trainer,
            everything,
            keep=context.scratch / "reference.safetensors",
            on_progress=lambda done: context.emit("progress", done=done, total=len(everything), unit="pairs"),
        )
        count = len(found.train)
        rows, aside = (
            PairDataset(side, pad=tokenizer.pad, context=shape.context) for side in (found.train, found.heldout)
        )
        batches = PairBatches(rows, before[:count], size=config.batch_size, seed=config.seed, world=world)
        heldout = PairBatches(aside, before[count:], size=world.size, seed=config.seed, world=world)
        check = first_step_check(learn, where="dpo: the first step", tolerance=FIRST_STEP[trainer.precision.name])

        def work(step: int) -> StepBatch:
            made = batches.complete(batches(step), trainer)
            return made if step else replace(made, check=check)

        trained = run.train(
            trainer,
            work,
            evaluate=heldout.evaluate if len(aside) >= world.size else None,
            tokens_per_step=round(2 * config.batch_size * float(rows.lengths.mean())),
            emit=_watching(context.emit),
        )
        trained.health()
        shared = trained.facts(loss_evidence(trained.learnt, control=config.shuffle_labels))
        after = reference_logprobs(trainer, aside)
    if not context.machine.leads:
        return Draft(Model, context.scratch, {})

    folder = trained.save(tokens=int(rows.tokens.sum()))
    template.save_where_missing(folder)
    save_stops(tokenizer, template, folder)
    ranked = _ranked(before[count:], after, aside, beta=config.beta) if isinstance(learn, PairwiseLoss) else {}
    moved = _moved(config, original, judges, found, folder, context)
    curve = trained.learnt.curve
    facts = _facts(curve, found, ranked, moved, steps=run.steps) | shared
    _tell_drift(facts, context.emit)
    _write(config, inputs, curve, training, facts, ranked, moved, folder)
    return Draft(Model, folder, facts)


# -- pairs


def _read(
    config: Config,
    inputs: Inputs,
    learn: PreferenceTrainingLoss,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    context: Context,
    *,
    length: int,
) -> PairSet:
    """All pairs in tokens, with what a person should know of them told."""
    from vita.train.preference_batches import PairwiseLoss

    read, kind = (read_pairs, "pairs") if isinstance(learn, PairwiseLoss) else (read_ratings, "answers with a verdict")
    found = read(
        pair_sources(config.sources, inputs.preferences and inputs.preferences.path, where="dpo"),
        tokenizer,
        template,
        length=length,
        on_long=config.on_long,
        held_out=config.eval_fraction,
        seed=config.seed,
        shuffle_labels=config.shuffle_labels,
        tell=lambda count: context.emit("progress", done=count, total=None, unit=kind) if count % 200 == 1 else None,
    )
    found.counts.report(context.emit, where="dpo")
    for name, answer in zip(_names(found.train[0], learn), found.train[0].answers, strict=True):
        context.emit("note", text=f"the first {name} reads: {tokens(answer.ids, tokenizer, learn=answer.learn).plain}")
    return found


def _names(pair: TokenPair, learn: PreferenceTrainingLoss) -> tuple[str, str]:
    from vita.train.preference_batches import PairwiseLoss

    if isinstance(learn, PairwiseLoss):
        return "better answer", "worse answer"
    return f"{'good' if pair.good else 'bad'} answer", "answer of another prompt"


def _watching(emit: Emit) -> Emit:
    """Says it once when the better answers become less likely than they were, over some steps together."""
    seen = deque[float](maxlen=WATCHED)
    warned = False

    def told(event: str, **fields: Any) -> None:
        nonlocal warned
        emit(event, **fields)
        if event == "metrics" and "log_ratio/chosen" in fields:
            seen.append(fields["log_ratio/chosen"])
            if not warned and len(seen) == WATCHED and sum(seen) < 0:
                warned = True
                emit("note", text=f"step {fields['step']}: {SINKING}")

    return told


SINKING = (
    "the better answers have become less likely than they were (log_ratio/chosen below 0); "
    "give the loss `sft` more weight, raise `beta` or lower `learning_rate`"
)


# -- beside the model it began from


def _ranked(before: Tensor, after: Tensor, rows: PairDataset, *, beta: float) -> dict[str, Interval]:
    if not len(rows):
        return {}
    told = [[PairValues(*pair) for pair in sums.double().tolist()] for sums in (before, after)]
    tokens = [PairValues(*pair) for pair in rows.tokens.tolist()]
    return compare(told[0], told[1], tokens, beta=beta, prompts=[pair.prompt for pair in rows.pairs])


def _judges(config: Config, inputs: Inputs, context: Context) -> Evaluators | None:
    """Found before anything slow begins, so that a wrong name costs nothing."""
    from vita.infer.reward import RewardModel
    from vita.rl.before_after import Evaluators

    world = next((source.world for source in config.sources if source.world), None)
    choices, right = config.eval_rewards, config.correctness
    if world and not choices:
        choices, right = (RewardChoice(use="world_politeness"),), right or RewardChoice(use="world_correctness")
    if not choices or not config.eval_prompts:
        return None
    model = RewardModel.open(inputs.reward.path, device=context.machine.device) if inputs.reward else None
    rights = Rewards.open([right], where="dpo.correctness", model=model, world=world) if right else None
    return Evaluators(Rewards.open(choices, where="dpo.eval_rewards", model=model, world=world), rights)


def _asked(config: Config, found: PairSet) -> list[Prompt]:
    """The held-out prompts that both models answer, each once and drawn from all sources alike."""
    every = unique_prompts(Prompt(pair.id, pair.prompt, pair.source, pair.columns) for pair in found.heldout)
    return sorted(every, key=lambda one: hash_fraction(one.id, f"{config.seed}/asked"))[: config.eval_prompts]


def _moved(
    config: Config,
    original: Pretrained[Transformer] | None,
    judges: Evaluators | None,
    found: PairSet,
    folder: Path,
    context: Context,
) -> BeforeAfter | None:
    from vita.infer.engine import Engine

    prompts = _asked(config, found)
    if judges is None or original is None:
        why = "no prompt is held out" if judges else "`eval_rewards` names nothing to score them by"
        context.emit("note", text=f"answers are not compared: {why}")
        return None
    context.emit("note", text=f"both models answer {len(prompts)} held-out prompts")
    device = context.machine.device
    before, after = Engine.of(original, device=device), Engine.open(folder, device=device)
    return judges.beside(
        before, after, prompts, samples=config.eval_samples, sampling=config.eval_sampling, seed=config.seed
    )


# -- what came


def _facts(
    curve: list[dict[str, Any]],
    found: PairSet,
    ranked: Mapping[str, Interval],
    moved: BeforeAfter | None,
    *,
    steps: int,
) -> dict[str, Any]:
    told = {
        "steps": steps,
        **found.facts(),
        "loss": mean_of_last(curve, "loss"),
        "heldout_loss_before": curve[0].get("heldout_loss"),
        "heldout_loss": last_value(curve, "heldout_loss"),
        "log_ratio/chosen": mean_of_last(curve, "log_ratio/chosen"),
        **{f"pairs/{name}": round(one.value, 6) for name, one in ranked.items()},
        **({f"comparison/{name}": value for name, value in moved.facts().items()} if moved else {}),
    }
    return {"chat": True, **{name: value for name, value in told.items() if value is not None}}


def _tell_drift(facts: Mapping[str, Any], emit: Emit) -> None:
    if facts.get("log_ratio/chosen", 0) < 0:
        emit("note", text=f"at the end {SINKING}")
    shown = (
        "pairs/accuracy/before",
        "pairs/accuracy/after",
        "comparison/reward/change",
        "comparison/accuracy/change",
        "comparison/kl",
    )
    told = ", ".join(f"{name} {facts[name]:.3f}" for name in shown if name in facts)
    if told:
        emit("note", text=f"held out: {told}")


def _write(
    config: Config,
    inputs: Inputs,
    curve: list[dict[str, Any]],
    training: TrainerConfig,
    facts: Mapping[str, Any],
    ranked: Mapping[str, Interval],
    moved: BeforeAfter | None,
    folder: Path,
) -> None:
    sections: list[Section] = []
    if ranked:
        note = "accuracy: the better answer is the likelier one by the token. reward: beta x what was gained on before."
        sections.append(figures_section("Held-out pairs", ranked, note=note))
    if moved:
        sections.append(moved.section())
    used = {"losses": json.dumps(config.losses), "beta": config.beta, "shuffle_labels": config.shuffle_labels}
    place = folder / "report"
    write_training_report(
        curve,
        place,
        title="Learning from preferences",
        lead=f"{facts['pairs']:,} pairs, {facts['steps']:,} steps of {config.batch_size}.",
        facts=facts,
        settings={**used, **training.schedule.model_dump(), **training.optimization.model_dump()},
        charts=CHARTS,
        sections=sections,
    )
    groups: Groups = {"held_out": {"pairs": ranked}}
    if moved:
        moved.write_items(place)
        groups = {**groups, **moved.groups()}
    details = {"counts": counts_in(facts)}
    write_report(ReportContent.of("dpo", groups, baseline=inputs.model.digest, details=details), place)


CHARTS = (
    MetricChart(
        "loss", {"training": "loss", "held out": "heldout_loss"}, "weighted sum", "The losses, by their weights."
    ),
    MetricChart(
        "rewards",
        {"better": "rewards/chosen", "worse": "rewards/rejected"},
        "beta x nats",
        "What both answers gained on the model as it was; below 0 they have become less likely.",
    ),
    MetricChart(
        "accuracies",
        {"training": "rewards/accuracies", "held out": "heldout_rewards/accuracies"},
        "share",
        "Pairs whose better answer gained more.",
    ),
)

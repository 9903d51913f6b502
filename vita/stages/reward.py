"""Train a reward model on preference pairs.

The model is the tuned model with a scalar head, which scores a dialogue at its last token. Only the difference of two
scores has a meaning (Bradley & Terry 1952). Training stops early when the held-out pairs are ranked well: a longer run
makes the model overconfident, which reinforcement learning would exploit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from vita.data.sources.read import Source
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.inspect import tokens
from vita.data.tokens.permutation import step_items
from vita.data.tokens.preference_pairs import PairDataset, PairSet, pair_sources, read_pairs
from vita.data.tokens.row_counts import counts_in
from vita.data.tokens.tokenizer import Tokenizer
from vita.design import scaling_rules
from vita.nn.requirements import generates_text
from vita.reporting.figures import ReportContent
from vita.rights.example_rows import ExampleRows
from vita.rights.row_documents import StageRows
from vita.rl.preference_eval import PairValues, calibration, score_figures
from vita.spine.config import neutral
from vita.spine.events import Emit, Events
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Model, Preferences, Reward
from vita.stages.training import TrainedModel, TrainingRun, mean_of_last, row_length
from vita.stages.tuning import open_for_tuning, with_adapter_rates
from vita.stats.intervals import Interval
from vita.train.settings import Count, Fraction, TuningSettings, Uncompiled

if TYPE_CHECKING:
    from vita.train.trainer import Trainer
    from vita.train.validation import LearningEvidence

VERSION = 8
PARALLEL = True
"""All processes run this stage together."""
NEEDS = {"model": (generates_text,)}
AUTO_SHARE = 0.3
"""The learning rate `auto`, as a share of that of `dpo`."""
MIN_STOPPING_PAIRS = 30
"""Minimum number of held-out pairs for early stopping."""


class Config(TuningSettings):
    """The preference pairs, and the criteria of early stopping."""

    sources: tuple[Source, ...] = ()
    """Sources of pairs, in addition to the input `preferences`; the format of a file is detected from its first row."""
    batch_size: Count = 32  # pyright: ignore[reportIncompatibleVariableOverride]
    warmup_fraction: Fraction = 0.1  # pyright: ignore[reportIncompatibleVariableOverride]
    eval_fraction: Fraction = 0.1
    compile: Uncompiled = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]
    num_evals: Count | None = None
    eval_every: Count | None = 10
    head_init: Literal["small", "zero"] = "small"
    """Initialization of the scalar head: small, N(0, 1/(width + 1)), or zero."""
    centering_coef: float = Field(0.01, ge=0)
    """Coefficient of the penalty on the squared sum of a pair's scores, which keeps them around zero."""
    early_stop_accuracy: float = Field(0.95, gt=0)
    """Accuracy on the held-out pairs above which training stops; a value above 1 never stops it."""
    early_stop_margin: float = Field(3.0, gt=0)
    """Mean margin of the held-out pairs from which training stops."""
    max_length: int | None = Field(None, ge=2)
    """Tokens of a prompt with its answer; longer pairs are dropped. Default: the model's context, at most 2,048."""
    shuffle_labels: bool = neutral(False)
    """Swap the answers of random pairs: a control run, which must not learn anything."""


@dataclass(frozen=True)
class Inputs:
    model: Model
    preferences: Preferences | None = None
    """Pairs of an earlier step, such as `refine`."""


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Reward]:
    import torch

    from vita.infer.adapter_folder import save_adapter_successor
    from vita.nn import hf, reward
    from vita.nn.reward import RewardTransformer
    from vita.train.preference_batches import PairBatches, RewardModelLoss
    from vita.train.trainer_config import preference_training

    pretrained = open_for_tuning(inputs.model.path, config, context, where="reward")
    shape = pretrained.model.architecture
    length = row_length(config.max_length, shape, where="reward.max_length")
    tokenizer, template = pretrained.tokenizer, pretrained.require_template()
    pairs = _read(config, inputs, tokenizer, template, context.emit, length=length)
    model = RewardTransformer.of(pretrained.model, start=config.head_init, seed=config.seed)
    auto = scaling_rules.preference_rate(shape.parameters()) * AUTO_SHARE
    training = preference_training(config, pairs=len(pairs.train), auto=auto)
    training = with_adapter_rates(training, model, config.learning_rate, auto=scaling_rules.adapter_rate(auto))
    run = TrainingRun(
        "reward",
        config,
        context,
        source=pretrained.files,
        model=model,
        training=training,
        initial=inputs.model.digest,
        row_length=length,
        logits=0.0,
    )

    with run.trainer(RewardModelLoss(config.centering_coef)) as trainer:
        world = trainer.world
        train, heldout_pairs = (
            PairDataset(split, pad=tokenizer.pad, context=shape.context) for split in (pairs.train, pairs.heldout)
        )
        no_reference = torch.zeros(max(len(train), len(heldout_pairs)), 2)
        batches = PairBatches(train, no_reference, size=config.batch_size, seed=config.seed, world=world)
        heldout = PairBatches(heldout_pairs, no_reference, size=world.size, seed=config.seed, world=world)
        trained = run.train(
            trainer,
            batches,
            evaluate=heldout.evaluate if len(heldout_pairs) >= world.size else None,
            tokens_per_step=round(2 * config.batch_size * float(train.lengths.mean())),
            should_stop=lambda row: _should_stop(config, row, pairs=len(pairs.heldout)),
        )
        trained.health()
        scores = _scores(trainer, heldout_pairs)
    if not context.machine.leads:
        return Draft(Reward, context.scratch, {})

    result = trained.result
    assert isinstance(trained.model, RewardTransformer)
    figures = (
        score_figures(scores, [pair.source for pair in pairs.heldout], [pair.prompt for pair in pairs.heldout])
        if scores
        else {}
    )
    shared_facts = trained.facts(_evidence(config, figures, pairs, seen_pairs=result.steps * config.batch_size))
    folder = context.draft_folder()
    progress = {"steps": result.steps, "tokens": int(train.tokens.sum())}
    if trained.base:
        save_adapter_successor(trained.model, folder, source=pretrained.files, base=trained.base, **progress)
    else:
        reward.save(trained.model, folder, padding=tokenizer.pad, source=pretrained.files)
        hf.copy_tokenizer_files(pretrained.files, folder)
        hf.describe(shape, folder, **progress)
    template.save_where_missing(folder)
    gap = calibration(scores)[1] if scores else None
    facts = _facts(result.curve, pairs, figures, gap, steps=result.steps) | shared_facts | template.facts()
    if result.steps < training.schedule.steps:
        context.emit("note", text=f"early stopping after {result.steps} of {training.schedule.steps} steps")
    if figures:
        context.emit("note", text=f"held out: accuracy {figures['all']['accuracy']}, margin {figures['all']['margin']}")
    _write(config, inputs, trained, facts, figures, scores, folder)
    return Draft(Reward, folder, facts)


def training_rows(config: Config, inputs: Inputs, folder: Path) -> StageRows:
    """Return the pairs of each step, read and ordered as in training."""
    from vita.infer.pretrained import PretrainedText

    text = PretrainedText.load(inputs.model.path)
    length = row_length(config.max_length, text.architecture, where="reward.max_length")
    pairs = _read(config, inputs, text.tokenizer, text.require_template(), Events().emit, length=length).train
    order = partial(step_items, rows=config.batch_size, size=len(pairs), seed=config.seed)
    rows = ExampleRows([pair.documents() for pair in pairs], order, config.batch_size)
    return StageRows((rows,), {"pairs": len(pairs)})


def _read(
    config: Config, inputs: Inputs, tokenizer: Tokenizer, template: ChatTemplate, emit: Emit, *, length: int
) -> PairSet:
    """Read and encode all pairs, and emit their counts and the first pair."""
    pairs = read_pairs(
        pair_sources(config.sources, inputs.preferences and inputs.preferences.path, where="reward"),
        tokenizer,
        template,
        length=length,
        held_out=config.eval_fraction,
        seed=config.seed,
        shuffle_labels=config.shuffle_labels,
        on_progress=lambda count: emit("progress", done=count, total=None, unit="pairs") if count % 200 == 1 else None,
    )
    pairs.counts.truncates = False
    pairs.counts.report(emit, where="reward")
    for name, answer in zip(("chosen", "rejected"), pairs.train[0].answers, strict=True):
        ids = tokens(answer.ids, tokenizer, learn=[False] * (len(answer.ids) - 1) + [True]).plain
        emit("note", text=f"the first {name} answer is scored at its last token: {ids}", level="detail")
    return pairs


def _evidence(
    config: Config, figures: Mapping[str, Mapping[str, Interval]], pairs: PairSet, *, seen_pairs: int
) -> LearningEvidence:
    """Return the evidence that the held-out pairs are ranked better than by chance."""
    from vita.train.validation import LearningEvidence, accuracy_evidence

    if not figures:
        return LearningEvidence("not judged", "no pairs were held out")
    accuracy, prompts = figures["all"]["accuracy"], len({pair.prompt for pair in pairs.heldout})
    return accuracy_evidence(
        accuracy.value,
        accuracy.low,
        items=prompts,
        examples_seen=seen_pairs,
        available=len(pairs.train),
        control=config.shuffle_labels,
    )


def _should_stop(config: Config, row: Mapping[str, Any], *, pairs: int) -> bool:
    """Return True if the held-out pairs are ranked well enough; never before the first step or on few pairs."""
    accuracy, margin = row.get("heldout_accuracy"), row.get("heldout_margin")
    if not row.get("step") or accuracy is None or margin is None or pairs < MIN_STOPPING_PAIRS:
        return False
    return accuracy > config.early_stop_accuracy or margin >= config.early_stop_margin


def _scores(trainer: Trainer, pairs: PairDataset) -> list[PairValues]:
    from vita.train.preference_batches import EVAL_BATCH_PAIRS, pair_scores, pair_tensors

    scores: list[PairValues] = []
    for start in range(0, len(pairs), EVAL_BATCH_PAIRS):
        tensors = pair_tensors(pairs, range(start, min(start + EVAL_BATCH_PAIRS, len(pairs))))
        scores += [PairValues(*pair) for pair in trainer.map_rows(tensors, pair_scores).tolist()]
    return scores


# -- report


def _facts(
    curve: list[dict[str, Any]],
    pairs: PairSet,
    figures: Mapping[str, Mapping[str, Interval]],
    gap: float | None,
    *,
    steps: int,
) -> dict[str, Any]:
    overall = {name: round(interval.value, 6) for name, interval in figures.get("all", {}).items()}
    before = {f"{name}_before": curve[0].get(f"heldout_{name}") for name in ("accuracy", "margin")}
    values = {
        "steps": steps,
        **pairs.facts(),
        "loss": mean_of_last(curve, "loss"),
        **before,
        **overall,
        **{
            f"{name}/accuracy": round(interval["accuracy"].value, 6)
            for name, interval in figures.items()
            if name != "all"
        },
        "calibration_error": None if gap is None else round(gap, 6),
    }
    return {name: value for name, value in values.items() if value is not None}


def _write(
    config: Config,
    inputs: Inputs,
    trained: TrainedModel,
    facts: Mapping[str, Any],
    figures: Mapping[str, Mapping[str, Interval]],
    scores: list[PairValues],
    folder: Path,
) -> None:
    content: dict[str, Any] = {}
    if scores:
        bins, gap = calibration(scores)
        content["Calibration"] = [[bin.as_json() for bin in bins], f"Expected calibration error: {gap:.3f}."]
    details = {"counts": counts_in(facts)}
    trained.write_report(
        folder,
        facts,
        title="Reward model",
        lead=f"{facts['pairs']:,} pairs, {facts['steps']:,} steps of {config.batch_size}.",
        report=ReportContent.of("reward", {"held_out": figures}, baseline=inputs.model.digest, details=details),
        settings={name: getattr(config, name) for name in ("centering_coef", "head_init", "shuffle_labels")},
        content=content,
    )

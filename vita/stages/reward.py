"""Learn to say how good an answer is, from pairs of a better and a worse one: a reward model.

It begins as the tuned model without its output head; a new head reads one number at the last token of a dialogue. The
number itself means nothing, only which of two is larger (Bradley & Terry 1952). It stops as soon as it ranks held-out
pairs well: a longer run makes it surer and not righter, and what learns from it would exploit that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from vita.data.sources.read import Source
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.inspect import tokens
from vita.data.tokens.preference_pairs import PairDataset, PairSet, pair_sources, read_pairs
from vita.data.tokens.row_counts import counts_in
from vita.data.tokens.tokenizer import Tokenizer
from vita.design import scaling_rules
from vita.reporting.figures import ReportContent, write_report
from vita.reporting.training_report import MetricChart, mean_of_last, write_training_report
from vita.rl.preference_eval import PairValues, calibration, calibration_section, figures_section, of_scores
from vita.spine.config import neutral
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Model, Preferences, Reward
from vita.stages.training import TrainingRun, row_length
from vita.stats.intervals import Interval
from vita.train.settings import Count, Fraction, TuningSettings, Uncompiled

if TYPE_CHECKING:
    from vita.train.trainer import Trainer, TrainerConfig
    from vita.train.validation import LearningEvidence

VERSION = 7
PARALLEL = True
"""All processes carry it out together."""
AUTO_SHARE = 0.3
"""The learning rate `auto`, as a share of that of `dpo`."""
ENOUGH_PAIRS = 30
"""On fewer held-out pairs it is never decided that enough was learnt."""


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
    """Maximum tokens of a prompt with its answer; longer pairs are dropped. By default the model's context."""
    shuffle_labels: bool = neutral(False)
    """Swap the answers of random pairs: a control run, which must not learn anything."""


@dataclass(frozen=True)
class Inputs:
    model: Model
    preferences: Preferences | None = None
    """Pairs that were cleaned already."""


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Reward]:
    import torch

    from vita.infer.pretrained import Pretrained
    from vita.nn import hf, reward
    from vita.nn.reward import RewardTransformer
    from vita.train.preference_batches import PairBatches, RewardModelLoss
    from vita.train.trainer_config import preference_training

    pretrained = Pretrained.load(inputs.model.path)
    shape = pretrained.model.architecture
    length = row_length(config.max_length, shape, where="reward.max_length")
    tokenizer, template = pretrained.tokenizer, pretrained.require_template()
    found = _read(config, inputs, tokenizer, template, context, length=length)
    model = RewardTransformer.of(pretrained.model, start=config.head_init, seed=config.seed)
    training = preference_training(
        config,
        pairs=len(found.train),
        auto=scaling_rules.preference_rate(shape.parameters()) * AUTO_SHARE,
    )
    run = TrainingRun(
        "reward", config, context, source=pretrained.files, model=model, training=training, row_length=length
    )

    with run.trainer(RewardModelLoss(config.centering_coef)) as trainer:
        world = trainer.world
        rows, aside = (
            PairDataset(side, pad=tokenizer.pad, context=shape.context) for side in (found.train, found.heldout)
        )
        none = torch.zeros(max(len(rows), len(aside)), 2)
        batches = PairBatches(rows, none, size=config.batch_size, seed=config.seed, world=world)
        heldout = PairBatches(aside, none, size=world.size, seed=config.seed, world=world)
        trained = run.train(
            trainer,
            batches,
            evaluate=heldout.evaluate if len(aside) >= world.size else None,
            tokens_per_step=round(2 * config.batch_size * float(rows.lengths.mean())),
            enough=lambda row: _is_enough(config, row, pairs=len(found.heldout)),
        )
        trained.health()
        scores = _scores(trainer, aside)
    if not context.machine.leads:
        return Draft(Reward, context.scratch, {})

    learnt = trained.learnt
    assert isinstance(trained.model, RewardTransformer)
    figures = (
        of_scores(scores, [one.source for one in found.heldout], [one.prompt for one in found.heldout])
        if scores
        else {}
    )
    shared = trained.facts(_evidence(config, figures, found, seen=learnt.steps * config.batch_size))
    folder = context.draft_folder()
    reward.save(trained.model, folder, padding=tokenizer.pad, source=pretrained.files)
    hf.copy_tokenizer_files(pretrained.files, folder)
    template.save_where_missing(folder)
    hf.describe(shape, folder, steps=learnt.steps, tokens=int(rows.tokens.sum()))
    gap = calibration(scores)[1] if scores else None
    facts = _facts(learnt.curve, found, figures, gap, steps=learnt.steps) | shared
    if learnt.steps < training.schedule.steps:
        context.emit("note", text=f"it was enough after {learnt.steps} of {training.schedule.steps} steps")
    if figures:
        context.emit("note", text=f"held out: accuracy {figures['all']['accuracy']}, margin {figures['all']['margin']}")
    _write(config, inputs, learnt.curve, training, facts, figures, scores, folder)
    return Draft(Reward, folder, facts)


def _read(
    config: Config, inputs: Inputs, tokenizer: Tokenizer, template: ChatTemplate, context: Context, *, length: int
) -> PairSet:
    """All pairs in tokens, with what a person should know of them told."""
    found = read_pairs(
        pair_sources(config.sources, inputs.preferences and inputs.preferences.path, where="reward"),
        tokenizer,
        template,
        length=length,
        held_out=config.eval_fraction,
        seed=config.seed,
        shuffle_labels=config.shuffle_labels,
        tell=lambda n: context.emit("progress", done=n, total=None, unit="pairs") if n % 200 == 1 else None,
    )
    found.counts.truncates = False
    found.counts.report(context.emit, where="reward")
    for name, answer in zip(("better", "worse"), found.train[0].answers, strict=True):
        ids = tokens(answer.ids, tokenizer, learn=[False] * (len(answer.ids) - 1) + [True]).plain
        context.emit("note", text=f"the first {name} answer is scored at its last token: {ids}")
    return found


def _evidence(
    config: Config, figures: Mapping[str, Mapping[str, Interval]], found: PairSet, *, seen: int
) -> LearningEvidence:
    """Whether the held-out pairs are ranked better than by chance."""
    from vita.train.validation import LearningEvidence, accuracy_evidence

    if not figures:
        return LearningEvidence("not judged", "no pairs were held out")
    accuracy, prompts = figures["all"]["accuracy"], len({pair.prompt for pair in found.heldout})
    return accuracy_evidence(
        accuracy.value,
        accuracy.low,
        items=prompts,
        examples_seen=seen,
        available=len(found.train),
        control=config.shuffle_labels,
    )


def _is_enough(config: Config, row: Mapping[str, Any], *, pairs: int) -> bool:
    """Not before the first step, and not on a few pairs: what a new head ranks rightly of these is chance."""
    accuracy, margin = row.get("heldout_accuracy"), row.get("heldout_margin")
    if not row.get("step") or accuracy is None or margin is None or pairs < ENOUGH_PAIRS:
        return False
    return accuracy > config.early_stop_accuracy or margin >= config.early_stop_margin


def _scores(trainer: Trainer, rows: PairDataset) -> list[PairValues]:
    from vita.train.preference_batches import EVAL_BATCH_PAIRS, pair_scores, pair_tensors

    found: list[PairValues] = []
    for start in range(0, len(rows), EVAL_BATCH_PAIRS):
        tensors = pair_tensors(rows, range(start, min(start + EVAL_BATCH_PAIRS, len(rows))))
        found += [PairValues(*pair) for pair in trainer.map_rows(tensors, pair_scores).double().tolist()]
    return found


# -- what came


def _facts(
    curve: list[dict[str, Any]],
    found: PairSet,
    figures: Mapping[str, Mapping[str, Interval]],
    gap: float | None,
    *,
    steps: int,
) -> dict[str, Any]:
    own = {name: round(one.value, 6) for name, one in figures.get("all", {}).items()}
    begun = {f"{name}_before": curve[0].get(f"heldout_{name}") for name in ("accuracy", "margin")}
    told = {
        "steps": steps,
        **found.facts(),
        "loss": mean_of_last(curve, "loss"),
        **begun,
        **own,
        **{f"{name}/accuracy": round(one["accuracy"].value, 6) for name, one in figures.items() if name != "all"},
        "calibration_error": None if gap is None else round(gap, 6),
    }
    return {name: value for name, value in told.items() if value is not None}


def _write(
    config: Config,
    inputs: Inputs,
    curve: list[dict[str, Any]],
    training: TrainerConfig,
    facts: Mapping[str, Any],
    figures: Mapping[str, Mapping[str, Interval]],
    scores: list[PairValues],
    folder: Any,
) -> None:
    sections = []
    for name, own in figures.items():
        title = "Held-out pairs" if name == "all" else f"Held-out pairs of {name}"
        sections.append(figures_section(title, own, note="accuracy: the better answer has the higher score."))
    if scores:
        sections.append(calibration_section(*calibration(scores)))
    used = {
        "centering_coef": config.centering_coef,
        "head_init": config.head_init,
        "shuffle_labels": config.shuffle_labels,
    }
    place = folder / "report"
    write_training_report(
        curve,
        place,
        title="Learning what is preferred",
        lead=f"{facts['pairs']:,} pairs, {facts['steps']:,} steps of {config.batch_size}.",
        facts=facts,
        settings={**used, **training.schedule.model_dump(), **training.optimization.model_dump()},
        charts=CHARTS,
        sections=sections,
    )
    details = {"counts": counts_in(facts)}
    write_report(
        ReportContent.of("reward", {"held_out": figures}, baseline=inputs.model.digest, details=details), place
    )


CHARTS = (
    MetricChart("loss", {"training": "loss", "held out": "heldout_loss"}, "nats per pair", "The loss of each step."),
    MetricChart(
        "accuracy",
        {"training": "accuracy", "held out": "heldout_accuracy"},
        "share",
        "Pairs whose better answer has the higher score.",
    ),
    MetricChart(
        "margin",
        {"training": "margin", "held out": "heldout_margin"},
        "score",
        "How far apart the two answers of a pair are; much more than 3 is too sure.",
    ),
)

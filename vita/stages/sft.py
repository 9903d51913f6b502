"""Show the model dialogues until it answers: supervised fine-tuning.

It knew the world before; now it learns that a question wants an answer, and where an answer ends. Only what the
assistant says is learnt, with the token that ends its turn. The chat template in the model's folder writes every
dialogue, here as in testing and serving.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from vita.data.sources.dialogue_formats import detect
from vita.data.sources.fields import metadata_fields
from vita.data.sources.read import Source, first_row
from vita.data.tokens.chat_template import ChatTemplate, EncodedDialogue
from vita.data.tokens.inspect import tokens
from vita.data.tokens.loader import Loader
from vita.data.tokens.packing import PackedDataset, PackedRows
from vita.data.tokens.replay import pretraining, replayed_rows
from vita.data.tokens.row_counts import RecordCounts, counts_in
from vita.data.tokens.tokenizer import Tokenizer
from vita.data.tokens.tuning_examples import EncodingSettings as ExampleSettings
from vita.data.tokens.tuning_examples import read_dialogues
from vita.design import scaling_rules
from vita.reporting.figures import ReportContent, write_report
from vita.reporting.training_report import last_value, write_training_report
from vita.spine.errors import DataError
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Model, Tokens
from vita.stages.training import TrainingRun, row_length
from vita.train.settings import Count, Fraction, Rate, TuningSettings

if TYPE_CHECKING:
    from torch import Tensor

    from vita.train.trainer import StepBatch, Trainer, TrainerConfig

VERSION = 7
PARALLEL = True
"""All processes carry it out together."""

AUTO_SHARE = 0.2
"""The learning rate `auto`, as a share of those that pretraining uses."""
HELDOUT_ROWS = 64
"""Held-out rows that are read at each look."""


class Config(TuningSettings):
    """The dialogues and the settings of fine-tuning."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Sources of dialogues; the format of a file is detected from its first row."""
    epochs: Rate = 2.0
    batch_size: Count = 8  # pyright: ignore[reportIncompatibleVariableOverride]
    warmup_fraction: Fraction = 0.05  # pyright: ignore[reportIncompatibleVariableOverride]
    max_length: int | None = Field(None, ge=2)
    """Tokens of a row; by default the model's context."""
    on_long: Literal["truncate", "drop"] = "truncate"
    """Handling of a longer dialogue: truncate it at the end, or drop it."""
    packing: bool = True
    """Pack several dialogues into a row, separated by an attention mask; otherwise each dialogue has its own row."""
    replay: float = Field(0.0, ge=0, lt=1)
    """Share of the rows that are pretraining text, which limits forgetting."""


@dataclass(frozen=True)
class Inputs:
    model: Model
    tokens: Tokens | None = None
    """The pretraining's text, for `replay`."""


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Model]:
    from vita.infer.pretrained import Pretrained
    from vita.train.losses import language_modelling
    from vita.train.stops import save_stops
    from vita.train.validation import loss_evidence

    pretrained = Pretrained.load(inputs.model.path)
    shape = pretrained.model.architecture
    length = row_length(config.max_length, shape, where="sft.max_length")
    tokenizer, template = pretrained.tokenizer, pretrained.template or ChatTemplate.default()
    replayed = replayed_rows(config.replay, rows=config.batch_size, where="sft")
    text = pretraining(inputs.tokens and inputs.tokens.path, tokenizer, where="sft", needed=bool(replayed))
    shown = _shown(config, tokenizer, template, context, length=length)
    training = _training(config, len(shown.learnt.rows), replayed, width=shape.width, length=length)
    steps = training.schedule.steps
    run = TrainingRun(
        "sft",
        config,
        context,
        source=pretrained.files,
        model=pretrained.model,
        training=training,
        row_length=length,
    )

    with run.trainer(language_modelling, tokens_per_step=config.batch_size * length) as trainer:
        world = trainer.world
        replay = Loader(text, context=length - 1, rows=replayed, seed=config.seed) if replayed and text else None
        batches = _Batches(config, shown.learnt, replay, rank=world.rank, size=world.size)
        heldout = _HeldOut.of(shown.heldout, rank=world.rank, size=world.size)
        evaluate = heldout.look if heldout else None
        trained = run.train(trainer, batches, evaluate=evaluate, tokens_per_step=config.batch_size * length)
    if not context.machine.leads:
        return Draft(Model, context.scratch, {})

    trained.health()
    learnt, shared = trained.learnt, trained.facts(loss_evidence(trained.learnt))
    begun = {f"{name}_before": learnt.curve[0].get(name) for name in ("heldout_loss", "heldout_accuracy")}
    after = {name: last_value(learnt.curve, name) for name in ("heldout_loss", "heldout_accuracy")}
    found = {"steps": steps, **shown.facts(), **begun, **after, **shared}
    facts = {"chat": True, **{name: value for name, value in found.items() if value is not None}}
    if heldout:
        context.emit("note", text="held out: " + ", ".join(f"{name} {facts[name]:.3f}" for name in {**begun, **after}))
    folder = trained.save(tokens=batches.packing.targets)
    template.save_where_missing(folder)
    save_stops(tokenizer, template, folder)
    settings = {**training.schedule.model_dump(), **training.optimization.model_dump()}
    lead = f"{facts['dialogues']:,} dialogues, {facts['targets']:,} tokens to learn, {steps:,} steps."
    write_training_report(
        learnt.curve, folder / "report", title="Fine-tuning on dialogues", lead=lead, facts=facts, settings=settings
    )
    report = ReportContent.of("sft", baseline=inputs.model.digest, details={"counts": counts_in(facts)})
    write_report(report, folder / "report")
    return Draft(Model, folder, facts)


# -- dialogues


@dataclass(frozen=True)
class Shown:
    """The dialogues, packed."""

    learnt: PackedDataset
    heldout: PackedDataset | None
    counts: RecordCounts

    def facts(self) -> dict[str, float]:
        """What became of the dialogues; a dialogue that its source repeats counts as often in `dialogues`."""
        rows = self.learnt
        return {
            "dialogues": rows.dialogues,
            "rows": len(rows.rows),
            "filled": round(rows.filled, 4),
            "targets": rows.targets,
            "dropped_too_long": 0,
            **self.counts.facts(),
        }


def _shown(config: Config, tokenizer: Tokenizer, template: ChatTemplate, context: Context, *, length: int) -> Shown:
    """All dialogues in tokens; emits what became of them."""
    learned: list[EncodedDialogue] = []
    heldout: list[EncodedDialogue] = []
    counts = RecordCounts("dialogues", length)
    for source in config.sources:
        context.emit("note", text=f"{source.label()}: dialogues in the format `{_format(source)}`")
    settings = ExampleSettings(length, config.on_long, config.eval_fraction, config.seed)
    for number, dialogue in enumerate(read_dialogues(config.sources, tokenizer, template, settings)):
        if number % 500 == 0:
            context.emit("progress", done=number, total=None, unit="dialogues")
        counts.metadata |= dict.fromkeys(metadata_fields(dialogue.metadata, ()))
        if dialogue.drop:
            counts.drop_record(dialogue.drop)
            continue
        counts.keep(held_out=dialogue.held_out, truncated=dialogue.truncated)
        counts.note_template(dialogue.sequences)
        if dialogue.held_out:
            heldout += dialogue.sequences
        else:
            learned += dialogue.sequences * dialogue.repeats
    counts.report(context.emit, where="sft")
    if not learned:
        hint = "set `repeat` to 1 or more"
        raise DataError("sft", "the sources' `repeat` leaves no dialogue to learn from", hint=hint)
    shown = Shown(
        _pack(learned, config, tokenizer, length=length),
        _pack(heldout, config, tokenizer, length=length) if heldout else None,
        counts,
    )
    first = learned[0]
    context.emit("note", text=f"the first reads: {tokens(first.ids, tokenizer, learn=first.learn).plain}")
    context.emit("note", text=_summary(shown))
    return shown


def _summary(shown: Shown) -> str:
    rows = shown.learnt
    share = rows.targets / rows.tokens
    return (
        f"{rows.dialogues:,} dialogues in {len(rows.rows):,} rows, {rows.filled:.0%} filled; "
        f"{share:.0%} of the tokens are learned"
    )


def _pack(encoded: list[EncodedDialogue], config: Config, tokenizer: Tokenizer, *, length: int) -> PackedDataset:
    packing = PackedDataset(encoded, context=length, pad=tokenizer.pad, too_long=config.on_long)
    if not config.packing:
        packing.rows = [[number] for number in range(packing.dialogues)]
    return packing


def _format(source: Source) -> str:
    if source.path is None:
        return "world" if source.world else "huggingface"
    row = first_row(source)
    found = detect(row.values or {}) if row else None
    return found.name if found else "unknown"


# -- training


def _training(config: Config, rows: int, replayed: int, *, width: int, length: int) -> TrainerConfig:
    """The trainer's configuration; an epoch is a pass over `rows` dialogue rows, `replayed` rows of a step are text."""
    from vita.train.optim import OptimizerConfig
    from vita.train.trainer_config import scale_rates, schedule_of, steps_of, trainer_config

    own = config.batch_size - replayed
    steps = steps_of(steps=config.steps, epochs=config.epochs, examples=rows, batch_size=own)
    batch = config.batch_size * length
    other = scaling_rules.other_rate(width, batch)
    matrices = scaling_rules.matrix_rate(batch)
    rule = OptimizerConfig(matrix_rate=matrices, embedding_rate=other, head_rate=other, scalar_rate=other)
    optimization = scale_rates(rule, config.learning_rate, auto_share=AUTO_SHARE)
    return trainer_config(config, schedule=schedule_of(config, steps), optimization=optimization)


class _Batches:
    """Rows of dialogues, and of the pretraining's text where some is replayed."""

    def __init__(self, config: Config, packing: PackedDataset, replay: Loader | None, *, rank: int, size: int) -> None:
        self.packing, self.replay, self.seed = packing, replay, config.seed
        self.rows = config.batch_size - (replay.rows if replay else 0)
        self.place = {"rank": rank, "world_size": size}

    def __call__(self, step: int) -> StepBatch:
        import torch

        from vita.train.trainer import StepBatch

        tensors = _tensors(self.packing.batch(step, rows=self.rows, seed=self.seed, **self.place))
        targets = self.packing.targets_in(step, rows=self.rows, seed=self.seed)
        if self.replay:
            text = _text_rows(self.replay.batch(step, **self.place).ids, apart=int(tensors["documents"].max()) + 1)
            tensors = {name: torch.cat((tensor, text[name])) for name, tensor in tensors.items()}
            targets += self.replay.rows * self.replay.context
        return StepBatch(tensors, targets=targets)


def _tensors(packed: PackedRows) -> dict[str, Tensor]:
    import torch

    return {name: torch.from_numpy(getattr(packed, name)) for name in ("ids", "learn", "documents", "positions")}


def _text_rows(ids: np.ndarray, *, apart: int) -> dict[str, Tensor]:
    """Rows of text in the form of packed ones: one document each, all of it learnt."""
    import torch

    rows = torch.from_numpy(ids)
    positions = torch.arange(rows.shape[1]).expand(rows.shape)
    return {
        "ids": rows,
        "learn": torch.ones_like(rows, dtype=torch.bool),
        "documents": torch.full_like(rows, apart),
        "positions": positions,
    }


@dataclass(frozen=True)
class _HeldOut:
    """Dialogues that are never learnt."""

    work: StepBatch

    @classmethod
    def of(cls, packing: PackedDataset | None, *, rank: int, size: int) -> _HeldOut | None:
        """Some rows, drawn from all; None where there are too few for each process to have one."""
        from vita.train.trainer import StepBatch

        count = min(HELDOUT_ROWS, len(packing.rows)) // size * size if packing else 0
        rows = packing.order(0, count, seed=0) if packing else []
        if not packing or not rows:
            return None
        targets = int(packing.take(rows).learn.sum())
        return cls(StepBatch(_tensors(packing.take(rows[rank::size])), targets=targets))

    def look(self, trainer: Trainer) -> dict[str, float]:
        """Loss of the answers' tokens, and the share of them that are the likeliest."""
        found = trainer.evaluate(iter([self.work]))
        return {f"heldout_{name}": round(value, 6) for name, value in found.items()}

"""Fine-tune a model on dialogues (supervised fine-tuning, SFT).

The loss covers the assistant's tokens only, with the token that ends a turn. The chat template in the model folder
formats the dialogues, here as in evaluation and serving.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, PositiveFloat

from vita.data.sources.dialogue_formats import detect
from vita.data.sources.fields import metadata_fields
from vita.data.sources.read import Source, first_row
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.dialogue_encoding import EncodedDialogue
from vita.data.tokens.inspect import tokens
from vita.data.tokens.loader import Loader
from vita.data.tokens.packing import PackedDataset, PackedRows
from vita.data.tokens.replay import pretraining, replayed_rows
from vita.data.tokens.row_counts import RecordCounts, counts_in
from vita.data.tokens.row_documents import RowDocument
from vita.data.tokens.tokenizer import Tokenizer
from vita.data.tokens.tuning_examples import EncodingSettings as ExampleSettings
from vita.data.tokens.tuning_examples import read_dialogues
from vita.design import scaling_rules
from vita.nn.requirements import generates_text
from vita.reporting.figures import ReportContent
from vita.rights.dialogue_rows import DialogueRows
from vita.rights.row_documents import StageRows
from vita.rights.text_rows import TextRows
from vita.spine.errors import DataError
from vita.spine.events import Emit, Events
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Model, Tokens
from vita.stages.training import TrainingRun, last_value, row_length
from vita.stages.tuning import open_for_tuning, with_adapter_rates
from vita.train.settings import Count, Fraction, TuningSettings

if TYPE_CHECKING:
    from torch import Tensor

    from vita.train.trainer import StepBatch, Trainer, TrainerConfig

VERSION = 8
PARALLEL = True
"""All processes run this stage together."""
NEEDS = {"model": (generates_text,)}

AUTO_SHARE = 0.2
"""The learning rate `auto`, as a share of those that pretraining uses."""
HELDOUT_ROWS = 64
"""Number of held-out rows per evaluation."""


class Config(TuningSettings):
    """The dialogues and the settings of fine-tuning."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Sources of dialogues; the format of a file is detected from its first row."""
    epochs: PositiveFloat = 2.0
    batch_size: Count = 8  # pyright: ignore[reportIncompatibleVariableOverride]
    warmup_fraction: Fraction = 0.05  # pyright: ignore[reportIncompatibleVariableOverride]
    max_length: int | None = Field(None, ge=2)
    """Maximum number of tokens per row. Default: the context of the model, at most 2,048."""
    on_long: Literal["truncate", "drop"] = "truncate"
    """Handling of dialogues that are too long: truncate (cut off the end) or drop."""
    packing: bool = True
    """Pack several dialogues into one row, separated by an attention mask. If false, each dialogue has its own row."""
    replay: float = Field(0.0, ge=0, lt=1)
    """Fraction of rows that contain pretraining text. Replay reduces forgetting."""


@dataclass(frozen=True)
class Inputs:
    model: Model
    tokens: Tokens | None = None
    """The pretraining text, for `replay`."""


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Model]:
    from vita.train.losses import language_modelling
    from vita.train.stops import save_stops
    from vita.train.validation import loss_evidence

    pretrained = open_for_tuning(inputs.model.path, config, context, where="sft", only_trained=True)
    shape = pretrained.model.architecture
    length = row_length(config.max_length, shape, where="sft.max_length")
    tokenizer, template = pretrained.tokenizer, pretrained.template or ChatTemplate.default()
    replay = _replay(config, inputs, tokenizer, length=length)
    dialogues = _encode_dialogues(config, tokenizer, template, context.emit, length=length)
    replayed = replay.rows if replay else 0
    training = _training(config, len(dialogues.train.rows), replayed, width=shape.width, length=length)
    training = with_adapter_rates(training, pretrained.model, config.learning_rate)
    steps = training.schedule.steps
    run = TrainingRun(
        "sft",
        config,
        context,
        source=pretrained.files,
        model=pretrained.model,
        training=training,
        initial=inputs.model.digest,
        row_length=length,
    )

    with run.trainer(language_modelling, tokens_per_step=config.batch_size * length) as trainer:
        world = trainer.world
        batches = _Batches(config, dialogues.train, replay, rank=world.rank, size=world.size)
        heldout = _HeldOut.of(dialogues.heldout, rank=world.rank, size=world.size)
        evaluate = heldout.evaluate if heldout else None
        tokens = config.batch_size * length
        trained = run.train(trainer, batches, evaluate=evaluate, tokens_per_step=tokens, prefetch=True)
    if not context.machine.leads:
        return Draft(Model, context.scratch, {})

    trained.health()
    result, shared_facts = trained.result, trained.facts(loss_evidence(trained.result))
    before = {f"{name}_before": result.curve[0].get(name) for name in ("heldout_loss", "heldout_accuracy")}
    after = {name: last_value(result.curve, name) for name in ("heldout_loss", "heldout_accuracy")}
    values = {"steps": steps, **dialogues.facts(), **template.facts(), **before, **after, **shared_facts}
    facts = {"chat": True, **{name: value for name, value in values.items() if value is not None}}
    if heldout:
        context.emit("note", text="held out: " + ", ".join(f"{name} {facts[name]:.3f}" for name in {**before, **after}))
    folder = trained.save(tokens=batches.packing.targets)
    template.save_where_missing(folder)
    save_stops(tokenizer, template, folder)
    lead = f"{facts['dialogues']:,} dialogues, {facts['targets']:,} target tokens, {steps:,} steps."
    report = ReportContent.of("sft", baseline=inputs.model.digest, details={"counts": counts_in(facts)})
    trained.write_report(folder, facts, title="Supervised fine-tuning", lead=lead, report=report)
    return Draft(Model, folder, facts)


# -- dialogues


def training_rows(config: Config, inputs: Inputs, folder: Path) -> StageRows:
    """Return the dialogues and the replayed text of each step, read and ordered as in training."""
    from vita.infer.pretrained import PretrainedText

    text = PretrainedText.load(inputs.model.path)
    length = row_length(config.max_length, text.architecture, where="sft.max_length")
    template = text.template or ChatTemplate.default()
    replay = _replay(config, inputs, text.tokenizer, length=length)
    dialogues = _encode_dialogues(config, text.tokenizer, template, Events().emit, length=length)
    rows = config.batch_size - (replay.rows if replay else 0)
    parts = (DialogueRows(dialogues.train, dialogues.records, rows, config.seed),)
    if replay:
        parts = (*parts, TextRows(replay.shards, replay))
    return StageRows(parts, {"dialogues": dialogues.train.dialogues})


def _replay(config: Config, inputs: Inputs, tokenizer: Tokenizer, *, length: int) -> Loader | None:
    """Return the loader of the replayed pretraining text, or None without replay."""
    rows = replayed_rows(config.replay, rows=config.batch_size, where="sft")
    text = pretraining(inputs.tokens and inputs.tokens.path, tokenizer, where="sft", needed=bool(rows))
    return Loader(text, context=length - 1, rows=rows, seed=config.seed) if rows and text else None


@dataclass(frozen=True)
class PackedDialogues:
    """The packed dialogues for training and evaluation."""

    train: PackedDataset
    records: list[RowDocument]
    """The record of each sequence of `train`, in the order of its input."""
    heldout: PackedDataset | None
    counts: RecordCounts

    def facts(self) -> dict[str, float]:
        """Return the counts of the dialogues; a repeated dialogue counts repeatedly in `dialogues`."""
        rows = self.train
        return {
            "dialogues": rows.dialogues,
            "rows": len(rows.rows),
            "filled": round(rows.filled, 4),
            "targets": rows.targets,
            "dropped_too_long": 0,
            **self.counts.facts(),
        }


def _encode_dialogues(
    config: Config, tokenizer: Tokenizer, template: ChatTemplate, emit: Emit, *, length: int
) -> PackedDialogues:
    """Encode and pack all dialogues, and emit their counts."""
    train: list[EncodedDialogue] = []
    records: list[RowDocument] = []
    heldout: list[EncodedDialogue] = []
    counts = RecordCounts("dialogues", length)
    for source in config.sources:
        emit("note", text=f"{source.label()}: dialogues in the format `{_format(source)}`")
    settings = ExampleSettings(length, config.on_long, config.eval_fraction, config.seed)
    for number, dialogue in enumerate(read_dialogues(config.sources, tokenizer, template, settings)):
        if number % 500 == 0:
            emit("progress", done=number, total=None, unit="dialogues")
        counts.metadata |= dict.fromkeys(metadata_fields(dialogue.metadata, ()))
        if dialogue.drop:
            counts.drop_record(dialogue.drop)
            continue
        counts.keep(held_out=dialogue.held_out, truncated=dialogue.truncated)
        counts.note_template(dialogue.sequences)
        if dialogue.held_out:
            heldout += dialogue.sequences
        else:
            sequences = dialogue.sequences * dialogue.repeats
            train += sequences
            records += [RowDocument(dialogue.id, dialogue.source, dialogue.rights, 0)] * len(sequences)
    counts.report(emit, where="sft")
    if not train:
        hint = "set `repeat` to 1 or more"
        raise DataError("sft", "the sources' `repeat` leaves no dialogue to learn from", hint=hint)
    dialogues = PackedDialogues(
        _pack(train, config, tokenizer, length=length),
        records,
        _pack(heldout, config, tokenizer, length=length) if heldout else None,
        counts,
    )
    first = train[0]
    emit("note", text=f"the first dialogue: {tokens(first.ids, tokenizer, learn=first.learn).plain}", level="detail")
    emit("note", text=_summary(dialogues))
    return dialogues


def _summary(dialogues: PackedDialogues) -> str:
    rows = dialogues.train
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
    dialogue_format = detect(row.values or {}) if row else None
    return dialogue_format.name if dialogue_format else "unknown"


# -- training


def _training(config: Config, rows: int, replayed: int, *, width: int, length: int) -> TrainerConfig:
    """Return the trainer's configuration; an epoch is `rows` dialogue rows, and `replayed` rows of a batch are text."""
    from vita.train.optim import OptimizerConfig
    from vita.train.trainer_config import scale_rates, schedule_of, steps_of, trainer_config

    dialogue_rows = config.batch_size - replayed
    steps = steps_of(steps=config.steps, epochs=config.epochs, examples=rows, batch_size=dialogue_rows)
    batch = config.batch_size * length
    other = scaling_rules.other_rate(width, batch)
    matrices = scaling_rules.matrix_rate(batch)
    rule = OptimizerConfig(matrix_rate=matrices, embedding_rate=other, head_rate=other, scalar_rate=other)
    optimization = scale_rates(rule, config.learning_rate, auto_share=AUTO_SHARE)
    return trainer_config(config, schedule=schedule_of(config, steps), optimization=optimization)


class _Batches:
    """Batches with rows of dialogues and replayed rows of pretraining text."""

    def __init__(self, config: Config, packing: PackedDataset, replay: Loader | None, *, rank: int, size: int) -> None:
        self.packing, self.replay, self.seed = packing, replay, config.seed
        self.rows = config.batch_size - (replay.rows if replay else 0)
        self.process = {"rank": rank, "world_size": size}

    def __call__(self, step: int) -> StepBatch:
        import torch

        from vita.train.trainer import StepBatch

        tensors = _tensors(self.packing.batch(step, rows=self.rows, seed=self.seed, **self.process))
        targets = self.packing.targets_in(step, rows=self.rows, seed=self.seed)
        if self.replay:
            text = _text_rows(self.replay.batch(step, **self.process).ids, document=int(tensors["documents"].max()) + 1)
            tensors = {name: torch.cat((tensor, text[name])) for name, tensor in tensors.items()}
            targets += self.replay.rows * self.replay.context
        return StepBatch(tensors, targets=targets)


def _tensors(packed: PackedRows) -> dict[str, Tensor]:
    import torch

    return {name: torch.from_numpy(getattr(packed, name)) for name in ("ids", "learn", "documents", "positions")}


def _text_rows(ids: np.ndarray, *, document: int) -> dict[str, Tensor]:
    """Convert rows of text to the form of packed rows: one document each, with a loss on all tokens."""
    import torch

    rows = torch.from_numpy(ids)
    positions = torch.arange(rows.shape[1]).expand(rows.shape)
    return {
        "ids": rows,
        "learn": torch.ones_like(rows, dtype=torch.bool),
        "documents": torch.full_like(rows, document),
        "positions": positions,
    }


@dataclass(frozen=True)
class _HeldOut:
    """Held-out dialogues."""

    batch: StepBatch

    @classmethod
    def of(cls, packing: PackedDataset | None, *, rank: int, size: int) -> _HeldOut | None:
        """Select some of the rows; None if there are fewer rows than processes."""
        from vita.train.trainer import StepBatch

        count = min(HELDOUT_ROWS, len(packing.rows)) // size * size if packing else 0
        rows = packing.order(0, count, seed=0) if packing else []
        if not packing or not rows:
            return None
        targets = int(packing.take(rows).learn.sum())
        return cls(StepBatch(_tensors(packing.take(rows[rank::size])), targets=targets))

    def evaluate(self, trainer: Trainer) -> dict[str, float]:
        """Return the loss on the answer tokens, and the accuracy of the most likely token."""
        metrics = trainer.evaluate(iter([self.batch]))
        return {f"heldout_{name}": round(value, 6) for name, value in metrics.items()}

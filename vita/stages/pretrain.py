"""Learn to guess the next token of the text, every token of it, and nothing else.

Nobody tells the model what a word means; that is what is left when it has become good at guessing. Asked a question
it goes on as its texts would, often with another question. Steps, batch and rates come from the blueprint; what is set
here overrides it. Killed at any moment, it goes on from its last checkpoint and ends in the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from vita.data.tokens.loader import Loader
from vita.data.tokens.shards import Shards
from vita.data.tokens.tokenizer import Tokenizer
from vita.nn.architecture import Architecture
from vita.reporting.training_report import last, mean_of_last, write_learning
from vita.spine.config import Settings, build, neutral
from vita.spine.errors import ConfigError
from vita.spine.model_files import ModelFiles
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Blueprint, Model, Tokens
from vita.train.choices import Masking, PrecisionChoice
from vita.train.schedule import Schedule

if TYPE_CHECKING:
    from vita.train.trainer import Training, Work

VERSION = 3
PARALLEL = True
"""All processes carry it out together."""


class Config(Settings):
    """What differs from the blueprint, and how the training is watched."""

    steps: int | None = Field(None, ge=1)
    """Optimizer steps, instead of the blueprint's; the warmup keeps its share of them."""
    rows: int | None = Field(None, ge=1)
    """Sequences that a step learns from, instead of the blueprint's; the rates stay as they are."""
    rate: float = Field(1.0, gt=0)
    """All learning rates of the blueprint times this."""
    schedule: str | None = None
    """The learning rate's course, instead of the blueprint's: warmup_stable_decay, cosine, linear or constant."""
    decay: float | None = Field(None, ge=0, le=1)
    """The last part of the steps, over which the rates fall (warmup_stable_decay), instead of the blueprint's."""
    optimizer: str = "muon"
    """The rule for the layers' matrices: muon, or adamw, which wants a `rate` of about 0.1."""
    weight_decay: float | None = Field(None, ge=0)
    """Pull of the layers' matrices towards zero, instead of the blueprint's."""
    clip: float = Field(1.0, gt=0)
    """Gradients longer than this are scaled down to it."""
    document_mask: Masking = "auto"
    """Whether a token sees only its own document, and not what else happens to stand in its row, from which a model
    learns worse; auto does so on a CPU, where it costs little; a GPU's fastest attention takes no mask."""
    seed: int = 0
    """Another seed serves the text in another order."""
    looks: int = Field(10, ge=1)
    """How many times the held-out loss is taken on the way."""
    heldout_tokens: int = Field(16384, ge=0)
    """How much held-out text is read each time; 0 looks at none."""
    micro_tokens: int = Field(16384, ge=1)
    """Tokens that go through the model at once; fewer need less memory and give the same result."""
    precision: PrecisionChoice = "auto"
    """What matrices are multiplied in: bfloat16, float32, or auto: bfloat16 where the device is fast at it."""
    compiled: Literal["auto", "yes", "no"] = "auto"
    """Whether the model is compiled; auto does so when the whole run is long enough to pay for it."""
    allow_no_improvement: bool = neutral(False)
    """Keep the model also when the run shows no improvement; the report then says so."""
    checkpoint_seconds: float = neutral(30.0, ge=0)
    """Time between checkpoints: how much work a crash costs."""

    @model_validator(mode="after")
    def _decay_is_read(self) -> Config:
        if self.decay is not None and self.schedule not in (None, "warmup_stable_decay"):
            raise ValueError(f"`decay` says when warmup_stable_decay falls, and the schedule is {self.schedule}")
        return self


@dataclass(frozen=True)
class Inputs:
    model: Model
    tokens: Tokens
    blueprint: Blueprint


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Model]:
    from vita.nn import hf
    from vita.train.loop import Look, train
    from vita.train.losses import language_modelling
    from vita.train.parallel import joined
    from vita.train.text import HeldOut, is_masked, text_tensors
    from vita.train.trainer import Trainer, Work
    from vita.train.validation import RunCheck, fingerprint, loss_evidence

    plan = json.loads((inputs.blueprint.path / "blueprint.json").read_text(encoding="utf-8"))["training"]
    training = training_of(config, plan)
    rows, length, steps = config.rows or plan["rows"], plan["context"], training.schedule.steps
    source = ModelFiles(inputs.model.path)
    model = hf.load(source)
    hf.check_finite(model, inputs.model.path)
    before = fingerprint(model)
    shards = Shards.open(inputs.tokens.path / "train")
    _check(model.architecture, shards, length=length)
    loader = Loader(shards, context=length, rows=rows, seed=config.seed)
    flops = model.architecture.flops_per_token(length)

    with joined(context.machine) as world:
        masked = is_masked(config.document_mask, world.device)
        separator = shards.document_token if masked else None
        trainer = Trainer(
            model,
            language_modelling,
            training,
            world=world,
            threads=context.machine.threads,
            flops=float(flops) * rows * length * steps,
        )

        def batch(step: int) -> Work:
            ids = loader.batch(step, rank=world.rank, world_size=world.size).ids
            return Work(text_tensors(ids, document=separator), targets=rows * length)

        heldout = HeldOut.read(
            Shards.open(inputs.tokens.path / "heldout"),
            Tokenizer.load(inputs.tokens.path / "tokenizer"),
            tokens=config.heldout_tokens,
            length=length,
            mask=masked,
            world=world,
        )
        looks = [Look(max(1, steps // config.looks), heldout.look, at_start=True)] if heldout else []
        learnt = train(
            trainer,
            batch,
            folder=context.scratch,
            emit=context.emit,
            looks=looks,
            tokens_per_step=rows * length,
            flops_per_token=flops,
            checkpoint_seconds=config.checkpoint_seconds,
        )
        trained = trainer.trained()
        hf.round_like(trained, source)
    context.record |= learnt.record
    if not context.machine.leads:
        return Draft(Model, context.scratch, {})

    check = RunCheck("pretrain", learnt, trained, before, context.scratch, config.allow_no_improvement)
    check.health()
    improvement = check.improvement(loss_evidence(learnt))
    folder = context.draft_folder()
    hf.save_successor(trained, folder, source=source, steps=steps, tokens=steps * rows * length)
    facts = {
        "steps": steps,
        "tokens": steps * rows * length,
        "epochs": round(steps / loader.steps_per_epoch, 3),
        "loss": mean_of_last(learnt.curve, "loss"),
        "heldout_loss": last(learnt.curve, "heldout_loss"),
        "heldout_bits_per_byte": last(learnt.curve, "heldout_bits_per_byte"),
        "left_out": learnt.left_out,
        **improvement,
    }
    facts = {name: value for name, value in facts.items() if value is not None}
    lead = f"{facts['tokens']:,} tokens in {steps:,} steps of {rows * length:,}."
    settings = _settings(training) | {"document_mask": masked}
    write_learning(learnt.curve, folder / "report", title="Pretraining", lead=lead, facts=facts, settings=settings)
    return Draft(Model, folder, facts)


def training_of(config: Config, plan: Mapping[str, Any]) -> Training:
    """The blueprint's training with the overrides."""
    from vita.train.optim import Optimization
    from vita.train.trainer import Training

    planned = build(Schedule, plan["schedule"], where="blueprint.training.schedule")
    steps = config.steps or planned.steps
    fall = planned.decay if config.decay is None else config.decay
    schedule = {"steps": steps, "warmup": round(planned.warmup * steps / planned.steps), "decay": fall}
    optimization = build(Optimization, plan["optimization"], where="blueprint.training.optimization")
    rates = {name: getattr(optimization, name) * config.rate for name in RATES}
    pull = optimization.weight_decay if config.weight_decay is None else config.weight_decay
    return Training(
        schedule=planned.model_copy(update=schedule | ({"name": config.schedule} if config.schedule else {})),
        optimization=optimization.model_copy(update={**rates, "matrices": config.optimizer, "weight_decay": pull}),
        clip=config.clip,
        micro_tokens=config.micro_tokens,
        precision=config.precision,
        compiled=config.compiled,
    )


RATES = ("matrix_rate", "embedding_rate", "head_rate", "scalar_rate")


def _check(shape: Architecture, shards: Shards, *, length: int) -> None:
    if shape.vocabulary != shards.vocabulary:
        hint = "initialize the model for these tokens, or tokenize with the model's own tokenizer"
        raise ConfigError(
            "pretrain",
            f"the model has a vocabulary of {shape.vocabulary}, the text one of {shards.vocabulary}",
            hint=hint,
        )
    if length > shape.context:
        raise ConfigError("pretrain", f"the blueprint's rows of {length} tokens exceed the model's {shape.context}")


def _settings(training: Training) -> dict[str, Any]:
    flat = training.model_dump(exclude={"schedule", "optimization"})
    return {**training.schedule.model_dump(), **training.optimization.model_dump(), **flat}

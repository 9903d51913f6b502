"""Train a language model from scratch on the tokens of the corpus.

The loss is the cross-entropy of every next token, or of masked tokens (`objective: masked`). Steps, batch size and
learning rates come from the blueprint; the settings override it. A run that was killed continues from its last
checkpoint to the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, PositiveFloat, model_validator

from vita.data.tokens.masking import TokenMasker
from vita.data.tokens.mixture import Mixture
from vita.data.tokens.mixture_loader import MixtureLoader, make_loader
from vita.data.tokens.shards import Shards
from vita.data.tokens.tokenizer import Tokenizer
from vita.nn.architecture import Architecture
from vita.nn.requirements import other_objective, predicts_tokens
from vita.spine.config import build, neutral
from vita.spine.errors import ConfigError
from vita.spine.model_files import ModelFiles
from vita.spine.plan import Context, Draft
from vita.spine.store import Traits
from vita.stages.kinds import Blueprint, Model, Tokens
from vita.stages.training import TrainingRun, last_value, mean_of_last
from vita.train.masked_settings import MaskingSettings, check_objective
from vita.train.schedule import Schedule
from vita.train.settings import BatchedTrainingSettings, Count, MatrixOptimizerSettings, TextSettings

if TYPE_CHECKING:
    from vita.train.trainer import Trainer, TrainerConfig

VERSION = 3
PARALLEL = True
"""All processes run this stage together."""


class Config(BatchedTrainingSettings, TextSettings, MatrixOptimizerSettings, MaskingSettings):
    """Settings that override the blueprint, and the evaluations during training."""

    schedule: str = "auto"
    num_evals: Count | None = 10
    weight_decay: float | None = Field(None, ge=0)
    """Weight decay of the layers' matrices, relative to the learning rate; by default the blueprint's."""
    mixture: Mixture = neutral(())
    """Shares of the sources: `unimax`, `{temperature: 2}`, `{weights: {wiki: 3, books: 1}}`, or a list of phases with
    `until`. By default every document is read once per epoch."""
    target_loss: PositiveFloat | None = neutral(None)
    """Held-out loss to reach. The run records step, tokens and training time of the first evaluation at or below it,
    and continues. The time does not include evaluations and checkpoints."""

    @model_validator(mode="after")
    def _target_is_evaluated(self) -> Self:
        if self.target_loss is not None and not self.eval_tokens:
            raise ValueError("`target_loss` needs evaluations, and `eval_tokens` is 0")
        return self


@dataclass(frozen=True)
class Inputs:
    model: Model
    tokens: Tokens
    blueprint: Blueprint


NEEDS = {"model": (predicts_tokens,)}


def unsupported(config: Config, traits: Mapping[str, Traits]) -> str | None:
    """Refuse an objective that is not that of the model."""
    return other_objective(config.objective, traits["model"]) if "model" in traits else None


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Model]:
    from vita.nn import hf
    from vita.train.loss_target import reached_target
    from vita.train.losses import language_modelling
    from vita.train.masked import MaskedBatches, masked_language_modelling, read_heldout
    from vita.train.routing import pretraining_values
    from vita.train.source_losses import SourceLosses
    from vita.train.text import HeldOutText, is_masked, text_tensors
    from vita.train.trainer import StepBatch
    from vita.train.validation import loss_evidence

    plan = json.loads((inputs.blueprint.path / "blueprint.json").read_text(encoding="utf-8"))["training"]
    training = training_of(config, plan)
    rows, length, steps = config.batch_size or plan["rows"], plan["context"], training.schedule.steps
    source = ModelFiles(inputs.model.path)
    if context.machine.world_size > 1:
        model = hf.load_structure(source)  # each process reads its part of the weights
    else:
        model = hf.load(source)
        hf.check_finite(model, inputs.model.path)
    shards = Shards.open(inputs.tokens.path / "train")
    _check(model.architecture, shards, length=length)
    training = training.model_copy(update=pretraining_values(training, model.architecture))
    loader = make_loader(shards, config.mixture, context=length, rows=rows, steps=steps, seed=config.seed)
    encoder = check_objective(config, model.architecture, where="pretrain")
    run = TrainingRun(
        "pretrain",
        config,
        context,
        source=source,
        model=model,
        training=training,
        row_length=length,
        logits=config.mean_mask_rate if encoder else 1.0,
    )
    loss = masked_language_modelling if encoder else language_modelling

    with run.trainer(loss, tokens_per_step=rows * length) as trainer:
        world = trainer.world
        masked = is_masked(config.document_mask, world.device, encoder=encoder)
        separator = shards.document_token if masked else None
        tokenizer = Tokenizer.load(inputs.tokens.path / "tokenizer")

        def next_tokens(step: int) -> StepBatch:
            ids = loader.batch(step, rank=world.rank, world_size=world.size).ids
            return StepBatch(text_tensors(ids, document=separator), targets=rows * length)

        batch: Callable[[int], StepBatch] = next_tokens
        if encoder:
            masker = TokenMasker(tokenizer, config.masking)
            batch = MaskedBatches((loader,), masker, config, steps, config.seed, separator, world)
        heldout = read_heldout(
            config,
            Shards.open(inputs.tokens.path / "heldout"),
            tokenizer,
            encoder=encoder,
            length=length,
            masked=masked,
            world=world,
        )
        by_source = None
        if isinstance(heldout, HeldOutText) and config.statistics:
            by_source = SourceLosses.read(
                heldout, Shards.open(inputs.tokens.path / "heldout"), length=length, world=world
            )

        def evaluate_text(trainer: Trainer) -> dict[str, float]:
            assert heldout is not None
            figures = heldout.evaluate(trainer)
            return figures | by_source.evaluate(trainer) if by_source else figures

        evaluate = evaluate_text if heldout else None
        trained = run.train(
            trainer,
            batch,
            evaluate=evaluate,
            tokens_per_step=rows * length,
            prefetch=True,
            target_loss=config.target_loss,
        )
    if not context.machine.leads:
        return Draft(Model, context.scratch, {})

    trained.health()
    shared_facts, curve = (
        trained.facts(loss_evidence(trained.result, control=config.shuffle_targets)),
        trained.result.curve,
    )
    steps = trained.result.steps  # fewer than planned if a rule stopped the run
    folder = trained.save(tokens=steps * rows * length)
    facts = {
        "steps": steps,
        "tokens": steps * rows * length,
        "epochs": round(steps / loader.steps_per_epoch, 3),
        "loss": mean_of_last(curve, "loss"),
        "heldout_loss": last_value(curve, "heldout_loss"),
        "heldout_bits_per_byte": last_value(curve, "heldout_bits_per_byte"),
        "heldout_accuracy": last_value(curve, "heldout_accuracy") if encoder else None,
        **shared_facts,
    }
    if config.target_loss is not None:
        reached = reached_target(curve, target=config.target_loss)
        facts["target_step"] = reached["step"] if reached else None
        facts["target_tokens"] = reached["step"] * rows * length if reached else None
        _announce(context, config.target_loss, reached)
    sources = loader.realized(steps) if isinstance(loader, MixtureLoader) else []
    facts = {name: value for name, value in facts.items() if value is not None}
    lead = f"{facts['tokens']:,} tokens in {steps:,} steps of {rows * length:,}."
    settings = {**training.model_dump(exclude={"schedule", "optimization"}), "document_mask": masked}
    trained.write_report(folder, facts, title="Pretraining", lead=lead, settings=settings, content={"Mixture": sources})
    if sources:
        facts["mixture"] = {row["source"]: {"tokens": row["tokens"], "epochs": row["epochs"]} for row in sources}
    return Draft(Model, folder, facts)


def _announce(context: Context, target: float, reached: Mapping[str, Any] | None) -> None:
    """Report whether and when the target was reached."""
    if reached is None:
        text = f"the held-out loss did not reach the target of {target:g}"
        context.emit("note", text=text, level="warning")
        return
    record = context.record.get("target") or reached
    duration = f" after {record['seconds'] / 60:.1f} minutes of training steps" if "seconds" in record else ""
    context.emit("note", text=f"the held-out loss reached {target:g} at step {reached['step']:,}{duration}")


def training_of(config: Config, plan: Mapping[str, Any]) -> TrainerConfig:
    """Return the training of the blueprint with the settings that override it."""
    from vita.train.optim import OptimizerConfig
    from vita.train.trainer_config import scale_rates, trainer_config

    planned = build(Schedule, plan["schedule"], where="blueprint.training.schedule")
    steps = config.steps or planned.steps
    warmup = planned.warmup * steps / planned.steps
    if config.warmup_fraction is not None:
        warmup = config.warmup_fraction * steps
    schedule = planned.model_copy(
        update={
            "steps": steps,
            "name": planned.name if config.schedule == "auto" else config.schedule,
            "warmup": round(warmup),
            "decay": planned.decay if config.decay_fraction is None else config.decay_fraction,
        }
    )
    optimization = build(OptimizerConfig, plan["optimization"], where="blueprint.training.optimization")
    decay = optimization.weight_decay if config.weight_decay is None else config.weight_decay
    optimization = optimization.model_copy(update={"matrices": config.optimizer, "weight_decay": decay})
    return trainer_config(config, schedule=schedule, optimization=scale_rates(optimization, config.learning_rate))


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

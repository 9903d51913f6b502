"""Plan a model for a given size or time budget: architecture, batch size, steps, learning rates, cost and loss.

The size is a number of parameters or a depth. `blueprint.json` contains only what follows from the settings. A time
budget is converted to a number of steps once, with training steps timed on this machine, so that a restart on another
machine changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from vita.design import scaling_rules
from vita.design.attention_choice import AttentionSettings, with_attention
from vita.design.expectations import Expectation, expected_quality
from vita.design.forecast import MASK_RATE, best_shape, prediction, warnings
from vita.design.mixture import MixtureSettings, with_experts
from vita.design.plan_vs_actual import plan_vs_actual
from vita.design.scaling_law import LAWS, Law, read_law
from vita.design.scaling_rules import TrainingPlan, training_plan
from vita.nn.architecture import Architecture
from vita.nn.requirements import model_traits
from vita.reporting.page import page_text
from vita.spine.config import InputPath, neutral
from vita.spine.stage import Context, Draft
from vita.spine.store import Traits
from vita.stages.kinds import Blueprint, Tokens

if TYPE_CHECKING:
    from rich.table import Table as ScreenTable

    from vita.design.throughput import TrainingSpeed

VERSION = 7

_COUNT = re.compile(r"^\s*([0-9.]+)\s*([kmb]?)\s*$", re.IGNORECASE)
_SPAN = re.compile(r"^\s*([0-9.]+)\s*(s|sec|seconds?|m|min|minutes?|h|hours?|d|days?)?\s*$", re.IGNORECASE)


class Config(AttentionSettings, MixtureSettings):
    """Exactly one of `parameters`, `depth` and `budget`; `steps` may be set with `depth` or `parameters`."""

    parameters: int | None = Field(None, ge=1000)
    """Number of parameters, such as 10M; the number of training tokens follows from it."""
    depth: int | None = Field(None, ge=1, le=200)
    """Number of layers; width and the other sizes follow from it."""
    budget: float | None = Field(None, gt=0)
    """Training time on this machine, such as "30 min"; model size and training tokens follow from it."""
    steps: int | None = Field(None, ge=1)
    """Training steps, instead of the compute-optimal number for this size."""
    width: int | None = Field(None, ge=32, multiple_of=32)
    """Hidden size, instead of the one that follows from `depth`."""
    vocabulary: int | None = Field(None, ge=259)
    """Size of the vocabulary, instead of one that suits the model size."""
    context: int | None = Field(None, ge=8)
    """Context length in tokens, instead of one that suits the model size."""
    tokens_per_step: int | None = Field(None, ge=1)
    """Tokens per training step, a multiple of `context`, instead of a number that suits the run."""
    tokens_available: int | None = Field(None, ge=1)
    """Available training tokens; a plan that would repeat them more than four times is shortened or gives a warning."""
    objective: Literal["next_token", "masked"] = neutral("next_token")
    """Prediction of the next token by a decoder, or of masked tokens by an encoder with the shapes of ModernBERT: local
    attention except in every third layer, a gate with GELU, no biases."""
    text: Literal["english", "world"] = "english"
    """Kind of text for the predicted loss: English, or the built-in world."""
    law: InputPath | None = neutral(None)
    """The `law.json` of `vita scaling`, which was fitted to the user's text, for the predicted loss instead of the law
    for the kind of `text`."""
    price_per_hour: float | None = neutral(None, ge=0)
    """Price of an hour of this machine, in any currency, for the predicted cost."""
    timed_steps: int = neutral(6, ge=0)
    """Training steps that are timed on this machine; 0 predicts no time. `budget` needs at least one."""

    @field_validator("parameters", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        return count(value) if isinstance(value, str) else value

    @field_validator("budget", mode="before")
    @classmethod
    def _span(cls, value: Any) -> Any:
        return seconds(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_dial(self) -> Self:
        set_names = [name for name in ("parameters", "depth", "budget") if getattr(self, name) is not None]
        if len(set_names) != 1:
            raise ValueError(f"set one of parameters, depth and budget, not {' and '.join(set_names) or 'none'}")
        if self.budget is not None and (self.steps is not None or self.width is not None):
            raise ValueError("a budget decides `steps` and `width` itself; leave them out, or give `depth`")
        if self.width is not None and self.depth is None:
            raise ValueError("`width` goes with `depth`")
        if self.budget is not None and self.timed_steps == 0:
            raise ValueError("a budget needs `timed_steps` of at least 1, to know this machine's speed")
        if self.tokens_per_step is not None and self.context is not None and self.tokens_per_step % self.context:
            raise ValueError(
                f"`tokens_per_step` ({self.tokens_per_step}) must be a multiple of `context` ({self.context})"
            )
        return self


@dataclass(frozen=True)
class Inputs:
    tokens: Tokens | None = None
    """The tokens of the corpus, which determine the vocabulary and the available tokens."""


_LEAD = (
    "The architecture, its training, and the predicted results. Time and cost depend on the machine and are in the "
    "record of the run."
)


def traits(config: Config, inputs: Mapping[str, Traits | None]) -> Traits:
    """Return the traits of the models that are initialized from the plan."""
    return model_traits(scaling_rules.shape_of_depth(1, vocabulary=259, context=8, encoder=_is_encoder(config)))


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Blueprint]:
    """Derive the plan, time some training steps, predict cost and loss, and write the blueprint."""
    text, law = _known_text(config, inputs), _law(config)
    shape, plan, speed = _design(config, text, context)
    predicted = prediction(
        shape,
        plan,
        text=config.text,
        available=text.tokens_available,
        token_bytes=text.bytes_per_token,
        law=law,
    )
    folder = context.draft_folder()
    blueprint = {"architecture": shape.as_json(), "training": plan.as_json(), "prediction": predicted}
    (folder / "blueprint.json").write_text(json.dumps(blueprint, indent=2) + "\n", encoding="utf-8")
    note = "The range of bits per byte contains 95 of 100 runs on text like that of the fit."
    if not shape.causal:
        note = "The loss of an encoder is not predicted: the scaling laws are those of predictions of the next token."
    quality = _quality(config, shape, plan)
    sections = {
        "Shape": blueprint["architecture"],
        "Training": blueprint["training"],
        "Prediction": [predicted, note],
        "Expected quality": [quality.sentence, f"Basis: {quality.basis}."] if quality else [],
        "Notes": [f"{warning}." for warning in warnings(predicted)],
    }
    page = page_text("page.md.jinja", title="Blueprint", lead=_LEAD, sections=sections)
    (folder / "report.md").write_text(page, encoding="utf-8")
    if speed:
        context.record |= cost(plan, speed, price_per_hour=config.price_per_hour)
    sentences = [quality.sentence] if quality else []
    for note in [_headline(shape, plan, context.record), *sentences, *warnings(predicted)]:
        context.emit("note", text=note)
    return Draft(Blueprint, folder, _facts(shape, plan, predicted))


def _facts_of_folder(tokens: Tokens) -> dict[str, Any]:
    """Return the facts of tokens that were imported into the store from a folder, which has no facts."""
    from vita.data.tokens.shards import Shards

    shards = Shards.open(tokens.path / "train")
    return {"vocabulary": shards.vocabulary, "train_tokens": shards.tokens}


@dataclass(frozen=True)
class KnownText:
    """Properties of the text that are known before training; None if unknown."""

    vocabulary: int | None
    tokens_available: int | None
    bytes_per_token: float | None = None


def _known_text(config: Config, inputs: Inputs) -> KnownText:
    if inputs.tokens is None:
        return KnownText(config.vocabulary, config.tokens_available)
    facts = inputs.tokens.facts or _facts_of_folder(inputs.tokens)
    # A small corpus may yield a smaller vocabulary than was set; the actual one counts.
    available = config.tokens_available or facts["train_tokens"]
    return KnownText(facts["vocabulary"], available, facts.get("bytes_per_token"))


def _design(
    config: Config, text: KnownText, context: Context
) -> tuple[Architecture, TrainingPlan, TrainingSpeed | None]:
    """Return the architecture, its training plan, and the speed of this machine if it was timed."""
    shape = _shape_within_budget(config, text, context) if config.budget is not None else _shape(config, text)
    shape = with_attention(with_experts(shape, config), config)
    tokens = scaling_rules.compute_optimal_tokens(shape)
    if config.budget is not None:
        logits = 1.0 if shape.causal else MASK_RATE
        tokens = round(config.budget * _usual_speed(context) / shape.flops_per_token(shape.context, logits=logits))
    elif text.tokens_available is not None:
        tokens = min(tokens, scaling_rules.USEFUL_EPOCHS * text.tokens_available)
    plan = training_plan(shape, tokens=tokens, tokens_per_step=config.tokens_per_step, steps=config.steps)
    if not config.timed_steps:
        return shape, plan, None
    speed = _timed(config, shape, plan, context)
    if config.budget is None:
        return shape, plan, speed
    plan = _plan_within_budget(config, shape, speed)
    if abs(plan.tokens_per_step / speed.tokens_per_step - 1) > SAME_BATCH:
        speed = _timed(config, shape, plan, context)
        plan = _plan_within_budget(config, shape, speed)
    return shape, plan, speed.with_tokens_per_step(plan.tokens_per_step)


SAME_BATCH = 0.25
"""Relative difference in tokens between the timed step and a step of the plan that needs another timing."""


def _timed(config: Config, shape: Architecture, plan: TrainingPlan, context: Context) -> TrainingSpeed:
    from vita.design.throughput import measure_speed

    seconds = min(LONGEST_TIMING, config.budget * TIMED_PART) if config.budget else 0.0
    machine = context.machine
    return measure_speed(
        shape, plan, steps=config.timed_steps, seconds=seconds, device=machine.device, threads=machine.threads
    )


def _plan_within_budget(config: Config, shape: Architecture, speed: TrainingSpeed) -> TrainingPlan:
    """Return the plan with as many steps as fit in the budget; compiled kernels are reused by training."""
    assert config.budget is not None
    seconds_left = config.budget * USED_FOR_STEPS - min(speed.startup_seconds, config.budget / 10)
    max_tokens = max(shape.context, int(seconds_left / speed.seconds_per_step * speed.tokens_per_step))
    return training_plan(shape, tokens=max_tokens, tokens_per_step=config.tokens_per_step)


def _shape(config: Config, text: KnownText) -> Architecture:
    if config.parameters is not None:
        vocabulary = text.vocabulary or scaling_rules.vocabulary_of(config.parameters)
        context = config.context or 512
        shape = scaling_rules.shape_of_parameters(
            config.parameters, vocabulary=vocabulary, context=context, encoder=_is_encoder(config)
        )
        return shape if config.context else shape.model_copy(update={"context": scaling_rules.context_of(shape.width)})
    assert config.depth is not None
    wide = config.width or scaling_rules.WIDTH_PER_LAYER * config.depth
    matrices = 12 * config.depth * wide**2
    vocabulary = text.vocabulary or scaling_rules.vocabulary_of(matrices + 2 * 4096 * wide)
    length = config.context or scaling_rules.context_of(wide)
    return scaling_rules.shape_of_depth(
        config.depth, vocabulary=vocabulary, context=length, width=config.width, encoder=_is_encoder(config)
    )


def _is_encoder(config: Config) -> bool:
    return config.objective == "masked"


def _shape_within_budget(config: Config, text: KnownText, context: Context) -> Architecture:
    """Return the architecture with the lowest predicted loss in the time; the default vocabulary is 4,096."""
    assert config.budget is not None
    vocabulary = text.vocabulary or 4096
    flops = config.budget * _usual_speed(context)
    return best_shape(
        flops,
        vocabulary=vocabulary,
        context=config.context or 512,
        law=_law(config),
        available=text.tokens_available,
        encoder=_is_encoder(config),
    )


def _law(config: Config) -> Law:
    """Return the law of the settings: the fitted one, or that of the kind of text."""
    return LAWS[config.text] if config.law is None else read_law(Path(config.law))


def _usual_speed(context: Context) -> float:
    return usual_speed(context.machine.device)


def usual_speed(device: str) -> float:
    """Estimate the operations per second of training on this machine, to a factor of two."""
    from vita.train.hardware import choose_precision, measured_peak

    share = USUAL_UTILISATION.get(device.partition(":")[0], min(USUAL_UTILISATION.values()))
    return share * measured_peak(choose_precision(device).dtype, device=device)


USUAL_UTILISATION = {"cpu": 0.25, "cuda": 0.4}
"""Typical utilisation of the peak speed, before a step was timed."""
USED_FOR_STEPS = 0.97
"""Share of the time budget for training steps; the rest is for evaluation and checkpoints."""
TIMED_PART = 0.02
"""Maximum duration of the timing, as a share of the budget."""
LONGEST_TIMING = 20.0
"""Maximum duration of the timing in seconds."""


def estimate(config: Config, context: Context) -> tuple[Architecture, TrainingPlan]:
    """Return the architecture and the plan of the settings without timing; a time budget uses a usual speed."""
    untimed = config.model_copy(update={"timed_steps": 0})
    shape, plan, _ = _design(untimed, KnownText(config.vocabulary, config.tokens_available), context)
    return shape, plan


def _quality(config: Config, shape: Architecture, plan: TrainingPlan) -> Expectation | None:
    """Return the expected quality of a decoder; encoders do not answer."""
    if not shape.causal:
        return None
    return expected_quality(parameters=shape.matrix_parameters(), tokens=plan.tokens, text=config.text)


def cost(plan: TrainingPlan, speed: TrainingSpeed, *, price_per_hour: float | None = None) -> dict[str, Any]:
    """Return the time that this machine needs for the plan, and the cost if an hour has a price."""
    total_seconds = plan.steps * speed.seconds_per_step + speed.startup_seconds
    values: dict[str, Any] = {
        "training_seconds": round(total_seconds, 1),
        "tokens_per_second": round(plan.tokens_per_step / speed.seconds_per_step, 1),
        "utilisation": round(speed.utilisation, 3),
        "precision": speed.precision,
        "compiled": speed.compiled,
    }
    if price_per_hour is not None:
        values["cost"] = round(total_seconds / 3600 * price_per_hour, 4)
    return values


def count(text: str) -> int | str:
    """Parse 10M, 1.5B or 500k as a number; return other text unchanged, which the settings refuse."""
    match = _COUNT.match(text)
    return round(float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}[match[2].lower()]) if match else text


def seconds(text: str) -> float | str:
    """Parse "30 min", "2 h" or "90" as seconds; return other text unchanged, which the settings refuse."""
    match = _SPAN.match(text)
    if not match:
        return text
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[(match[2] or "s")[0].lower()]


def plan_table(
    folder: Path, designed: Mapping[str, Any], facts: Mapping[str, Any], record: Mapping[str, Any]
) -> ScreenTable:
    """Return a table of the predicted and the actual figures of a blueprint.

    `designed` is the record of the design, `facts` and `record` are those of the trained model.
    """
    from rich.table import Table as ScreenTable

    blueprint = json.loads((folder / "blueprint.json").read_text(encoding="utf-8"))
    table = ScreenTable("", "predicted", "actual", "error", title="plan and actual run", title_justify="left")
    for row in plan_vs_actual(blueprint, designed, facts=facts, record=record):
        table.add_row(row.figure, row.predicted, row.actual, row.error)
    return table


# -- report


def _facts(shape: Architecture, plan: TrainingPlan, predicted: Mapping[str, Any]) -> dict[str, Any]:
    facts = {
        "parameters": shape.parameters(),
        **({"active_parameters": shape.active_parameters()} if shape.experts else {}),
        "layers": shape.layers,
        "width": shape.width,
        "vocabulary": shape.vocabulary,
        "context": shape.context,
        "steps": plan.steps,
        "tokens_per_step": plan.tokens_per_step,
        "tokens": plan.tokens,
        "flops": predicted["flops"],
        "bits_per_byte": predicted.get("bits_per_byte"),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _headline(shape: Architecture, plan: TrainingPlan, record: Mapping[str, Any]) -> str:
    active = f" ({shape.active_parameters() / 1e6:.1f}M active)" if shape.experts else ""
    text = (
        f"{shape.parameters() / 1e6:.1f}M parameters{active}, {plan.tokens / 1e6:.1f}M tokens in {plan.steps:,} steps"
    )
    if "training_seconds" in record:
        text += f", about {record['training_seconds'] / 60:.0f} min here at {record['tokens_per_second']:,.0f} tokens/s"
    return text + (f", costing {record['cost']:.2f}" if "cost" in record else "")

"""Settings that all training stages share, in groups; each is documented here once.

class Config(TrainingSettings):
    schedule: str = "cosine"       # another default; the description is inherited

A stage inherits the groups, so that a user writes every setting directly under it: `sft: {learning_rate: 1e-3}`.
This module is imported without PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, field_validator, model_validator

from vita.spine.config import Settings, neutral
from vita.train.choices import Masking, PrecisionChoice
from vita.train.microbatches import MICRO_TOKENS
from vita.train.schedule import SCHEDULES

Auto = Literal["auto"]
Uncompiled = Literal["auto", "no"]
"""The choices of `compile` in a stage whose batches vary in shape."""
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class StepSettings(Settings):
    """The computation of one optimizer step."""

    max_grad_norm: PositiveFloat = 1.0
    """Largest gradient norm over all parameters together; a longer gradient is scaled down to it."""
    micro_batch_tokens: Count = MICRO_TOKENS
    """Tokens that pass through the model at once; fewer need less memory and give the same result."""
    precision: PrecisionChoice = "auto"
    """Number format of matrix products: bfloat16, float32, or auto (bfloat16 where the device computes fast in it)."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """Compile the model: yes, no, or auto (where the run is long enough to repay the time). Stages with batches of
    varying shape (reward, dpo, rlhf) do not compile and refuse `yes`."""


class OptimizerSettings(Settings):
    """The learning rate and its schedule."""

    learning_rate: PositiveFloat | Auto = "auto"
    """Peak learning rate, an absolute number. auto follows from the size of the model and the batch. Where Muon trains
    the layers' matrices (pretrain, adapt, sft), it is Muon's rate, and the rates of the other parameters keep their
    ratio to it."""
    schedule: str = "linear"
    """Schedule of the learning rate after warmup: linear, cosine, warmup_stable_decay or constant; in pretraining also
    auto, the blueprint's."""
    warmup_fraction: Fraction | None = None
    """Share of the steps at the start over which the learning rate rises to its peak; without it the blueprint's
    (pretrain) or 10 steps (rlhf)."""
    decay_fraction: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the steps at the end over which the schedule warmup_stable_decay falls; without it 0.6, or the
    blueprint's (pretrain)."""

    @field_validator("schedule")
    @classmethod
    def _known_schedule(cls, value: str) -> str:
        if value != cls.model_fields["schedule"].default:
            SCHEDULES[value]
        return value

    @model_validator(mode="after")
    def _decay_is_used(self) -> OptimizerSettings:
        if self.decay_fraction is not None and self.schedule not in ("auto", "warmup_stable_decay"):
            text = "only the schedule warmup_stable_decay has a decay at the end, and the schedule is"
            raise ValueError(f"`decay_fraction` is set: {text} {self.schedule}")
        return self


class MatrixOptimizerSettings(Settings):
    """The optimizer of the layers' matrices."""

    optimizer: str = "muon"
    """Optimizer of the layers' matrices: muon or adamw. With adamw, set `learning_rate` to about a tenth of Muon's
    (0.002 for pretraining); `auto` is tuned for Muon."""


class EvaluationSettings(Settings):
    """The evaluations on held-out data during training."""

    num_evals: Count | None = 4
    """Evaluations on held-out data during training, spread evenly; one more precedes the first step."""
    eval_every: Count | None = None
    """Steps between two evaluations, instead of `num_evals`; in rlhf rounds."""

    @model_validator(mode="before")
    @classmethod
    def _one_interval(cls, values: Any) -> Any:
        """Setting one of the two replaces the default of the other."""
        if not isinstance(values, Mapping):
            return values
        every, count = values.get("eval_every"), values.get("num_evals")
        if every is not None and count is not None:
            raise ValueError("`eval_every` and `num_evals` exclude each other; set one of them")
        other = {"num_evals": None} if every is not None else {"eval_every": None} if count is not None else {}
        return {**values, **other}

    def eval_interval(self, steps: int) -> int:
        """Steps between two evaluations of a run of `steps`."""
        return self.eval_every or max(1, steps // (self.num_evals or 1))


class TrainingSettings(OptimizerSettings, StepSettings, EvaluationSettings):
    """The settings of every training stage."""

    seed: int = 0
    """Another seed draws other random numbers: the order of the data, what is held out, new weights and samples."""
    allow_no_improvement: bool = neutral(False)
    """Keep the model also when the run shows no improvement; the report then says so."""
    checkpoint_seconds: float = neutral(30.0, ge=0)
    """Seconds between checkpoints, which bound the work that a crash costs."""


class BatchedTrainingSettings(TrainingSettings):
    """The settings of a stage that trains on a fixed set of examples."""

    batch_size: Count | None = None
    """Examples per optimizer step, over all processes: rows of text (pretrain, adapt, sft) or pairs (reward, dpo).
    Without it the blueprint's (pretrain), or a number that suits the text (adapt)."""
    steps: Count | None = None
    """Optimizer steps, instead of the blueprint's (pretrain) or of those that `epochs` takes."""


class TuningSettings(BatchedTrainingSettings):
    """The settings of a stage that continues from a trained model on data of its own."""

    epochs: PositiveFloat = 1.0
    """Passes over the training data."""
    eval_fraction: Fraction = 0.05
    """Share of the data that is held out for evaluation and never trained on: of the documents (adapt), of the
    dialogues (sft), or of the prompts with all their pairs (reward, dpo)."""


class TextSettings(Settings):
    """The settings of a stage that trains on documents."""

    document_mask: Masking = "auto"
    """Restrict the attention of a token to its own document, and exclude other documents of its row, with which a model
    learns worse. auto does so on a CPU, where it costs little; the fastest attention of a GPU takes no mask."""
    eval_tokens: Annotated[int, Field(ge=0)] = 16384
    """Held-out tokens per evaluation; 0 evaluates on none."""


class PreferenceLossConfig(Settings):
    """The coefficients of the preference losses; each loss documents which of them it reads."""

    beta: PositiveFloat = 0.1
    """Strength of the pull towards the reference model. 0.3 suits small models, 0.1 large ones; ipo_norm needs 1 or
    more, simpo 2 or more, sigmoid_norm 5."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Assumed share of pairs with swapped labels (cdpo, robust)."""
    simpo_gamma: Annotated[float, Field(ge=0)] = 0.5
    """Target margin of the chosen over the rejected answer (simpo)."""
    desirable_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of desirable answers (kto)."""
    undesirable_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of undesirable answers (kto)."""

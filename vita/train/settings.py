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

from vita.nn.adapters.settings import ADAPTER_TYPES, AdapterChoice, AdapterSettings
from vita.spine.config import InputPath, Settings, build, neutral, operational
from vita.spine.errors import ConfigError
from vita.train.choices import Determinism, Masking, PrecisionChoice
from vita.train.microbatches import MICRO_TOKENS
from vita.train.parallel.settings import ParallelSettings
from vita.train.schedule import SCHEDULES
from vita.train.stop_rules import StopRule

Auto = Literal["auto"]
Uncompiled = Literal["auto", "no"]
"""The choices of `compile` in a stage whose batches vary in shape."""
Rounded = Literal["auto", "bfloat16", "float32"]
"""The choices of `precision` in a stage that compares probabilities of tokens with those of the sampling engine."""
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class RouterSettings(Settings):
    """The balance of the experts of a mixture; a model without experts takes the defaults only."""

    router_balance_loss: Annotated[float, Field(ge=0)] | Auto = neutral("auto")
    """Coefficient of the loss that balances the experts of a mixture. `auto` is 0.01 in pretrain and 0.001 in other
    stages, and 0 for routers with a correction (`router_bias_rate`) and for adapters."""
    router_z_loss: Annotated[float, Field(ge=0)] = neutral(0.0)
    """Coefficient of the squared log-sum of the router's scores, which keeps them small; 0.001 is usual."""
    router_bias_rate: Annotated[float, Field(ge=0)] | Auto = neutral("auto")
    """Change of the correction of the choice of experts per step, for routers of the kind `sigmoid`: up for experts
    with fewer tokens than the mean. `auto` is 0.001 in pretrain, and 0 in other stages."""


class StepSettings(RouterSettings):
    """The computation of one optimizer step."""

    max_grad_norm: PositiveFloat = 1.0
    """Maximum gradient norm over all parameters; larger gradients are clipped to it."""
    micro_batch_tokens: Count | Auto = MICRO_TOKENS
    """Number of tokens per micro-batch. A smaller number needs less memory and does not change the result. `auto`
    measures on a GPU how many fit in its memory, with one process; elsewhere it is the default."""
    recompute_activations: bool = neutral(False)
    """Compute the activations of each layer again in the backward pass. This needs much less memory and about a third
    more time, and does not change the result."""
    precision: PrecisionChoice = "auto"
    """Data type of matrix products: bfloat16, float32, or auto (bfloat16 if the device supports it natively). `float8`
    computes the products of the layers in float8 and everything else as `bfloat16` does: it is faster for wide models
    on a GPU with float8 units (Ada, Hopper and newer), and less exact."""
    determinism: Determinism = neutral("exact")
    """`exact` gives the same result in every run on the same machine. `fast` permits kernels of a GPU that add in any
    order: faster, but two runs, or an interrupted and an uninterrupted one, differ in the last bits."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """Compile the model: yes, no, or auto (only if the run is long enough to benefit). reward, dpo and rlhf do not
    support `yes`, because the shapes of their batches vary."""
    parallel: ParallelSettings = operational(ParallelSettings())
    """Layout of several processes, such as `{tensor: 2}`: numbers of processes along the axes `replicate`, `shard`,
    `tensor`, `context` and `expert`. By default, all processes shard the model (FSDP). The layout is not part of the
    identity of a run, so that a run can continue with another one."""

    @property
    def planned_micro_tokens(self) -> int:
        """Tokens per micro-batch before a measurement: the setting, or the default with `auto`."""
        return MICRO_TOKENS if self.micro_batch_tokens == "auto" else self.micro_batch_tokens


class OptimizerSettings(Settings):
    """The learning rate and its schedule."""

    learning_rate: PositiveFloat | Auto = "auto"
    """Peak learning rate. `auto` computes it from the model size and the batch size. In pretrain, adapt and sft, this
    is the rate of Muon for the layers' weight matrices; the rates of all other parameters scale with it."""
    schedule: str = "linear"
    """Learning rate schedule after warmup: linear, cosine, warmup_stable_decay or constant. pretrain also accepts
    auto, which uses the schedule of the blueprint."""
    warmup_fraction: Fraction | None = None
    """Fraction of the steps used for warmup. If it is not set, pretrain uses the value of the blueprint, and rlhf
    uses 10 steps."""
    decay_fraction: Annotated[float, Field(ge=0, le=1)] | None = None
    """Fraction of the steps used for the decay of warmup_stable_decay. Default: 0.6; in pretrain, the value of the
    blueprint."""

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
    """Number of evenly spaced evaluations on held-out data during training, plus one before the first step."""
    eval_every: Count | None = None
    """Number of steps between evaluations (in rlhf: rounds). It replaces `num_evals`."""

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


class MonitoringSettings(Settings):
    """The observation and the control of a run."""

    statistics: bool = neutral(True)
    """Record the norms of gradients and weights by part of the model, and the activations of some layers, with each
    evaluation."""
    sample_prompts: tuple[str, ...] = neutral(())
    """Prompts that the model continues at each evaluation, for readers; not in reward, classify and contrastive, nor
    with several processes."""
    sample_tokens: Count = neutral(48)
    """Maximum number of tokens of each continuation."""
    stop_when: tuple[StopRule, ...] = neutral(())
    """Rules that end the run early, such as `[{metric: heldout_loss, patience: 3}, {metric: loss, above: 20}]`."""
    start_from: InputPath | None = neutral(None)
    """Folder of a checkpoint (`vita runs checkpoint`) with whose weights, optimizer and step the run starts: a fork of
    the run that wrote it, which may have other settings."""


class TrainingSettings(OptimizerSettings, StepSettings, EvaluationSettings, MonitoringSettings):
    """The settings of every training stage."""

    seed: int = 0
    """Random seed for the order of the data, the held-out split, new weights and sampling."""
    allow_no_improvement: bool = neutral(False)
    """Keep the model even if the run shows no improvement. The report states this."""
    checkpoint_seconds: float = neutral(30.0, ge=0)
    """Seconds between checkpoints. After a crash, at most this much work is lost."""


class AdapterTrainingSettings(Settings):
    """The choice between training all weights and training an adapter."""

    adapter: AdapterChoice = neutral("auto")
    """Train a low-rank adapter instead of all weights: none, lora, rslora, dora, qlora, or settings such as
    `{type: lora, rank: 16, target_modules: [q_proj, v_proj]}`. auto continues the adapter of the initial model. Without
    one it trains all weights of a model with fewer than 1 billion parameters, and a LoRA adapter of a larger one."""

    @field_validator("adapter", mode="before")
    @classmethod
    def _expand_adapter(cls, value: Any) -> Any:
        """`lora` is a short form for `{type: lora}`."""
        if value in ("auto", "none") or value is None:
            return value or "none"
        if isinstance(value, str):
            if value not in ADAPTER_TYPES:
                raise ValueError(f"must be auto, none, {', '.join(ADAPTER_TYPES)}, or settings, not {value!r}")
            return AdapterSettings.model_validate({"type": value})
        if not isinstance(value, Mapping):
            return value
        try:
            return build(AdapterSettings, value, where="adapter")
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("adapter.")) from None


class BatchedTrainingSettings(TrainingSettings):
    """The settings of a stage that trains on a fixed set of examples."""

    batch_size: Count | None = None
    """Total number of examples per optimizer step over all processes: rows (pretrain, adapt, sft) or pairs (reward,
    dpo). If it is not set, pretrain uses the value of the blueprint, and adapt chooses it from the amount of text."""
    steps: Count | None = None
    """Number of optimizer steps. It overrides the blueprint (pretrain) or `epochs` (other stages)."""


class TuningSettings(BatchedTrainingSettings, AdapterTrainingSettings):
    """The settings of a stage that continues from a trained model on data of its own."""

    epochs: PositiveFloat = 1.0
    """Number of passes over the training data."""
    eval_fraction: Fraction = 0.05
    """Fraction of the data that is held out for evaluation and not used for training: documents (adapt), dialogues
    (sft), or prompts with all their pairs (reward, dpo)."""


class TextSettings(Settings):
    """The settings of a stage that trains on documents."""

    document_mask: Masking = "auto"
    """Restrict the attention of a token to its own document, and exclude other documents of its row, with which a model
    learns worse. auto does so on a CPU, where it costs little; the fastest attention of a GPU takes no mask. With true,
    a GPU computes the blocks of scores that contain visible keys (FlexAttention)."""
    eval_tokens: Annotated[int, Field(ge=0)] = 16384
    """Held-out tokens per evaluation; 0 evaluates on none."""


class PreferenceLossConfig(Settings):
    """The coefficients of the preference losses; each loss documents which of them it reads."""

    beta: PositiveFloat = 0.1
    """Coefficient of the preference losses. Losses with a reference model multiply the log-ratios by it: a larger beta
    keeps the policy closer to the reference; in ipo the target margin is 1 / (2 beta). simpo and cpo multiply the
    margin by it, orpo its odds-ratio term. Use 0.3 for small models, 0.1 for large ones, 1 or more for ipo_norm, 2 or
    more for simpo, and 5 for sigmoid_norm."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """Assumed fraction of pairs with swapped labels (cdpo, robust)."""
    simpo_gamma: Annotated[float, Field(ge=0)] = 0.5
    """Target margin between the chosen and the rejected answer (simpo)."""
    desirable_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of desirable answers (kto)."""
    undesirable_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of undesirable answers (kto)."""

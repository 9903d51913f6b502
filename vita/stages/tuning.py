"""The model of a tuning stage: trained in full, with a new adapter, or with the adapter that it already has.

pretrained = open_for_tuning(inputs.model.path, config, context, where="sft")
training = with_adapter_rates(training, pretrained.model, config.learning_rate)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from vita.design import scaling_rules
from vita.nn.adapters.settings import AdapterChoice, AdapterSettings
from vita.spine.errors import ConfigError
from vita.spine.model_files import ModelFiles
from vita.spine.plan import Context

if TYPE_CHECKING:
    from pathlib import Path

    from vita.infer.pretrained import Pretrained
    from vita.nn.transformer import Transformer
    from vita.train.choices import PrecisionChoice
    from vita.train.optim import OptimizerConfig
    from vita.train.trainer import TrainerConfig

FULL_TUNING_PARAMETERS = 1_000_000_000
"""Number of parameters from which `adapter: auto` trains an adapter instead of all weights."""


class TuningConfig(Protocol):
    """The settings that decide how a model is opened."""

    @property
    def adapter(self) -> AdapterChoice: ...
    @property
    def precision(self) -> PrecisionChoice: ...
    @property
    def seed(self) -> int: ...


def open_for_tuning(
    folder: Path,
    config: TuningConfig,
    context: Context,
    *,
    where: str,
    shared_with_engine: bool = False,
    classifier: bool = False,
    only_trained: bool = False,
) -> Pretrained[Transformer]:
    """Open the model of a tuning stage; with an adapter its base is frozen, and only the adapter is trainable.

    `auto` continues the adapter of a model that has one. Otherwise it trains all weights of a model with fewer than
    `FULL_TUNING_PARAMETERS`, and a LoRA adapter of a larger one. With `none`, an adapter is merged before training.
    `shared_with_engine` keeps the frozen weights in float32, because an inference engine uses them as well. With
    `classifier`, a sequence classifier is opened with its head; other stages refuse it. With `only_trained`, the stage
    uses the model only for training, and several processes open it without its weights, which the trainer reads.
    """
    import torch

    from vita.infer.pretrained import Pretrained
    from vita.nn.adapters.attach import BaseQuantization, attach, merge
    from vita.nn.adapters.config import LoraConfig
    from vita.nn.classifier import is_classifier
    from vita.train.hardware import choose_precision

    files = ModelFiles.of(folder)
    if classifier and is_classifier(files):
        return _open_classifier(files, config, context, where=where)
    settings = adapter_settings(files, config.adapter)
    if settings is None and not files.is_adapter:
        shares = only_trained and context.machine.world_size > 1
        return Pretrained.load_structure(files) if shares else Pretrained.load(files)
    if config.adapter == "none":
        pretrained = Pretrained.load(files)
        merge(pretrained.model)
        context.emit("note", text="the adapter of the initial model is merged")
        return pretrained
    machine = context.machine
    single = machine.world_size == 1 and not shared_with_engine
    dtype = choose_precision(machine.device, config.precision).dtype if single else torch.float32
    pretrained = Pretrained.load(files, dtype=dtype, quantized=True)
    if files.is_adapter:
        check_continued(pretrained.model, config.adapter, where=f"{where}.adapter")
    elif settings is not None:
        quantization = BaseQuantization(settings.quantization, settings.double_quantization)
        attach(pretrained.model, LoraConfig.of(settings), quantization=quantization, seed=config.seed)
    prepare(pretrained.model, context)
    return pretrained


def _open_classifier(
    files: ModelFiles, config: TuningConfig, context: Context, *, where: str
) -> Pretrained[Transformer]:
    """Open a sequence classifier, whose weights or adapter continue."""
    from vita.infer.pretrained import Pretrained
    from vita.nn.adapters.attach import merge

    pretrained: Any = Pretrained.load_classifier(files)
    if isinstance(config.adapter, AdapterSettings) and not files.is_adapter:
        hint = "train the adapter from the language model, or set `adapter: none`"
        raise ConfigError(f"{where}.adapter", "a classifier cannot get a new adapter", hint=hint)
    if files.is_adapter and config.adapter == "none":
        merge(pretrained.model)
    elif files.is_adapter:
        check_continued(pretrained.model, config.adapter, where=f"{where}.adapter")
        prepare(pretrained.model, context)
    return pretrained


def adapter_settings(files: ModelFiles, choice: AdapterChoice) -> AdapterSettings | None:
    """Return the settings of a new adapter, or None if all weights are trained or an adapter continues."""
    if files.is_adapter or choice == "none":
        return None
    if isinstance(choice, AdapterSettings):
        return choice
    from vita.infer.pretrained import architecture_of

    return AdapterSettings.model_validate({}) if architecture_of(files).parameters() >= FULL_TUNING_PARAMETERS else None


def check_continued(model: Transformer, choice: AdapterChoice, *, where: str) -> None:
    """Raise a `ConfigError` if settings differ from those of the adapter that continues."""
    from vita.nn.adapters.attach import adapter_of
    from vita.nn.adapters.config import LoraConfig

    adapter = adapter_of(model)
    assert adapter is not None
    if not isinstance(choice, AdapterSettings):
        return
    requested: dict[str, Any] = vars(LoraConfig.of(choice))
    present: dict[str, Any] = vars(adapter.config)
    requested |= {"quantization": choice.quantization, "double_quantization": choice.double_quantization}
    present |= {"quantization": adapter.quantization.kind, "double_quantization": adapter.quantization.double}
    for name in sorted(choice.model_fields_set):
        if _as_set(requested[name]) != _as_set(present[name]) and requested[name] != "all-linear":
            hint = "the adapter of the initial model continues; leave the setting out, or merge the adapter first"
            raise ConfigError(f"{where}.{name}", expected=repr(present[name]), got=requested[name], hint=hint)


def _as_set(value: Any) -> Any:
    return frozenset(value) if isinstance(value, (tuple, list)) else value


def prepare(model: Transformer, context: Context) -> None:
    """Keep trainable weights in float32, and report the size of the adapter."""
    from vita.nn.adapters.attach import adapter_of, trainable

    for parameter in trainable(model).values():
        parameter.data = parameter.data.float()
    adapter = adapter_of(model)
    assert adapter is not None
    count = sum(parameter.numel() for parameter in trainable(model).values())
    total = model.architecture.parameters()
    text = f"{adapter.method} adapter of rank {adapter.config.rank}: "
    context.emit("note", text=text + f"{count:,} trainable parameters, {count / total:.2%} of {total:,}")


def adapter_rates(
    model: Transformer, learning_rate: float | str, *, auto: float | None = None
) -> OptimizerConfig | None:
    """Return AdamW for the adapter of a model; None for a model without one.

    `auto` is the automatic rate of the adapter. Modules that are trained in full get the rate of full fine-tuning,
    which is lower by `scaling_rules.ADAPTER_FACTOR`.
    """
    from vita.nn.adapters.attach import adapter_of
    from vita.train.optim import OptimizerConfig

    if adapter_of(model) is None:
        return None
    if auto is None:
        auto = scaling_rules.adapter_rate(scaling_rules.tuning_rate(model.architecture.width))
    rate = auto if isinstance(learning_rate, str) else learning_rate
    full_rate = rate / scaling_rules.ADAPTER_FACTOR
    return OptimizerConfig(
        matrices="adamw", matrix_rate=rate, embedding_rate=full_rate, head_rate=full_rate, scalar_rate=full_rate
    )


def with_adapter_rates(
    training: TrainerConfig, model: Transformer, learning_rate: float | str, *, auto: float | None = None
) -> TrainerConfig:
    """Return the training with the learning rates of the adapter of a model; unchanged for a model without one."""
    rates = adapter_rates(model, learning_rate, auto=auto)
    return training if rates is None else training.model_copy(update={"optimization": rates})

"""Merge an adapter into its base model, or several models into one.

The merged model is a full model in the format of its base. A check compares its logits: those of a merged adapter with
base + adapter, those of other methods with the weights before they were rounded and saved. The stage refuses a model
whose logits differ by more than the tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from vita.data.sources.source import Source
from vita.nn.requirements import has_no_classifier
from vita.spine.config import Settings
from vita.spine.errors import ConfigError, DataError, ModelError
from vita.spine.stage import Context, explicit_only
from vita.spine.store import Draft
from vita.stages.kinds import Model

if TYPE_CHECKING:
    from torch import Tensor

    from vita.infer.pretrained import Pretrained
    from vita.nn.transformer import Transformer

VERSION = 1
NEEDS = dict.fromkeys(("model", *(f"model_{number}" for number in range(2, 9)), "base"), (has_no_classifier,))

Method = Literal["adapter", "average", "slerp", "task_arithmetic", "ties", "soup"]
TOLERANCES = {"float32": 1e-4, "float64": 1e-4, "bfloat16": 0.03, "float16": 0.005}
"""Tolerance of the check by the number format of the saved weights: the root mean square of the difference of the
logits, relative to that of the logits. It allows for the rounding of the weights."""
TOKENIZER = "tokenizer.json"
CHECK_ROWS, CHECK_TOKENS = 4, 64
"""Size of the random text of the check."""


class Config(Settings):
    """The method and its parameters."""

    method: Method = "adapter"
    """adapter (base + adapter), average (weighted mean), slerp (spherical interpolation of two models), task_arithmetic
    (base + weighted differences from it), ties (task_arithmetic with conflicting signs resolved), or soup (adds models
    to an average while the held-out loss falls)."""
    weights: tuple[float, ...] = ()
    """Weight of each model in average, task_arithmetic and ties. Default: equal shares of 1 in average, 1 each in the
    others."""
    position: float = Field(0.5, ge=0, le=1)
    """Position of slerp between the first model (0) and the second (1)."""
    density: float = Field(0.2, gt=0, le=1)
    """Share of the largest changes that ties keeps of each model."""
    tolerance: float | Literal["auto"] = "auto"
    """Maximum difference of the logits, relative to their size. auto depends on the number format of the weights:
    1e-4 for float32, 0.03 for bfloat16."""
    eval_sources: tuple[Source, ...] = ()
    """Sources of held-out dialogues, by which soup chooses its models."""

    @model_validator(mode="after")
    def _settings_are_used(self) -> Self:
        users = {"weights": ("average", "task_arithmetic", "ties"), "position": ("slerp",), "density": ("ties",),
                 "eval_sources": ("soup",)}  # fmt: skip
        for name, methods in users.items():
            if name in self.model_fields_set and self.method not in methods:
                raise ValueError(f"`{name}` is set, and only {' and '.join(methods)} reads it")
        if self.method == "soup" and not self.eval_sources:
            raise ValueError("`soup` chooses models by their held-out loss; set `eval_sources`")
        if isinstance(self.tolerance, float) and self.tolerance <= 0:
            raise ValueError("`tolerance` must be above 0")
        return self


@dataclass(frozen=True)
class Inputs:
    model: Model
    """The adapter, or the first model."""
    model_2: Model | None = explicit_only()
    """Another model."""
    model_3: Model | None = explicit_only()
    """Another model."""
    model_4: Model | None = explicit_only()
    """Another model."""
    model_5: Model | None = explicit_only()
    """Another model."""
    model_6: Model | None = explicit_only()
    """Another model."""
    model_7: Model | None = explicit_only()
    """Another model."""
    model_8: Model | None = explicit_only()
    """Another model."""
    base: Model | None = explicit_only()
    """The common base model of task_arithmetic and ties."""

    @property
    def models(self) -> tuple[Model, ...]:
        """The models in order."""
        optional_models = (
            self.model_2,
            self.model_3,
            self.model_4,
            self.model_5,
            self.model_6,
            self.model_7,
            self.model_8,
        )
        return (self.model, *(model for model in optional_models if model is not None))


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Model]:
    import torch

    from vita.infer.pretrained import Pretrained
    from vita.nn import hf

    _check_inputs(config, inputs)
    first = Pretrained.load(inputs.model.path)
    ids = _random_ids(first)
    details: dict[str, Any] = {}
    if config.method == "adapter":
        reference = _logits(first.model, ids)
        details["adapter"] = _merge_adapter(first)
    else:
        weights, details = _merge_weights(config, inputs, first, context)
        with torch.no_grad():
            for name, parameter in first.model.named_parameters():
                parameter.copy_(weights[name])
        reference = _logits(first.model, ids)
    folder = context.draft_folder()
    hf.save_successor(first.model, folder, source=first.files)
    difference, tolerance = _check_logits(config, reference, _logits(hf.load(folder), ids), folder=first.files)
    chat = {"chat": True} if inputs.model.facts.get("chat") else {}
    text = f"the logits of the merged model differ by {difference:.2g} (tolerance {tolerance:.2g})"
    context.emit("note", text=text)
    facts = {"method": config.method, "models": len(inputs.models), **details, **chat}
    return Draft(Model, folder, {**facts, "logit_difference": float(f"{difference:.3g}"), "tolerance": tolerance})


def _check_inputs(config: Config, inputs: Inputs) -> None:
    """Raise a `ConfigError` for a number of models that the method cannot use."""
    count = len(inputs.models)
    limits = {"adapter": (1, 1), "slerp": (2, 2), "task_arithmetic": (1, 8), "ties": (1, 8)}
    least, most = limits.get(config.method, (2, 8))
    if not least <= count <= most:
        expected = f"{least} models" if least == most else f"{least} to {most} models"
        hint = "name several models in one command, or as inputs `model`, `model_2`, ... of the step"
        raise ConfigError(f"merge.method: {config.method}", expected=expected.replace("1 models", "1 model"), got=count,
                          hint=hint)  # fmt: skip
    needs_base = config.method in ("task_arithmetic", "ties")
    if needs_base != (inputs.base is not None):
        problem = "needs the input `base`, the model before tuning" if needs_base else "does not use the input `base`"
        raise ConfigError(f"merge.method: {config.method}", problem)
    if config.weights and len(config.weights) != count:
        raise ConfigError("merge.weights", expected=f"{count} numbers, one for each model", got=len(config.weights))
    if config.method == "average" and config.weights and not sum(config.weights):
        raise ConfigError("merge.weights", expected="a sum other than 0", got=0)


# -- the methods


def _merge_adapter(pretrained: Pretrained[Transformer]) -> str:
    """Merge the adapter of a model in place, and return its method."""
    from vita.nn.adapters.attach import adapter_of, merge
    from vita.nn.transformer import Transformer

    adapter = adapter_of(pretrained.model)
    if adapter is None:
        hint = "give the result of a stage with `adapter`, or a folder in peft's format"
        raise ModelError("merge.model", "is a full model and not an adapter", hint=hint)
    merge(pretrained.model)
    import torch

    with torch.device("meta"):
        names = {name for name, _ in Transformer(pretrained.model.architecture).named_parameters()}
    if extra := sorted({name for name, _ in pretrained.model.named_parameters()} - names):
        hint = "the base has no bias there, so base + adapter is not a model of this family; serve it unmerged"
        raise ModelError("merge.model", f"the adapter adds {extra[0]} (`lora_bias`)", hint=hint)
    return adapter.method


def _merge_weights(
    config: Config, inputs: Inputs, first: Pretrained[Transformer], context: Context
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the merged weights, and the facts of the method."""
    from vita.nn import merging

    states = [_weights_of(first, first, where="merge.model")]
    for number, model in enumerate(inputs.models[1:], 2):
        states.append(_weights_of(_load(model), first, where=f"merge.model_{number}"))
    if config.method == "soup":
        return _greedy_soup(config, states, first, context)
    if config.method == "slerp":
        return merging.slerp(states[0], states[1], position=config.position), {}
    weights = config.weights or (1.0,) * len(states)
    if config.method == "average":
        return merging.average(states, weights=weights), {}
    assert inputs.base is not None
    base = _weights_of(_load(inputs.base), first, where="merge.base")
    if config.method == "ties":
        return merging.ties(base, states, weights=weights, density=config.density), {}
    return merging.task_arithmetic(base, states, weights=weights), {}


def _load(model: Model) -> Pretrained[Transformer]:
    from vita.infer.pretrained import Pretrained

    return Pretrained.load(model.path)


def _weights_of(
    pretrained: Pretrained[Transformer], first: Pretrained[Transformer], *, where: str
) -> dict[str, Tensor]:
    """Return copies of the weights of a model, with its adapter merged; it must fit the first model."""
    from vita.nn.adapters.attach import adapter_of, merge

    if pretrained.model.architecture != first.model.architecture:
        ours, theirs = first.model.architecture.model_dump(), pretrained.model.architecture.model_dump()
        name = next(name for name in ours if ours[name] != theirs[name])
        raise ModelError(where, expected=f"the architecture of the first model ({name} {ours[name]})", got=theirs[name])
    if pretrained.files.read(TOKENIZER) != first.files.read(TOKENIZER):
        hint = "merge models that were tuned from one base model"
        raise ModelError(where, "has another tokenizer than the first model", hint=hint)
    if adapter_of(pretrained.model) is not None:
        merge(pretrained.model)
    return {name: parameter.detach().clone() for name, parameter in pretrained.model.named_parameters()}


def _greedy_soup(
    config: Config, states: list[dict[str, Tensor]], first: Pretrained[Transformer], context: Context
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Add models to an average in the order of their loss, and keep each one that lowers it (Wortsman et al. 2022)."""
    from vita.nn import merging

    heldout = _heldout_answers(config, first)
    losses = [_loss(state, first, heldout) for state in states]
    order = sorted(range(len(states)), key=lambda index: losses[index])
    chosen, best = [order[0]], losses[order[0]]
    weights: Mapping[str, Tensor] = states[order[0]]
    for index in order[1:]:
        candidate = merging.average([states[number] for number in [*chosen, index]], weights=[1.0] * (len(chosen) + 1))
        loss = _loss(candidate, first, heldout)
        if loss < best:
            chosen, best, weights = [*chosen, index], loss, candidate
    names = ", ".join(str(index + 1) for index in sorted(chosen))
    context.emit("note", text=f"the soup averages the models {names}; held-out loss {best:.4f}")
    facts = {"soup": [index + 1 for index in sorted(chosen)], "heldout_loss": round(best, 6)}
    facts |= {f"heldout_loss/{number}": round(loss, 6) for number, loss in enumerate(losses, 1)}
    return dict(weights), facts


def _heldout_answers(config: Config, first: Pretrained[Transformer]) -> list[tuple[list[int], list[bool]]]:
    """Return the tokens of held-out dialogues, and which of them are answers."""
    from vita.data.tokens.tuning_examples import EncodingSettings, read_dialogues

    settings = EncodingSettings(first.model.architecture.context)
    dialogues = read_dialogues(config.eval_sources, first.tokenizer, first.require_template(), settings)
    rows = [(list(map(int, row.ids)), list(map(bool, row.learn))) for item in dialogues for row in item.sequences]
    if not rows:
        raise DataError("merge.eval_sources", "hold no dialogue that can be evaluated")
    return rows


def _loss(
    state: Mapping[str, Tensor], first: Pretrained[Transformer], rows: list[tuple[list[int], list[bool]]]
) -> float:
    """Return the mean loss of the answers in nats per token."""
    import torch

    from vita.train.losses import language_modelling

    total, count = 0.0, 0
    with torch.no_grad():
        for name, parameter in first.model.named_parameters():
            parameter.copy_(state[name])
        for ids, learn in rows:
            tensors = {"ids": torch.tensor([ids]), "learn": torch.tensor([learn])}
            total += float(language_modelling(first.model, tensors)[0])
            count += sum(learn[1:])
    return total / max(1, count)


# -- the check


def _random_ids(pretrained: Pretrained[Transformer]) -> Tensor:
    import torch

    architecture = pretrained.model.architecture
    size = CHECK_ROWS, min(CHECK_TOKENS, architecture.context)
    return torch.randint(0, architecture.vocabulary, size, generator=torch.Generator().manual_seed(0))


def _logits(model: Transformer, ids: Tensor) -> Tensor:
    import torch

    with torch.inference_mode():
        return model(ids).cpu().double()


def _check_logits(config: Config, reference: Tensor, merged: Tensor, *, folder: Any) -> tuple[float, float]:
    """Return the difference of the logits and its tolerance; raise a `ModelError` if it is above."""
    from collections import Counter

    from vita.nn import hf

    dtypes = Counter(str(dtype).removeprefix("torch.") for dtype in hf.stored_dtypes(folder).values())
    dtype = dtypes.most_common(1)[0][0]
    tolerance = TOLERANCES.get(dtype, 1e-4) if config.tolerance == "auto" else config.tolerance
    difference = float((merged - reference).square().mean().sqrt() / reference.square().mean().sqrt())
    if not difference <= tolerance:  # also refuses NaN
        hint = f"the weights are saved in {dtype}; set `tolerance` to accept the difference"
        expected = f"logits within {tolerance:.2g} of those before the merge was saved"
        if config.method == "adapter":
            expected = f"logits within {tolerance:.2g} of base + adapter"
        raise ModelError("merge", expected=expected, got=float(f"{difference:.3g}"), hint=hint)
    return difference, tolerance

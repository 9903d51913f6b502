"""A sequence classifier: the trunk of a language model with a head that returns one number per label.

It is saved as the sequence classifier of its family, for which transformers computes the same logits. Decoders read the
last token with a linear layer. Encoders have the heads of their families (`vita.nn.families`): ModernBERT applies a
dense layer, its activation and a norm to the first token or to the mean of all tokens; BERT applies its pooler to the
first token. Padding is on the right and ignored: the caller passes the length of each text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vita.nn import hf
from vita.nn.adapters.attach import adapter_of
from vita.nn.adapters.config import CLASSIFIER as SEQUENCE_CLASSIFICATION
from vita.nn.adapters.names import module_names
from vita.nn.architecture import Architecture, MaskedHead
from vita.nn.families import family_of, read_architecture
from vita.nn.families.config_reader import ConfigReader
from vita.nn.init import generator
from vita.nn.meta_device import allocate
from vita.nn.pooling import Pooling, pooled, text_states
from vita.nn.transformer import Linear, MaskedTransform, Transformer
from vita.spine.errors import ModelError
from vita.spine.model_files import ModelFiles, ModelFolder, description

# B batch, T position, D width, L labels

Start = Literal["small", "zero"]
Problem = Literal["single", "multi", "regression"]
PROBLEMS: Mapping[Problem, str] = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}
"""Kind of labels: one class of several, several classes, or a number; and its name in `config.json`."""
CLASSIFIER_ENTRY = "classifier"
"""Entry of `vita.json` in the folder of an adapter, which has no `config.json`."""


@dataclass(frozen=True)
class ClassifierSpec:
    """The meaning of the outputs of a classifier."""

    labels: tuple[str, ...]
    """Name of each output."""
    problem: Problem | None = "single"
    """None leaves it out of `config.json`."""
    pooling: Pooling = "last"
    transform: MaskedHead = field(default_factory=MaskedHead)
    """Dense layer and activation before the output layer (ModernBERT)."""

    def as_config(self, architecture: Architecture) -> dict[str, Any]:
        """Return the entries of `config.json`."""
        values: dict[str, Any] = {
            "architectures": [family_of(architecture).classifier_class],
            "num_labels": len(self.labels),
            "id2label": {str(index): label for index, label in enumerate(self.labels)},
            "label2id": {label: index for index, label in enumerate(self.labels)},
        }
        values |= {"problem_type": PROBLEMS[self.problem]} if self.problem else {}
        if family_of(architecture).pooler == "transform":
            values |= {"classifier_pooling": self.pooling, "classifier_bias": self.transform.bias}
        return values

    def as_json(self) -> dict[str, Any]:
        """Return the entry of `vita.json`."""
        return {"labels": list(self.labels), "problem": self.problem, "pooling": self.pooling}


class TanhPooler(nn.Module):
    """A dense layer with tanh, the pooler of BERT."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = Linear(width, width, bias=True)

    def forward(self, vectors: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return torch.tanh(self.dense(vectors))


class SequenceClassifier(Transformer):
    """A model whose only head returns one number per label."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        outputs: int = 1,
        pooling: Pooling = "last",
        transform: MaskedHead | None = None,
        attention: str = "sdpa",
    ) -> None:
        # Without a separate output head and a masked-language head, only the trunk is left.
        super().__init__(architecture.model_copy(update={"tied": True, "masked_head": None}), attention=attention)
        kind = family_of(architecture).pooler
        self.transform = transform or architecture.masked_head or MaskedHead()
        self.pooler: nn.Module | None = None
        if kind == "transform":
            self.pooler = MaskedTransform(architecture, self.transform)
        elif kind == "tanh":
            self.pooler = TanhPooler(architecture.width)
        self.score = Linear(architecture.width, outputs, bias=kind != "none")
        self.pooling: Pooling = pooling

    @classmethod
    def of(
        cls, model: Transformer, *, outputs: int = 1, pooling: Pooling = "last", start: Start = "small", seed: int = 0
    ) -> Self:
        """Create a classifier with the trunk of `model`.

        The new head is N(0, 1/(width + 1)) (Stiennon et al. 2020) or zero. The trunk of a model with an adapter is used
        without a copy, and the adapter then includes the new head.
        """
        if adapter_of(model) is not None:
            return cls.sharing(model, outputs=outputs, pooling=pooling, start=start, seed=seed)
        classifier = cls(model.architecture, outputs=outputs, pooling=pooling)
        classifier.model.load_state_dict(model.model.state_dict())
        classifier.start_pooler(model, seed)
        if start == "small":
            classifier.start_head(seed)
        return classifier

    @classmethod
    def sharing(
        cls, model: Transformer, *, outputs: int = 1, pooling: Pooling = "last", start: Start = "zero", seed: int = 0
    ) -> Self:
        """Create a classifier that uses the trunk of `model` without a copy, with its adapter."""
        with torch.device("meta"):
            classifier = cls(model.architecture, outputs=outputs, pooling=pooling)
        classifier.model = model.model
        device = model.head_weight.device
        for part in filter(None, (classifier.pooler, classifier.score)):
            allocate(part, device)
            for parameter in part.parameters():
                nn.init.zeros_(parameter)
        classifier.start_pooler(model, seed)
        if start == "small":
            classifier.start_head(seed)
        if adapter := adapter_of(model):
            heads = classifier.head_names()
            saved = [name for name in adapter.config.modules_to_save if name not in ("lm_head", *heads)]
            config = replace(adapter.config, task_type=SEQUENCE_CLASSIFICATION, modules_to_save=(*saved, *heads))
            object.__setattr__(classifier, "adapter", replace(adapter, config=config))
        return classifier

    def head_names(self) -> tuple[str, ...]:
        """Return the names of the head's modules in files."""
        modules = [
            name for name, module in self.named_modules() if name.startswith("pooler.") and any(module.parameters())
        ]
        names = module_names(self)
        return tuple(names.of_part(name).name for name in ("score", *modules))

    @property
    def reads_types(self) -> bool:
        """Return whether the model reads token types, which tell the texts of a pair apart (BERT)."""
        return self.architecture.token_types > 0

    def empty_copy(self) -> Self:
        """Return a model of the same shape with zero parameters."""
        outputs, transform = self.score.out_features, self.transform
        return type(self)(self.architecture, outputs=outputs, pooling=self.pooling, transform=transform)

    @torch.no_grad()
    def start_pooler(self, model: Transformer, seed: int) -> None:
        """Initialize the layers before the output layer: from the masked-language head of `model`, else at random."""
        if self.pooler is None:
            return
        masked_head = getattr(model, "masked_head", None)
        previous = getattr(model, "pooler", None)
        initial = previous or masked_head
        if isinstance(self.pooler, MaskedTransform) and isinstance(initial, MaskedTransform):
            self.pooler.load_state_dict(initial.state_dict())
            return
        if isinstance(previous, TanhPooler):
            self.pooler.load_state_dict(previous.state_dict())
            return
        for name, parameter in self.pooler.named_parameters():
            if parameter.ndim == 2:
                drawn = torch.empty(parameter.shape).normal_(0.0, 0.02, generator=generator(seed, f"pooler.{name}"))
                parameter.copy_(drawn)
            else:
                nn.init.constant_(parameter, 1.0 if name == "norm.weight" else 0.0)

    @torch.no_grad()
    def start_head(self, seed: int) -> None:
        """Initialize the head with N(0, 1/(width + 1)) (Stiennon et al. 2020)."""
        deviation = 1 / math.sqrt(self.architecture.width + 1)
        weight = torch.empty(self.score.weight.shape).normal_(0.0, deviation, generator=generator(seed, "score.weight"))
        self.score.weight.copy_(weight)

    def logits(
        self, ids: Int[Tensor, "B T"], lengths: Int[Tensor, "B"], *, types: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B L"]:
        """Return one number per label for each text; in float32, so that close scores do not tie.

        `types` are the token types of BERT: 1 for the tokens of the second text of a pair.
        """
        return self.head_logits(text_states(self, ids, lengths, types=types), lengths)

    def head_logits(self, states: Float[Tensor, "B T D"], lengths: Int[Tensor, "B"]) -> Float[Tensor, "B L"]:
        """Return the logits for outputs of the last layer."""
        vectors = pooled(states, lengths, self.pooling)
        if self.pooler is not None:
            vectors = self.pooler(vectors)
        bias = None if self.score.bias is None else self.score.bias.float()
        return nn.functional.linear(vectors.float(), self.score.weight.float(), bias)


def save(
    model: SequenceClassifier,
    folder: str | Path,
    spec: ClassifierSpec,
    *,
    padding: int,
    source: ModelFolder | None = None,
) -> None:
    """Save for `AutoModelForSequenceClassification` of transformers; `padding` is the padding token.

    With `source`, the language model of the trunk, weights keep its dtypes and `config.json` keeps its other fields.
    """
    entries = {**spec.as_config(model.architecture), "pad_token_id": padding}
    if source is None:
        hf.save(model, folder, config=entries)
    else:
        source = ModelFiles.of(source)
        hf.save_like(model, folder, source=source, config={**hf.read_config(source), **entries})


def is_classifier(folder: ModelFolder) -> bool:
    """Return whether a folder holds a sequence classifier, or an adapter that includes the head of one."""
    files = ModelFiles.of(folder)
    if files.is_adapter and CLASSIFIER_ENTRY in description(files.folder):
        return True
    config = hf.read_config(files)
    architecture = read_architecture(config, where=str(files.path(hf.CONFIG)))
    return config.get("architectures") == [family_of(architecture).classifier_class]


def read_spec(folder: ModelFolder) -> ClassifierSpec:
    """Return the labels and the pooling of a classifier folder."""
    files = ModelFiles.of(folder)
    if entry := description(files.folder).get(CLASSIFIER_ENTRY) if files.is_adapter else None:
        return ClassifierSpec(tuple(entry["labels"]), entry["problem"], entry["pooling"])
    config, where = hf.read_config(files), str(files.path(hf.CONFIG))
    architecture = read_architecture(config, where=where)
    names = config.get("id2label") or {}
    count = len(names) or config.get("num_labels", 2)  # transformers writes no labels if there are two
    try:
        labels = tuple(str(names.get(str(index), f"LABEL_{index}")) for index in range(count))
    except (TypeError, AttributeError):
        raise ModelError(f"{where}: id2label", expected="names of labels by number", got=names) from None
    default: Problem | None = None if count == 1 else "single"
    stored = config.get("problem_type")
    problem = _problem(stored) or default
    reader = ConfigReader(config, where)
    activation = reader.activation("classifier_activation", "gelu")
    transform = MaskedHead.model_validate({"bias": config.get("classifier_bias", False), "activation": activation})
    return ClassifierSpec(labels, problem, _pooling(architecture, config, where), transform)


def load(
    folder: ModelFolder, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> SequenceClassifier:
    """Load the classifier of a folder."""
    return load_as(SequenceClassifier, folder, dtype=dtype, device=device)


C = TypeVar("C", bound=SequenceClassifier)


def load_as(
    kind: type[C], folder: ModelFolder, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> C:
    """Load the classifier of a folder as the class `kind`."""
    files = ModelFiles.of(folder)
    check_classifier(files)
    spec = read_spec(files)
    architecture = read_architecture(hf.read_config(files), where=str(files.path(hf.CONFIG)))
    with torch.device("meta"):
        model = kind(architecture, outputs=len(spec.labels), pooling=spec.pooling, transform=spec.transform)
    return hf.load_weights(model, files, dtype=dtype, device=device)


def check_classifier(folder: ModelFolder, *, hint: str = "train a classifier with `vita classify`") -> None:
    """Raise a `ModelError` for a folder that holds no sequence classifier."""
    files = ModelFiles.of(folder)
    config, where = hf.read_config(files), str(files.path(hf.CONFIG))
    classifier = family_of(read_architecture(config, where=where)).classifier_class
    if config.get("architectures") != [classifier]:
        raise ModelError(f"{where}: architectures", expected=classifier, got=config.get("architectures"), hint=hint)


def _problem(stored: Any) -> Problem | None:
    """Return the problem with this name in `config.json`."""
    names: dict[str, Problem] = {value: name for name, value in PROBLEMS.items()}
    return names.get(str(stored))


def poolings(architecture: Architecture) -> tuple[Pooling, ...]:
    """Return the poolings of the classifier of a family in transformers."""
    if architecture.causal:
        return ("last",)
    return ("cls", "mean") if family_of(architecture).pooler == "transform" else ("cls",)


def default_pooling(folder: ModelFolder, architecture: Architecture) -> Pooling:
    """Return the pooling of a folder: the entry of its `config.json`, otherwise the default of the family."""
    files = ModelFiles.of(folder)
    return _pooling(architecture, hf.read_config(files), str(files.path(hf.CONFIG)))


def _pooling(architecture: Architecture, config: Mapping[str, Any], where: str) -> Pooling:
    """Return the pooling of a classifier of transformers."""
    if architecture.causal:
        return "last"
    is_choice = family_of(architecture).pooler == "transform"
    pooling = config.get("classifier_pooling", "cls") if is_choice else "cls"
    if pooling not in ("cls", "mean"):
        raise ModelError(f"{where}: classifier_pooling", expected="cls or mean", got=pooling)
    return pooling

"""A model family: how its `config.json` and its weight files are read and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from vita.nn.architecture import Architecture
from vita.nn.families.config_reader import ConfigReader
from vita.nn.families.weight_map import OWN_NAMES, WeightNames
from vita.spine.registry import Registry


@dataclass(frozen=True)
class Family:
    """The format of a family's model folders."""

    causal_class: str
    """Class of the language model in transformers; for encoders, that of the masked-language model."""
    classifier_class: str
    """Class of the sequence classifier in transformers, as which reward models are saved."""
    read: Callable[[ConfigReader], dict[str, Any]]
    """Return the fields of `Architecture` of a `config.json`."""
    write: Callable[[Architecture], dict[str, Any]]
    """Return the keys of `config.json` beside those that all families share."""
    names: WeightNames = OWN_NAMES
    """Names and layouts of the weights."""
    trunk_class: str = ""
    """Class of an encoder without a head in transformers."""
    classifier_names: WeightNames | None = None
    """Names of the weights of a sequence classifier, where they differ: `pooler` and `score` are its head."""
    pooler: Literal["none", "transform", "tanh"] = "none"
    """Head of a classifier before its output layer: that of the masked-language model, or a dense layer with tanh."""

    def model_class(self, architecture: Architecture) -> str:
        """Return the class in transformers."""
        is_trunk = not architecture.causal and architecture.masked_head is None
        return self.trunk_class if is_trunk else self.causal_class


FAMILIES = Registry[Family]("model family", plural="model_families")


def add_family(
    model_type: str,
    prefix: str,
    *,
    write: Callable[[Architecture], dict[str, Any]],
    names: WeightNames = OWN_NAMES,
    causal_class: str | None = None,
    classifier_names: WeightNames | None = None,
    pooler: Literal["none", "transform", "tanh"] = "none",
) -> Callable[[Callable[[ConfigReader], dict[str, Any]]], Callable[[ConfigReader], dict[str, Any]]]:
    """Return a decorator that registers a family by the function that reads its `config.json`.

    `prefix` is that of the classes in transformers: `Llama` in `LlamaForCausalLM`.
    """

    def register(read: Callable[[ConfigReader], dict[str, Any]]) -> Callable[[ConfigReader], dict[str, Any]]:
        causal = causal_class or f"{prefix}ForCausalLM"
        classifier, trunk = f"{prefix}ForSequenceClassification", f"{prefix}Model"
        FAMILIES.add(model_type)(Family(causal, classifier, read, write, names, trunk, classifier_names, pooler))
        return read

    return register

"""Requirements of stages on models, as functions of the traits of a model that return the reason of a refusal.

`model_traits` returns the traits of an architecture. A stage lists its requirements in `NEEDS` (`vita.spine.traits`).
"""

from __future__ import annotations

from vita.nn.architecture import Architecture
from vita.nn.longer_context import refusal
from vita.spine.store import Traits

CLASSIFIER = "classifier"
"""Trait of a model with the head of a sequence classifier instead of a language model's."""


def model_traits(architecture: Architecture, *, classifier: bool = False) -> Traits:
    """Return the properties of an architecture on which stages depend."""
    return {
        "family": architecture.family,
        "causal": architecture.causal,
        "predicts_tokens": (architecture.causal or architecture.masked_head is not None) and not classifier,
        CLASSIFIER: classifier,
        "experts": architecture.experts is not None,
        "fixed_context": refusal(architecture),
    }


def generates_text(traits: Traits) -> str | None:
    """Require a decoder."""
    if traits.get(CLASSIFIER):
        return "it is a sequence classifier, which assigns labels to texts and generates no text"
    if traits["causal"]:
        return None
    return "it is an encoder, which predicts masked tokens from both sides and generates no text"


def predicts_tokens(traits: Traits) -> str | None:
    """Require a language model: a decoder, or an encoder with a masked-language head."""
    if traits.get(CLASSIFIER):
        return "it is a sequence classifier, which predicts no tokens"
    return None if traits["predicts_tokens"] else "it is an encoder without a masked-language head"


def fixed_context(traits: Traits) -> str | None:
    """Require a model whose context can become longer."""
    return traits.get("fixed_context")


def has_no_classifier(traits: Traits) -> str | None:
    """Refuse a sequence classifier."""
    return "it is a sequence classifier, and not a language model" if traits.get(CLASSIFIER) else None


def other_objective(objective: str, traits: Traits) -> str | None:
    """Return the reason why a model cannot be trained with an objective: auto, next_token or masked."""
    suitable, kind = ("next_token", "a decoder") if traits["causal"] else ("masked", "an encoder")
    if objective in ("auto", suitable):
        return None
    return f"it is {kind}, whose objective is {suitable}, not {objective}"

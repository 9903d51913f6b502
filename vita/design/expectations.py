"""The quality to expect of a model that is pretrained with a compute budget, in words, with its basis.

    expectation = expected_quality(parameters=4_000_000, tokens=20_000_000)
    expectation.sentence      # "Sentences are mostly grammatical, ... At this budget the model will not answer ..."
    expectation.basis         # "5 tokens per parameter; 4.8e14 FLOPs, 1/15,000 of ..."

The scale is the training compute, 6 N D, of models whose abilities are public. Compute says little about a model that
is far too large or too small for its text: `basis` states the tokens per parameter, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from vita.design.scaling_rules import TOKENS_PER_PARAMETER


@dataclass(frozen=True)
class KnownModel:
    """A published model: its parameters without the embedding table, its training tokens, and its source."""

    name: str
    parameters: float
    tokens: float
    source: str

    @property
    def flops(self) -> float:
        """Return the training compute, 6 N D (Kaplan et al. 2020, sec. 2.1)."""
        return 6 * self.parameters * self.tokens


KNOWN_MODELS = (
    KnownModel("a 5M model of Vita on half an hour of two cores", 4.3e6, 20e6, "docs/experiments.md"),
    KnownModel("TinyStories-33M", 33e6, 5e8, "Eldan & Li 2023, a narrow text"),
    KnownModel("a GPT-2 of 124M at a validation loss of 3.28", 124e6, 1e10, "llm.c, Karpathy 2024"),
    KnownModel("nanochat with 20 layers", 561e6, 11.2e9, "Karpathy 2025"),
    KnownModel("SmolLM2-135M", 135e6, 2e12, "Allal et al. 2025"),
    KnownModel("TinyLlama-1.1B", 1.1e9, 3e12, "Zhang et al. 2024"),
    KnownModel("Llama 2 7B", 6.7e9, 2e12, "Touvron et al. 2023"),
    KnownModel("SmolLM2-1.7B", 1.7e9, 11e12, "Allal et al. 2025"),
)
"""Models of increasing compute. Some sizes include the embedding, which changes the compute by less than two times."""


Answers = Literal["none", "unreliable", "useful"]


@dataclass(frozen=True)
class QualityLevel:
    """The abilities that a range of training compute leads to."""

    name: str
    above: float
    """Lowest training compute in FLOPs."""
    ability: str
    answers: Answers
    """Usefulness of the answers of a tuned model to general questions."""


LEVELS = (
    QualityLevel(
        "fragments", 0.0, "it learns spelling, common words and short phrases; sentences do not hold together", "none"
    ),
    QualityLevel("sentences", 3e14, "most sentences are grammatical, and the text soon loses its topic", "none"),
    QualityLevel("paragraphs", 1e17, "paragraphs are fluent, and most of their facts are invented", "none"),
    QualityLevel("small talk", 1e19, "after tuning it holds simple conversations, with many wrong facts", "unreliable"),
    QualityLevel(
        "narrow tasks", 1e21, "after tuning it is useful for narrow tasks, such as classification, extraction and "
        "rewriting, and unreliable as a source of facts", "unreliable",
    ),
    QualityLevel("assistant", 3e22, "after tuning it answers common questions as open-weight models do", "useful"),
)  # fmt: skip
"""The levels; each begins between the compute of two of `KNOWN_MODELS` whose abilities differ."""

NO_ANSWERS = "At this budget the model will not answer questions; start from an open-weight model (`vita adopt`)."
UNRELIABLE = "At this budget its answers are unreliable; an open-weight model (`vita adopt`) is a better start."
LITTLE_TEXT, MUCH_TEXT = 1, 200
"""Tokens per parameter below which a smaller and above which a larger model is better at the same compute."""


@dataclass(frozen=True)
class Expectation:
    """The expected quality of a model."""

    level: QualityLevel
    parameters: int
    tokens: int
    flops: float
    text: str

    @property
    def answers(self) -> Answers:
        """Usefulness of the answers after tuning; in the built-in world, about its objects."""
        return "useful" if self.text == "world" else self.level.answers

    @property
    def sentence(self) -> str:
        """The expectation in words."""
        if self.text == "world":
            return (
                "The text is the built-in world, which is far simpler than English: after tuning, even a model of this "
                "size answers questions about its objects, and nothing else."
            )
        ability = self.level.ability
        sentence = f"{ability[0].upper()}{ability[1:]}."
        advice = {"none": f" {NO_ANSWERS}", "unreliable": f" {UNRELIABLE}", "useful": ""}[self.level.answers]
        return sentence + advice

    @property
    def basis(self) -> str:
        """The figures behind the expectation: tokens per parameter, and compute relative to known models."""
        ratio = self.tokens / max(1, self.parameters)
        text = f"{ratio:,.1f} tokens per parameter"
        if self.text == "world":
            return f"{text}; measured in docs/experiments.md"
        if ratio < LITTLE_TEXT:
            text += f" (few: about {TOKENS_PER_PARAMETER} are optimal, so a smaller model would be better)"
        elif ratio > MUCH_TEXT:
            text += f" (many: about {TOKENS_PER_PARAMETER} are optimal, so a larger model would be better)"
        below = [model for model in KNOWN_MODELS if model.flops <= self.flops]
        above = [model for model in KNOWN_MODELS if model.flops > self.flops]
        text += f"; {_short(self.flops)} FLOPs"
        if below:
            text += f", {_factor(self.flops / below[-1].flops)} times that of {below[-1].name}"
        if above:
            text += f", 1/{_factor(above[0].flops / self.flops)} of {above[0].name}"
        return text

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "level": self.level.name, "answers": self.answers,
            "expectation": self.sentence, "basis": self.basis, "parameters": self.parameters, "tokens": self.tokens,
            "flops": self.flops,
        }  # fmt: skip


def expected_quality(*, parameters: int, tokens: int, flops: float | None = None, text: str = "english") -> Expectation:
    """Return the expectation for a number of matrix parameters and training tokens.

    `flops` is the exact training compute, by default 6 N D. `text` is the kind of text, `english` or `world`.
    """
    compute = 6.0 * parameters * tokens if flops is None else float(flops)
    level = next(level for level in reversed(LEVELS) if compute >= level.above)
    return Expectation(level, parameters, tokens, compute, text)


def _short(flops: float) -> str:
    mantissa, _, exponent = f"{flops:.1e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _factor(ratio: float) -> str:
    """Return a ratio with one or two significant digits."""
    return f"{ratio:.1f}" if ratio < 10 else f"{float(f'{ratio:.1e}'):,.0f}"

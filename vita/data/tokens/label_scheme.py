"""The labels of a data set: their kind, their names, and the target of each record.

    scheme = LabelScheme.of(labels, problem="auto", names=("negative", "positive"))
    scheme.target(1)            # 1
    scheme.names                # ("negative", "positive")

Integers from 0 are the numbers of classes, as in GLUE. Texts are the names of classes, numbered in sorted order or as
`names` lists them. Numbers with a fraction are targets of a regression. A list of names is a multi-label record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vita.data.records import Label
from vita.spine.errors import ConfigError, DataError

Problem = Literal["single", "multi", "regression"]
Target = int | float | tuple[int, ...]
"""The number of a class, a number, or the numbers of several classes."""
SCORE = "score"
"""The name of the single output of a regression."""


@dataclass(frozen=True)
class LabelScheme:
    """The kind and the names of labels."""

    problem: Problem
    names: tuple[str, ...]
    """Name of each class; one name for a regression."""
    numbers: dict[str, int]
    """Class as rows write it -> its number."""

    @classmethod
    def of(
        cls, labels: Sequence[Label], *, problem: Problem | Literal["auto"], names: Sequence[str] = ()
    ) -> LabelScheme:
        """Return the scheme of the labels of the training rows; `names` are the names of the classes."""
        kind = _problem(labels) if problem == "auto" else problem
        if kind == "regression":
            if names:
                raise ConfigError("classify.labels", "names classes, and the labels are numbers of a regression")
            return cls(kind, (SCORE,), {})
        written = sorted({_text(part) for label in labels for part in _parts(label)}, key=_order)
        if not names:
            if len(written) < 2:
                raise DataError("classify", expected="two classes or more", got=", ".join(written))
            return cls(kind, tuple(written), {text: number for number, text in enumerate(written)})
        if len(set(names)) < len(names):
            raise ConfigError("classify.labels", expected="different names", got=list(names))
        numbers = {str(number): number for number in range(len(names))}
        by_name = {name: number for number, name in enumerate(names)}
        numbers = by_name if set(written) <= by_name.keys() else numbers
        if unknown := [text for text in written if text not in numbers]:
            hint = "list every class, or give names for the classes 0, 1, ..."
            raise ConfigError("classify.labels", f"does not contain the class `{unknown[0]}` of the data", hint=hint)
        return cls(kind, tuple(names), numbers)

    def target(self, label: Label, *, where: str) -> Target:
        """Return the target of a label; raise a `DataError` for a class that the training rows do not have."""
        if self.problem == "regression":
            try:
                return float(label)  # type: ignore[arg-type]
            except (TypeError, ValueError):
                raise DataError(where, expected="a number as label", got=repr(label)) from None
        if self.problem == "single" and isinstance(label, tuple):
            hint = "set `problem: multi` for several classes per row"
            raise DataError(where, expected="one class", got=", ".join(label), hint=hint)
        texts = [_text(part) for part in _parts(label)]
        if unknown := [text for text in texts if text not in self.numbers]:
            known = ", ".join(self.numbers)
            raise DataError(where, expected=f"a class of the training rows ({known[:200]})", got=unknown[0])
        numbers = [self.numbers[text] for text in texts]
        return numbers[0] if self.problem == "single" else tuple(sorted(numbers))


def _problem(labels: Sequence[Label]) -> Problem:
    if any(isinstance(label, tuple) for label in labels):
        return "multi"
    return "regression" if any(_is_fraction(label) for label in labels) and all(map(_is_number, labels)) else "single"


def _parts(label: Label) -> tuple[str | int | float, ...]:
    return label if isinstance(label, tuple) else (label,)


def _text(label: str | int | float) -> str:
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label).strip()


def _order(text: str) -> tuple[bool, int, str]:
    """Sort integers by value, before texts."""
    is_number = text.lstrip("-").isdigit()
    return (not is_number, int(text) if is_number else 0, text)


def _is_number(label: Label) -> bool:
    try:
        float(label)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def _is_fraction(label: Label) -> bool:
    return _is_number(label) and (isinstance(label, float) or "." in str(label))

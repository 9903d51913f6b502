"""Columns of rows with labelled texts or text pairs: named by settings, or detected from the first row of a file.

    columns = LabelColumns(pair=True)
    record = LabelConverter(columns)(row, source)

Conventions of common data sets are detected: `sentence`, `sentence1` and `sentence2`, `premise` and `hypothesis`,
`question1` and `question2`, `query` and `document`, `label`, `score` and others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vita.data.records import Label, LabelledText, TextPair
from vita.data.sources.readers import Row, RowProblem, json_type
from vita.data.sources.records_from_rows import UnusableRow, provenance, record_id
from vita.data.sources.source import Source
from vita.spine.errors import DataError

TEXTS = ("sentence", "text", "content", "review", "title", "question", "document", "body")
"""Columns in which a single text is searched, in this order."""
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("question", "sentence"),
    ("text", "text_pair"),
    ("query", "document"),
    ("query", "passage"),
    ("query", "response"),
    ("anchor", "positive"),
    ("question", "answer"),
    ("question", "context"),
    ("instruction", "output"),
    ("title", "text"),
    ("title", "body"),
)
"""Columns in which the two texts of a pair are searched, in this order."""
LABELS = (
    "label",
    "labels",
    "class",
    "category",
    "score",
    "similarity",
    "similarity_score",
    "stars",
    "rating",
    "target",
)
"""Columns in which a label is searched, in this order."""
NEGATIVES = ("negative", "negatives", "hard_negative", "hard_negatives")
SCORES = ("score", "similarity", "similarity_score")
UNLABELLED = -1
"""The label of test sets whose labels are not public."""


@dataclass(frozen=True)
class LabelColumns:
    """The columns of labelled texts; columns that are not set are detected."""

    text: str | None = None
    pair: str | None = None
    label: str | None = None

    def detect(self, row: Row) -> LabelColumns:
        """Return the columns of a file by its first row; raise a `DataError` if they cannot be detected."""
        values = row.values or {}
        label = self.label or next((name for name in LABELS if name in values), None)
        text, pair = self.text, self.pair
        if text is None:
            names = (
                next((columns for columns in PAIRS if set(columns) <= values.keys() - {label}), None)
                if not pair
                else None
            )
            text, pair = names or (next((name for name in TEXTS if name in values.keys() - {label, pair}), None), pair)
        missing = [name for name, column in (("text_column", text), ("label_column", label)) if column is None]
        missing += [
            setting
            for setting, column in (("text_column", text), ("pair_column", pair), ("label_column", label))
            if column is not None and column not in values
        ]
        if missing:
            expected = (
                "columns with a text and a label, such as `text` and `label`, or `sentence1`, `sentence2`, `label`"
            )
            hint = f"name them with {', '.join(f'`{name}`' for name in dict.fromkeys(missing))}"
            got = _columns_of(values)
            raise DataError(row.where, expected=expected, got=got, hint=hint, quoted=got)
        return LabelColumns(text=text, pair=pair, label=label)


class LabelConverter:
    """A converter of rows to labelled texts; the first row of each file determines the columns."""

    def __init__(self, columns: LabelColumns) -> None:
        self._settings, self._detected = columns, dict[str, LabelColumns]()

    def __call__(self, row: Row, source: Source) -> LabelledText:
        """Return the labelled text of a row."""
        values = row.values or {}
        columns = self._detected.get(row.path) or self._detected.setdefault(row.path, self._settings.detect(row))
        assert columns.text is not None and columns.label is not None
        names = (columns.text, columns.pair) if columns.pair else (columns.text,)
        texts = tuple(_text(values, name) for name in names)
        label = _label(values, columns.label)
        name, licence, metadata = provenance(row, values, source, {*names, columns.label})
        return LabelledText(record_id(row, values), texts, label, name, licence, metadata)


@dataclass(frozen=True)
class PairColumns:
    """The columns of text pairs; columns that are not set are detected."""

    anchor: str | None = None
    positive: str | None = None
    negative: str | None = None
    score: str | None = None

    def detect(self, row: Row) -> PairColumns:
        """Return the columns of a file by its first row; raise a `DataError` if they cannot be detected."""
        values = row.values or {}
        anchor, positive = self.anchor, self.positive
        if anchor is None or positive is None:
            known = [
                names
                for names in PAIRS
                if set(names) <= values.keys() and anchor in (None, names[0]) and positive in (None, names[1])
            ]
            anchor, positive = known[0] if known else (anchor, positive)
        negative = self.negative or next((name for name in NEGATIVES if name in values), None)
        score = self.score or next((name for name in (*SCORES, "label") if _is_number(values.get(name))), None)
        named = {"anchor_column": anchor, "positive_column": positive}
        named |= {"negative_column": self.negative or anchor, "score_column": self.score or anchor}
        missing = [setting for setting, column in named.items() if column is None or column not in values]
        if missing:
            expected = "columns with two related texts, such as `query` and `document`, or `sentence1` and `sentence2`"
            hint = f"name them with {', '.join(f'`{name}`' for name in missing)}"
            got = _columns_of(values)
            raise DataError(row.where, expected=expected, got=got, hint=hint, quoted=got)
        return PairColumns(anchor=anchor, positive=positive, negative=negative, score=score)


class PairConverter:
    """A converter of rows to text pairs; the first row of each file determines the columns."""

    def __init__(self, columns: PairColumns) -> None:
        self._settings, self._detected = columns, dict[str, PairColumns]()

    def __call__(self, row: Row, source: Source) -> TextPair:
        """Return the pair of a row."""
        values = row.values or {}
        columns = self._detected.get(row.path) or self._detected.setdefault(row.path, self._settings.detect(row))
        assert columns.anchor is not None and columns.positive is not None
        anchor, positive = _text(values, columns.anchor), _text(values, columns.positive)
        negatives = _negatives(values, columns.negative)
        used = {name for name in vars(columns).values() if name}
        name, licence, metadata = provenance(row, values, source, used)
        score = _score(values, columns.score)
        return TextPair(record_id(row, values), anchor, positive, name, negatives, score, licence, metadata)


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str):
        raise UnusableRow(RowProblem("no_text", f"text in the column `{name}`", json_type(value)))
    if not value.strip():
        raise UnusableRow(RowProblem("no_text", f"text in the column `{name}`", "an empty text"))
    return value


def _label(values: Mapping[str, Any], name: str) -> Label:
    value = values.get(name)
    if value is None or value in ("", UNLABELLED, str(UNLABELLED)):
        raise UnusableRow(RowProblem("no_label", f"a label in the column `{name}`", repr(value)))
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Sequence) and all(isinstance(part, (str, int)) for part in value):
        return tuple(str(part) for part in value)
    expected = f"a class, a number or a list of classes in the column `{name}`"
    raise UnusableRow(RowProblem("no_label", expected, json_type(value)))


def _negatives(values: Mapping[str, Any], name: str | None) -> tuple[str, ...]:
    value = values.get(name) if name else None
    if value is None or value == "":
        return ()
    texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UnusableRow(RowProblem("no_text", f"a text or a list of texts in the column `{name}`", json_type(value)))
    return texts


def _score(values: Mapping[str, Any], name: str | None) -> float | None:
    value = values.get(name) if name else None
    if value is None or value == "":
        return None
    if not _is_number(value):
        raise UnusableRow(RowProblem("no_score", f"a number in the column `{name}`", repr(value)))
    return float(value)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _columns_of(values: Mapping[str, Any]) -> str:
    return f"the columns {', '.join(values) or '(none)'}"

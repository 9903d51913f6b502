"""Settings of deduplication: whole documents, and repeated text within documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from vita.data.curation.text_units import UnitKind
from vita.spine.config import Settings, neutral

UNIT_KINDS: tuple[UnitKind, ...] = ("paragraphs", "lines")


class _Repeats(Settings):
    max_occurrences: int = Field(default=1, ge=1)
    """Number of occurrences that stay, the first ones in the corpus."""


class RepeatedParagraphs(_Repeats):
    """Paragraphs that are cut from the second occurrence in the corpus."""

    min_characters: int = Field(default=100, ge=1)
    """Minimum length of a paragraph; shorter ones always stay."""


class RepeatedLines(_Repeats):
    """Lines that are cut from the second occurrence in the corpus."""

    min_characters: int = Field(default=50, ge=1)
    """Minimum length of a line; shorter ones always stay."""


class RepeatedSubstrings(_Repeats):
    """Runs of words that are cut from the second occurrence in the corpus."""

    min_words: int = Field(default=50, ge=5)
    """Minimum length of a run. In scripts without spaces between words, each character is a word."""


@dataclass(frozen=True)
class RepeatOptions:
    """The kinds of repeated text that are cut; None for those that stay."""

    paragraphs: RepeatedParagraphs | None = None
    lines: RepeatedLines | None = None
    substrings: RepeatedSubstrings | None = None

    def units(self, kind: UnitKind) -> RepeatedParagraphs | RepeatedLines | None:
        """Return the options of paragraphs or lines."""
        return getattr(self, kind)

    def as_settings(self) -> dict[str, dict[str, Any]]:
        """Return kind -> its settings, for the report."""
        kinds = {"paragraphs": self.paragraphs, "lines": self.lines, "substrings": self.substrings}
        return {kind: settings.model_dump() for kind, settings in kinds.items() if settings}

    def __bool__(self) -> bool:
        return any((self.paragraphs, self.lines, self.substrings))


class Deduplication(Settings):
    """The duplicates that are dropped, and the measure of similarity of near duplicates."""

    documents: Literal["near", "exact", "none"] = "near"
    """`near` drops equal texts and near copies; `exact` only texts that are equal except for case, white space and
    Unicode normalization; `none` drops no duplicates."""
    threshold: float = Field(default=0.7, ge=0.3, le=1)
    """Jaccard index of the sets of shingles, from which a document is a near copy."""
    shingle_words: int = Field(default=5, ge=1, le=50)
    """Number of consecutive words in a shingle."""
    paragraphs: RepeatedParagraphs | None = neutral(None)
    """Cut repeated paragraphs: `true`, or `{min_characters, max_occurrences}`."""
    lines: RepeatedLines | None = neutral(None)
    """Cut repeated lines: `true`, or `{min_characters, max_occurrences}`."""
    substrings: RepeatedSubstrings | None = neutral(None)
    """Cut long repeated runs of words: `true`, or `{min_words, max_occurrences}`."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return {"documents": "near" if value else "none"}
        return {"documents": value} if isinstance(value, str) else value

    @field_validator("paragraphs", "lines", "substrings", mode="before")
    @classmethod
    def _from_switch(cls, value: Any) -> Any:
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @property
    def repeats(self) -> RepeatOptions | None:
        """The kinds of repeated text that are cut; None if nothing is cut."""
        options = RepeatOptions(self.paragraphs, self.lines, self.substrings)
        return options if options else None

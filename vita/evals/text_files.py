"""Settings of the files with labelled texts and text pairs that the stage `test` reads."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from vita.spine.config import InputPath, Settings


class LabelledFile(Settings):
    """Labelled texts for a classifier."""

    path: InputPath
    """File of labelled texts (JSON lines, JSON, Parquet, CSV or TSV, also .gz and .zst)."""
    text_column: str | None = None
    """Column of the text, or of the first text of a pair; detected by default."""
    pair_column: str | None = None
    """Column of the second text of a pair."""
    label_column: str | None = None
    """Column of the label."""
    limit: int | None = Field(None, ge=1)
    """Maximum number of texts, sampled by the seed."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class PairFile(Settings):
    """Pairs of related texts for an embedding model."""

    path: InputPath
    """File of pairs (JSON lines, JSON, Parquet, CSV or TSV, also .gz and .zst)."""
    anchor_column: str | None = None
    """Column of the anchor, such as a query; detected by default."""
    positive_column: str | None = None
    """Column of the matching text."""
    score_column: str | None = None
    """Column of the similarity."""
    limit: int | None = Field(None, ge=1)
    """Maximum number of pairs, sampled by the seed."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

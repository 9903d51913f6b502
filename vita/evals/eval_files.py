"""Settings of the files that the stage `test` evaluates a model on."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from vita.data.sources.read import Source
from vita.data.world import WorldSettings
from vita.spine.config import InputPath, Settings


class FileSettings(Settings):
    """Settings of a file; a path alone stands for the defaults of all other settings."""

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class TaskFile(FileSettings):
    """The items of one task."""

    path: InputPath
    """File of items in the format of the task (JSON lines, also .gz and .zst)."""
    task: str | None = None
    """Task that reads the items; by default the name in `tasks`."""
    limit: int | None = Field(None, ge=1)
    """Maximum number of items of this task."""


class InstructionFile(FileSettings):
    """Prompts with verifiable instructions."""

    path: InputPath
    """File of rows `{key, prompt, instruction_id_list, kwargs}`, the format of IFEval."""
    limit: int | None = Field(None, ge=1)
    """Maximum number of prompts, sampled by the seed."""
    max_tokens: int = Field(512, ge=1)
    """Maximum tokens of an answer; a truncated answer may violate its instructions."""


class ToolCallFile(FileSettings):
    """Dialogues with tools."""

    path: InputPath | None = None
    """File of dialogues with `tools` in any format of `sft`."""
    world: WorldSettings | None = None
    """Settings of a built-in world whose conversations call tools, instead of a file."""
    limit: int | None = Field(None, ge=1)
    """Maximum number of answers, sampled by the seed."""
    max_tokens: int = Field(256, ge=1)
    """Maximum tokens of an answer."""

    @model_validator(mode="after")
    def _one_origin(self) -> ToolCallFile:
        if (self.path is None) == (self.world is None):
            raise ValueError("set `path` or `world`")
        return self

    @property
    def source(self) -> Source:
        """The source of the dialogues."""
        return Source(path=self.path) if self.world is None else Source(world=self.world)


class PositionFile(Settings):
    """Long documents whose loss is measured by position."""

    texts: tuple[Source, ...] = ()
    """Sources of long documents; by default the held-out documents of the corpus."""
    length: int | None = Field(None, ge=2)
    """Tokens of each document; by default the model's context. Shorter documents are left out."""
    documents: int = Field(100, ge=1)
    """Maximum number of documents."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"texts": [value]} if isinstance(value, str) else value


class LabelledFile(FileSettings):
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


class PairFile(FileSettings):
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

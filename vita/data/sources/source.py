"""What a user says of a place that text comes from; `sources` reads it."""

from __future__ import annotations

import glob
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field, model_validator

from vita.data.world import WorldSettings
from vita.spine.config import InputPath, Settings, neutral
from vita.spine.file_listing import printable

ORIGINS = ("path", "world", "huggingface")
"""The fields of which a source has exactly one."""


class Source(Settings):
    """One place that text comes from: exactly one of `path`, `world` and `huggingface`."""

    name: str | None = None
    """What documents say they come from; without it, the row's own `source`, else the file's or folder's name."""
    path: InputPath | None = None
    """A file, a folder (all usable files below it), a glob, or a URL such as `s3://bucket/folder`."""
    exclude: tuple[str, ...] = ()
    """Globs of files to leave out, matched with the name of the file and its path below the folder."""
    world: WorldSettings | None = None
    """The embedded world, which needs no files."""
    part: str | None = neutral(None)
    """Which of the world's texts: documents, vet or court where documents are wanted; dialogues, sums or refusals where
    dialogues are; preferences. Without it the first."""
    huggingface: str | None = None
    """A data set of the Hugging Face hub, or a folder in its form (extra `datasets`)."""
    subset: str | None = None
    """The hub data set's configuration, where it has several."""
    split: str = "train"
    """The hub data set's split."""
    text_field: str | None = None
    """The field that holds the text; without it the first of text, content, raw_content, body, document, article."""
    cut_at: Literal["blank_lines", "lines"] | None = None
    """Make many documents of a text file, cut at blank lines or at every line; without it a file is one document."""
    licence: str | None = None
    """The licence of documents that do not carry one themselves (in `license` or `licence`)."""
    on_bad_row: Literal["error", "drop"] = "error"
    """What a row that cannot be used does: stop the run, or be dropped and counted."""
    repeat: float = Field(default=1.0, gt=0)
    """How often the source is passed over in training; 2.5 takes half of its documents, drawn by content, thrice."""
    limit: int | None = Field(default=None, ge=1)
    """Take only the first documents."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        given = [name for name in ORIGINS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(ORIGINS)}, not {' and '.join(given) or 'none'}")
        if self.part is not None and self.world is None:
            raise ValueError("`part` names a part of the embedded world, and this source is not the world")
        return self

    def identity_of(self, field: str, value: Any) -> Any:
        """A path is identified by its content and by the names that go into ids and sources of documents."""
        if field == "path" and isinstance(value, dict):
            file = PurePosixPath(self.path or "").suffix != ""
            origin = self.origin() if file or self.name is None else None
            return {**value, "origin": origin} if origin else value
        return value

    def origin(self) -> str:
        """The last name of the path that is no pattern: `a.jsonl`, or `books` of `books/**/*.txt`."""
        parts = [part for part in PurePosixPath(self.path or "").parts if not glob.has_magic(part) and part.strip("./")]
        return printable(parts[-1]) if parts else ""

    def label(self) -> str:
        """What to call it in messages and reports."""
        return self.name or self.path or self.huggingface or "world"

"""The settings of a text source, which `read` reads."""

from __future__ import annotations

import codecs
import glob
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from vita.data.extraction.limits import ExtractionSettings
from vita.data.record_rights import RightsPolicy
from vita.data.world import WorldSettings
from vita.spine.config import InputPath, Settings, neutral
from vita.spine.file_listing import printable
from vita.spine.url_secrets import mask_url_secrets, without_user_and_query

ORIGINS = ("path", "world", "huggingface")
"""The fields of which a source sets exactly one."""


class Source(Settings):
    """A source of text: exactly one of `path`, `world` and `huggingface`."""

    name: str | None = None
    """Source name of the documents; by default the row's `source`, else the name of the file or folder."""
    path: InputPath | None = None
    """A file, a folder (all supported files below it), a glob, or a URL such as `s3://bucket/folder`."""
    exclude: tuple[str, ...] = ()
    """Globs of files to exclude, matched with the file name and the path below the folder."""
    world: WorldSettings | None = None
    """The built-in world, a generated corpus that needs no files."""
    part: str | None = neutral(None)
    """The part of the world: documents, vet or court for documents; dialogues, sums or refusals for dialogues;
    preferences; kinds for labelled texts; questions for text pairs. The default is the first for the kind of record."""
    huggingface: str | None = None
    """A data set of the Hugging Face hub, or a local folder in its format (extra `datasets`)."""
    subset: str | None = None
    """The configuration of the data set, if it has several."""
    split: str = "train"
    """The split of the data set."""
    text_field: str | None = None
    """The field with the text; by default the first of text, content, raw_content, body, document, article."""
    cut_at: Literal["blank_lines", "lines"] | None = None
    """Split a text file into documents at blank lines or at every line; by default a file is one document."""
    format: (
        Literal[
            "text",
            "jsonl",
            "json",
            "csv",
            "tsv",
            "parquet",
            "arrow",
            "html",
            "warc",
            "arc",
            "pdf",
            "docx",
            "epub",
            "mbox",
            "eml",
            "zip",
            "tar",
        ]
        | None
    ) = neutral(None)
    """The format of all files; by default it is detected from the content of each file."""
    encoding: str | None = neutral(None)
    """The encoding of all files, such as `windows-1252`; by default it is detected, with UTF-8 in case of doubt."""
    extraction: ExtractionSettings = neutral(ExtractionSettings())
    """Extraction of text from web pages and documents: the tool, and the limits of one document."""
    licence: str | None = None
    """The licence of documents without a `license` or `licence` field."""
    opt_out: bool | None = neutral(None)
    """The opt-out from machine learning of documents without an `opt_out` field."""
    consent: str | bool | None = neutral(None)
    """The consent for documents without a `consent` field: true or false, or a text that describes it."""
    rights: RightsPolicy = neutral(RightsPolicy())
    """Documents to drop because of their rights: an opt-out, missing consent, or another licence."""
    on_bad_row: Literal["error", "drop"] = "error"
    """Handling of a row that cannot be used: stop the run, or drop and count the row."""
    repeat: float = Field(default=1.0, gt=0)
    """Number of repetitions in training; with 2.5, half of the documents, chosen by content hash, occur three times."""
    limit: int | None = Field(default=None, ge=1)
    """Maximum number of documents, from the beginning."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str | None) -> str | None:
        try:
            return value and codecs.lookup(value).name
        except LookupError:
            raise ValueError(
                f"no encoding is named `{value}`; use a name such as utf-16, windows-1252 or shift_jis"
            ) from None

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        origins = [name for name in ORIGINS if getattr(self, name) is not None]
        if len(origins) != 1:
            raise ValueError(f"give exactly one of {', '.join(ORIGINS)}, not {' and '.join(origins) or 'none'}")
        if self.part is not None and self.world is None:
            raise ValueError("`part` names a part of the built-in world, and this source is not the world")
        return self

    @field_validator("path")
    @classmethod
    def _is_no_hub_address(cls, value: str | None) -> str | None:
        if value and value.startswith("hf://"):
            name = value.removeprefix("hf://").removeprefix("datasets/")
            raise ValueError(f"a data set of the Hugging Face Hub is the source `{{huggingface: {name}}}`, not a path")
        return value

    def identity_of(self, field: str, value: Any) -> Any:
        """Identify a path by its content and by the names that ids and sources of documents contain."""
        if field == "path" and isinstance(value, dict):
            is_file = PurePosixPath(_address(self.path)).suffix != ""
            origin = self.origin() if is_file or self.name is None else None
            return {**value, "origin": origin} if origin else value
        return value

    def origin(self) -> str:
        """Return the last name of the path that is not a pattern: `a.jsonl`, or `books` for `books/**/*.txt`."""
        parts = [
            part for part in PurePosixPath(_address(self.path)).parts if not glob.has_magic(part) and part.strip("./")
        ]
        return printable(parts[-1]) if parts else ""

    def label(self) -> str:
        """Return the name of the source for messages and reports."""
        return self.name or mask_url_secrets(self.path or "") or self.huggingface or "world"


def _address(path: str | None) -> str:
    """Return the part of a path that names files: without the host's user and the query of a URL."""
    return without_user_and_query(path or "")

"""Rewritten documents and the link to the document that each was made from, in the metadata of the rewrite.

    origin = origin_of(document.metadata)      # RewriteOrigin("wiki/Cat", "wiki", "3a7f..."), or None

The link stays with a rewrite that another stage reads as a source, so that the erasure of a document covers its
rewrites.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

REWRITE_OF = "rewrite_of"
"""Metadata field with the origin of a rewrite."""
REPHRASING = "rephrasing"
"""Metadata field with the style, the prompt version and the model of a rewrite."""
REWRITE_SHARDS = "rephrased-"
"""Beginning of the names of the corpus files with rewrites."""


def rewrite_source(style: str) -> str:
    """Return the source of the rewrites of a style."""
    return f"rephrase/{style}"


@dataclass(frozen=True, slots=True)
class RewriteOrigin:
    """The document that a rewrite was made from."""

    id: str
    source: str
    content: str
    """The hash of its content by which erasures find copies (`vita.data.sources.erased.text_hash`)."""
    sha256: str = ""
    """SHA-256 of its text in UTF-8."""
    licence: str | None = None

    def as_metadata(self) -> dict[str, Any]:
        """Return the value of the metadata field."""
        return asdict(self)


def origin_of(metadata: Mapping[str, Any]) -> RewriteOrigin | None:
    """Return the origin of a rewrite; None for a document that is no rewrite."""
    values = metadata.get(REWRITE_OF)
    if not isinstance(values, Mapping) or not {"id", "source", "content"} <= values.keys():
        return None
    return RewriteOrigin(
        str(values["id"]), str(values["source"]), str(values["content"]), str(values.get("sha256", "")),
        values.get("licence"),
    )  # fmt: skip

"""The settings of extraction: the tool for web pages, and the limits of one document."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vita.spine.config import Settings


class ExtractionSettings(Settings):
    """The tool that extracts the text of web pages, and the limits of one page or document."""

    tool: Literal["trafilatura", "resiliparse"] = "trafilatura"
    """`trafilatura` is more precise, `resiliparse` about six times as fast. Both are in the extra `web`."""
    seconds: float = Field(default=10.0, gt=0)
    """Maximum processor time of one document; the process that extracts it is then killed."""
    megabytes: int = Field(default=16, ge=1)
    """Maximum size of a page or document in megabytes; a PDF or EPUB may have ten times as much."""
    memory_megabytes: int = Field(default=2048, ge=256)
    """Maximum memory of the process that extracts text."""

"""References to models on the Hugging Face Hub: `owner/name`, with a revision or a GGUF file of the repository."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HUB_ID = re.compile(
    r"(?P<scheme>hf://)?(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/(?P<file>[^@]+\.gguf))?"
    r"(?:@(?P<revision>[\w./-]+))?"
)
GGUF_SUFFIX = ".gguf"


@dataclass(frozen=True)
class HubReference:
    """A model on the Hub: its id, the revision (branch, tag or commit), and a GGUF file of the repository."""

    id: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        return f"{self.id}{file}" + (f"@{self.revision}" if self.revision else "")

    @property
    def is_pinned(self) -> bool:
        """True if the revision is the full hash of a commit."""
        return bool(self.revision and re.fullmatch(r"[0-9a-f]{40}", self.revision))


def hub_reference(text: str) -> HubReference | None:
    """Parse `owner/name`, `owner/name@revision` or `owner/name/file.gguf`, with or without `hf://`; else None."""
    match = _HUB_ID.fullmatch(text.strip())
    if match is None or (text.endswith(GGUF_SUFFIX) and not match["file"] and not match["scheme"]):
        return None
    return HubReference(match["id"], match["revision"], match["file"])

"""The records that a trace or an erasure concerns: a document, or all records of a source or a licence.

RightsQuery(document="mail/7")                   # the document with this id, of any source
RightsQuery(source="mail", licence="CC-BY-4.0")  # all records of the source under the licence
"""

from __future__ import annotations

from dataclasses import dataclass

from vita.spine.erasures import is_source, licence_key


@dataclass(frozen=True, slots=True)
class RightsQuery:
    """The requested records; every value that is set must match."""

    document: str | None = None
    source: str | None = None
    licence: str | None = None

    def includes(self, source: str, licence: str | None) -> bool:
        """Return True if records of this source and licence can be among the requested ones."""
        if not is_source(self.source, source):
            return False
        return self.licence is None or licence_key(self.licence) == licence_key(licence)

    @property
    def label(self) -> str:
        """The requested records, for messages."""
        if self.document is not None:
            return f"`{self.document}`"
        parts = [f"the source `{self.source}`"] if self.source is not None else []
        parts += [f"the licence `{self.licence}`"] if self.licence is not None else []
        return f"all documents of {' under '.join(parts)}"

"""The documents in the rows of a training batch, with their rights and the number of their tokens.

example.documents()         # [RowDocument(id, source, rights, tokens)]
"""

from __future__ import annotations

from typing import NamedTuple

from vita.data.record_rights import Rights


class RowDocument(NamedTuple):
    """A document or record, or the part of it, in a row of a batch."""

    id: str
    source: str
    rights: Rights
    tokens: int

"""The trace of documents through all corpora, token sets and models.

trace = trace_records(RightsQuery(document="wiki/Cat"), store, ledger)      # vita.rights.artifact_search
trace.holders, trace.weights      # each with the use of the document: trained on, held out, dropped as a copy of ...
trace.to_rebuild, trace.to_retire
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vita.rights.excluded_documents import ExcludedDocument
from vita.rights.query import RightsQuery

TOKENIZER_ONLY = "tokenizer only"
_REBUILT = ("trained on", TOKENIZER_ONLY)


@dataclass(frozen=True)
class AffectedArtifact:
    """An artifact that contains the document, or was built from one that does."""

    digest: str
    kind: str
    names: tuple[str, ...]
    state: str
    through: str
    """`holds it`, or the nearest artifact from which it came."""
    use: str = "trained on"
    """`trained on`, `held out` (evaluated on alone), `not reached` (training ended before it), `tokenizer only` (no
    training step read it, but the tokenizer was trained on it) or `not used`."""
    explanation: str = ""
    """The use of the document, as a message."""
    source: str = ""
    """The source whose document it is."""
    documents: int = 1
    files: tuple[str, ...] = ()
    """Files of the artifact that contain the text or its tokens."""

    @property
    def name(self) -> str:
        """A name of the artifact, or the beginning of its digest."""
        return self.names[0] if self.names else self.digest[:12]

    def as_json(self) -> dict[str, Any]:
        return {"digest": self.digest, "kind": self.kind, "names": list(self.names), "state": self.state,
                "through": self.through, "use": self.use, "explanation": self.explanation, "source": self.source,
                "documents": self.documents, "files": list(self.files)}  # fmt: skip


@dataclass(frozen=True)
class DocumentTrace:
    """The trace of a document, or of all documents of a source or licence."""

    query: RightsQuery
    holders: tuple[AffectedArtifact, ...]
    weights: tuple[AffectedArtifact, ...] = field(default_factory=tuple)
    """Models, releases and archives that were built from it."""
    unread: tuple[str, ...] = ()
    """Sources of runs that cannot be searched any more, each with the reason."""
    contents: dict[str, frozenset[str]] = field(default_factory=dict)
    """Source -> hashes of the contents with this id."""
    near_contents: frozenset[str] = frozenset()
    """Hashes of the texts that curation dropped as near copies of it."""
    siblings: bool = False
    """Other texts of a source have the same id."""
    unaffected: tuple[str, ...] = ()
    """Keys of runs that were searched and do not contain it."""
    sources: frozenset[str] = frozenset()
    """All sources that were searched."""
    licences: frozenset[str] = frozenset()
    """All licences that were searched, without those that only dropped documents have."""
    contents_of_id: dict[str, frozenset[str | None]] = field(default_factory=dict)
    """Source -> hashes of the contents of its documents with the requested id; None for a dropped text."""
    excluded: tuple[ExcludedDocument, ...] = ()
    """The documents with other ids that the erasure of the document excludes."""

    @property
    def to_retire(self) -> list[AffectedArtifact]:
        """Return weights that were trained on the document and are in use."""
        return [holder for holder in self.weights if holder.state != "retired" and holder.use == "trained on"]

    @property
    def to_rebuild(self) -> list[AffectedArtifact]:
        """Return artifacts that contain the document, and models trained on it or with a tokenizer that was.

        The next run rebuilds them; a model with random weights only if its tokenizer changes.
        """
        holding = [holder for holder in self.holders if holder.digest and holder.use != "not used"]
        return [
            *holding,
            *(holder for holder in self.weights if holder.use in _REBUILT and holder.kind in ("model", "reward")),
        ]

    @property
    def note(self) -> str:
        """A message if no training step has read the document; empty otherwise, or if sources could not be searched."""
        is_read = any(holder.use == "trained on" for holder in self.weights)
        return (
            "" if is_read or self.unread or not self.holders else "no training step of any recorded model has read it"
        )

"""Which models saw a document: the question that must be answered before it can be erased.

seen = who_saw("wiki/Cat", store, ledger)
seen.corpora, seen.models       # each model with its state, so that one knows what must be retired
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vita.data.corpus import read_corpus
from vita.data.feedback import read_feedback
from vita.data.shards import Shards
from vita.measure import own_sources
from vita.spine.errors import StoreError
from vita.spine.ledger import Ledger
from vita.spine.plan import descendants
from vita.spine.store import Store

_WEIGHTS = ("model", "reward", "release", "archive")


@dataclass(frozen=True)
class Holder:
    """An artifact that holds the document, or was made from one that does."""

    digest: str
    kind: str
    names: tuple[str, ...]
    state: str
    through: str
    """`holds it`, or the nearest artifact from which it came."""

    def as_json(self) -> dict[str, Any]:
        return {"digest": self.digest, "kind": self.kind, "names": list(self.names), "state": self.state,
                "through": self.through}  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """Where a document went."""

    document: str
    holders: tuple[Holder, ...]
    weights: tuple[Holder, ...] = field(default_factory=tuple)
    """Models, releases and archives that were made from it."""
    unread: tuple[str, ...] = ()
    """Sources of single runs that could not be looked through any more, each with the reason."""

    @property
    def to_retire(self) -> list[Holder]:
        """Weights that are still in use."""
        return [one for one in self.weights if one.state not in ("retired",)]


def who_saw(document: str, store: Store, ledger: Ledger) -> Seen:
    """Look through every corpus, token set and feedback of the store, then follow what came of them.

    What a stage read from `sources` of its own is in no artifact: those sources are looked through where they lie.
    """
    names: dict[str, list[str]] = {}
    for name, digest in ledger.all_names().items():
        names.setdefault(digest, []).append(name)

    def holder(digest: str, through: str) -> Holder:
        own = tuple(sorted(names.get(digest, ())))
        return Holder(digest, store.manifest(digest).kind, own, ledger.state(digest), through)

    holding = [digest for digest in store.digests() if _holds(store, digest, document)]
    weights: dict[str, Holder] = {}
    for digest in holding:
        for _, _, _, made in descendants(digest, ledger):
            if made not in weights and store.has(made) and store.manifest(made).kind in _WEIGHTS:
                weights[made] = holder(made, f"{store.manifest(digest).kind} {digest[:12]}")
    looked = own_sources.look(document, ledger)
    for run, label in looked.hits:
        made_of_it = [run.artifact or "", *(made for _, _, _, made in descendants(run.artifact or "", ledger))]
        for made in made_of_it:
            if made not in weights and store.has(made) and store.manifest(made).kind in _WEIGHTS:
                weights[made] = holder(made, f"{run.life}/{run.step}, which read {label}")
    holders = [holder(digest, "holds it") for digest in holding]
    holders += [
        Holder("", "source", (label,), "", "holds it") for label in dict.fromkeys(one for _, one in looked.hits)
    ]
    return Seen(document, tuple(holders), tuple(weights.values()), tuple(looked.unread))


def _holds(store: Store, digest: str, document: str) -> bool:
    if not store.has(digest):
        return False
    look = _LOOKS.get(store.manifest(digest).kind)
    return bool(look) and any(id == document for id in look(store.open(digest).path))


def _of_corpus(folder: Path) -> Iterator[str]:
    parts: tuple[Literal["train", "heldout"], ...] = ("train", "heldout")
    for part in parts:
        if (folder / part).is_dir():
            yield from (one.id for one in read_corpus(folder, part))


def _of_tokens(folder: Path) -> Iterator[str]:
    for part in ("train", "heldout"):
        if (folder / part).is_dir():
            shards = Shards.open(folder / part)
            if shards.tokens:
                yield from (span.id for span in shards.documents_between(0, shards.tokens))


def _of_feedback(folder: Path) -> Iterator[str]:
    for one in read_feedback(folder):
        yield one.id
        yield one.request


def _of_preferences(folder: Path) -> Iterator[str]:
    import json

    path = folder / "preferences.jsonl"
    if not path.is_file():
        raise StoreError(str(folder), "holds no preferences.jsonl")
    for line in path.read_text(encoding="utf-8").split("\n"):
        if not line:
            continue
        row = json.loads(line)
        yield row["id"]
        yield from (row.get("metadata") or {}).get("requests", ())


_LOOKS = {"corpus": _of_corpus, "tokens": _of_tokens, "feedback": _of_feedback, "preferences": _of_preferences}

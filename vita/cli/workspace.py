"""The store and the ledger of a call, the resolution of references such as `cat/sft`, and output files of the user."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from vita.reporting import REPORT_FILE
from vita.spine import machine
from vita.spine.config import nearest
from vita.spine.console import open_console
from vita.spine.disk import explain_disk
from vita.spine.errors import DataError, ModelError, StoreError, VitaError
from vita.spine.events import Events, JsonLines
from vita.spine.machine import Machine
from vita.spine.plain_text import with_article
from vita.spine.renamed_stages import RENAMED_STAGES
from vita.spine.store import Artifact, Draft, Store

if TYPE_CHECKING:
    from vita.spine.ledger import Ledger

A = TypeVar("A", bound=Artifact)
_ADOPTED: dict[str, tuple[str, str]] = {}
"""Digest -> (folder in the store, folder of the user) of the artifacts that this process adopted."""


def with_user_paths(message: str) -> str:
    """Replace paths of adopted copies in the store by the folders that the user named."""
    for digest, (copy, folder) in _ADOPTED.items():
        mention = rf"\b(?:[a-z]+ )?{digest[:12]}[0-9a-f]*"  # `model 1a2b3c4d5e6f`
        message = re.sub(mention, folder.replace("\\", r"\\"), message.replace(copy, folder))
    return message


_REQUIRED_FILES: dict[str, tuple[str, type[VitaError], str]] = {
    "blueprint": ("blueprint.json", StoreError, "make one with `vita design`"),
    "corpus": ("train/*.jsonl.zst", DataError, "make a corpus with `vita curate`"),
    "tokens": ("tokenizer.json", StoreError, "make tokens with `vita tokenize`"),
    "model": ("config.json", ModelError, "a model is a Hugging Face model folder"),
    "reward": ("config.json", ModelError, "a reward model is a Hugging Face model folder"),
    "report": (REPORT_FILE, StoreError, "make a report with `vita test`"),
    "release": ("release.json", ModelError, "make a release with `vita release`"),
    "feedback": ("feedback.jsonl", DataError, "collect feedback with `vita feedback collect`"),
    "preferences": ("preferences.jsonl", DataError, "make preferences with `vita refine`"),
}
"""Kind -> a file that each of its folders holds, and the error if it is missing."""


def _check_folder(folder: Path, kind: str) -> None:
    """Refuse a folder of another kind before it is copied into the store."""
    pattern, family, hint = _REQUIRED_FILES.get(kind, ("*", StoreError, "the folder is empty"))
    if not any(folder.glob(pattern)):
        raise family(str(folder), "holds no file" if pattern == "*" else f"holds no {pattern}", hint=hint)


def _present_reference(reference: str, ledger: Ledger) -> str | None:
    """Return the name of a step that is called as its stage, for a reference with the stage's former name."""
    life, slash, step = reference.rpartition("/")
    present = f"{life}{slash}{RENAMED_STAGES.get(step, step)}"
    return present if present != reference and ledger.named(present) else None


class Workspace:
    """Store, ledger and console of a call, opened on first use."""

    def __init__(self, store: str, ledger: str | None) -> None:
        self._store, self._ledger = store, ledger
        self.console = open_console()

    @classmethod
    def of(cls, store: str | None, ledger: str | None) -> Workspace:
        """Create a workspace from the options, else the environment, else the working folder."""
        return cls(store or machine.store_location() or "vita-store", ledger or machine.ledger_location())

    @cached_property
    def store(self) -> Store:
        return Store(self._store, cache=machine.cache_folder())

    @cached_property
    def ledger(self) -> Ledger:
        from vita.spine.ledger import Ledger

        return Ledger(self._ledger or self.store.root / "ledger.db")

    @cached_property
    def machine(self) -> Machine:
        return Machine.detect()

    def events(self, life: str, *, trackers: tuple[str, ...] = (), quiet: bool = False, notes: bool = True) -> Events:
        """Return the sinks of a life: the console and `events/<life>.jsonl` in the store; only rank 0 writes.

        `quiet` prints nothing; without `notes` the console shows steps and warnings only.
        """

        from vita.spine.progress import Screen
        from vita.spine.trackers import TRACKERS

        if not self.machine.leads:
            return Events()
        log = self.log_path(life)
        sinks = [TRACKERS[name](life, log.parent) for name in trackers]  # first, since a name may be unknown
        return Events([*([] if quiet else [Screen(self.console, notes=notes)]), JsonLines(log), *sinks])

    def log_path(self, life: str) -> Path:
        """Return the path of the event log of a life."""
        return self.store.root / "events" / f"{life}.jsonl"

    # -- references

    def find(self, reference: str, kind: type[A] = Artifact) -> A:
        """Return the artifact of a name (`cat/sft`), a digest prefix, or a folder."""
        if Path(reference).is_dir() and reference not in self.ledger.all_names():
            return self.adopt(Path(reference), kind)
        return self.store.open(self.digest(reference), kind)

    def digest(self, reference: str) -> str:
        """Return the digest of a name or a digest prefix."""
        reference = reference.removeprefix("@")
        by_name = self.ledger.named(reference)
        if by_name:
            return by_name
        matches = (
            [digest for digest in self.store.digests() if digest.startswith(reference)] if len(reference) >= 4 else []
        )
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise StoreError(reference, f"is the beginning of {len(matches)} digests", hint="give more characters")
        close = _present_reference(reference, self.ledger) or nearest(reference, self.ledger.all_names())
        hint = f"did you mean `{close}`?" if close else "`vita ls` lists the artifacts"
        raise StoreError(reference, "is not a name, digest or folder", hint=hint)

    def weights(self, reference: str) -> str:
        """Return the digest of a model, or of the model that a release (`cat/release`, `cat:1`) pins."""
        digest = self.ledger.named(f"release/{reference}") or self.digest(reference)
        kind = self.store.manifest(digest).kind
        if kind == "release":
            return str(json.loads(self.store.read(digest, "release.json"))["model"])
        if kind != "model":
            raise StoreError(reference, expected="a model or a release", got=with_article(kind))
        return digest

    def adopt(self, folder: Path, kind: type[A]) -> A:
        """Import an external folder, such as a Hugging Face model, into the store as an artifact."""
        if kind is Artifact:
            raise StoreError(str(folder), "is a folder; this command takes a name or digest from `vita ls`")
        _check_folder(folder, kind.kind)
        with self.store.temporary("adopt") as draft:
            shutil.copytree(folder, draft, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
            artifact = self._known_model(draft, kind) or self.store.commit(Draft(kind, draft))
        self.ledger.log("adopted", artifact.digest, kind=kind.kind, folder=folder.name)
        _ADOPTED[artifact.digest] = (str(artifact.path), str(folder))
        return artifact

    def _known_model(self, folder: Path, kind: type[A]) -> A | None:
        """Return the model of the store that has exactly these files, or None."""
        if kind.kind != "model":
            return None
        from vita.gates.weights import hash_files, match_model

        match = match_model(self.ledger, self.store, hash_files(folder))
        matches = [digest for digest in match.exact if self.store.manifest(digest).kind == kind.kind]
        return self.store.open(matches[0], kind) if matches and self.store.has(matches[0]) else None

    def latest(self, life: str, kind: type[Artifact]) -> str | None:
        """Return the digest of the newest artifact of `kind` named `life/...`."""
        for _, digest in reversed(self.ledger.newest_names(f"{life}/")):
            if self.store.has(digest) and self.store.manifest(digest).kind == kind.kind:
                return digest
        return None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of writing to `path`, an output file of the user, into a one-line error."""
    try:
        yield
    except OSError as error:
        if explained := explain_disk(error, path):
            raise explained from None
        raise StoreError(str(path), f"cannot be written: {(error.strerror or str(error)).lower()}") from None

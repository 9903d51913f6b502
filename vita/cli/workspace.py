"""The store and the ledger of a call, the resolution of references such as `cat/sft`, and output files of the user."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from vita.cli import model_reference
from vita.cli.folders import check_folder, remember_user_path
from vita.spine import machine
from vita.spine.config import nearest
from vita.spine.console import line, open_console
from vita.spine.disk import explain_disk
from vita.spine.errors import StoreError
from vita.spine.events import Events, JsonLines
from vita.spine.machine import Machine
from vita.spine.plain_text import with_article
from vita.spine.renamed_stages import RENAMED_STAGES
from vita.spine.store import Artifact, Draft, Store

if TYPE_CHECKING:
    from vita.spine.ledger import Ledger

A = TypeVar("A", bound=Artifact)
_HEXADECIMAL = frozenset("0123456789abcdef")


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

    @property
    def store_location(self) -> str:
        """The location of the store, which may not exist yet."""
        return self._store

    @cached_property
    def store(self) -> Store:
        return Store(self._store, cache=machine.cache_folder())

    @property
    def has_ledger(self) -> bool:
        """True if there is a ledger, which `ledger` opens without creating a store."""
        return self._ledger is not None or "://" in self._store or (Path(self._store) / "ledger.db").is_file()

    @cached_property
    def ledger(self) -> Ledger:
        from vita.spine.ledger import Ledger

        return Ledger(self._ledger or self.store.root / "ledger.db")

    def close(self) -> None:
        """Close the ledger if it is open."""
        if "ledger" in vars(self):
            self.ledger.close()

    def child_environment(self) -> dict[str, str]:
        """Return the environment of another `vita` process with this store and this ledger."""
        return machine.environment_of_vita(store=self._store, ledger=self._ledger)

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
        if not quiet:
            for sink in sinks:
                if destination := getattr(sink, "destination", ""):
                    text = f"  tracker {getattr(sink, 'tracker', '')} writes to {destination}"
                    self.console.print(line((text, "dim")), soft_wrap=True)
        return Events([*([] if quiet else [Screen(self.console, notes=notes)]), JsonLines(log), *sinks])

    def log_path(self, life: str) -> Path:
        """Return the path of the event log of a life."""
        return self.store.root / "events" / f"{life}.jsonl"

    # -- references

    def find(self, reference: str, kind: type[A] = Artifact) -> A:
        """Return the artifact of a name (`cat/sft`), a digest prefix, or a folder.

        A model may also be an id of the Hugging Face Hub or a GGUF file; it is adopted into the store.
        """
        if kind.kind == "model":
            return self.store.open(self.model(reference), kind)
        if Path(reference).is_dir() and reference not in self.ledger.all_names():
            return self.import_folder(Path(reference), kind)
        return self.store.open(self.digest(reference), kind)

    def model(self, reference: str) -> str:
        """Return the digest of a model: a name, a digest prefix, an id of the Hub, a folder or a GGUF file."""
        return model_reference.find_model(self._model_lookup(), reference)

    def find_in_store(self, reference: str) -> str | None:
        """Return the digest of a model that a life file names, or None if it is not in the store."""
        return model_reference.find_in_store(self._model_lookup(), reference)

    def _model_lookup(self) -> model_reference.ModelLookup:
        events = partial(self.events, model_reference.LIFE, quiet=True)
        return model_reference.ModelLookup(
            self.store, self.ledger, self.machine, events, self.digest, self.known_digest
        )

    def digest(self, reference: str) -> str:
        """Return the digest of a name or a digest prefix."""
        if digest := self.known_digest(reference):
            return digest
        reference = reference.removeprefix("@")
        close = _present_reference(reference, self.ledger) or nearest(reference, self.ledger.all_names())
        hint = f"did you mean `{close}`?" if close else "`vita ls` lists the artifacts"
        raise StoreError(reference, "is not a name, digest or folder", hint=hint)

    def known_digest(self, reference: str) -> str | None:
        """Return the digest of a name or a digest prefix, or None; a prefix of several digests is refused."""
        reference = reference.removeprefix("@")
        if digest := self.ledger.named(reference):
            return digest
        if len(reference) < 4 or not set(reference) <= _HEXADECIMAL:
            return None
        matches = [digest for digest in self.store.digests() if digest.startswith(reference)]
        if len(matches) > 1:
            raise StoreError(reference, f"is the beginning of {len(matches)} digests", hint="give more characters")
        return matches[0] if matches else None

    def weights(self, reference: str) -> str:
        """Return the digest of a model, or of the model that a release (`cat/release`, `cat:1`) pins."""
        digest = self.ledger.named(f"release/{reference}") or self.known_digest(reference) or self.model(reference)
        kind = self.store.manifest(digest).kind
        if kind == "release":
            return str(json.loads(self.store.read(digest, "release.json"))["model"])
        if kind != "model":
            raise StoreError(reference, expected="a model or a release", got=with_article(kind))
        return digest

    def import_folder(self, folder: Path, kind: type[A]) -> A:
        """Import a folder of another kind than a model, such as a report, into the store as an artifact."""
        if kind is Artifact:
            raise StoreError(str(folder), "is a folder; this command takes a name or digest from `vita ls`")
        check_folder(folder, kind.kind)
        with self.store.temporary("adopt") as draft:
            shutil.copytree(folder, draft, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
            artifact = self.store.commit(Draft(kind, draft))
        self.ledger.log("adopted", artifact.digest, kind=kind.kind, folder=folder.name)
        remember_user_path(artifact, folder)
        return artifact

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

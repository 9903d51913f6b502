"""Clearance of releases: the service hashes files and tensors itself before `vita.gates.clearance` decides.

clear = ledger_clearance(ledger, store)
clear(release, ServingRequest(ungated="a load test")).model        # the identity, computed from the files
"""

from __future__ import annotations

from typing import Protocol

from vita.gates.clearance import Clearance, ServingRequest, clear
from vita.gates.exports import is_export
from vita.gates.tensor_digest import tensor_digest
from vita.gates.weights import Files, match_model
from vita.server.release import GGUF, MODEL, ReleaseInfo, files_below, load_verified
from vita.spine.errors import GateError
from vita.spine.ledger import Ledger
from vita.spine.model_files import BASE, base_reference, is_adapter_folder
from vita.spine.stage import Context
from vita.spine.store import Store


class ClearRelease(Protocol):
    """Decides whether a release may be served; raises `VitaError` with the reason otherwise."""

    def __call__(self, release: ReleaseInfo, terms: ServingRequest, *, record: bool = True) -> Clearance: ...


def ledger_clearance(ledger: Ledger, store: Store) -> ClearRelease:
    """The clearance function of a service: by the gates and states of this ledger, and the models of this store."""

    def clear_release(release: ReleaseInfo, terms: ServingRequest, *, record: bool = True) -> Clearance:
        files, tensors = load_verified(release.folder, _files_and_tensors, digest=release.digest)
        _check_base(ledger, store, release)
        clearance = clear(
            ledger, store, files, tensors=tensors, guard=release.content.get("guard"), label=release.id,
            claim=release.model, terms=terms, record=record,
        )  # fmt: skip
        _check_gguf(ledger, release, clearance.model)
        return clearance

    return clear_release


def _check_gguf(ledger: Ledger, release: ReleaseInfo, model: str) -> None:
    """Raise unless Vita exported the GGUF file of a release from exactly its model."""
    if GGUF not in release.files:
        return
    if not is_export(ledger, model, sha256=release.files[GGUF]):
        raise GateError(
            f"release {release.id}",
            expected=f"a GGUF file that Vita exported from the model {model[:12]}",
            got=f"one with the SHA-256 {release.files[GGUF][:12]}, which the ledger does not know",
            hint="`--backend llama.cpp` exports the file again",
        )


def _check_base(ledger: Ledger, store: Store, release: ReleaseInfo) -> None:
    """Raise unless the base model in the release of an adapter has the files of the model that the adapter names."""
    base = base_reference(release.folder / MODEL) if is_adapter_folder(release.folder / MODEL) else None
    if base is None:
        return
    files = {
        name: (sha, (release.folder / BASE / name).stat().st_size) for name, sha in files_below(release, BASE).items()
    }
    match = match_model(ledger, store, files)
    if store.has(base) and base not in (match.digest, *match.exact):
        expected = f"the files of its base model {base[:12]}"
        raise GateError(f"release {release.id}", expected=expected, got=f"those of {match.digest[:12]}")


def _files_and_tensors(release: ReleaseInfo, files: Files) -> tuple[Files, str | None]:
    return files, tensor_digest(release.folder / MODEL)


def context_clearance(context: Context) -> ClearRelease:
    """The clearance function of a stage that serves a release, by the ledger and store of its life."""
    assert context.ledger is not None and context.store is not None, "a stage that serves declares LINEAGE"
    return ledger_clearance(context.ledger, context.store)

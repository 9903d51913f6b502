"""Clearance of releases: the service hashes files and tensors itself before `vita.gates.clearance` decides.

clear = ledger_clearance(ledger, store)
clear(release, ServingRequest(ungated="a load test")).model        # the identity, computed from the files

No weights of a release may be retired: neither those of the model, nor those of the base model of an adapter or of a
draft model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from vita.gates.clearance import Clearance, CompanionModel, ServingRequest, clear
from vita.gates.exports import is_export
from vita.gates.tensor_digest import tensor_digest
from vita.gates.weights import Files, match_model
from vita.server.release import DRAFT, GGUF, MODEL, ReleaseInfo, files_below, load_verified
from vita.spine.errors import GateError, ModelError
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
        files, tensors, companions = load_verified(release.folder, _weights, digest=release.digest)
        _check_base(ledger, store, release)
        clearance = clear(
            ledger, store, files, tensors=tensors, guard=release.content.get("guard"), label=release.id,
            claim=release.model, terms=terms, companions=companions, record=record,
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
    match = match_model(ledger, store, _files_of(release, BASE))
    if store.has(base) and base not in (match.digest, *match.exact):
        expected = f"the files of its base model {base[:12]}"
        raise GateError(f"release {release.id}", expected=expected, got=f"those of {match.digest[:12]}")


def _weights(release: ReleaseInfo, files: Files) -> tuple[Files, str | None, tuple[CompanionModel, ...]]:
    """Return the files and tensors of a verified release, and the models that are loaded with its model."""
    return files, tensor_digest(release.folder / MODEL), tuple(_companions(release))


def _companions(release: ReleaseInfo) -> Iterator[CompanionModel]:
    """Yield the base model of an adapter and the draft model; raise if a base is not a full model of the release.

    The folder of an adapter may name a base at any other path, so that a base outside the release would be loaded
    without a verification.
    """
    folder, base = release.folder, _files_of(release, BASE)
    if is_adapter_folder(folder / MODEL) and (not base or is_adapter_folder(folder / BASE)):
        expected = f"the files of its base model in the folder `{BASE}`, with `config.json`"
        hint = "make a new release with `vita release`"
        raise ModelError(f"release {release.id}", "holds an adapter", expected=expected, got=sorted(base), hint=hint)
    if base:
        yield CompanionModel("base model", base, tensor_digest(folder / BASE))
    if draft := _files_of(release, DRAFT):
        yield CompanionModel("draft model", draft, tensor_digest(folder / DRAFT))


def _files_of(release: ReleaseInfo, name: str) -> Files:
    """Return the files of a folder inside a release: name -> (sha256, size in bytes)."""
    folder = release.folder / name
    return {file: (sha, (folder / file).stat().st_size) for file, sha in files_below(release, name).items()}


def context_clearance(context: Context) -> ClearRelease:
    """The clearance function of a stage that serves a release, by the ledger and store of its life."""
    assert context.ledger is not None and context.store is not None, "a stage that serves declares LINEAGE"
    return ledger_clearance(context.ledger, context.store)

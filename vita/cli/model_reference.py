"""Resolution of model references, the same for every command and for life files.

A reference is, in this order: a name in the store (`cat/sft`, or the id of a Hub model that was adopted before), a
folder or a GGUF file, the beginning of a digest, an id of the Hugging Face Hub (`owner/name`, `owner/name@revision`).
Everything that is not in the store yet is adopted by a run of the stage `adopt`, with which the lineage begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vita.cli.folders import check_folder, remember_user_path
from vita.spine.config import nearest
from vita.spine.disk import file_sha256
from vita.spine.errors import ModelError, StoreError, VitaError
from vita.spine.model_files import ADAPTER_CONFIG, base_folder, base_reference, is_adapter_folder

if TYPE_CHECKING:
    from vita.spine.events import Events
    from vita.spine.ledger import Ledger
    from vita.spine.machine import Machine
    from vita.spine.store import Store

LIFE = "adopted"
"""The life under which commands adopt models."""


@dataclass(frozen=True)
class ModelLookup:
    """The part of a workspace that the resolution needs."""

    store: Store
    ledger: Ledger
    machine: Machine
    events: Callable[[], Events]
    digest: Callable[[str], str]
    known_digest: Callable[[str], str | None]


def find_model(lookup: ModelLookup, reference: str) -> str:
    """Return the digest of a model; a model outside of the store is adopted first."""
    if (digest := _in_store(lookup, reference)) is not None:
        return digest
    path = Path(reference).expanduser()
    if path.is_dir():
        return _adopt_folder(lookup, path)
    if is_external(reference):
        _refuse_misspelt_name(lookup, reference)
        try:
            return _adopt(lookup, reference)
        except ModelError as error:
            if Path(reference).expanduser().exists():
                raise
            message = str(error).removeprefix(f"{reference} on the Hub: ")
            raise ModelError(reference, f"is not a name, digest or folder; as an id of the Hub: {message}") from None
    return lookup.digest(reference)


def is_external(reference: str) -> bool:
    """Return True if a reference has the form of a model outside of the store."""
    from vita.formats.model_source import ModelSource

    source = ModelSource(reference)
    return source.path.is_dir() or source.is_gguf or source.hub is not None


def find_in_store(lookup: ModelLookup, reference: str) -> str | None:
    """Return the digest that a life file means by `reference`, or None if it is not in the store.

    An id of the Hub keeps its step `adopt` in the plan, also if the model was adopted before: its revision may move.
    """
    digest = lookup.known_digest(reference)
    if digest is not None and _is_adopted_id(lookup, reference, digest):
        return None
    if digest is None and not Path(reference).expanduser().exists() and is_external(reference):
        _refuse_misspelt_name(lookup, reference)
    return digest


def _is_adopted_id(lookup: ModelLookup, reference: str, digest: str) -> bool:
    runs = lookup.ledger.find(stage="adopt", artifact=digest, state="done")
    return any((run.record or {}).get("hub") == reference for run in runs)


def _in_store(lookup: ModelLookup, reference: str) -> str | None:
    """Return the digest of a name; with several processes, each of them adopts an id of the Hub."""
    if lookup.machine.world_size > 1 and is_external(reference):
        return None
    return lookup.ledger.named(reference.removeprefix("@").removeprefix("hf://"))


def _refuse_misspelt_name(lookup: ModelLookup, reference: str) -> None:
    """Refuse `cat/sfft` where a life `cat` exists, before the Hub is asked for it."""
    life = reference.partition("/")[0]
    names = [name for name in lookup.ledger.all_names() if name.startswith(f"{life}/")]
    runs = lookup.ledger.find(life=life) if names else []
    if any(run.stage != "adopt" for run in runs):
        close = nearest(reference, names)
        hint = f"did you mean `{close}`?" if close else "`vita ls` lists the artifacts"
        hint = f"{hint}; a model of the Hub with this id is hf://{reference}"
        raise StoreError(reference, "is not a name, digest or folder", hint=hint)


def _adopt_folder(lookup: ModelLookup, folder: Path) -> str:
    """Return the model of the store with exactly the files of a folder, or adopt the folder."""
    check_folder(folder, "model")
    if lookup.machine.world_size == 1 and (known := _model_with_files(lookup, folder)) is not None:
        remember_user_path(lookup.store.open(known), folder)
        return known
    return _adopt(lookup, str(folder))


def _model_with_files(lookup: ModelLookup, folder: Path) -> str | None:
    from vita.gates.weights import hidden, match_model

    names = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    files = {name: (file_sha256(path), path.stat().st_size) for name, path in names.items() if not hidden(name)}
    match = match_model(lookup.ledger, lookup.store, files)
    models = [digest for digest in match.exact if lookup.store.manifest(digest).kind == "model"]
    return models[0] if models and lookup.store.has(models[0]) else None


def _adopt(lookup: ModelLookup, reference: str) -> str:
    """Run the stage `adopt` and return the digest of its model."""
    from vita.life import configure, stage
    from vita.spine.plan import Plan, Step, execute

    declaration = stage("adopt")
    config = configure(declaration, {"model": reference}, where="model", shared={}, base=Path())
    path = Path(reference).expanduser()
    inputs = {"base": f"@{_base_of_adapter(lookup, path)}"} if is_adapter_folder(path) else {}
    step = Step(_step_name(reference), declaration, config, inputs)
    events = lookup.events()
    try:
        artifacts = execute(Plan(LIFE, (step,)), lookup.store, lookup.ledger, machine=lookup.machine, events=events)
    finally:
        events.close()
    artifact = artifacts[step.name]
    remember_user_path(artifact, reference)
    return artifact.digest


def _base_of_adapter(lookup: ModelLookup, folder: Path) -> str:
    """Return the digest of the base model that the adapter in a folder names; it is adopted if necessary."""
    reference = base_reference(folder)
    try:
        return find_model(lookup, str(base_folder(folder)))
    except ModelError:
        if reference is None:
            raise
    try:
        return find_model(lookup, reference)
    except VitaError as error:
        where = f"{folder / ADAPTER_CONFIG}: base_model_name_or_path"
        hint = "download the base model and write its folder there"
        raise ModelError(where, f"the base model is not available: {error}", hint=hint) from None


def _step_name(reference: str) -> str:
    """Return a name of the adopted model: the last part of the reference, without its revision."""
    name = Path(reference.partition("@")[0] if "://" in reference or "@" in reference else reference).name
    return name or "model"

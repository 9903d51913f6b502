"""Model identity by verified bytes: which models of the store hold the same files, or the same weights.

    files = hash_files(folder)                                # name -> (sha256, bytes), read from the disk
    match = match_model(ledger, store, files)
    match.digest                                              # the same at every path and in the store
    match.identity.holds(other_identity)                      # True for the same weights in other files

The ledger keeps an index of the files of every model in the store. The index is filled from manifests, whose own
sha256 is the model's digest, so that no file inside a folder can claim an identity. A second index holds a digest of
the tensors, so that weights in another file layout are the same weights.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from vita.gates.tensor_digest import tensor_digest
from vita.spine.disk import file_sha256
from vita.spine.errors import ModelError, StoreError
from vita.spine.ledger import Ledger
from vita.spine.model_files import ADAPTER_CONFIG, DESCRIPTION
from vita.spine.store import Manifest, Store
from vita.spine.tables import table

Files = Mapping[str, tuple[str, int]]
"""File name inside the model folder -> (sha256, size in bytes)."""
WEIGHTS_SUFFIX = ".safetensors"
MODEL_KINDS = ("model", "reward")

model_files = table("model_files", string="artifact name sha256", primary_key="artifact name")
"""The files of every model in the store; another artifact has one row with an empty name."""
model_tensors = table("model_tensors", string="artifact digest", primary_key="artifact")
"""The digest of a model's tensors; empty where its weights cannot be read."""


@dataclass(frozen=True)
class WeightsIdentity:
    """The hashes of a model folder that its weights are recognized by."""

    files: frozenset[tuple[str, str]]
    """Name and sha256 of every file."""
    weight_files: frozenset[str]
    """The sha256 of every weight file, as `weights_of` returns them."""
    tensors: str | None
    """The digest of the tensors, if it is known."""

    @classmethod
    def of(cls, hashes: Mapping[str, str], *, tensors: str | None) -> WeightsIdentity:
        """Return the identity of a folder from its file names and their sha256."""
        return cls(frozenset(hashes.items()), weights_of(hashes), tensors or None)

    def holds(self, other: WeightsIdentity) -> bool:
        """Return True if these are the weights of `other`: the same tensors, or all of its weight files."""
        same_tensors = self.tensors is not None and self.tensors == other.tensors
        return same_tensors or (bool(other.weight_files) and other.weight_files <= self.weight_files)


@dataclass(frozen=True)
class ModelMatch:
    """The models of the store that a set of files belongs to."""

    digest: str
    """The digest of the model: an artifact with exactly these files, or the digest that adopting them would give."""
    exact: tuple[str, ...]
    """Artifacts with exactly these files."""
    same_weights: tuple[str, ...]
    """Artifacts with the same tensors, and those whose weight files are all among these files; `exact` included."""
    identity: WeightsIdentity

    @property
    def digests(self) -> tuple[str, ...]:
        """The digests of all models with these weights, those with exactly these files first."""
        return tuple(dict.fromkeys([self.digest, *self.exact, *self.same_weights]))


def hidden(name: str) -> bool:
    """Return True if a file is hidden: neither adopted into the store nor included in a release."""
    return any(part.startswith(".") for part in name.split("/"))


def regular_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name, path) of every file below a folder; refuses symbolic links and special files."""
    for parent, folders, names in os.walk(folder):
        for entry in sorted([*folders, *names]):
            path = Path(parent, entry)
            name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
            if stat.S_ISLNK(mode):
                hint = "copy the folder with its real files: cp -rL FOLDER COPY"
                raise ModelError(str(path), "is a symbolic link", hint=hint)
            if stat.S_ISREG(mode):
                yield name, path
            elif not stat.S_ISDIR(mode):
                raise ModelError(str(path), expected="a regular file", got="a device, pipe or socket")


def hash_files(folder: Path) -> dict[str, tuple[str, int]]:
    """Return the hashes of all visible files of a model folder."""
    return {name: (file_sha256(path), path.stat().st_size) for name, path in regular_files(folder) if not hidden(name)}


def model_digest(files: Files) -> str:
    """Return the digest of a model folder as an artifact, which is independent of its path."""
    return hashlib.sha256(Manifest("model", files, {}).encode()).hexdigest()


def weights_of(files: Mapping[str, str]) -> frozenset[str]:
    """Return the sha256 of the weight files; for an adapter, also of the files that name its base and its scale."""
    names = {name for name in files if name.endswith(WEIGHTS_SUFFIX)}
    if ADAPTER_CONFIG in files:
        names |= {ADAPTER_CONFIG, DESCRIPTION} & files.keys()
    return frozenset(files[name] for name in names)


def match_model(ledger: Ledger, store: Store, files: Files, *, tensors: str | None = None) -> ModelMatch:
    """Find the models of the store with these files, and those with the same weights.

    `tensors` is the digest of the tensors in these files; without it only equal files are the same weights.
    """
    update_index(ledger, store)
    hashes = {name: sha for name, (sha, _) in files.items()}
    identity = WeightsIdentity.of(hashes, tensors=tensors)
    similar = _models_holding(ledger, identity.weight_files or frozenset(hashes.values()))
    exact = sorted(digest for digest, files_held in similar.items() if files_held == hashes)
    same = {
        digest for digest, files_held in similar.items() if identity.holds(WeightsIdentity.of(files_held, tensors=None))
    }
    if tensors is not None:
        update_tensor_index(ledger, store)
        same |= _models_with_tensors(ledger, tensors)
    return ModelMatch(
        exact[0] if exact else model_digest(files),
        tuple(exact),
        tuple(dict.fromkeys([*exact, *sorted(same)])),
        identity,
    )


def same_weights(ledger: Ledger, store: Store, model: str) -> tuple[str, ...]:
    """Return the models of the store with the same weights as `model`, including itself."""
    update_index(ledger, store)
    update_tensor_index(ledger, store, model)
    query = sa.select(model_files.c.name, model_files.c.sha256).where(model_files.c.artifact == model)
    with ledger.transaction() as database:
        weights = weights_of({row.name: row.sha256 for row in database.execute(query)})
        tensors = database.execute(
            sa.select(model_tensors.c.digest).where(model_tensors.c.artifact == model)
        ).scalar_one_or_none()
    same = {
        digest for digest, files_held in _models_holding(ledger, weights).items() if weights_of(files_held) == weights
    }
    if tensors:
        same |= _models_with_tensors(ledger, tensors)
    return tuple(sorted((same if weights else set()) | {model}))


def update_index(ledger: Ledger, store: Store) -> None:
    """Add the files of models that are new in the store to the index."""
    with ledger.transaction() as database:
        known = set(database.execute(sa.select(model_files.c.artifact).distinct()).scalars())
    rows: list[dict[str, str]] = []
    for digest in store.digests():
        if digest in known:
            continue
        try:
            manifest = store.manifest(digest)
        except StoreError:  # a damaged manifest identifies nothing; `vita verify` reports it
            continue
        rows += _index_rows(digest, manifest)
    if rows:
        with ledger.transaction() as database:
            dialect = postgresql if database.dialect.name == "postgresql" else sqlite
            database.execute(dialect.insert(model_files).on_conflict_do_nothing(), rows)


def update_tensor_index(ledger: Ledger, store: Store, *models: str) -> None:
    """Add the tensors of `models` and of models that are not in the index.

    Of a remote store only models with a state or a verdict are read, since each one has to be fetched.
    """
    indexed = sa.select(model_tensors.c.artifact)
    query = sa.select(model_files.c.artifact).distinct().where(model_files.c.name != "")
    query = query.where(model_files.c.artifact.not_in(indexed))
    if store.is_remote:
        states = sa.select(sa.column("artifact")).select_from(sa.table("states"))
        verdicts = sa.select(sa.column("artifact")).select_from(sa.table("verdicts"))
        known = model_files.c.artifact.in_(sa.union(states, verdicts))
        query = query.where(known | model_files.c.artifact.in_(models))
    with ledger.transaction() as database:
        missing = sorted(database.execute(query).scalars())
    _index_tensors(ledger, store, missing)


def index_weights(ledger: Ledger, store: Store, model: str) -> None:
    """Add the files and the tensors of one model to the indexes, before a change of its state that ends its service.

    Running services compare the weights that they serve with the indexes alone, without the store of the model.
    """
    update_index(ledger, store)
    query = sa.select(model_tensors.c.artifact).where(model_tensors.c.artifact == model)
    with ledger.transaction() as database:
        is_indexed = database.execute(query).scalar_one_or_none() is not None
    if not is_indexed:
        _index_tensors(ledger, store, [model])


def _index_tensors(ledger: Ledger, store: Store, models: Sequence[str]) -> None:
    rows = [_tensor_row(store, digest) for digest in models if store.has(digest)]
    if rows:
        with ledger.transaction() as database:
            dialect = postgresql if database.dialect.name == "postgresql" else sqlite
            database.execute(dialect.insert(model_tensors).on_conflict_do_nothing(), rows)


def _tensor_row(store: Store, digest: str) -> dict[str, str]:
    return {"artifact": digest, "digest": tensor_digest(store.open(digest).path) or ""}


def _models_with_tensors(ledger: Ledger, tensors: str) -> set[str]:
    query = sa.select(model_tensors.c.artifact).where(model_tensors.c.digest == tensors)
    with ledger.transaction() as database:
        return set(database.execute(query).scalars())


def _index_rows(digest: str, manifest: Manifest) -> list[dict[str, str]]:
    if manifest.kind not in MODEL_KINDS:
        return [{"artifact": digest, "name": "", "sha256": ""}]
    files = {name: sha for name, (sha, _) in manifest.files.items() if not hidden(name)}
    return [{"artifact": digest, "name": name, "sha256": sha} for name, sha in files.items()]


def _models_holding(ledger: Ledger, hashes: frozenset[str]) -> dict[str, dict[str, str]]:
    """Return model -> files for every model that has one of these contents."""
    holders = sa.select(model_files.c.artifact).where(model_files.c.sha256.in_(sorted(hashes)))
    query = sa.select(model_files).where(model_files.c.artifact.in_(holders))
    files_by_model: dict[str, dict[str, str]] = {}
    with ledger.transaction() as database:
        for row in database.execute(query):
            files_by_model.setdefault(row.artifact, {})[row.name] = row.sha256
    return files_by_model

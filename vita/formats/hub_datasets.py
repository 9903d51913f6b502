"""Files of a data set: local files, or `hf://datasets/OWNER/NAME[@REVISION]/PATTERN` on the Hugging Face Hub.

    DatasetFiles("shards/train_*.bin").paths(where="import_tokens.train")          # local
    DatasetFiles("hf://datasets/acme/shards@main/train_*.bin").paths(where="...")  # downloaded to the cache of the Hub

A run is identified by the content of local files, and by the commit and the pattern of files on the Hub. A commit as
the revision needs no network for the identity. Downloaded files are verified against the hash under which the Hub
lists them.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vita.formats.hub import cached_snapshot, explain_error, is_unreachable, library, online_hint, verify_blob
from vita.spine.config import InputPath
from vita.spine.contents import expected_files
from vita.spine.errors import ConfigError, DataError, VitaError
from vita.spine.file_listing import list_files
from vita.spine.store import canonical_json

_SCHEME = "hf://datasets/"
_REFERENCE = re.compile(
    r"hf://datasets/(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w.-]+))?/(?P<pattern>[^@]+)"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_KIND = "dataset"


@dataclass(frozen=True)
class DatasetReference:
    """Files of a data set on the Hub: the id, the revision (branch, tag or commit), and a name or a glob of files."""

    id: str
    pattern: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"{_SCHEME}{self.id}@{self.revision}/{self.pattern}"


class DatasetFiles(InputPath):
    """A file, a folder or a glob of this machine, or files of a data set on the Hub."""

    @property
    def reference(self) -> DatasetReference | None:
        """The reference to the Hub; None for local files."""
        if not self.startswith(_SCHEME):
            return None
        match = _REFERENCE.fullmatch(self)
        if match is None:
            raise ConfigError(self, expected="hf://datasets/OWNER/NAME@REVISION/FILES")
        return DatasetReference(match["id"], match["pattern"], match["revision"] or "main")

    def identify(self, ledger: Any, *, where: str) -> str | None:
        """Return the identity of files on the Hub: the id, the commit and the pattern."""
        if (reference := self.reference) is None:
            if "://" in self:
                raise ConfigError(where, expected=f"a local path, or {_SCHEME}OWNER/NAME@REVISION/FILES", got=str(self))
            return None
        content = {"dataset": reference.id, "commit": dataset_commit(reference), "pattern": reference.pattern}
        return hashlib.sha256(canonical_json(content)).hexdigest()

    def paths(self, *, where: str) -> list[Path]:
        """Return the local paths of the files, sorted by name, after a download if they are on the Hub."""
        if (reference := self.reference) is not None:
            return download_dataset_files(reference, dataset_commit(reference))
        known = expected_files(self)
        return [Path(file.path) for file in (list_files(self, where=where) if known is None else known)]


def dataset_commit(reference: DatasetReference) -> str:
    """Return the commit of the revision: the revision itself if it is one, otherwise the answer of the Hub."""
    if _COMMIT.fullmatch(reference.revision):
        return reference.revision
    with _errors_of(reference):
        return str(library().HfApi().dataset_info(reference.id, revision=reference.revision).sha)


def download_dataset_files(reference: DatasetReference, commit: str) -> list[Path]:
    """Download the files that match the pattern; return their verified paths in the cache, sorted by name."""
    with _errors_of(reference):
        names = [name for name in _file_names(reference, commit) if fnmatch.fnmatchcase(name, reference.pattern)]
        if not names:
            raise DataError(str(reference), "the data set has no file that matches")
        hub = library()
        folder = hub.snapshot_download(reference.id, repo_type=_KIND, revision=commit, allow_patterns=names)
    paths = [Path(folder, name) for name in sorted(names)]
    for path in paths:
        if not path.is_file():
            raise DataError(str(reference), f"{path.name} is missing from the cache", hint=online_hint())
        verify_blob(path, where=f"{reference.id}: {path.name}")
    return paths


def _file_names(reference: DatasetReference, commit: str) -> list[str]:
    """Return the names of the files of a commit; without a network those in the cache."""
    try:
        return list(library().HfApi().list_repo_files(reference.id, revision=commit, repo_type=_KIND))
    except Exception as error:
        folder = cached_snapshot(reference.id, commit, kind="datasets")
        if folder is None or not is_unreachable(error):
            raise
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


@contextmanager
def _errors_of(reference: DatasetReference) -> Iterator[None]:
    """Raise errors of the Hub as a `DataError` with the cause and what to do."""
    try:
        yield
    except VitaError:
        raise
    except Exception as error:  # noqa: BLE001 (the classes of the HTTP library are not fixed)
        explained = explain_error(error, reference.id)
        problem = (explained.problem or str(explained)).replace("model", "data set")
        hint = "connect to the network, or give files of this machine" if is_unreachable(error) else None
        raise DataError(str(reference), problem, hint=hint) from None

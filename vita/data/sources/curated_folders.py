"""Folders that `vita curate --out` wrote, as sources: the training documents are read, and nothing else.

    read = training_files(find_files("clean", where="curate"))      # the files below clean/train

The held-out and the dropped documents are read only if their folder is named (`clean/heldout`), because training on
them would be a mistake. The metadata, the report and its figures are no documents.
"""

from __future__ import annotations

from collections.abc import Sequence

from vita.data.sources.files import SourceFile

CROISSANT = "croissant.json"
_REPORT = "report."
"""Beginning of the names of the report in several formats."""
_TRAIN = "train/"


def training_files(files: Sequence[SourceFile]) -> list[SourceFile]:
    """Return the files without those of a curated folder that are not training documents."""
    folders = _curated_folders(files)
    if not folders:
        return list(files)
    return [file for file in files if all(_is_training(file.name, folder) for folder in folders)]


def _curated_folders(files: Sequence[SourceFile]) -> list[str]:
    """Return the names of the curated folders with a slash at the end; empty for the source itself."""
    folders = [
        file.name.removesuffix(CROISSANT)
        for file in files
        if file.name == CROISSANT or file.name.endswith(f"/{CROISSANT}")
    ]
    if not folders:
        return []
    names = [file.name for file in files]
    return [
        folder
        for folder in folders
        if all(any(name.startswith(folder + start) for name in names) for start in (_REPORT, _TRAIN))
    ]


def _is_training(name: str, folder: str) -> bool:
    return not name.startswith(folder) or name.startswith(f"{folder}{_TRAIN}")

"""The files of a model folder, each read from disk at most once.

    files = ModelFiles.of(folder)
    files.text("config.json")
    files.text("config.json")       # from memory

Tokenizer, chat template, architecture and weights of one folder are loaded from one `ModelFiles`, and the folder of a
tuned model takes its unchanged files from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias


class ModelFiles:
    """A model folder with the content of the files that were read from it."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.tensor_types: Mapping[str, Any] | None = None
        """Tensor name -> stored type, once the weights have been read."""
        self._contents: dict[str, bytes] = {}

    @classmethod
    def of(cls, folder: ModelFolder) -> ModelFiles:
        """Return the files of a folder; a `ModelFiles` is returned as it is."""
        return folder if isinstance(folder, ModelFiles) else cls(folder)

    def __str__(self) -> str:
        return str(self.folder)

    def path(self, name: str) -> Path:
        """Return the path of a file, for messages."""
        return self.folder / name

    def exists(self, name: str) -> bool:
        """Return whether the folder holds this file."""
        return name in self._contents or self.path(name).is_file()

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        if name not in self._contents:
            self._contents[name] = self.path(name).read_bytes()
        return self._contents[name]

    def text(self, name: str) -> str:
        """Return the content of a UTF-8 file with `\\n` as line ends."""
        return self.read(name).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")


ModelFolder: TypeAlias = str | Path | ModelFiles
"""A model folder: its path, or its files where they were opened before."""

"""The files of a model folder, each read from disk at most once.

    files = ModelFiles.of(folder)
    files.text("config.json")
    files.text("config.json")       # from memory

Tokenizer, chat template, architecture and weights of one folder are loaded from one `ModelFiles`, and the folder of a
tuned model takes its unchanged files from it.

The folder of an adapter holds `adapter_config.json` and refers to its base model. All files that it does not hold are
those of the base model. `base_folder` finds the base.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from vita.spine.disk import write_atomically
from vita.spine.errors import ModelError

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DESCRIPTION = "vita.json"
BASE = "base"
"""The folder of the base model beside the folder of an adapter, in a release; also its entry in `vita.json`."""


class ModelFiles:
    """A model folder with the content of the files that were read from it."""

    def __init__(self, folder: str | Path, *, base: ModelFiles | None = None) -> None:
        self.folder = Path(folder)
        self.tensor_types: Mapping[str, Any] | None = None
        """Tensor name -> stored type, once the weights have been read."""
        self._contents: dict[str, bytes] = {}
        self._base = base

    @classmethod
    def of(cls, folder: ModelFolder) -> ModelFiles:
        """Return the files of a folder; a `ModelFiles` is returned as it is."""
        return folder if isinstance(folder, ModelFiles) else cls(folder)

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def is_adapter(self) -> bool:
        """Return whether this is the folder of an adapter."""
        return is_adapter_folder(self.folder)

    @cached_property
    def base(self) -> ModelFiles | None:
        """The files of the base model of an adapter, otherwise None; a `ModelError` if the base is not found."""
        if not self.is_adapter:
            return None
        return self._base or ModelFiles(base_folder(self.folder))

    @property
    def weights(self) -> ModelFiles:
        """The files with the dense weights: those of the base for an adapter."""
        return self.base or self

    def path(self, name: str) -> Path:
        """Return the path of a file, for messages."""
        return self._holder(name).folder / name

    def exists(self, name: str) -> bool:
        """Return whether the folder holds this file, or its base model does."""
        if name in self._contents or (self.folder / name).is_file():
            return True
        return self.base is not None and self.base.exists(name)

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        holder = self._holder(name)
        if name not in holder._contents:
            holder._contents[name] = (holder.folder / name).read_bytes()
        return holder._contents[name]

    def text(self, name: str) -> str:
        """Return the content of a UTF-8 file with `\\n` as line ends."""
        return self.read(name).decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")

    def _holder(self, name: str) -> ModelFiles:
        """Return the folder of a file: this one, or the base model's if only that holds it."""
        if name in self._contents or (self.folder / name).is_file() or name in OWN_FILES:
            return self
        return self.base if self.base is not None and self.base.exists(name) else self


RELEASE = "release.json"
"""The description of a release, beside the folders of its models."""
OWN_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, DESCRIPTION)
"""Files of an adapter that never come from its base."""
ModelFolder: TypeAlias = str | Path | ModelFiles
"""A model folder: its path, or its files where they were opened before."""


def is_adapter_folder(folder: Path) -> bool:
    """Return whether a folder holds an adapter and not a full model."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def description(folder: Path) -> dict[str, Any]:
    """Return the content of `vita.json`; {} if a folder of another program has none."""
    path = folder / DESCRIPTION
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(str(path), f"is not JSON: {error}") from None
    return value if isinstance(value, dict) else {}


def write_description(folder: Path, values: Mapping[str, Any]) -> None:
    """Write `vita.json`."""
    write_atomically(folder / DESCRIPTION, (json.dumps(values, indent=2) + "\n").encode())


def base_reference(folder: Path) -> str | None:
    """Return the base model that an adapter names: a digest in `vita.json`, otherwise `base_model_name_or_path`."""
    if digest := description(folder).get(BASE):
        return str(digest)
    path = folder / ADAPTER_CONFIG
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(str(path), f"is not JSON: {error}") from None
    name = value.get("base_model_name_or_path") if isinstance(value, dict) else None
    return str(name) if name else None


def base_folder(folder: Path) -> Path:
    """Return the folder of the base model of an adapter.

    It is the artifact of that digest beside the adapter in a store, the folder `base` beside the adapter in a release,
    or inside the adapter in an archive, or the path in `base_model_name_or_path`, which may be relative to the adapter
    or to the working folder.
    """
    reference = base_reference(folder)
    candidates = [folder.parent / BASE] if (folder.parent / RELEASE).is_file() else []
    candidates.append(folder / BASE)
    if reference:
        candidates = [*candidates, folder.parent / reference, Path(reference).expanduser(), folder / reference]
    for candidate in candidates:
        if candidate.resolve() != folder.resolve() and any(
            (candidate / name).is_file() for name in ("config.json", ADAPTER_CONFIG)
        ):
            return candidate
    hint = "download the base model and write its folder into `base_model_name_or_path`"
    where = f"{folder / ADAPTER_CONFIG}: base_model_name_or_path"
    raise ModelError(where, expected="the folder of the base model", got=reference, hint=hint)

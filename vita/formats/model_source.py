"""References to models outside of the store: an id of the Hugging Face Hub, a model folder or a GGUF file.

    ModelSource("Qwen/Qwen3-0.6B@main").hub      # HubReference("Qwen/Qwen3-0.6B", revision="main")
    ModelSource("models/mine").hub               # None where this folder exists

An existing path takes precedence over an id of the Hub; `hf://owner/name` is always an id.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from vita.formats.hub import resolve_commit
from vita.formats.hub_reference import GGUF_SUFFIX, HubReference, hub_reference
from vita.spine.config import InputPath
from vita.spine.errors import ModelError
from vita.spine.store import canonical_json


class ModelSource(InputPath):
    """A reference to a model outside of the store; its content identifies a run."""

    @property
    def path(self) -> Path:
        """The local path that the reference names."""
        return Path(self).expanduser()

    @property
    def hub(self) -> HubReference | None:
        """The reference to the Hub, or None for a local path."""
        return None if self.path.exists() else hub_reference(self)

    @property
    def is_gguf(self) -> bool:
        """True for a local GGUF file."""
        return self.hub is None and self.path.suffix == GGUF_SUFFIX

    def below(self, base: Path) -> ModelSource:
        """Return the reference relative to the folder of a life file; an id of the Hub stays unchanged."""
        if self.startswith("hf://") or self.path.is_absolute():
            return self
        is_local = (base / self).exists() or hub_reference(self) is None
        return ModelSource(base / self) if is_local else self

    def identify(self, ledger: Any, *, where: str) -> str | None:
        """Return the identity of a model on the Hub: its id and commit. A local path is identified by its bytes."""
        if (reference := self.hub) is None:
            if not self.path.exists():
                hint = "give an id of the Hub (owner/name), a model folder, a GGUF file or a name in the store"
                raise ModelError(where, f"{self}: there is no such model", hint=hint)
            return None
        commit = resolve_commit(reference, ledger=ledger)
        pinned_commits[str(self)] = commit
        content = {"hub": reference.id, "commit": commit, "file": reference.file}
        return hashlib.sha256(canonical_json(content)).hexdigest()


pinned_commits: dict[str, str] = {}
"""Reference -> the commit that identified it last, so that a run downloads the commit that its run key names."""

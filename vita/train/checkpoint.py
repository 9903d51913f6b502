"""Checkpoints: the complete training state of a run, written atomically, from which it resumes exactly.

    checkpoints = Checkpoints(folder)
    checkpoints.save(100, tensors, {"step": 100, ...})     # returns at once; a thread writes
    newest = checkpoints.newest()                          # the last intact checkpoint, or None
    checkpoints.wait()

A checkpoint is a folder `step-00000100` with `tensors.safetensors` and `state.json`, which holds the former's sha256.
It is written under a temporary name, synced to the disk and renamed, so that a killed process leaves no partial one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vita.spine.disk import explain_disk, file_sha256, sync_to_disk
from vita.spine.errors import StoreError, VitaError

TENSORS, STATE, FORMAT = "tensors.safetensors", "state.json", 1


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Checkpoints:
    """The last `keep` checkpoints of a run, in one folder."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep
        self.passed_over: list[str] = []
        """Error messages of the corrupt checkpoints that `newest` skipped."""
        self._writer: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Copy tensors and state, and write the copy in a thread; waits for the previous write."""
        self.wait()
        copies = {name: _copied(tensor) for name, tensor in tensors.items()}
        text = json.dumps(state)
        self._writer = threading.Thread(
            target=self._write_or_keep_failure, args=(step, copies, text), name="checkpoint"
        )
        self._writer.start()

    def settle(self) -> None:
        """Wait for a write in progress, without raising its error."""
        if self._writer:
            self._writer.join()

    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk; raise its error, if any."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def newest(self) -> Checkpoint | None:
        """Return the latest intact checkpoint; corrupt ones are skipped."""
        self.passed_over = []
        for folder in sorted(self._all(), reverse=True):
            try:
                return read(folder)
            except StoreError as error:
                self.passed_over.append(str(error))
        return None

    def clear(self) -> None:
        """Remove all checkpoints."""
        self.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        return [path for path in self.folder.glob("step-*") if path.suffix != ".partial"]

    def _write_or_keep_failure(self, step: int, tensors: dict[str, Tensor], text: str) -> None:
        try:
            self._write(step, tensors, text)
        except (OSError, SafetensorError, VitaError) as error:
            self._failure = explain_disk(error, self.folder) or error

    def _write(self, step: int, tensors: dict[str, Tensor], text: str) -> None:
        target = self.folder / f"step-{step:08d}"
        temporary = target.with_suffix(".partial")
        for stale in self.folder.glob("*.partial"):
            shutil.rmtree(stale)
        temporary.mkdir(parents=True)
        try:
            save_file(tensors, temporary / TENSORS)
            state = {"format": FORMAT, "sha256": file_sha256(temporary / TENSORS), "state": json.loads(text)}
            body = json.dumps(state)
            seal = hashlib.sha256(body.encode()).hexdigest()
            (temporary / STATE).write_text(body + "\n" + seal + "\n", encoding="utf-8")
            for path in (temporary / TENSORS, temporary / STATE, temporary):
                sync_to_disk(path)
            if target.exists():  # the same step, from before a crash; it is identical
                shutil.rmtree(target)
            temporary.rename(target)
            sync_to_disk(self.folder)
        except (OSError, SafetensorError):
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for old in sorted(self._all())[: -self.keep]:
            shutil.rmtree(old)


def read(folder: Path) -> Checkpoint:
    """Read the checkpoint in `folder` and verify all its bytes."""
    try:
        body, seal, *_ = (folder / STATE).read_text(encoding="utf-8").split("\n")
        if hashlib.sha256(body.encode()).hexdigest() != seal:
            raise StoreError(str(folder / STATE), "was changed after it was written")
        state = json.loads(body)
        if state["format"] != FORMAT:
            raise StoreError(str(folder), expected=f"a checkpoint of format {FORMAT}", got=state["format"])
        if file_sha256(folder / TENSORS) != state["sha256"]:
            raise StoreError(str(folder / TENSORS), "was changed after it was written")
        return Checkpoint(load_file(folder / TENSORS), state["state"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise StoreError(str(folder), f"is not a complete checkpoint ({error})") from None


def _copied(tensor: Tensor) -> Tensor:
    """Return a contiguous copy on the CPU, which shares no memory with the original."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)

"""Checkpoints: the complete training state of a run, written atomically, from which it resumes exactly.

    checkpoints = Checkpoints(folder)
    checkpoints.save(100, tensors, {"step": 100, ...})     # returns at once; a thread writes
    newest = checkpoints.newest()                          # the last intact checkpoint, or None
    checkpoints.wait()

A checkpoint is a folder `step-00000100`. Each process writes its parts of the tensors to `tensors-00000.safetensors`
with the number of the process, and their boxes to `tensors-00000.json`. The leading process waits for these files and
writes `state.json`, which holds the sha256 of all of them. The folder is written under a temporary name, synced to the
disk and renamed, so that a killed process leaves no partial one. Any number of processes can read the parts that they
need. The format holds no pickles, unlike the metadata of `torch.distributed.checkpoint`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vita.spine.disk import explain_disk, file_sha256, sync_to_disk
from vita.spine.errors import StoreError, VitaError
from vita.train.parallel.boxes import Box, TensorLayout
from vita.train.parallel.mesh import ProcessMesh, is_first_holder
from vita.train.stored_tensors import StoredTensors, read_index

STATE, FORMAT = "state.json", 2
WRITE_SECONDS = 1800.0
"""Maximum time that the leading process waits for the files of the others."""
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    stored: StoredTensors
    state: dict[str, Any]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors, complete."""
        return {name: self.stored.read(name, Box.full(shape)) for name, shape in self.stored.shapes.items()}

    def parts(self, layouts: Mapping[str, TensorLayout], world: ProcessMesh) -> dict[str, Tensor]:
        """Return the local parts of the tensors with `layouts`; raise `StoreError` if the names differ."""
        self.stored.check_shapes({name: layout.shape for name, layout in layouts.items()})
        return {name: self.stored.read(name, world.box(layout)) for name, layout in layouts.items()}


class Checkpoints:
    """The last `keep` checkpoints of a run, in one folder that all processes share."""

    def __init__(self, folder: Path, *, keep: int = 2, world: ProcessMesh | None = None) -> None:
        self.folder, self.keep, self.world = folder, keep, world or ProcessMesh()
        self.passed_over: list[str] = []
        """Error messages of the corrupt checkpoints that `newest` skipped."""
        self._writer: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._abandoned = threading.Event()
        # Separates the partial folders of this start from those of processes that were killed.
        self._start = self.world.from_leader(time.time_ns() % 2**48)

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        layouts: Mapping[str, TensorLayout] | None = None,
    ) -> None:
        """Copy tensors and state, and write the copy in a thread; waits for the previous write.

        With several processes, each passes its parts of the tensors with `layouts`, and all must call it together.
        """
        self.wait()
        described = layouts or {name: TensorLayout(tuple(tensor.shape)) for name, tensor in tensors.items()}
        parts = _Parts(self.world.process, self.world.processes)
        for name, tensor in tensors.items():
            parts.add(name, tensor, described[name], self.world)
        text = json.dumps(state)
        self._writer = threading.Thread(target=self._write_or_keep_failure, args=(step, parts, text), name="checkpoint")
        self._writer.start()

    def settle(self) -> None:
        """Complete a write in progress, without raising its error; do not wait for other processes any longer."""
        self._abandoned.set()
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
        """Return the latest intact checkpoint; corrupt ones are skipped. All processes must call it together."""
        self.passed_over = []
        steps = sorted((int(folder.name.removeprefix("step-")) for folder in self._all()), reverse=True)
        for index in range(self.world.from_leader(len(steps))):
            folder = self._folder(self.world.from_leader(steps[index] if self.world.leads else 0))
            checkpoint, problem = None, None
            try:
                checkpoint = read(folder, world=self.world)
            except StoreError as error:
                problem = str(error)
            if not self.world.any(problem is not None):
                return checkpoint
            self.passed_over.append(problem or f"{folder} is damaged, as another process reports")
        return None

    def newest_folder(self) -> Path | None:
        """Return the folder of the latest intact checkpoint, or None."""
        for folder in sorted(self._all(), reverse=True):
            try:
                read(folder)
                return folder
            except StoreError:
                continue
        return None

    def clear(self) -> None:
        """Remove all checkpoints."""
        self.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        return [path for path in self.folder.glob("step-*") if path.suffix != ".partial"]

    def _folder(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _write_or_keep_failure(self, step: int, parts: _Parts, text: str) -> None:
        try:
            self._write(step, parts, text)
        except (OSError, SafetensorError, VitaError) as error:
            self._failure = explain_disk(error, self.folder) or error

    def _write(self, step: int, parts: _Parts, text: str) -> None:
        target = self._folder(step)
        temporary = target.with_suffix(f".{self._start}.partial")
        if self.world.leads:
            self._remove_stale()
        temporary.mkdir(parents=True, exist_ok=True)
        try:
            parts.write(temporary)
            if self.world.leads:
                self._complete(temporary, target, text)
        except (OSError, SafetensorError, VitaError):
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _complete(self, temporary: Path, target: Path, text: str) -> None:
        """Wait for the files of all processes, write `state.json` and rename the folder."""
        indices = [temporary / _index_name(process) for process in range(self.world.processes)]
        deadline = time.monotonic() + WRITE_SECONDS
        while missing := [path for path in indices if not path.exists()]:
            if self._abandoned.is_set() or time.monotonic() > deadline:
                raise StoreError(str(missing[0]), "was not written by its process")
            time.sleep(POLL_SECONDS)
        files = {}
        for path in indices:
            files[path.name] = file_sha256(path)
            files[path.with_suffix(".safetensors").name] = json.loads(path.read_text(encoding="utf-8"))["sha256"]
        body = json.dumps({"format": FORMAT, "files": files, "state": json.loads(text)})
        seal = hashlib.sha256(body.encode()).hexdigest()
        (temporary / STATE).write_text(body + "\n" + seal + "\n", encoding="utf-8")
        for path in (temporary / STATE, temporary):
            sync_to_disk(path)
        if target.exists():  # the same step, from before a crash; it is identical
            shutil.rmtree(target)
        temporary.rename(target)
        sync_to_disk(self.folder)
        for old in sorted(self._all())[: -self.keep]:
            shutil.rmtree(old)

    def _remove_stale(self) -> None:
        for stale in self.folder.glob("*.partial"):
            if not stale.name.endswith(f".{self._start}.partial"):
                shutil.rmtree(stale, ignore_errors=True)


class _Parts:
    """Copies of the parts of the tensors that this process writes, on the CPU."""

    def __init__(self, process: int, processes: int) -> None:
        self.process, self.processes = process, processes
        self.tensors: dict[str, Tensor] = {}
        self.index: dict[str, Any] = {}

    def add(self, name: str, tensor: Tensor, layout: TensorLayout, world: ProcessMesh) -> None:
        """Copy a part, unless another process holds the same one and writes it."""
        box = world.box(layout)
        if not is_first_holder(layout, world) or not box.numel:
            return
        self.tensors[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        self.index[name] = {"shape": layout.shape, "starts": box.starts, "sizes": box.sizes}

    def write(self, folder: Path) -> None:
        """Write the tensors, then their index, whose presence shows that both are complete."""
        index = folder / _index_name(self.process)
        path = index.with_suffix(".safetensors")
        save_file(self.tensors, path)
        sync_to_disk(path)
        temporary = index.with_suffix(".incomplete")
        content = {"sha256": file_sha256(path), "tensors": self.index}
        temporary.write_text(json.dumps(content), encoding="utf-8")
        sync_to_disk(temporary)
        temporary.rename(index)


def _index_name(process: int) -> str:
    return f"tensors-{process:05d}.json"


def read(folder: Path, *, world: ProcessMesh | None = None) -> Checkpoint:
    """Open the checkpoint in `folder` and verify its bytes; several processes divide the files among them."""
    world = world or ProcessMesh()
    try:
        body, seal, *_ = (folder / STATE).read_text(encoding="utf-8").split("\n")
        if hashlib.sha256(body.encode()).hexdigest() != seal:
            raise StoreError(str(folder / STATE), "was changed after it was written")
        state = json.loads(body)
        if state["format"] != FORMAT:
            raise StoreError(str(folder), expected=f"a checkpoint of format {FORMAT}", got=state["format"])
        for number, (name, digest) in enumerate(sorted(state["files"].items())):
            is_mine = name.endswith(".json") or number // 2 % world.processes == world.process
            if is_mine and file_sha256(folder / Path(name).name) != digest:
                raise StoreError(str(folder / name), "was changed after it was written")
        indices = [folder / Path(name).name for name in sorted(state["files"]) if name.endswith(".json")]
        return Checkpoint(StoredTensors(read_index(indices)), state["state"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise StoreError(str(folder), f"is not a complete checkpoint ({error})") from None

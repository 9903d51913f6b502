"""Checkpoints are written atomically, and a damaged checkpoint is replaced by the previous one."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from vita.spine.errors import StoreError
from vita.train import checkpoint
from vita.train.checkpoint import Checkpoints


def values(step: int) -> dict[str, torch.Tensor]:
    return {"weight/a": torch.full((3, 4), float(step)).t(), "optimizer/a/mean": torch.tensor(step / 7)}


def save_checkpoints(folder: Path, *steps: int, keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        checkpoints.save(step, values(step), {"step": step, "loss": 0.1 + 0.2})
    checkpoints.wait()
    return checkpoints


def test_a_read_checkpoint_equals_the_saved_one(tmp_path):
    newest = save_checkpoints(tmp_path / "checkpoints", 5, 10).newest()
    assert newest is not None
    assert newest.state == {"step": 10, "loss": 0.1 + 0.2}
    assert {name: tensor.tolist() for name, tensor in newest.tensors.items()} == {
        name: tensor.tolist() for name, tensor in values(10).items()
    }


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert Checkpoints(tmp_path / "nothing").newest() is None


def test_a_checkpoint_contains_the_values_at_the_time_of_the_call(tmp_path):
    tensor = torch.zeros(1000)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"weight/a": tensor}, {})
    tensor += 1
    checkpoints.wait()
    newest = checkpoints.newest()
    assert newest is not None and newest.tensors["weight/a"].sum() == 0


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    save_checkpoints(tmp_path, 1, 2, 3, 4, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize("file", ["tensors-00000.safetensors", "tensors-00000.json", "state.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_checkpoint_is_skipped_for_the_previous_one(tmp_path, file, damage):
    checkpoints = save_checkpoints(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / file
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    newest = checkpoints.newest()
    assert newest is not None and newest.state["step"] == 1
    assert len(checkpoints.passed_over) == 1 and "step-00000002" in checkpoints.passed_over[0]


def test_a_partial_checkpoint_of_a_killed_process_is_ignored(tmp_path):
    checkpoints = save_checkpoints(tmp_path, 1)
    partial_folder = tmp_path / "step-00000002.1.partial"
    partial_folder.mkdir()
    (partial_folder / "tensors-00000.safetensors").write_bytes(b"half")
    newest = checkpoints.newest()
    assert newest is not None and newest.state["step"] == 1 and not checkpoints.passed_over
    save_checkpoints(tmp_path, 3)
    assert not partial_folder.exists()


def test_a_full_disk_is_a_clear_error_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    checkpoints = save_checkpoints(tmp_path, 1)

    def fail_with_full_disk(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fail_with_full_disk)
    checkpoints.save(2, values(2), {"step": 2})
    with pytest.raises(StoreError, match="the disk is full; free some space"):
        checkpoints.wait()
    newest = checkpoints.newest()
    assert newest is not None and newest.state["step"] == 1
    assert not list(tmp_path.glob("*.partial"))

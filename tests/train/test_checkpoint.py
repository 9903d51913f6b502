"""Checkpoints are whole or not there, and the one before is kept for when the last is damaged."""

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


def saved(folder: Path, *steps: int, keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        checkpoints.save(step, values(step), {"step": step, "loss": 0.1 + 0.2})
    checkpoints.wait()
    return checkpoints


def test_what_is_read_is_what_was_saved(tmp_path):
    found = saved(tmp_path / "checkpoints", 5, 10).newest()
    assert found is not None
    assert found.state == {"step": 10, "loss": 0.1 + 0.2}
    assert {name: tensor.tolist() for name, tensor in found.tensors.items()} == {
        name: tensor.tolist() for name, tensor in values(10).items()
    }


def test_there_is_none_at_first(tmp_path):
    assert Checkpoints(tmp_path / "nothing").newest() is None


def test_a_save_is_of_the_moment_it_was_asked_for(tmp_path):
    tensor = torch.zeros(1000)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"weight/a": tensor}, {})
    tensor += 1
    checkpoints.wait()
    found = checkpoints.newest()
    assert found is not None and found.tensors["weight/a"].sum() == 0


def test_only_the_last_are_kept(tmp_path):
    saved(tmp_path, 1, 2, 3, 4, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path, file, damage):
    checkpoints = saved(tmp_path, 1, 2)
    path = tmp_path / "step-00000002" / file
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    found = checkpoints.newest()
    assert found is not None and found.state["step"] == 1
    assert len(checkpoints.passed_over) == 1 and "step-00000002" in checkpoints.passed_over[0]


def test_what_a_killed_process_left_half_written_is_not_seen(tmp_path):
    checkpoints = saved(tmp_path, 1)
    half = tmp_path / "step-00000002.partial"
    half.mkdir()
    (half / "tensors.safetensors").write_bytes(b"half")
    found = checkpoints.newest()
    assert found is not None and found.state["step"] == 1 and not checkpoints.passed_over
    saved(tmp_path, 3)
    assert not half.exists()


def test_a_full_disk_is_one_clear_error_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 1)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    checkpoints.save(2, values(2), {"step": 2})
    with pytest.raises(StoreError, match="the disk is full; free some space"):
        checkpoints.wait()
    found = checkpoints.newest()
    assert found is not None and found.state["step"] == 1
    assert not list(tmp_path.glob("*.partial"))

"""Temporary folders are removed at their end, or at the next call after their process was killed."""

from __future__ import annotations

from pathlib import Path

from vita.server.service.folder_lock import LOCK, temporary_folder


def test_the_folders_of_processes_that_ended_are_removed_and_those_in_use_stay(tmp_path: Path) -> None:
    abandoned, unmarked, other = (tmp_path / name for name in ("vita-release-a", "vita-release-b", "other-c"))
    for folder in (abandoned, unmarked, other):
        (folder / "release").mkdir(parents=True)
    for folder in (abandoned, other):  # a lock file whose lock ended with its process
        (folder / LOCK).touch()
    link = tmp_path / "vita-release-link"
    link.symlink_to(other)
    with temporary_folder("vita-release-", parent=tmp_path) as first:
        (first / "release").mkdir()
        with temporary_folder("vita-release-", parent=tmp_path) as second:
            assert sorted(tmp_path.iterdir()) == sorted([unmarked, other, link, first, second])
        assert (first / "release").is_dir() and not second.exists()
    assert sorted(tmp_path.iterdir()) == sorted([unmarked, other, link])
    assert (other / "release").is_dir()

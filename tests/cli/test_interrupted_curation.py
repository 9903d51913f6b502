"""Ctrl-C and SIGTERM during curation: no traceback, no remaining process, and the same command continues."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

VITA = [sys.executable, "-c", "import vita.cli; vita.cli.main()"]
WORDS = (
    *("the", "harbour", "master", "wrote", "to", "council", "and", "asked", "that", "old", "pier", "be", "mended"),
    *("before", "winter", "of", "have", "with", "stone", "bread", "garden", "window", "paper", "engine", "market"),
    *("doctor", "teacher", "summer", "morning", "yellow", "quiet", "planet", "travel", "north", "south", "river"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a source of three files that are large enough for worker processes."""
    folder = tmp_path_factory.mktemp("curation")
    (folder / "in").mkdir()
    generator = random.Random(0)
    for file in "abc":
        rows = (
            json.dumps({"id": f"{file}{number}", "text": " ".join(generator.choices(WORDS, k=400))})
            for number in range(3800)
        )
        (folder / "in" / f"{file}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


def start(folder: Path, store: str) -> subprocess.Popen[str]:
    """Start a curation with two workers in a separate process group."""
    return subprocess.Popen(
        [*VITA, "--store", store, "curate", "in", "--name", "texts"],
        cwd=folder,
        env={**os.environ, "VITA_THREADS": "2"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    return output


def running_processes(group: int) -> list[str]:
    """Return the processes of a group that still run, without zombies."""
    listing = subprocess.run(["ps", "-A", "-o", "pgid=,stat=,pid="], text=True, capture_output=True, check=True)
    rows = [line.split() for line in listing.stdout.splitlines()]
    return [pid for number, state, pid in rows if number == str(group) and not state.startswith("Z")]


def digests(folder: Path, store: str) -> dict[str, str]:
    """Return the digest of each file of documents in the curated corpus."""
    listing = subprocess.run(
        [*VITA, "--store", store, "ls", "--json"], cwd=folder, text=True, capture_output=True, check=True
    )
    [row] = [row for row in json.loads(listing.stdout) if "texts/curate" in row["names"]]
    root = folder / row["folder"]
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*.zst"))
    }


@pytest.mark.slow
@pytest.mark.parametrize("to_group", [True, False], ids=["whole group", "main process"])
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_curation_ends_every_process_and_the_same_command_continues(
    folder: Path, signal_number: signal.Signals, to_group: bool
) -> None:
    store = f"{signal_number.name}-{to_group}"
    process = start(folder, store)
    deadline = time.monotonic() + 120
    while not (scratch_files := list(folder.glob(f"{store}/scratch/*/sifted/*.zst"))) and time.monotonic() < deadline:
        assert process.poll() is None, finish(process)
        time.sleep(0.01)
    assert scratch_files
    assert len(running_processes(process.pid)) >= 3  # the command and its two workers
    if to_group:
        os.killpg(process.pid, signal_number)
    else:
        process.send_signal(signal_number)
    output = finish(process)
    assert process.returncode == 130, output
    assert "Traceback" not in output and "the same command continues" in output
    deadline = time.monotonic() + 60
    while running_processes(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running_processes(process.pid) == []

    second_process = start(folder, store)
    output = finish(second_process)
    assert second_process.returncode == 0, output
    assert list(folder.glob(f"{store}/scratch/*/sifted")) == []
    if not (folder / "straight").exists():
        assert "documents" in finish(start(folder, "straight"))
    assert digests(folder, store) == digests(folder, "straight")

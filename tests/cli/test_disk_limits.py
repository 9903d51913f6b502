"""Full disks, read-only stores and missing permissions on the command line.

Each command ends in a one-line error without a traceback, and a later run does not trust its incomplete files. The
processes run without the capabilities by which root ignores permissions.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.models import save_chat_model
from vita.spine.ledger import Ledger
from vita.spine.store import Draft, Store
from vita.stages.kinds import Model

MAIN = "from vita.cli import main; main()"
LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0})); " + MAIN
SFT = ("sft", "dialogues.jsonl", "--model", "base", "--steps", "2", "--batch-size", "2", "--replay", "0", "--set",
       "allow_no_improvement=true")  # fmt: skip


def vita(folder: Path, *words: str, file_size: int | None = None) -> tuple[int, str]:
    """Run `vita` as a user without privileges: (exit code, output)."""
    program = MAIN if file_size is None else LIMITED.format(file_size)
    command = [sys.executable, "-c", program, *words]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("needs `setpriv`, since root ignores permissions")
        command = ["setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search,-fowner", *command]
    environment = {**os.environ, "VITA_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "VITA_THREADS": "1"}
    process = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return process.returncode, process.stdout


def run_failing(folder: Path, *words: str, file_size: int | None = None) -> str:
    """Run a command that fails and return its only error line."""
    code, output = vita(folder, *words, file_size=file_size)
    errors = [line for line in output.splitlines() if line.startswith("error ")]
    assert code in range(2, 10) and len(errors) == 1 and "Traceback" not in output, output
    return errors[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a store that holds the model `cat/sft`."""
    store, ledger = Store(tmp_path / "vita-store"), Ledger(tmp_path / "vita-store" / "ledger.db")
    draft = save_chat_model(tmp_path / "draft")
    ledger.name("cat/sft", store.commit(Draft(Model, draft)).digest)
    ledger.close()
    return tmp_path


@pytest.fixture
def locked(folder: Path) -> Iterator[Path]:
    """Return the same folder with a read-only store."""
    paths = [folder / "vita-store", *(folder / "vita-store").rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path in paths:
        path.chmod(modes[path] & ~0o222)
    yield folder
    for path in paths:
        path.chmod(modes[path])


@pytest.mark.slow
def test_a_read_only_store_can_be_read_and_a_write_error_names_the_permissions(locked: Path) -> None:
    code, output = vita(locked, "ls")
    assert code == 0 and "cat/sft" in output, output
    code, output = vita(locked, "show", "cat/sft")
    assert code == 0 and "candidate" in output, output
    assert "check the permissions" in run_failing(
        locked, "people", "add", "Ada", "--public-key", write_public_key(locked)
    )


def write_public_key(folder: Path) -> str:
    from vita.spine import signing

    path = folder / "ada.pub"
    path.write_text(signing.public_to_text(signing.load_or_create_key(folder / "ada.pem").public_key()))
    return str(path)


@pytest.mark.slow
def test_an_error_names_the_folder_or_file_without_permission(folder: Path) -> None:
    save_chat_model(folder / "mine", seed=1)
    store = folder / "vita-store"
    object_file = max(
        (path for path in (store / "objects").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    cases = {
        store / "artifacts": ("ls",),
        store / "ledger.db": ("ls",),
        object_file: ("verify",),
        folder / "mine" / "model.safetensors": ("chat", "mine"),
        folder / "mine": ("chat", "mine"),
    }
    for path, words in cases.items():
        mode = path.stat().st_mode
        path.chmod(0)
        error = run_failing(folder, *words)
        path.chmod(mode)
        assert path.name in error and "truncated" not in error, error
        assert "permission" in error.lower(), error
    assert vita(folder, "verify")[0] == 0


@pytest.mark.slow
def test_a_limit_on_file_sizes_is_a_one_line_error_and_the_next_run_completes(folder: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n} it is"}]}
        for n in range(20)
    ]
    (folder / "dialogues.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_chat_model(folder / "base", seed=2)
    assert "limited (`ulimit -f`" in run_failing(folder, *SFT, "--rerun", file_size=1000)
    (folder / "base" / "notes.bin").write_bytes(bytes(3_000_000))
    assert "notes.bin: cannot be copied: [Errno 27] File too large" in run_failing(folder, *SFT, file_size=2_000_000)
    assert not [path for path in (folder / "vita-store" / "scratch").rglob("*") if path.is_file()]
    code, output = vita(folder, *SFT)
    assert code == 0, output
    assert vita(folder, "verify")[0] == 0

"""Two processes train as one does, and either goes on from the other's checkpoint."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.runs import go
from vita.nn import hf

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PLAIN = {"precision": "float32", "compile": "no"}
PROGRAM = """
import sys
from pathlib import Path
from vita.spine.machine import Machine
from vita.train.parallel import joined
from tests.train.runs import go
settings = {"precision": "float32", "compile": "no"}
stop = int(sys.argv[2]) or None
with joined(Machine.detect()) as world:
    try:
        go(Path(sys.argv[1]), settings, stop_at=stop, world=world)
    except KeyboardInterrupt:
        pass
"""


def together(folder: Path, *, stop_at: int = 0) -> None:
    """The run in two processes, with gloo."""
    program = folder.parent / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    settings = {"OMP_NUM_THREADS": "1", "VITA_DEVICE": "cpu", "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    subprocess.run([*command, str(program), str(folder), str(stop_at)], cwd=ROOT, check=True, env=settings)


def losses(folder: Path) -> list[float]:
    return [
        row["loss"] for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if "loss" in row
    ]


def test_two_processes_learn_what_one_does(tmp_path):
    """Sums run in another order, so the curves agree to rounding, which grows slowly over the steps."""
    go(tmp_path / "one", PLAIN)
    together(tmp_path / "two")
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), rel=2e-3)
    one, two = (dict(hf.load(tmp_path / name / "model").named_parameters()) for name in ("one", "two"))
    for name, parameter in one.items():
        assert (parameter - two[name]).norm() / parameter.norm() < 0.02, name


def test_a_checkpoint_of_two_goes_on_in_one_and_back(tmp_path):
    go(tmp_path / "one", PLAIN)
    together(tmp_path / "mixed", stop_at=6)
    shutil.copytree(tmp_path / "mixed", tmp_path / "back")
    go(tmp_path / "mixed", PLAIN)
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "mixed"), rel=2e-3)
    together(tmp_path / "back")
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "back"), rel=2e-3)

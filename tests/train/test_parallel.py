"""Training in two processes equals training in one, and each resumes from the checkpoint of the other."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.runs import run_training
from vita.nn import hf

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PLAIN = {"precision": "float32", "compile": "no"}
PROGRAM = """
import sys
from pathlib import Path
from vita.spine.machine import Machine
from vita.train.parallel.mesh import joined
from tests.train.runs import run_training
settings = {"precision": "float32", "compile": "no"}
stop = int(sys.argv[2]) or None
with joined(Machine.detect()) as world:
    try:
        run_training(Path(sys.argv[1]), settings, stop_at=stop, world=world)
    except KeyboardInterrupt:
        pass
"""


def train_in_two_processes(folder: Path, *, stop_at: int = 0) -> None:
    """Train in two processes with gloo."""
    program = folder.parent / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    settings = {"OMP_NUM_THREADS": "1", "VITA_DEVICE": "cpu", "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    subprocess.run([*command, str(program), str(folder), str(stop_at)], cwd=ROOT, check=True, env=settings)


def losses(folder: Path) -> list[float]:
    return [
        row["loss"] for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if "loss" in row
    ]


def test_two_processes_train_the_same_model_as_one(tmp_path):
    """The order of sums differs, so the curves agree up to rounding errors, which grow slowly over the steps."""
    run_training(tmp_path / "one", PLAIN)
    train_in_two_processes(tmp_path / "two")
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), rel=2e-3)
    parameters, parallel_parameters = (
        dict(hf.load(tmp_path / name / "model").named_parameters()) for name in ("one", "two")
    )
    for name, parameter in parameters.items():
        assert (parameter - parallel_parameters[name]).norm() / parameter.norm() < 0.02, name


def test_a_checkpoint_of_two_processes_resumes_in_one_and_in_two(tmp_path):
    run_training(tmp_path / "one", PLAIN)
    train_in_two_processes(tmp_path / "mixed", stop_at=6)
    shutil.copytree(tmp_path / "mixed", tmp_path / "back")
    run_training(tmp_path / "mixed", PLAIN)
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "mixed"), rel=2e-3)
    train_in_two_processes(tmp_path / "back")
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "back"), rel=2e-3)

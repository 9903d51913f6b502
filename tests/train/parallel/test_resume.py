"""A run resumes from the checkpoint of another number of processes or another layout."""

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

ROOT = Path(__file__).resolve().parents[3]
PLAIN = {"precision": "float32", "compile": "no"}
TOLERANCE = 1e-4
PROGRAM = """
import json, sys
from pathlib import Path
from vita.spine.machine import Machine
from vita.train.parallel.mesh import joined
from vita.train.parallel.settings import ParallelSettings
from tests.train.runs import run_training
settings = {"precision": "float32", "compile": "no"}
with joined(Machine.detect(), ParallelSettings.model_validate_json(sys.argv[3])) as world:
    try:
        run_training(Path(sys.argv[1]), settings, stop_at=int(sys.argv[2]) or None, world=world)
    except KeyboardInterrupt:
        pass
"""


def train_in_two_processes(folder: Path, *, stop_at: int = 0, layout: dict[str, int] | None = None) -> None:
    """Train in two processes with gloo."""
    program = folder.parent / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    settings = {"OMP_NUM_THREADS": "1", "VITA_DEVICE": "cpu", "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    arguments = [str(folder), str(stop_at), json.dumps(layout or {})]
    subprocess.run([*command, *arguments], cwd=ROOT, check=True, env=settings)


def losses(folder: Path) -> list[float]:
    return [
        row["loss"] for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if "loss" in row
    ]


def test_a_checkpoint_of_two_processes_resumes_in_one_and_with_another_layout(tmp_path):
    run_training(tmp_path / "one", PLAIN)
    train_in_two_processes(tmp_path / "mixed", stop_at=6)
    (newest,) = sorted((tmp_path / "mixed" / "checkpoints").glob("step-*"))[-1:]
    assert sorted(path.name for path in newest.iterdir()) == [
        "state.json", "tensors-00000.json", "tensors-00000.safetensors", "tensors-00001.json",
        "tensors-00001.safetensors",
    ]  # fmt: skip
    shutil.copytree(tmp_path / "mixed", tmp_path / "back")
    assert run_training(tmp_path / "mixed", PLAIN).record["resumed_at_step"] == 5
    train_in_two_processes(tmp_path / "back", layout={"tensor": 2})
    expected = losses(tmp_path / "one")
    assert losses(tmp_path / "mixed") == pytest.approx(expected, abs=TOLERANCE)
    assert losses(tmp_path / "back") == pytest.approx(expected, abs=TOLERANCE)
    parameters, parallel_parameters = (
        dict(hf.load(tmp_path / name / "model").named_parameters()) for name in ("one", "back")
    )
    for name, parameter in parameters.items():
        assert (parameter - parallel_parameters[name]).norm() <= TOLERANCE * parameter.norm(), name

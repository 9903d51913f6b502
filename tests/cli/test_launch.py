"""`vita launch` writes job files for clusters, and refuses incomplete options."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from vita.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a life file whose name needs quotes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my life.yaml").write_text("name: tiny\n")
    return tmp_path


def launch(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["--store", "shared/store", "launch", "my life.yaml", *words])
    return stop.value.code if isinstance(stop.value.code, int) else 0


def test_a_slurm_script_starts_one_torchrun_per_machine(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch("--slurm", "--machines", "2", "--processes", "4", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"path": "vita.sbatch", "scheduler": "slurm", "processes": 8}
    script = (folder / "vita.sbatch").read_text()
    subprocess.run(["bash", "-n", "vita.sbatch"], check=True)
    assert "#SBATCH --nodes=2" in script and "#SBATCH --gpus-per-node=4" in script
    # The words that torchrun gets on the second machine, with programs of Slurm that print their arguments.
    programs = f"""
scontrol() {{ echo alpha; echo beta; }}; torchrun() {{ printf '%s\\n' "$@"; }}; export -f torchrun
srun() {{ shift; SLURM_NODEID=1 "$@"; }}; SLURM_JOB_NODELIST='[alpha,beta]'
{script}"""
    words = subprocess.run(["bash", "-c", programs], check=True, capture_output=True, text=True).stdout.splitlines()
    assert words[words.index("--rdzv-endpoint") + 1] == "alpha:29500" and words[words.index("--node-rank") + 1] == "1"
    assert words[-6:] == ["--no-python", "vita", "--store", f"{folder}/shared/store", "live", f"{folder}/my life.yaml"]


def test_a_kubernetes_job_has_a_pod_per_machine_and_a_service(folder: Path) -> None:
    assert launch("--kubernetes", "--machines", "3", "--image", "vita:1", "--claim", "data", "--name", "cat") == 0
    service, job = yaml.safe_load_all((folder / "cat.yaml").read_text())
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"] == {"job": "cat"}
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 3
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == "cat" and pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "data"}
    assert '--rdzv-endpoint "cat-0.cat:29500" --node-rank "$JOB_COMPLETION_INDEX"' in pod["containers"][0]["command"][2]


def test_a_skypilot_task_requests_machines_and_accelerators(folder: Path) -> None:
    assert launch("--skypilot", "--machines", "2", "--accelerator", "H100", "--output", "task.yaml") == 0
    task = yaml.safe_load((folder / "task.yaml").read_text())
    assert task["num_nodes"] == 2 and task["resources"]["accelerators"] == "H100:8"
    assert "$SKYPILOT_NODE_RANK" in task["run"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected one of --slurm, --kubernetes and --skypilot, got 'none'"),
        (("--slurm", "--skypilot"), "got --slurm and --skypilot"),
        (("--kubernetes", "--claim", "data"), "--image: is needed for Kubernetes"),
        (("--slurm", "--name", "My job"), "--name: expected lowercase letters, digits and hyphens, got My job"),
    ],
)
def test_incomplete_options_are_refused(
    folder: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch(*words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not [path for path in folder.iterdir() if path.name != "my life.yaml"]

"""Job files that run a life on several machines: for Slurm, Kubernetes and SkyPilot.

    text = slurm(ClusterJob(life="life.yaml", store="/shared/store", machines=2, processes=8))

Every machine starts `torchrun`, whose processes meet at the first machine. All machines need the store and the life
file at the same path, on a shared file system.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from vita.spine.errors import ConfigError

PORT = 29500
"""Port of the first machine at which the processes meet."""


@dataclass(frozen=True)
class ClusterJob:
    """A life that runs on several machines."""

    life: str
    store: str
    machines: int = 1
    processes: int = 8
    """Processes per machine: one per accelerator."""
    restarts: int = 3
    name: str = "vita"
    image: str | None = None
    """Container image with Vita (Kubernetes)."""
    claim: str | None = None
    """Persistent volume claim that is mounted at the parent folder of the store (Kubernetes)."""
    accelerator: str | None = None
    """Name of the accelerators of a machine (SkyPilot)."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?", self.name):
            raise ConfigError("--name", expected="lowercase letters, digits and hyphens", got=self.name)

    def command(self, *, address: str, rank: str) -> str:
        """Return the shell command of one machine; `address` and `rank` are shell expressions."""
        words = ["torchrun", "--nnodes", str(self.machines), "--nproc-per-node", str(self.processes)]
        words += ["--max-restarts", str(self.restarts), "--rdzv-backend", "c10d", "--rdzv-id", self.name]
        program = shlex.join(["--no-python", "vita", "--store", self.store, "live", self.life])
        return f'{shlex.join(words)} --rdzv-endpoint "{address}:{PORT}" --node-rank "{rank}" {program}'


def slurm(job: ClusterJob) -> str:
    """Return a batch script for `sbatch`."""
    run = job.command(address="$FIRST", rank="$SLURM_NODEID")
    return f"""#!/bin/bash
#SBATCH --job-name={job.name}
#SBATCH --nodes={job.machines}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={job.processes}
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail
FIRST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export FIRST
srun --kill-on-bad-exit=1 bash -c {shlex.quote(run)}
"""


def kubernetes(job: ClusterJob) -> str:
    """Return an indexed job and the service that gives its pods names, for `kubectl apply`."""
    if job.image is None or job.claim is None:
        missing = "--image" if job.image is None else "--claim"
        problem = "is needed for Kubernetes: the image with Vita, and the volume claim with the store"
        raise ConfigError(missing, problem, hint=f"pass {missing}")
    run = job.command(address=f"{job.name}-0.{job.name}", rank="$JOB_COMPLETION_INDEX")
    mount = job.store.rsplit("/", 1)[0] or "/"
    container = {
        "name": "vita",
        "image": job.image,
        "command": ["bash", "-c", run],
        "workingDir": mount,
        "resources": {"limits": {"nvidia.com/gpu": job.processes}},
        "volumeMounts": [{"name": "store", "mountPath": mount}],
    }
    pod = {
        "subdomain": job.name,
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "store", "persistentVolumeClaim": {"claimName": job.claim}}],
    }
    counts = {"completions": job.machines, "parallelism": job.machines, "completionMode": "Indexed"}
    template = {"metadata": {"labels": {"job": job.name}}, "spec": pod}
    service = {"clusterIP": "None", "selector": {"job": job.name}, "ports": [{"port": PORT}]}
    documents: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": job.name}, "spec": service},
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": job.name},
            "spec": {**counts, "backoffLimit": job.restarts * job.machines, "template": template},
        },
    ]
    return yaml.safe_dump_all(documents, sort_keys=False)


def skypilot(job: ClusterJob) -> str:
    """Return a task for `sky jobs launch`."""
    run = job.command(address='$(echo "$SKYPILOT_NODE_IPS" | head -n 1)', rank="$SKYPILOT_NODE_RANK")
    accelerators = {"accelerators": f"{job.accelerator}:{job.processes}"} if job.accelerator else {}
    task: dict[str, Any] = {
        "name": job.name,
        "num_nodes": job.machines,
        "resources": {**accelerators, "job_recovery": {"max_restarts_on_errors": job.restarts}},
        "setup": "pip install vita-lm",
        "run": run,
    }
    return yaml.safe_dump(task, sort_keys=False)


SCHEDULERS: dict[str, Callable[[ClusterJob], str]] = {"slurm": slurm, "kubernetes": kubernetes, "skypilot": skypilot}
SUFFIXES = {"slurm": ".sbatch", "kubernetes": ".yaml", "skypilot": ".sky.yaml"}
SUBMIT = {"slurm": "sbatch", "kubernetes": "kubectl apply -f", "skypilot": "sky jobs launch"}

"""Random kills of two processes: `python -m bench.kills [--kills 20] [--steps 300]`.

A small model is trained by two processes under `torchrun --max-restarts`. At random times one of them is killed with
SIGKILL, after which torchrun starts both again from the last checkpoint. The final weights must have the bytes of a run
without kills.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = {"precision": "float32", "compile": "no"}
PROGRAM = """
import json, sys
from pathlib import Path
from tests.train.runs import run_training
from vita.spine.machine import Machine
from vita.train.parallel.mesh import joined
with joined(Machine.detect()) as world:
    run_training(Path(sys.argv[1]), json.loads(sys.argv[2]), steps=int(sys.argv[3]), world=world)
"""


def start(folder: Path, *, steps: int, restarts: int) -> subprocess.Popen[bytes]:
    """Start two processes that train in `folder`."""
    folder.mkdir(parents=True)
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [f"--max-restarts={restarts}", "--monitor-interval=0.1", str(folder / "program.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VITA_DEVICE": "cpu", "PYTHONPATH": str(Path.cwd())}
    log = (folder / "log").open("wb")
    arguments = [str(folder), json.dumps(SETTINGS), str(steps)]
    return subprocess.Popen([*command, *arguments], env=environment, stdout=log, stderr=log)


def children(process: int) -> list[int]:
    """Return the processes that a process has started."""
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in text.split()]


def steps_done(folder: Path) -> int:
    """Return the number of steps in the metrics file."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def train_with_kills(folder: Path, *, steps: int, kills: int, seed: int) -> int:
    """Train to the end with at most `kills` kills of random processes; return their number."""
    generator, process, done = random.Random(seed), start(folder, steps=steps, restarts=kills + 2), 0
    interval = steps / (kills + 1)
    while process.poll() is None:
        if done < kills and steps_done(folder) >= (done + generator.random()) * interval:
            workers = children(process.pid)
            if len(workers) == 2 and steps_done(folder):
                time.sleep(generator.random() * 0.3)
                os.kill(generator.choice(workers), signal.SIGKILL)
                done += 1
                time.sleep(1.0)
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"training failed: {(folder / 'log').read_text()[-2000:]}")
    return done


def digest(folder: Path) -> str:
    """Return the digest of the trained weights and of the losses of all steps."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = json.dumps([(row["step"], row.get("loss"), row.get("heldout_loss")) for row in rows])
    return hashlib.sha256((folder / "model/model.safetensors").read_bytes() + losses.encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        straight, killed = Path(scratch) / "straight", Path(scratch) / "killed"
        if code := start(straight, steps=options.steps, restarts=0).wait():
            raise SystemExit(f"training failed with code {code}: {(straight / 'log').read_text()[-2000:]}")
        began = time.monotonic()
        kills = train_with_kills(killed, steps=options.steps, kills=options.kills, seed=options.seed)
        equal = digest(straight) == digest(killed)
        row = {"kills": kills, "steps": options.steps, "seed": options.seed, "identical": equal,
               "seconds": round(time.monotonic() - began, 1)}  # fmt: skip
        print(json.dumps(row))
        if not equal:
            raise SystemExit("the weights or losses differ")


if __name__ == "__main__":
    main()

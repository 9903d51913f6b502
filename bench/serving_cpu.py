"""CPU time of a service per request: gateway and replica of one version compared with another.

    git worktree add ../before VERSION
    python -m bench.serving_cpu . ../before --rounds 5

Both services run at the same time, serve the same tiny model and answer the same requests in alternating batches. CPU
time is measured instead of wall time, since it depends less on other work of the machine. Linux only: the times come
from /proc.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from bench.figures import figure, report

BATCH = 10
COMMAND = "from vita.cli import main; main()"
CHAT = {"model": "bench", "messages": [{"role": "user", "content": "What is a cat?"}], "max_tokens": 4, "seed": 1}
LOADS: dict[str, tuple[str, dict[str, Any]]] = {
    "tokenize": ("/tokenize", {"model": "bench", "prompt": "What is a cat?"}),
    "chat": ("/v1/chat/completions", CHAT),
    "streamed chat": ("/v1/chat/completions", {**CHAT, "stream": True}),
}
"""Name -> route and body; `tokenize` does not run the model."""


def save_model(folder: Path) -> None:
    """Save a tiny chat model with random weights."""
    from vita.data.tokens.chat_template import ChatTemplate
    from vita.nn import hf
    from vita.testing import byte_tokenizer, tiny_model

    folder.mkdir()
    hf.save(tiny_model(context=128), folder)
    byte_tokenizer().save(folder)
    ChatTemplate.default().save(folder)


def cpu_seconds(process: int) -> float:
    """Return the CPU time of all threads of a process and its living descendants, with a resolution of nanoseconds."""
    tasks = [task for task in Path(f"/proc/{process}/task").iterdir() if task.is_dir()]
    process_seconds = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return process_seconds + sum(map(cpu_seconds, children))


@contextmanager
def service(checkout: Path, model: Path) -> Iterator[Served]:
    """Run `vita serve` of a checkout."""
    call = [sys.executable, "-c", COMMAND, "--store", "store", "serve", str(model), "--name", "bench"]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    scratch = tempfile.TemporaryDirectory()
    process = subprocess.Popen(
        [*call, "--port", "0", "--ungated", "a benchmark", "--set", "log=none"],
        cwd=scratch.name, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        lines = iter(process.stdout.readline, "")
        url = next((word.rstrip(",") for line in lines for word in line.split() if word.startswith("http://")), None)
        if url is None:
            raise SystemExit(f"the service of {checkout} did not start")
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            yield Served(process.pid, http)
    finally:
        process.terminate()
        process.wait(60)
        scratch.cleanup()


@dataclass(frozen=True)
class Served:
    """A running service and a client of it."""

    process: int
    http: httpx.Client

    def cpu_per_request(self, load: str) -> float:
        """Send a batch of equal requests, one after another; return the CPU seconds of the service per request."""
        route, body = LOADS[load]
        start = cpu_seconds(self.process)
        for _ in range(BATCH):
            self.http.post(route, json=body).raise_for_status()
        return (cpu_seconds(self.process) - start) / BATCH


def measure(services: Sequence[Served], load: str, *, batches: int) -> list[float]:
    """Return the median over batches of each service; the batches of the services alternate."""
    rows = [[service.cpu_per_request(load) for service in services] for _ in range(batches)]
    return [median(column) for column in zip(*rows, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of a service per request, compared with another version.")
    parser.add_argument("checkout", type=Path, help="folder of the checkout to measure")
    parser.add_argument("peer", type=Path, help="folder of the checkout to compare it with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=8, help=f"batches of {BATCH} requests of each kind, per round")
    parser.add_argument("--save", type=Path, help="also append the figures to this file")
    options = parser.parse_args()
    checkouts = [options.checkout.resolve(), options.peer.resolve()]
    results: dict[str, list[list[float]]] = {load: [] for load in LOADS}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        save_model(scratch / "model")
        services = [stack.enter_context(service(checkout, scratch / "model")) for checkout in checkouts]
        for load in LOADS:
            measure(services, load, batches=2)  # warmup
        for turn in range(options.rounds):
            for load, rows in results.items():
                rows.append(measure(services, load, batches=options.batches))
                print(f"# round {turn + 1} {load}: {rows[-1]}", file=sys.stderr, flush=True)
    commit, peer = map(_commit, checkouts)
    figures = [
        figure(
            f"server CPU per {load} request, {commit}",
            [row[0] for row in rows],
            unit="seconds",
            peer=peer,
            peer_values=[row[1] for row in rows],
        )
        for load, rows in results.items()
    ]
    report(figures, save=options.save)


def _commit(checkout: Path) -> str:
    call = ["git", "-C", str(checkout), "log", "-1", "--format=commit %h"]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()

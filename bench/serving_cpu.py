"""CPU time of a service per request: gateway and replica of one checkout beside those of another.

    git worktree add ../before COMMIT
    python -m bench.serving_cpu . ../before --rounds 5

Both serve the same tiny model and answer the same requests, in turns. CPU time instead of wall time is measured, since
it depends little on other work of the machine. Linux only: the times come from /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench.figures import Figure, figure, report

START_SECONDS = 120
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
    """Return the user and system time of a process and its living descendants."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK") + sum(map(cpu_seconds, children))


@contextmanager
def service(checkout: Path, model: Path, scratch: Path) -> Iterator[tuple[int, str]]:
    """Run `vita serve` of a checkout; yields its process id and its URL."""
    call = [sys.executable, "-c", COMMAND, "--store", str(scratch / "store"), "serve", str(model), "--name", "bench"]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    process = subprocess.Popen(
        [*call, "--port", "0", "--ungated", "a benchmark", "--set", "log=none"],
        cwd=scratch, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        lines = iter(process.stdout.readline, "")
        url = next((word.rstrip(",") for line in lines for word in line.split() if word.startswith("http://")), None)
        if url is None:
            raise SystemExit(f"the service of {checkout} did not start")
        yield process.pid, url
    finally:
        process.terminate()
        process.wait(60)


def measure(checkout: Path, model: Path, *, requests: int) -> dict[str, float]:
    """Return the CPU seconds per request of each load."""
    with tempfile.TemporaryDirectory() as scratch, service(checkout, model, Path(scratch)) as (process, url):
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            seconds = {}
            for name, (route, body) in LOADS.items():
                send(http.post, route, body, count=max(5, requests // 10))  # warmup
                start = cpu_seconds(process)
                send(http.post, route, body, count=requests)
                seconds[name] = (cpu_seconds(process) - start) / requests
        return seconds


def send(post: Callable[..., httpx.Response], route: str, body: dict[str, Any], *, count: int) -> None:
    """Send the same request one after another."""
    for _ in range(count):
        post(route, json=body).raise_for_status()


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of a service per request, beside another checkout.")
    parser.add_argument("checkout", type=Path, help="folder of the checkout to measure")
    parser.add_argument("peer", type=Path, help="folder of the checkout to compare it with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200, help="of each kind, per round")
    parser.add_argument("--save", type=Path, help="also append the figures to this file")
    options = parser.parse_args()
    results: dict[Path, list[dict[str, float]]] = {options.checkout.resolve(): [], options.peer.resolve(): []}
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        save_model(model)
        for turn in range(options.rounds):
            for checkout, rows in results.items():
                rows.append(measure(checkout, model, requests=options.requests))
                line = json.dumps({name: round(value, 5) for name, value in rows[-1].items()})
                print(f"# {time.strftime('%H:%M:%S')} round {turn + 1} {checkout.name}: {line}", file=sys.stderr)
    (checkout, rows), (peer, peer_rows) = results.items()
    report([_figure(name, checkout, rows, peer, peer_rows) for name in LOADS], save=options.save)


def _figure(
    name: str, checkout: Path, rows: list[dict[str, float]], peer: Path, peer_rows: list[dict[str, float]]
) -> Figure:
    values, peer_values = [row[name] for row in rows], [row[name] for row in peer_rows]
    title = f"server CPU per {name} request, {_commit(checkout)}"
    return figure(title, values, unit="seconds", peer=_commit(peer), peer_values=peer_values)


def _commit(checkout: Path) -> str:
    call = ["git", "-C", str(checkout), "log", "-1", "--format=commit %h"]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()

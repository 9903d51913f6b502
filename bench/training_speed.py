"""Training speed at one shape: Vita, transformers, nanochat and a plain PyTorch model, in turns.

    python -m bench.training_speed --rounds 3 --seconds 15 --nanochat PATH [--nanochat-python PYTHON]

Width 256, 6 layers, 8 heads, vocabulary 4096, 16 x 256 tokens per step. Each turn first measures the peak of matrix
products, then runs one tool in its own process: some warmup steps (compilation), then complete steps (forward,
backward, optimizer) for the given seconds. Utilization is relative to the peak of the turn.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import Figure, figure, report
from bench.rounds import Contender, Result, in_turns, installed, skip

VITA = "vita"
VARIANTS = ("vita not compiled", "vita fp32")
"""Vita with other settings; measured on request."""
PEERS = (
    "transformers fp32",
    "transformers bf16",
    "transformers fp32 compiled",
    "transformers bf16 compiled",
    "nanochat bf16 compiled",
    "plain fp32",
    "plain bf16",
    "plain bf16 compiled",
)


def figures(results: dict[str, list[Result]]) -> list[Figure]:
    """Compare the tokens/s of Vita with each peer and the best peer; add utilization and peaks."""
    peaks = [row["probe"] for rows in results.values() for row in rows]
    speeds = {name: [row["tokens_per_second"] for row in rows] for name, rows in results.items() if rows}
    vita_speeds = speeds.pop(VITA, None)
    lines = [figure(f"matmul peak {dtype}", [p[dtype] / 1e9 for p in peaks], unit="GFLOP/s") for dtype in peaks[0]]
    for name, values in speeds.items():
        if vita_speeds:
            lines.append(figure("training speed", vita_speeds, unit="tokens/s", peer=name, peer_values=values))
        else:
            lines.append(figure(f"training speed of {name}", values, unit="tokens/s"))
    peers = [name for name in speeds if name in PEERS]
    if vita_speeds and peers:
        best_peer = max(peers, key=lambda name: median(speeds[name]))
        lines.append(
            figure(
                "training speed, best peer", vita_speeds, unit="tokens/s", peer=best_peer, peer_values=speeds[best_peer]
            )
        )
    if vita_speeds:
        first_step_seconds = [row["seconds_to_first_step"] for row in results[VITA]]
        lines.append(figure("time to the first step", first_step_seconds, unit="seconds"))
    for name, rows in results.items():
        utilizations = [row["tokens_per_second"] * row["flops_per_token"] / row["probe"][row["dtype"]] for row in rows]
        if utilizations:
            lines.append(figure(f"utilisation of {name} ({rows[0]['dtype']})", utilizations, unit="of peak"))
    return lines


def worker(name: str, *, seconds: float, warm: int, threads: int) -> dict[str, Any]:
    """Train with one tool in this process and return its measurements."""
    import torch

    from bench.trainers import TRAINERS, Shape

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shape = Shape()
    start = time.perf_counter()
    trainer = TRAINERS[name](shape)
    generator = torch.Generator().manual_seed(0)

    def batch() -> torch.Tensor:
        return torch.randint(0, shape.vocabulary, (shape.rows, shape.context + 1), generator=generator)

    loss = trainer.step(batch())
    first_step_seconds = time.perf_counter() - start
    for _ in range(warm - 1):
        loss = trainer.step(batch())
    steps, start, start_cpu = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - start) < seconds or steps < 3:
        loss = trainer.step(batch())
        steps += 1
    return {
        "tokens_per_second": steps * shape.tokens / elapsed,
        # With one thread, this value is more stable on a busy machine; several threads spin while they wait.
        "tokens_per_processor_second": steps * shape.tokens / (time.process_time() - start_cpu),
        "steps": steps,
        "seconds_to_first_step": first_step_seconds,
        "loss": loss,
        "parameters": trainer.parameters,
        "flops_per_token": trainer.flops_per_token,
        "dtype": trainer.dtype,
    }


def contenders(arguments: argparse.Namespace) -> dict[str, Contender]:
    """Return the selected tools that are installed; print a message for each of the others."""
    names = arguments.only or [VITA, *PEERS]
    installed_tools = {}
    for name in names:
        python, path, settings = sys.executable, [], {}
        if name.startswith("nanochat"):
            if not arguments.nanochat:
                skip(name, "no checkout given; git clone https://github.com/karpathy/nanochat, then --nanochat PATH")
                continue
            python, path = arguments.nanochat_python or python, [arguments.nanochat.resolve()]
            settings = {"NANOCHAT_DTYPE": "bfloat16"}
        elif name.startswith("transformers") and not installed("transformers"):
            continue
        call = ["-m", "bench.training_speed", "--worker", name, "--seconds", str(arguments.seconds)]
        call += ["--warm", str(arguments.warm), "--threads", str(arguments.threads)]
        installed_tools[name] = Contender(call, python=python, path=path, settings=settings)
    return installed_tools


def main() -> None:
    parser = argparse.ArgumentParser(description="Tokens/s of training, side by side.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="time measured for each contender in each round")
    parser.add_argument("--warm", type=int, default=4, help="steps before the clock starts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=[VITA, *VARIANTS, *PEERS], help="these contenders instead of all")
    parser.add_argument("--nanochat", type=Path, help="a checkout of karpathy/nanochat")
    parser.add_argument("--nanochat-python", help="the Python that has its dependencies")
    parser.add_argument("--save", type=Path, help="append the figures to this file, say bench/results/training.jsonl")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(
            json.dumps(
                worker(arguments.worker, seconds=arguments.seconds, warm=arguments.warm, threads=arguments.threads)
            )
        )
        return
    probe = Contender(["-m", "bench.peak", "--threads", str(arguments.threads)])
    selected_tools = contenders(arguments)
    results = in_turns(selected_tools, rounds=arguments.rounds, threads=arguments.threads, probe=probe)
    if not results:
        raise SystemExit("no contender could be measured")
    report(figures(results), save=arguments.save)


if __name__ == "__main__":
    main()

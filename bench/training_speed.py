"""Training speed at one shape: Vita beside transformers, nanochat and a plain PyTorch model, in turns.

    python -m bench.training_speed --rounds 3 --seconds 15 --nanochat PATH [--nanochat-python PYTHON]

Width 256, 6 layers, 8 heads, vocabulary 4096, 16 x 256 tokens a step. Every turn measures the matrix-product peak
first, then runs one contender in a process of its own: some steps to warm up (compilation), then whole
steps (forward, backward, optimizer) for the given seconds. Utilisation is against the peak of that turn.
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

OURS = "vita"
VARIANTS = ("vita not compiled", "vita fp32")
"""Ours with other settings; measured when asked for."""
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
    """Tokens/s of ours beside each peer and beside the best of them, utilisation, and the peaks."""
    peaks = [row["probe"] for rows in results.values() for row in rows]
    speeds = {name: [row["tokens_per_second"] for row in rows] for name, rows in results.items() if rows}
    ours = speeds.pop(OURS, None)
    lines = [figure(f"matmul peak {dtype}", [p[dtype] / 1e9 for p in peaks], unit="GFLOP/s") for dtype in peaks[0]]
    for name, values in speeds.items():
        if ours:
            lines.append(figure("training speed", ours, unit="tokens/s", peer=name, peer_values=values))
        else:
            lines.append(figure(f"training speed of {name}", values, unit="tokens/s"))
    peers = [name for name in speeds if name in PEERS]
    if ours and peers:
        best = max(peers, key=lambda name: median(speeds[name]))
        lines.append(figure("training speed, best peer", ours, unit="tokens/s", peer=best, peer_values=speeds[best]))
    if ours:
        first = [row["seconds_to_first_step"] for row in results[OURS]]
        lines.append(figure("time to the first step", first, unit="seconds"))
    for name, rows in results.items():
        used = [row["tokens_per_second"] * row["flops_per_token"] / row["probe"][row["dtype"]] for row in rows]
        if used:
            lines.append(figure(f"utilisation of {name} ({rows[0]['dtype']})", used, unit="of peak"))
    return lines


def worker(name: str, *, seconds: float, warm: int, threads: int) -> dict[str, Any]:
    """What one contender does alone in its process."""
    import torch

    from bench.trainers import TRAINERS, Shape

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shape = Shape()
    began = time.perf_counter()
    trainer = TRAINERS[name](shape)
    generator = torch.Generator().manual_seed(0)

    def batch() -> torch.Tensor:
        return torch.randint(0, shape.vocabulary, (shape.rows, shape.context + 1), generator=generator)

    loss = trainer.step(batch())
    first = time.perf_counter() - began
    for _ in range(warm - 1):
        loss = trainer.step(batch())
    steps, began, worked = 0, time.perf_counter(), time.process_time()
    while (spent := time.perf_counter() - began) < seconds or steps < 3:
        loss = trainer.step(batch())
        steps += 1
    return {
        "tokens_per_second": steps * shape.tokens / spent,
        # On a busy machine this is the steadier one, with one thread: more of them spin while they wait.
        "tokens_per_processor_second": steps * shape.tokens / (time.process_time() - worked),
        "steps": steps,
        "seconds_to_first_step": first,
        "loss": loss,
        "parameters": trainer.parameters,
        "flops_per_token": trainer.flops_per_token,
        "dtype": trainer.dtype,
    }


def contenders(arguments: argparse.Namespace) -> dict[str, Contender]:
    """Those asked for that are installed; a line for each of the others."""
    names = arguments.only or [OURS, *PEERS]
    found = {}
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
        found[name] = Contender(call, python=python, path=path, settings=settings)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Tokens/s of training, side by side.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="time measured for each contender in each round")
    parser.add_argument("--warm", type=int, default=4, help="steps before the clock starts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=[OURS, *VARIANTS, *PEERS], help="these contenders instead of all")
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
    asked = contenders(arguments)
    results = in_turns(asked, rounds=arguments.rounds, threads=arguments.threads, probe=probe)
    if not results:
        raise SystemExit("no contender could be measured")
    report(figures(results), save=arguments.save)


if __name__ == "__main__":
    main()

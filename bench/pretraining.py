"""Speed of pretraining at several shapes: Vita, transformers, nanochat and a plain PyTorch model, in turns.

    python -m bench.pretraining --shapes 256x6 512x8 768x12 --rounds 3 --nanochat PATH [--nanochat-python PYTHON]

A shape is WIDTHxLAYERS; `bench.trainers` lists what follows from it. Each turn first measures the peak of matrix
products, then runs one tool in its own process: warmup steps, which include compilation, then complete steps (forward,
backward, optimizer). Utilization is relative to the peak of the turn. Compiled code is cached in a folder of the tool
and the shape, so that the first round starts cold and the others start warm.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import Figure, figure, report
from bench.rounds import Contender, Result, in_turns, installed, skip

VITA = "vita"
VARIANTS = ("vita masked", "vita not compiled", "vita fp32")
"""Vita with other settings; measured on request."""
PEERS = ("transformers bf16", "transformers bf16 compiled", "nanochat bf16 compiled", "plain bf16 compiled")
OTHER_PEERS = ("transformers fp32", "transformers fp32 compiled", "plain fp32", "plain bf16")
"""Peers that were slower than `PEERS` at all shapes; measured on request."""
REFERENCES = ("transformers", "nanochat")
"""The tools whose better speed is the reference."""
SHAPES = ("256x6", "512x8", "768x12")

Results = Mapping[str, Sequence[Result]]


def figures(results: Results, *, shape: str) -> list[Figure]:
    """Compare the speed of Vita at a shape with each peer and the best one; add utilization, peaks and first steps."""
    peaks = [row["probe"] for rows in results.values() for row in rows]
    lines = [
        figure(f"matmul peak {dtype}, {shape}", [peak[dtype]["best"] / 1e9 for peak in peaks], unit="GFLOP/s")
        for dtype in peaks[0]
    ]
    for unit, key in (("tokens/s", "tokens_per_second"), ("tokens/processor s", "tokens_per_processor_second")):
        lines += _speeds(results, f"pretraining {shape}", unit=unit, key=key)
    lines += _first_steps(results, shape)
    for name, rows in results.items():
        if rows:
            label = f"of {name} ({rows[0]['dtype']}), {shape}"
            lines.append(figure(f"utilization {label}", _utilizations(rows), unit="of peak"))
            shares = _utilizations(rows, key="tokens_per_processor_second", peak="per_processor_second")
            lines.append(figure(f"utilization per processor second {label}", shares, unit="of peak"))
    return lines


def _speeds(results: Results, subject: str, *, unit: str, key: str) -> list[Figure]:
    speeds = {name: [row[key] for row in rows] for name, rows in results.items() if rows}
    vita_speeds = speeds.pop(VITA, None)
    if not vita_speeds:
        return [figure(f"{subject} with {name}", values, unit=unit) for name, values in speeds.items()]
    lines = [figure(subject, vita_speeds, unit=unit, peer=name, peer_values=rows) for name, rows in speeds.items()]
    references = [name for name in speeds if name.startswith(REFERENCES)]
    if references:
        best = max(references, key=lambda name: median(speeds[name]))
        lines.append(figure(f"{subject}, best peer", vita_speeds, unit=unit, peer=best, peer_values=speeds[best]))
    return lines


def _first_steps(results: Results, shape: str) -> list[Figure]:
    """Return the time from the start of the process to the end of the first step: cold, and warm from round 2 on."""
    lines = []
    for state, part in (("cold", slice(0, 1)), ("warm", slice(1, None))):
        for name, rows in results.items():
            if seconds := [row["seconds_to_first_step"] for row in rows[part]]:
                lines.append(figure(f"first step of {name}, {state}, {shape}", seconds, unit="seconds"))
    return lines


def _utilizations(rows: Sequence[Result], *, key: str = "tokens_per_second", peak: str = "best") -> list[float]:
    return [row[key] * row["flops_per_token"] / row["probe"][row["dtype"]][peak] for row in rows]


def worker(name: str, shape_name: str, *, seconds: float, warm: int, threads: int) -> dict[str, Any]:
    """Train with one tool in this process and return its measurements."""
    start = time.perf_counter()
    import torch

    from bench.trainers import TRAINERS, Shape

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shape = Shape.named(shape_name)
    trainer = TRAINERS[name](shape)
    generator = torch.Generator().manual_seed(0)

    def batch() -> torch.Tensor:
        return torch.randint(0, shape.vocabulary, (shape.rows, shape.context + 1), generator=generator)

    loss = trainer.step(batch())
    first_step_seconds = time.perf_counter() - start
    for _ in range(warm - 1):
        loss = trainer.step(batch())
    steps, start, start_cpu = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - start) < seconds or steps < 2:
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


def contenders(arguments: argparse.Namespace, *, shape: str, cache: Path) -> dict[str, Contender]:
    """Return the selected tools that are installed; print a message for each of the others."""
    names = dict.fromkeys([VITA, *arguments.variants, *arguments.peers])
    installed_tools = {}
    for name in names:
        python, path = sys.executable, []
        settings = {"TORCHINDUCTOR_CACHE_DIR": str(cache / f"{shape}-{name.replace(' ', '-')}")}
        if name.startswith("nanochat"):
            if not arguments.nanochat:
                skip(name, "no checkout given; git clone https://github.com/karpathy/nanochat, then --nanochat PATH")
                continue
            python, path = arguments.nanochat_python or python, [arguments.nanochat.resolve()]
            settings["NANOCHAT_DTYPE"] = "bfloat16"
        elif name.startswith("transformers") and not installed("transformers"):
            continue
        call = ["-m", "bench.pretraining", "--worker", name, shape, "--seconds", str(arguments.seconds)]
        call += ["--warm", str(arguments.warm), "--threads", str(arguments.threads)]
        installed_tools[name] = Contender(call, python=python, path=path, settings=settings)
    return installed_tools


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of pretraining, side by side.")
    parser.add_argument("--shapes", nargs="+", default=[*SHAPES], metavar="WIDTHxLAYERS")
    parser.add_argument("--peers", nargs="+", choices=[*PEERS, *OTHER_PEERS], default=[*PEERS], metavar="PEER")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[], help="other settings of Vita")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0, help="time measured for each tool in each round")
    parser.add_argument("--warm", type=int, default=2, help="steps before the clock starts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--nanochat", type=Path, help="a checkout of karpathy/nanochat")
    parser.add_argument("--nanochat-python", help="the Python that has its dependencies")
    parser.add_argument("--save", type=Path, help="append the figures to this file, bench/results/pretraining.jsonl")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = _parse_arguments()
    if arguments.worker:
        measured = {"seconds": arguments.seconds, "warm": arguments.warm, "threads": arguments.threads}
        print(json.dumps(worker(*arguments.worker, **measured)))
        return
    probe = Contender(["-m", "bench.peak", "--threads", str(arguments.threads)])
    with tempfile.TemporaryDirectory() as cache:
        for shape in arguments.shapes:
            tools = contenders(arguments, shape=shape, cache=Path(cache))
            results = in_turns(tools, rounds=arguments.rounds, threads=arguments.threads, probe=probe)
            if not results:
                raise SystemExit(f"no tool could be measured at {shape}")
            report(figures(results, shape=shape), save=arguments.save)


if __name__ == "__main__":
    main()

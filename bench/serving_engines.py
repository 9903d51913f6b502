"""CPU time per token, tokens/s, time to the first token and memory of a replica of Vita and of other servers.

    python -m bench.serving_engines --shape 27M --rounds 3 --save figures.jsonl

The servers are llama.cpp, `transformers serve`, and vLLM on the CPU with `--vllm PYTHON`; a server that cannot run is
skipped by name. All run at the same time with one thread each, and answer the same prompts in alternating turns, greedy
and without an end token. Every client sends its requests one after another. In the cases with a prefix, all prompts
begin with the same 1,024 tokens, and each server has already read them. CPU time and memory are those of the server
process. The figures of each case are saved when it has finished. Linux only: CPU times come from /proc.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import Figure, figure, report
from bench.serving_peers import (
    SERVERS,
    VITA,
    Measurement,
    Server,
    ServerSettings,
    serve_llama_cpp,
    why_skipped,
)
from vita.monitoring.request_log import quantile

SHAPES: dict[str, dict[str, int]] = {
    "27M": {"vocabulary": 32_000, "width": 384, "layers": 8, "heads": 6, "kv_heads": 2, "feedforward": 1_024},
    "135M": {"vocabulary": 49_152, "width": 576, "layers": 30, "heads": 9, "kv_heads": 3, "feedforward": 1_536},
}
PREFIX, PROMPT = 1_024, 48
"""Tokens of the shared prefix, and of the rest of a prompt."""
CONTEXT_UNIT = 256
"""The context is a multiple of it, as llama.cpp needs."""


def save_model(folder: Path, shape: str, *, context: int) -> None:
    """Save a chat model with random weights and zero logits for special tokens."""
    import torch

    from vita.data.tokens.chat_template import ChatTemplate
    from vita.data.tokens.tokenizer import Tokenizer
    from vita.data.world import World, WorldSettings
    from vita.nn import hf
    from vita.nn.architecture import Architecture
    from vita.nn.init import initialize
    from vita.nn.transformer import Transformer

    settings: dict[str, Any] = {"head_dim": 64, "context": context, "tied": True, "rope_base": 1e4, "norm_eps": 1e-6}
    model = Transformer(Architecture(**SHAPES[shape], **settings))
    initialize(model, "fan_in", seed=0)
    tokenizer = Tokenizer.train([text.text for text in World.create(WorldSettings()).documents()], vocabulary=1_024)
    with torch.no_grad():
        model.head_weight[sorted(tokenizer.special_ids)] = 0
    folder.mkdir()
    hf.save(model, folder)
    tokenizer.save(folder)
    ChatTemplate.default().save(folder)


def cases(clients: Sequence[int]) -> list[tuple[str, int, bool]]:
    """Return name, number of clients and shared prefix of every case."""
    plain = [(f"{count} clients", count, False) for count in clients]
    return [*plain, *((f"{count} clients, prefix", count, True) for count in clients if count <= 16)]


def prompts_of(case: int, turn: int, *, count: int, prefix: bool) -> list[list[int]]:
    """Return different prompts of ordinary tokens; with `prefix`, all begin alike."""
    source = random.Random(1_000 * turn + case)
    first = [random.Random(position).randrange(300, 1_000) for position in range(PREFIX)] if prefix else []
    return [[*first, *(source.randrange(300, 1_000) for _ in range(PROMPT))] for _ in range(count)]


Results = dict[str, list[Measurement]]
"""Server -> its turns in one case."""


def figures(results: Results, case: str) -> list[Figure]:
    """Compare Vita with each other server in one case."""
    values: dict[str, tuple[str, Callable[[Measurement], float]]] = {
        "server CPU per token": ("seconds", lambda row: row.cpu / row.tokens),
        "throughput": ("tokens/s", lambda row: row.tokens / row.seconds),
        "median time to the first token": ("seconds", lambda row: median(row.first_token_seconds)),
        "p99 time to the first token": ("seconds", lambda row: quantile(row.first_token_seconds, 0.99) or 0.0),
    }
    return [
        row
        for name, (unit, value) in values.items()
        for row in compared(
            f"{name}, {case}", unit, {server: list(map(value, rows)) for server, rows in results.items()}
        )
    ]


def compared(name: str, unit: str, values: Mapping[str, Sequence[float]]) -> list[Figure]:
    """Return the values of Vita beside those of each other server; without Vita, those of each server."""
    if VITA not in values:
        return [figure(f"{name}, {server}", rows, unit=unit) for server, rows in values.items()]
    peers = [server for server in values if server != VITA]
    if not peers:
        return [figure(name, values[VITA], unit=unit)]
    return [figure(name, values[VITA], unit=unit, peer=peer, peer_values=values[peer]) for peer in peers]


def measure_case(
    servers: Sequence[Server], *, number: int, clients: int, prefix: bool, tokens: int, rounds: int
) -> Results:
    """Measure all servers in alternating turns; the first turn is a warmup, and reads the prefix."""
    results: Results = {}
    for turn in range(rounds + 1):
        prompts = prompts_of(number, turn, count=max(clients, 4), prefix=prefix)
        for server in servers:
            row = server.measure(prompts, clients=clients, tokens=tokens)
            if turn:
                results.setdefault(server.name, []).append(row)
                per_token = f"{row.cpu / row.tokens * 1e3:.2f} ms CPU per token"
                print(f"# {clients} clients, round {turn}, {server.name}: {per_token}", file=sys.stderr, flush=True)
    return results


def reuse_factors(server: Server, *, rounds: int) -> list[float]:
    """Return, per round, the time to read a prompt divided by the time when its prefix was read before."""
    factors = []
    for turn in range(rounds):
        first, second = (_prompt(f"reuse {turn}", f"rest {turn} {part}") for part in range(2))
        factors.append(server.complete(first, 1)[0] / server.complete(second, 1)[0])
    return factors


def memory_growth(server: Server, *, clients: int, rounds: int) -> list[float]:
    """Return, per round, the growth of resident memory in MiB per 1,000 tokens that `clients` rows hold in addition."""
    rows = []
    for turn in range(rounds):
        short, long = (
            [_prompt(f"memory {turn} {row}", f"{row}", prefix=length) for row in range(clients)]
            for length in (0, PREFIX)
        )
        before = server.measure(short, clients=clients, tokens=8).memory
        after = server.measure(long, clients=clients, tokens=8).memory
        rows.append(max(0.0, (after - before) / 2**20 / (clients * PREFIX / 1_000)))
    return rows


def _prompt(prefix_seed: str, seed: str, *, prefix: int = PREFIX) -> list[int]:
    """Return ordinary tokens: a prefix, and the rest of a prompt."""
    first, rest = random.Random(prefix_seed), random.Random(seed)
    return [*(first.randrange(300, 1_000) for _ in range(prefix)), *(rest.randrange(300, 1_000) for _ in range(PROMPT))]


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time per token of serving, beside other servers.")
    parser.add_argument("--shape", choices=list(SHAPES), default="27M")
    parser.add_argument("--quant", choices=["f32", "q8_0"], default="f32", help="number type of the weights")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(SERVERS), default=list(SERVERS))
    parser.add_argument("--vllm", type=Path, metavar="PYTHON", help="the Python of an environment with vLLM")
    parser.add_argument("--save", type=Path, help="append the figures of each finished case to this file")
    parser.add_argument("--llama", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.llama:
        serve_llama_cpp(options.llama[0], int(options.llama[1]), int(options.llama[2]))
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        longest = PREFIX + PROMPT + options.tokens
        save_model(scratch / "model", options.shape, context=-(-longest // CONTEXT_UNIT) * CONTEXT_UNIT)
        settings = ServerSettings(scratch / "model", scratch, options.quant, max(options.clients), options.vllm)
        servers = []
        for name in options.only:
            if reason := why_skipped(name, settings):
                print(f"# {name} is skipped: {reason}", file=sys.stderr, flush=True)
            else:
                servers.append(stack.enter_context(SERVERS[name](settings)))
        measure_all(servers, options)


def measure_all(servers: Sequence[Server], options: argparse.Namespace) -> None:
    """Measure all cases; the figures of a case are reported when it has finished."""
    label, rounds = f"{options.shape} {options.quant}", options.rounds
    for number, (case, clients, prefix) in enumerate(cases(options.clients)):
        results = measure_case(
            servers, number=number, clients=clients, prefix=prefix, tokens=options.tokens, rounds=rounds
        )
        report(figures(results, f"{label}, {case}"), save=options.save)
    reuse = {server.name: reuse_factors(server, rounds=rounds) for server in servers}
    report(compared(f"reuse factor of a prefix, {label}, {PREFIX} tokens", "times", reuse), save=options.save)
    rows = min(8, max(options.clients))
    memory = {server.name: memory_growth(server, clients=rows, rounds=rounds) for server in servers}
    for server, values in memory.items():  # a server that reserves its memory at the start has no growth, and no ratio
        name = f"memory per 1,000 tokens of context, {label}, {rows} rows, {server}"
        report([figure(name, values, unit="MiB")], save=options.save)


if __name__ == "__main__":
    main()

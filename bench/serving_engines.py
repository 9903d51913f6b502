"""CPU time per token, tokens/s and time to the first token of a replica of Vita and of the server of llama.cpp.

    python -m bench.serving_engines --shape 27M --rounds 3

Both servers run at the same time with one thread each, and answer the same prompts (token ids, greedy, without an end
token) in alternating turns. Every client sends its requests one after another. In the cases with a prefix, all prompts
begin with the same 1,024 tokens, and each server has already read them. CPU time is the time of the server process.
Linux only: CPU times come from /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from bench.figures import Figure, figure, report
from bench.rounds import installed
from bench.serving_cpu import cpu_seconds
from bench.serving_speed import running
from vita.monitoring.request_log import quantile

SHAPES: dict[str, dict[str, int]] = {
    "27M": {"vocabulary": 32_000, "width": 384, "layers": 8, "heads": 6, "kv_heads": 2, "feedforward": 1_024},
    "135M": {"vocabulary": 49_152, "width": 576, "layers": 30, "heads": 9, "kv_heads": 3, "feedforward": 1_536},
}
PREFIX, PROMPT = 1_024, 48
"""Tokens of the shared prefix, and of the rest of a prompt."""
CONTEXT_UNIT = 256
"""The context is a multiple of it, as llama.cpp needs."""
VITA, LLAMA_CPP = "vita", "llama.cpp"


@dataclass
class Measurement:
    """One turn of a server in one case."""

    tokens: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    first_token_seconds: list[float] = field(default_factory=list)


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


@contextmanager
def vita(folder: Path, scratch: Path, quant: str, clients: int) -> Iterator[Server]:
    """Run a replica, with 8-bit weights for the GGUF type q8_0."""
    from vita.infer.engine import Engine
    from vita.server.release import create_release
    from vita.stages.release import golden_answers

    backend, golden = None, []
    if quant == "q8_0":
        backend = {"program": "vita", "quantization": "int8"}
        golden = golden_answers(Engine.open(folder), ("Hello!",), tokens=8)
    release = create_release(
        folder, scratch / VITA, name="bench", version="1", limits={"max_batch_size": clients}, golden=golden,
        backend=backend,
    )  # fmt: skip
    port = _free_port()
    command = ["-m", "vita.server.replica.main", "--release", str(release), "--port", str(port), "--threads", "1"]
    with running([sys.executable, *command], port) as url:
        yield Server(VITA, url)


@contextmanager
def llama_cpp(folder: Path, scratch: Path, quant: str, clients: int) -> Iterator[Server]:
    """Run the server of llama.cpp with the exported model."""
    from vita.formats.gguf.write import write_gguf

    file = scratch / f"{quant}.gguf"
    write_gguf(folder, file, quantization=quant)
    context = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
    command = [sys.executable, "-m", "bench.serving_engines", "--llama", str(file), str(clients), str(context)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        yield Server(LLAMA_CPP, url, process.pid)
        process.kill()


def serve_llama_cpp(file: str, clients: int, context: int) -> None:
    """Serve a GGUF file with one thread until standard input ends."""
    import xllamacpp

    library: Any = xllamacpp
    parameters = library.CommonParams()
    parameters.model.path = file
    parameters.port, parameters.n_parallel, parameters.n_ctx = 0, clients, clients * context
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    server = library.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


SERVERS = {VITA: vita, LLAMA_CPP: llama_cpp}


class Server:
    """A running server and its clients."""

    def __init__(self, name: str, url: str, process: int | None = None) -> None:
        self.name = name
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self.http = httpx.Client(base_url=url, timeout=600, limits=limits)
        self.process = process or _listening_process(int(url.rsplit(":", 1)[1]))

    def measure(self, prompts: Sequence[Sequence[int]], *, clients: int, tokens: int) -> Measurement:
        """Send the prompts from `clients` clients."""
        result = Measurement()
        cpu, start = cpu_seconds(self.process), time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            for seconds, count in pool.map(lambda prompt: self._complete(prompt, tokens), prompts):
                result.first_token_seconds.append(seconds)
                result.tokens += count
        result.seconds, result.cpu = time.perf_counter() - start, cpu_seconds(self.process) - cpu
        return result

    def _complete(self, prompt: Sequence[int], tokens: int) -> tuple[float, int]:
        """Return the seconds to the first token, and the number of tokens, of a streamed completion."""
        body: dict[str, Any] = {"prompt": list(prompt), "temperature": 0.0, "stream": True}
        if self.name == VITA:
            body |= {"model": "bench", "max_tokens": tokens, "stream_options": {"include_usage": True}}
        else:
            body |= {"n_predict": tokens, "ignore_eos": True, "cache_prompt": True, "samplers": ["top_k"], "top_k": 1}
        path = "/v1/completions" if self.name == VITA else "/completion"
        start, first, count = time.perf_counter(), None, 0
        with self.http.stream("POST", path, json=body) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                first = first or time.perf_counter() - start
                data = json.loads(line[6:])
                count = data.get("tokens_predicted", count)
                if data.get("usage"):
                    count = data["usage"]["completion_tokens"]
        assert first is not None
        return first, count


def cases(clients: Sequence[int]) -> list[tuple[str, int, bool]]:
    """Return name, number of clients and shared prefix of every case."""
    plain = [(f"{count} clients", count, False) for count in clients]
    return [*plain, *((f"{count} clients, prefix", count, True) for count in clients if count <= 16)]


def prompts_of(case: int, turn: int, *, count: int, prefix: bool) -> list[list[int]]:
    """Return different prompts of ordinary tokens; with `prefix`, all begin alike."""
    import random

    source = random.Random(1_000 * turn + case)
    first = [random.Random(position).randrange(300, 1_000) for position in range(PREFIX)] if prefix else []
    return [[*first, *(source.randrange(300, 1_000) for _ in range(PROMPT))] for _ in range(count)]


def figures(results: dict[str, dict[str, list[Measurement]]], label: str) -> list[Figure]:
    """Compare Vita with llama.cpp in every case."""
    values = {
        "server CPU per token": ("seconds", lambda row: row.cpu / row.tokens),
        "throughput": ("tokens/s", lambda row: row.tokens / row.seconds),
        "median time to the first token": ("seconds", lambda row: median(row.first_token_seconds)),
        "p99 time to the first token": ("seconds", lambda row: quantile(row.first_token_seconds, 0.99)),
    }
    return [
        figure(
            f"{name}, {label}, {case}",
            [value(row) for row in results[VITA][case]],
            unit=unit,
            peer=LLAMA_CPP if LLAMA_CPP in results else None,
            peer_values=[value(row) for row in results.get(LLAMA_CPP, {}).get(case, [])],
        )
        for case in results[VITA]
        for name, (unit, value) in values.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time per token of serving, beside llama.cpp.")
    parser.add_argument("--shape", choices=list(SHAPES), default="27M")
    parser.add_argument("--quant", choices=["f32", "q8_0"], default="f32", help="number type of the weights")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(SERVERS), default=list(SERVERS))
    parser.add_argument("--save", type=Path, help="append the figures to this file")
    parser.add_argument("--llama", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.llama:
        serve_llama_cpp(options.llama[0], int(options.llama[1]), int(options.llama[2]))
        return
    names = [name for name in options.only if name == VITA or installed("xllamacpp")]
    results: dict[str, dict[str, list[Measurement]]] = {name: {} for name in names}
    os.environ["OMP_NUM_THREADS"] = "1"
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        longest = PREFIX + PROMPT + options.tokens
        save_model(scratch / "model", options.shape, context=-(-longest // CONTEXT_UNIT) * CONTEXT_UNIT)
        servers = [
            stack.enter_context(SERVERS[name](scratch / "model", scratch, options.quant, max(options.clients)))
            for name in names
        ]
        for number, (case, clients, prefix) in enumerate(cases(options.clients)):
            for turn in range(options.rounds + 1):  # the first turn is a warmup, and reads the prefix
                prompts = prompts_of(number, turn, count=max(clients, 4), prefix=prefix)
                for server in servers:
                    row = server.measure(prompts, clients=clients, tokens=options.tokens)
                    if turn:
                        results[server.name].setdefault(case, []).append(row)
                        per_token = f"{row.cpu / row.tokens * 1e3:.2f} ms CPU per token"
                        print(f"# {case}, round {turn}, {server.name}: {per_token}", file=sys.stderr, flush=True)
    report(figures(results, f"{options.shape} {options.quant}"), save=options.save)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _listening_process(port: int) -> int:
    """Return the process that listens on a port."""
    import psutil

    for connection in psutil.net_connections("tcp"):
        address: Any = connection.laddr
        if connection.status == psutil.CONN_LISTEN and address.port == port and connection.pid:
            return connection.pid
    raise SystemExit(f"no process listens on port {port}")


if __name__ == "__main__":
    main()

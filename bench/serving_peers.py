"""Servers of the same model: a replica of Vita, llama.cpp, `transformers serve`, and vLLM on the CPU.

    with SERVERS["llama.cpp"](ServerSettings(folder, scratch, clients=4)) as server: ...

Each computes with one thread. A server that cannot run here is skipped with its reason (`why_skipped`).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.rounds import installed
from bench.serving_cpu import cpu_seconds
from bench.serving_speed import running

VITA, LLAMA_CPP, TRANSFORMERS, VLLM = "vita", "llama.cpp", "transformers serve", "vllm"
SAMPLE_SECONDS = 0.02
"""Interval at which the resident memory of a server is read."""


@dataclass(frozen=True)
class ServerSettings:
    """The model and the limits of a server."""

    folder: Path
    """The model folder."""
    scratch: Path
    quant: str = "f32"
    clients: int = 1
    vllm: Path | None = None
    """The Python of an environment with vLLM."""

    @property
    def context(self) -> int:
        """Return the number of tokens of the context."""
        return int(json.loads((self.folder / "config.json").read_text())["max_position_embeddings"])


@dataclass
class Measurement:
    """One turn of a server in one case."""

    tokens: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    first_token_seconds: list[float] = field(default_factory=list)
    memory: int = 0
    """Largest resident memory of the server, in bytes."""


def why_skipped(name: str, settings: ServerSettings) -> str:
    """Return the reason why a server cannot be measured here, "" if it can."""
    if name == LLAMA_CPP and not installed("xllamacpp"):
        return "xllamacpp is not installed"
    if name == VLLM and settings.vllm is None:
        return "no environment with vLLM is given (--vllm PYTHON)"
    if name == TRANSFORMERS and not all(map(installed, ("fastapi", "uvicorn", "openai"))):
        return "its packages are not installed (transformers[serving])"
    if name in (TRANSFORMERS, VLLM) and settings.quant != "f32":
        return f"it is measured in f32 only, not in {settings.quant}"
    return ""


class Server:
    """A running server and its clients, which use /v1/completions."""

    path = "/v1/completions"

    def __init__(self, name: str, url: str, *, model: str = "bench", process: int | None = None) -> None:
        self.name, self.model = name, model
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self.http = httpx.Client(base_url=url, timeout=600, limits=limits)
        self.process = process or _listening_process(int(url.rsplit(":", 1)[1]))

    def measure(self, prompts: Sequence[Sequence[int]], *, clients: int, tokens: int) -> Measurement:
        """Send the prompts from `clients` clients."""
        result = Measurement()
        with self._watched(result), ThreadPoolExecutor(clients) as pool:
            for seconds, count in pool.map(lambda prompt: self.complete(prompt, tokens), prompts):
                result.first_token_seconds.append(seconds)
                result.tokens += count
        return result

    @contextmanager
    def _watched(self, result: Measurement) -> Iterator[None]:
        """Measure the time, the CPU time and the largest memory of the server in the block."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(SAMPLE_SECONDS):
                result.memory = max(result.memory, resident_bytes(self.process))

        watcher = threading.Thread(target=watch, daemon=True)
        cpu, start = cpu_seconds(self.process), time.perf_counter()
        watcher.start()
        try:
            yield
        finally:
            result.seconds, result.cpu = time.perf_counter() - start, cpu_seconds(self.process) - cpu
            ended.set()
            watcher.join()
            result.memory = max(result.memory, resident_bytes(self.process))

    def complete(self, prompt: Sequence[int], tokens: int) -> tuple[float, int]:
        """Return the seconds to the first token, and the number of tokens, of a streamed completion."""
        start, first, count = time.perf_counter(), None, 0
        with self.http.stream("POST", self.path, json=self.body(prompt, tokens)) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                first = first or time.perf_counter() - start
                data = json.loads(line[6:])
                count = data.get("tokens_predicted", count)
                if data.get("usage"):
                    count = data["usage"]["completion_tokens"]
        if first is None or not count:
            raise SystemExit(f"{self.name} returns no tokens")
        return first, count

    def body(self, prompt: Sequence[int], tokens: int) -> dict[str, Any]:
        """Return the request of a completion."""
        return {
            "model": self.model, "prompt": list(prompt), "max_tokens": tokens, "temperature": 0.0, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip


class LlamaCppServer(Server):
    """The server of llama.cpp, with its native route."""

    path = "/completion"

    def body(self, prompt: Sequence[int], tokens: int) -> dict[str, Any]:
        return {
            "prompt": list(prompt), "temperature": 0.0, "stream": True, "n_predict": tokens, "ignore_eos": True,
            "cache_prompt": True, "samplers": ["top_k"], "top_k": 1,
        }  # fmt: skip


class TransformersServer(Server):
    """`transformers serve`, which reads prompts as text and is greedy by the settings of the model."""

    def __init__(self, url: str, *, model: str) -> None:
        from vita.data.tokens.tokenizer import Tokenizer

        super().__init__(TRANSFORMERS, url, model=model)
        self._tokenizer = Tokenizer.load(Path(model))

    def body(self, prompt: Sequence[int], tokens: int) -> dict[str, Any]:
        text = self._tokenizer.decode(list(prompt))
        return {"model": self.model, "prompt": text, "max_tokens": tokens, "temperature": 0.0, "stream": True}


class VllmServer(Server):
    """vLLM, with its field that ignores the end of a text."""

    def body(self, prompt: Sequence[int], tokens: int) -> dict[str, Any]:
        return super().body(prompt, tokens) | {"ignore_eos": True}


@contextmanager
def vita(settings: ServerSettings) -> Iterator[Server]:
    """Run a replica, with 8-bit weights for the GGUF type q8_0."""
    from vita.infer.engine import Engine
    from vita.server.release import create_release
    from vita.stages.release import golden_answers

    backend, golden = None, []
    if settings.quant == "q8_0":
        # The answers of random weights are sensitive to rounding.
        backend = {"program": "vita", "quantization": "int8", "tolerance": 1.0}
        golden = golden_answers(Engine.open(settings.folder), ("Hello!",), tokens=8)
    release = create_release(
        settings.folder, settings.scratch / VITA, name="bench", version="1",
        limits={"max_batch_size": settings.clients}, golden=golden, backend=backend,
    )  # fmt: skip
    port = free_port()
    command = ["-m", "vita.server.replica.main", "--release", str(release), "--port", str(port), "--threads", "1"]
    with running([sys.executable, *command], port) as url:
        yield Server(VITA, url)


@contextmanager
def llama_cpp(settings: ServerSettings) -> Iterator[Server]:
    """Run the server of llama.cpp with the exported model."""
    from vita.formats.gguf.write import write_gguf

    file = settings.scratch / f"{settings.quant}.gguf"
    write_gguf(settings.folder, file, quantization=settings.quant)
    words = [str(file), str(settings.clients), str(settings.context)]
    command = [sys.executable, "-m", "bench.serving_engines", "--llama", *words]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        yield LlamaCppServer(LLAMA_CPP, url, process=process.pid)
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


@contextmanager
def transformers_serve(settings: ServerSettings) -> Iterator[Server]:
    """Run `transformers serve` with continuous batching."""
    port, model = free_port(), str(settings.folder)
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", model, "--continuous-batching"]
    command += ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    with _offline(), running(command, port) as url:
        yield TransformersServer(url, model=model)


@contextmanager
def vllm(settings: ServerSettings) -> Iterator[Server]:
    """Run vLLM on the CPU from its environment."""
    port = free_port()
    command = [str(settings.vllm), "-m", "vllm.entrypoints.openai.api_server", "--model", str(settings.folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "bench", "--dtype", "float32"]
    command += ["--enforce-eager", "--enable-prefix-caching", "--max-num-seqs", str(settings.clients)]
    command += ["--max-model-len", str(settings.context), "--gpu-memory-utilization", "0.2"]
    with _offline(VLLM_CPU_KVCACHE_SPACE="2", VLLM_NO_USAGE_STATS="1"), running(command, port) as url:
        yield VllmServer(VLLM, url)


SERVERS: Mapping[str, Callable[[ServerSettings], AbstractContextManager[Server]]] = {
    VITA: vita, LLAMA_CPP: llama_cpp, TRANSFORMERS: transformers_serve, VLLM: vllm,
}  # fmt: skip


@contextmanager
def _offline(**variables: str) -> Iterator[None]:
    """Set environment variables of a server that is started in the block; it asks no model hub."""
    variables |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def free_port() -> int:
    """Return a free port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def resident_bytes(process: int) -> int:
    """Return the resident memory of a process and of the processes that it has started."""
    import psutil

    total = 0
    try:
        root = psutil.Process(process)
        for member in (root, *root.children(recursive=True)):
            total += member.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def _listening_process(port: int) -> int:
    """Return the process that listens on a port."""
    import psutil

    for connection in psutil.net_connections("tcp"):
        address: Any = connection.laddr
        if connection.status == psutil.CONN_LISTEN and address.port == port and connection.pid:
            return connection.pid
    raise SystemExit(f"no process listens on port {port}")

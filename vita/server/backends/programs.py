"""Starts the program of a release's backend, or connects to it, and compares it with the golden answers.

program = open_program(settings, release, engine, rows=16, threads=1)
program.scheduler(rows=16, queue=64)
program.stop()
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from vita.infer.request import QueueFull
from vita.server.backend_settings import BackendSettings, python_of
from vita.server.backends.completions import CompletionsClient, VllmClient
from vita.server.backends.conformance import Conformance, check_conformance
from vita.server.backends.engine_client import EngineClient, EngineUnavailable
from vita.server.backends.engine_process import EngineProcess
from vita.server.backends.llama_cpp import LlamaCppClient
from vita.server.backends.remote_engine import RemoteEngine
from vita.server.release import GGUF, MODEL, ReleaseInfo
from vita.spine import machine
from vita.spine.endpoints import api_key
from vita.spine.errors import ConfigError, MissingExtra, ModelError, VitaError, exception_text

log = logging.getLogger(__name__)
START_SECONDS = 280.0
"""Maximum time in which a program loads its model; less than `ready_seconds` of the service."""
PROBE_SECONDS = 5.0
"""Interval of the probes of an endpoint, and the longest probe of a program."""
READ_SECONDS = 600.0
"""Longest time without data in a response of an endpoint."""
UNSUPPORTED = (
    "bitwise reproducibility", "exact continuation of a stream on another replica", "echo with logprobs", "adapters",
)  # fmt: skip
"""Features that no replica with another program supports."""
GRAMMAR_FEATURES = ("structured outputs", "required and strict calls")


@dataclass
class RunningProgram:
    """A program that computes answers, and its state."""

    settings: BackendSettings
    client: EngineClient
    process: EngineProcess | None = None
    """None for an endpoint that runs elsewhere."""
    conformance: Conformance | None = None
    problem: str = ""
    """The reason why an endpoint accepts no requests."""
    is_suspect: bool = False
    """True if a request failed in a way that may concern all requests: the next check repeats the golden answers."""
    context: int | None = None
    """Context length in tokens, if the program states it; otherwise it is that of the model."""
    facts: Mapping[str, Any] = field(default_factory=dict)

    async def why_unavailable(self) -> str:
        """Return the reason why the program accepts no requests, "" if it does.

        A program on this machine that hangs does not respond, so that the replica does not respond either, and its
        requests move to other replicas.
        """
        if self.process is None:
            return self.problem
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self.client.probe()
        except TimeoutError:
            return "does not respond"
        except EngineUnavailable as error:  # it responds that it has failed, as vLLM does without its engine process
            self.process.end_replica(str(error))
            return str(error)
        except httpx.HTTPError as error:
            return exception_text(error)
        return ""

    async def watch_endpoint(self, golden: Sequence[Mapping[str, Any]]) -> None:
        """Probe an endpoint regularly.

        After an outage or an error that may concern all requests, it must give the golden answers again.
        """
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            try:
                await self.client.probe()
                if self.problem or self.is_suspect:
                    self.conformance = await self.compare(golden)
                    self.problem, self.is_suspect = "", False
            except QueueFull as error:  # it responds, and can be compared later
                self.problem = str(error) if self.problem else ""
            except httpx.HTTPError as error:
                self.problem = exception_text(error)
            except (EngineUnavailable, VitaError) as error:
                self.problem = str(error)
            except Exception as error:  # the watch must go on, or the replica would never be ready again
                log.exception("the endpoint could not be checked")
                self.problem = f"it could not be checked: {type(error).__name__}"

    async def compare(self, golden: Sequence[Mapping[str, Any]]) -> Conformance:
        """Compare the program with the golden answers; raises `ModelError` for a difference or an outage."""
        program, tolerance = self.settings.program, self.settings.allowed_difference
        try:
            return await check_conformance(self.client, golden, tolerance=tolerance, program=program)
        except EngineUnavailable as error:
            where = f"backend {program}" + (f" at {self.settings.url}" if self.settings.url else "")
            raise ModelError(where, f"the program is not available: {error}") from None

    def describe(self) -> dict[str, Any]:
        """Return the description for `/ready` and `/v1/models`."""
        golden = None if self.conformance is None else self.conformance.record()
        unsupported = [*UNSUPPORTED, *self.client.unsupported]
        unsupported += [] if self.client.follows_grammars else GRAMMAR_FEATURES
        unsupported += [] if self.client.embeds else ["embeddings"]
        details = {**self.facts, "program_version": self.client.version or None, "golden": golden}
        return {"program": self.settings.program, **details, "unsupported": unsupported}

    def stop(self) -> None:
        """End the program, if it runs here."""
        if self.process is not None:
            self.process.stop()


def open_program(
    settings: BackendSettings, release: ReleaseInfo, engine: RemoteEngine, *, rows: int, threads: int
) -> RunningProgram:
    """Start the program of a release, or connect to it; returns when it accepts requests."""
    if settings.program == "llama.cpp":
        return _open_llama_cpp(settings, release, engine, rows=rows, threads=threads)
    if settings.program == "vllm":
        return _open_vllm(settings, release, engine, rows=rows, threads=threads)
    return _open_endpoint(settings, engine)


# -- llama.cpp


def require_llama_cpp() -> None:
    """Raise `MissingExtra` if llama.cpp is not installed."""
    if find_spec("xllamacpp") is None:
        raise MissingExtra("the backend llama.cpp", "llama-cpp")


def _open_llama_cpp(
    settings: BackendSettings, release: ReleaseInfo, engine: RemoteEngine, *, rows: int, threads: int
) -> RunningProgram:
    require_llama_cpp()
    file = release.folder / GGUF
    if GGUF not in release.files:
        raise ModelError(str(release.folder), f"holds no {GGUF}", hint="create the release again with this backend")
    secret = secrets.token_urlsafe(32)
    command = [sys.executable, "-m", "vita.server.backends.llama_cpp_process", "--file", str(file)]
    command += ["--context", str(engine.model.architecture.context), "--rows", str(rows), "--threads", str(threads)]
    if settings.gguf_type == "f32":
        command.append("--float32-cache")
    environment = machine.environment_of_engine(VITA_ENGINE_SECRET=secret)
    process = EngineProcess("llama.cpp", command, environment, secret=secret)
    process.wait_ready(lambda: process.address is not None, seconds=START_SECONDS)
    client = LlamaCppClient(
        str(process.address), engine.tokenizer, secret=secret, reads_lark=_contains_llguidance("xllamacpp")
    )
    facts = {"gguf": release.files[GGUF], "quantization": settings.gguf_type}
    return RunningProgram(settings, client, process, facts=facts)


def _contains_llguidance(package: str) -> bool:
    """Return True if the library of a package was built with llguidance; a build without it ends at such a grammar."""
    spec = find_spec(package)
    for folder in spec.submodule_search_locations or () if spec else ():
        for library in Path(folder).glob("*.so"):
            with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if data.find(b"llg error") >= 0:
                    return True
    return False


# -- vLLM


def require_vllm(settings: BackendSettings) -> Path:
    """Return the Python program of the environment of vLLM; raises `ConfigError` if vLLM is not installed there."""
    python = python_of(settings.environment or "")
    hint = f"python -m venv {settings.environment} && {python} -m pip install vllm"
    if not python.is_file():
        raise ConfigError("backend.environment", f"{settings.environment} holds no bin/python", hint=hint)
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    environment = _vllm_environment()
    if subprocess.run([str(python), "-c", probe], env=environment, check=False, capture_output=True).returncode:
        raise ConfigError("backend.environment", f"vLLM is not installed in {settings.environment}", hint=hint)
    return python


def _vllm_environment(**variables: str) -> dict[str, str]:
    fixed = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    environment = machine.environment_of_engine(**fixed, **variables)
    environment.pop("PYTHONPATH", None)  # it belongs to this environment, not to that of vLLM
    return environment


def _open_vllm(
    settings: BackendSettings, release: ReleaseInfo, engine: RemoteEngine, *, rows: int, threads: int
) -> RunningProgram:
    python, secret = require_vllm(settings), secrets.token_urlsafe(32)
    # A socket in a folder of this user, because the key of vLLM does not protect all of its routes.
    folder = Path(tempfile.mkdtemp(prefix="vita-vllm-"))
    socket = str(folder / "vllm.sock")
    # `vllm serve` starts the same module; builds for the CPU have no working `vllm` command.
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(release.folder / MODEL)]
    command += ["--uds", socket, "--served-model-name", release.name, "--max-num-seqs", str(rows)]
    command += ["--max-model-len", str(engine.model.architecture.context), "--generation-config", "vllm"]
    command += ["--uvicorn-log-level", "warning", *settings.arguments]
    environment = _vllm_environment(VLLM_API_KEY=secret, OMP_NUM_THREADS=str(threads))
    process = EngineProcess("vllm", command, environment, secret=secret, folder=folder)
    process.wait_ready(lambda: _vllm_get("/health", socket) is not None, seconds=START_SECONDS)
    entries = (_vllm_get("/v1/models", socket, secret=secret) or {}).get("data")
    client = VllmClient("http://vllm/v1", engine.tokenizer, model=release.name, secret=secret, socket=socket)
    client.program_version = str((_vllm_get("/version", socket) or {}).get("version", ""))
    return RunningProgram(settings, client, process, context=stated_context(entries, release.name))


def stated_context(rows: Any, model: str) -> int | None:
    """Return the `max_model_len` of a model in the rows of GET /v1/models, as vLLM and Vita state it, or None."""
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and row.get("id") == model:
            length = row.get("max_model_len")
            return length if type(length) is int and length > 0 else None
    return None


def _vllm_get(path: str, socket: str, *, secret: str = "") -> dict[str, Any] | None:
    """Return the JSON object of a route of vLLM, {} for another response, and None if it is not successful."""
    transport = httpx.HTTPTransport(uds=socket)
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    try:
        with httpx.Client(transport=transport, timeout=PROBE_SECONDS, trust_env=False) as client:
            response = client.get(f"http://vllm{path}", headers=headers)
    except httpx.HTTPError:
        return None
    if response.status_code != 200:
        return None
    try:
        value = response.json()
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


# -- an endpoint


def _open_endpoint(settings: BackendSettings, engine: RemoteEngine) -> RunningProgram:
    url, key = str(settings.url), endpoint_key(settings)
    rows = _listed_models(url, key, required=settings.model is None)
    model = settings.model or _only_model(url, rows)
    client = CompletionsClient(url, engine.tokenizer, model=model, secret=key, read_seconds=READ_SECONDS)
    facts = {"url": url, "weights_verified": False}
    return RunningProgram(settings, client, facts=facts, context=stated_context(rows, model))


def endpoint_key(settings: BackendSettings) -> str:
    """Return the API key of an endpoint; "" without one."""
    return api_key(variable=settings.key_variable, file=settings.key_file)


def _listed_models(url: str, key: str, *, required: bool) -> list[dict[str, Any]]:
    """Return the rows of GET /models of an endpoint; if they are not `required`, [] for an endpoint without them."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    problem = ""
    try:
        response = httpx.get(f"{url}/models", headers=headers, timeout=30.0, trust_env=False)
        if response.status_code == 200:
            rows = [dict(row) for row in response.json()["data"]]
            if all(isinstance(row["id"], str) for row in rows):
                return rows
            raise TypeError("the id of a model is not a text")
        problem = f"GET /models has status {response.status_code}"
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        problem = f"lists no models: {exception_text(error)}"
    if required:
        raise ModelError(f"backend openai at {url}", problem)
    return []


def _only_model(url: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the only model of an endpoint."""
    if len(rows) != 1:
        listed = ", ".join(str(row["id"]) for row in rows[:8]) or "none"
        raise ModelError(f"backend openai at {url}", f"has {len(rows)} models ({listed})", hint="set `model`")
    return str(rows[0]["id"])

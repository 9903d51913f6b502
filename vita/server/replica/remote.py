"""Opens a replica whose answers another program computes: verifies the release, starts the program and compares it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vita.gates.weights import Files, model_digest
from vita.server.backend_settings import BackendSettings, gguf_digest, release_backend
from vita.server.backends.programs import RunningProgram, open_program
from vita.server.backends.remote_engine import RemoteEngine
from vita.server.backends.remote_scheduler import RemoteScheduler
from vita.server.release import GGUF, MODEL, ReleaseInfo, load_verified
from vita.server.replica.app import create_app
from vita.server.replica.readiness import check_answers
from vita.server.replica.rotating_secrets import RotatingSecrets
from vita.server.replica.served_release import served_model
from vita.spine.errors import ModelError, VitaError

if TYPE_CHECKING:
    from vita.infer.engine import Engine


def open_remote_app(
    folder: Path, *, digest: str | None, model: str | None, secret: str | RotatingSecrets, threads: int
) -> Any:
    """Return the application of a release with another backend than `vita`; its program ends with this process."""
    started: list[RunningProgram] = []

    def load(release: ReleaseInfo, files: Files) -> tuple[ReleaseInfo, str, RemoteEngine, RunningProgram]:
        _stop(started)
        settings = release_backend(release.content)
        _check_release(release, settings)
        engine = RemoteEngine.open(folder / MODEL, clock=datetime.now)
        program = open_program(settings, release, engine, rows=release.limit("max_batch_size"), threads=threads)
        started.append(program)
        return release, model or model_digest(files), engine, program

    try:
        release, identity, engine, program = load_verified(folder, load, digest=digest)
        return _tested_app(release, identity, engine, program, folder=folder, secret=secret)
    except BaseException:
        _stop(started)
        raise


def _tested_app(
    release: ReleaseInfo,
    identity: str,
    engine: RemoteEngine,
    program: RunningProgram,
    *,
    folder: Path,
    secret: str | RotatingSecrets,
) -> Any:
    """Return the application after the golden answers and the first request were computed."""
    rows, queue = release.limit("max_batch_size"), release.limit("max_queue_size")
    scheduler = RemoteScheduler(engine, program, rows=rows, queue=queue)
    golden = release.content.get("golden") or []
    try:
        program.conformance = scheduler.run(program.compare(golden))
        served = served_model(release, identity, folder=folder, warnings=_warnings(program))
        first_app = create_app(scheduler, served)  # with separate metrics
        check_answers(first_app, cast("Engine", scheduler.engine), model=release.name)  # it has what the check reads
    except VitaError:
        scheduler.close()
        raise
    if program.process is None:
        scheduler.run_until_closed(program.watch_endpoint(golden))
    else:
        program.process.end_replica_with_program()
    return create_app(scheduler, served, secret=secret)


def _check_release(release: ReleaseInfo, settings: BackendSettings) -> None:
    """Refuse a release whose GGUF file is not the one that its backend names, and defaults that are not supported."""
    if settings.program == "llama.cpp" and release.files.get(GGUF) != gguf_digest(release.content):
        expected = f"the SHA-256 of {GGUF} in `backend.gguf`"
        raise ModelError(str(release.folder / "release.json"), expected=expected, got=gguf_digest(release.content))
    top_k = (release.content.get("sampling") or {}).get("top_k")
    if settings.program == "openai" and top_k:
        hint = "create the release with `sampling.top_k: 0`"
        raise ModelError("release.sampling.top_k", "is not supported by the backend `openai`", got=top_k, hint=hint)


def _warnings(program: RunningProgram) -> list[str]:
    url = program.settings.url or ""
    if url.startswith("http://") and program.client.has_secret and "://127." not in url and "://localhost" not in url:
        return [f"the API key of the endpoint {url} is sent without encryption"]
    return []


def _stop(started: list[RunningProgram]) -> None:
    while started:
        started.pop().stop()

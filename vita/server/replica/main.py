"""The process of a replica: verifies a release and serves it over HTTP.

    python -m vita.server.replica.main --release FOLDER --digest SHA --port N [--host 127.0.0.1] [--threads T]

It exits with one line and code 4 when a file is missing or changed, and with code 6 when the model cannot be loaded or
gives other answers than at its release. On SIGTERM it finishes the requests in flight. The service passes a
secret in `VITA_REPLICA_SECRET`; requests without it reach only `/health`. A replica writes no files and has no keys.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from vita.gates.weights import Files, model_digest
from vita.server.backend_settings import BackendSettings, release_backend
from vita.server.release import MODEL, ReleaseInfo, load_verified, read_release
from vita.server.replica.rotating_secrets import RotatingSecrets
from vita.server.replica.served_release import check_golden, served_model
from vita.server.replica.traced_requests import TracedRequests
from vita.server.tracing import open_tracing
from vita.spine import machine
from vita.spine.errors import ModelError, VitaError
from vita.spine.plain_text import counted


def verify(folder: Path, *, digest: str | None) -> tuple[ReleaseInfo, Files]:
    """Verify every file of the release in `folder`, and that it has this digest."""
    return load_verified(folder, lambda release, files: (release, files), digest=digest)


def open_app(
    folder: Path,
    *,
    digest: str | None = None,
    model: str | None = None,
    device: str = "cpu",
    secret: str | RotatingSecrets = "",
    threads: int = 1,
) -> Any:
    """Verify a release, load and test its model, and create its application.

    `model` is the digest under which the service cleared the model; by default it is computed from the files.
    """
    from vita.infer.text_model import model_task

    content = read_release(folder).content
    settings = release_backend(content)
    if settings.program != "vita":
        from vita.server.replica.remote import open_remote_app

        return open_remote_app(folder, digest=digest, model=model, secret=secret, threads=threads)

    if settings.weight_format is not None:
        _check_quantization(folder, settings)
    if model_task(folder / MODEL) is not None:
        return _open_text_app(folder, digest=digest, model=model, device=device, secret=secret)
    if content.get("golden"):  # another number type needs answers to compare
        settings = settings.on_device(device)
    from vita.infer.engine import Engine
    from vita.infer.scheduler import Scheduler
    from vita.server.decoding_options import has_batch_invariance
    from vita.server.replica.adapters import Adapters
    from vita.server.replica.app import create_app
    from vita.server.replica.readiness import check_answers, check_engine
    from vita.server.speculation import open_drafter

    def load(release: ReleaseInfo, files: Files) -> tuple[ReleaseInfo, str, Engine]:
        quantization = settings.weight_format
        engine = Engine.open(folder / MODEL, device=device, clock=datetime.now, packed=True, quantization=quantization)
        return release, model or model_digest(files), engine

    release, identity, engine = load_verified(folder, load, digest=digest)
    content = release.content
    check_engine(engine)
    conformance = check_golden(engine, content.get("golden") or [], settings)
    scheduler = Scheduler(
        engine,
        rows=release.limit("max_batch_size"),
        queue=release.limit("max_queue_size"),
        prefix_bytes=release.limit("prefix_cache_mb") * 2**20,
        drafter=open_drafter(release, engine, settings),
        batch_invariance=has_batch_invariance(content),
    )
    warnings = _warnings(engine, scheduler, folder=folder / MODEL)
    served = served_model(release, identity, folder=folder, warnings=warnings, conformance=conformance)
    try:
        check_answers(create_app(scheduler, served), engine, model=release.name)  # with separate metrics
    except VitaError:
        scheduler.close()
        raise
    return create_app(scheduler, served, secret=secret, adapters=Adapters(release, engine, scheduler, settings))


def _check_quantization(folder: Path, settings: BackendSettings) -> None:
    """Raise `ModelError` for a release that cannot be served with quantized weights."""
    from vita.infer.text_model import model_task
    from vita.server.backends.conformance import no_golden_answers

    if (task := model_task(folder / MODEL)) is not None:
        raise ModelError("backend.quantization", f"is not supported for a model for {task}", got=settings.quantization)
    if not read_release(folder).content.get("golden"):
        raise no_golden_answers(settings.label)


def _open_text_app(
    folder: Path, *, digest: str | None, model: str | None, device: str, secret: str | RotatingSecrets
) -> Any:
    """Open a release whose model reads whole texts: a classifier, an embedding model or a masked-language model."""
    from vita.infer.golden_texts import check_golden_texts
    from vita.infer.text_model import TextModel
    from vita.infer.text_scheduler import TextScheduler
    from vita.server.replica.app import create_app
    from vita.server.replica.readiness import check_text_answers

    def load(release: ReleaseInfo, files: Files) -> tuple[ReleaseInfo, str, TextModel]:
        return release, model or model_digest(files), TextModel.open(folder / MODEL, device=device)

    release, identity, engine = load_verified(folder, load, digest=digest)
    check_golden_texts(engine, release.content.get("golden") or [], where="release.golden")
    scheduler = TextScheduler(engine, rows=release.limit("max_batch_size"), queue=release.limit("max_queue_size"))
    served = served_model(release, identity, folder=folder, warnings=())
    try:
        check_text_answers(create_app(scheduler, served), engine, model_name=release.name)  # with separate metrics
    except VitaError:
        scheduler.close()
        raise
    return create_app(scheduler, served, secret=secret)


def _warnings(engine: Any, scheduler: Any, *, folder: Path) -> list[str]:
    """Return the warnings about a replica for the operator."""
    import torch

    from vita.data.tokens.generation_settings import ignored_settings
    from vita.server.replica.readiness import unusable_weights

    warnings = []
    if ignored := ignored_settings(folder):
        warnings.append(f"generation_config.json also sets {', '.join(ignored)}, which the server ignores")
    if scheduler.widths.required and not scheduler.batch_invariant:
        threads = torch.get_num_threads()
        warnings.append(
            f"completions are not bitwise reproducible: with {threads} threads on this processor the last bits of "
            f"log-probabilities depend on concurrent requests (VITA_THREADS=1 avoids this)"
        )
    if scheduler.drafter is not None and not scheduler.verifies_drafts:
        warnings.append("speculative decoding is off, because drafts could change the last bits of answers here")
    if bad_parameters := unusable_weights(engine):
        count, first = len(bad_parameters), bad_parameters[0]
        warnings.append(
            f"NaN or infinity in {counted(count, 'parameter')}, for example {first}; some requests will fail"
        )
    return warnings


def main(arguments: list[str] | None = None) -> int:
    """Serve a release until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m vita.server.replica.main", description="Serve one release.")
    parser.add_argument("--release", type=Path, required=True, help="folder of the release")
    parser.add_argument("--digest", help="required sha256 of release.json")
    parser.add_argument("--model", help="digest of the model, as the service computed it from the files")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument(
        "--device", default=machine.chosen_device() or "cpu", help="cpu, cuda or mps (else VITA_DEVICE)"
    )
    parser.add_argument("--drain-seconds", type=int, default=30, help="time for requests in flight after SIGTERM")
    options = parser.parse_args(arguments)
    try:
        tracing = open_tracing(read_release(options.release).name)
        app = _opened(options)
    except VitaError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the one line that its parent reads
        return error.exit_code
    import logging

    import uvicorn

    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.captureWarnings(True)
    uvicorn.run(
        TracedRequests(app, tracing),
        log_config=None,
        host=options.host,
        port=options.port,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=options.drain_seconds,
        server_header=False,
    )
    tracing.close()
    return 0


def _opened(options: argparse.Namespace) -> Any:
    verify(options.release, digest=options.digest)  # before the import of torch, which takes seconds
    import torch

    torch.set_num_threads(max(1, options.threads))
    secret = machine.replica_secret()
    return open_app(
        options.release, digest=options.digest, model=options.model, device=options.device, secret=secret,
        threads=max(1, options.threads),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

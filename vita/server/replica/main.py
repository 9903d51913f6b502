"""One replica: a release's folder in, answers out. It verifies every byte first, writes nothing, and knows no keys.

    python -m vita.server.replica.main --release FOLDER --digest SHA --port N [--host 127.0.0.1] [--threads T]

It ends with one line and the exit code 4 when a file is missing or is not the one that was released, 6 when the model
cannot be opened or does not answer as it did when it was released. Asked to stop (SIGTERM), it finishes what it has.
A service that starts it gives it a secret (`VITA_REPLICA_SECRET`), without which it answers only whether it is alive.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from vita.gates.weights import Files, model_digest
from vita.server.release import MODEL, ReleaseInfo, load_verified
from vita.spine import machine
from vita.spine.errors import ModelError, VitaError

GOLDEN_TOLERANCE = 0.01
"""By how much a token's log-probability may differ between two kinds of processor."""


def verify(folder: Path, *, digest: str | None) -> tuple[ReleaseInfo, Files]:
    """Verify every file of the release in `folder`, which must be the one with this digest."""
    return load_verified(folder, lambda release, files: (release, files), digest=digest)


def open_app(
    folder: Path, *, digest: str | None = None, model: str | None = None, device: str = "cpu", secret: str = ""
) -> Any:
    """Create the application of a verified release, its model loaded and tested.

    `model` is the digest under which the service cleared the model; by default it is computed from the files.
    """
    from vita.infer.content_filter import Guard
    from vita.infer.engine import Engine
    from vita.infer.scheduler import Scheduler
    from vita.server.replica.app import create_app
    from vita.server.replica.readiness import check_answers, check_engine
    from vita.server.replica.request_checks import ServedModel
    from vita.spine.config import build

    def load(release: ReleaseInfo, files: Files) -> tuple[ReleaseInfo, str, Engine]:
        return release, model or model_digest(files), Engine.open(folder / MODEL, device=device, clock=datetime.now)

    release, identity, engine = load_verified(folder, load, digest=digest)
    content = release.content
    check_engine(engine)
    check_golden(engine, content.get("golden") or [])
    limits = content.get("limits") or {}
    scheduler = Scheduler(engine, rows=int(limits.get("rows", 16)), queue=int(limits.get("queue", 64)))
    served = ServedModel(
        names=(release.name, release.id),
        version=release.id,
        digest=identity,
        created=int(release.created or (folder / "release.json").stat().st_mtime),
        sampling=content.get("sampling") or {},
        guard=build(Guard, content["guard"], where="release.guard") if content.get("guard") else None,
        warnings=_warnings(engine, scheduler, folder=folder / MODEL),
    )
    try:
        check_answers(create_app(scheduler, served), engine, model=release.name)  # with figures of its own
    except VitaError:
        scheduler.close()
        raise
    return create_app(scheduler, served, secret=secret)


def _warnings(engine: Any, scheduler: Any, *, folder: Path) -> list[str]:
    """What the operator should know about a replica that serves."""
    import torch

    from vita.data.tokens.generation_settings import ignored_settings
    from vita.server.replica.readiness import unusable_weights

    warnings = []
    if ignored := ignored_settings(folder):
        warnings.append(f"generation_config.json also sets {', '.join(ignored)}, which is not applied here")
    if not scheduler.steady:
        threads = torch.get_num_threads()
        warnings.append(
            f"answers are not bitwise reproducible: with {threads} threads on this processor the last bits of "
            f"log-probabilities depend on the other requests (VITA_THREADS=1 avoids it)"
        )
    if found := unusable_weights(engine):
        warnings.append(f"{len(found)} parameters hold NaN or infinity, {found[0]} among them; some requests will fail")
    return warnings


def check_golden(engine: Any, golden: list[dict[str, Any]]) -> None:
    """The model gives the released answers the log-probability that they had when it was released."""
    known = [one for one in golden if one.get("prompt") and one.get("greedy")]
    for one, score in zip(known, engine.score([(one["prompt"], one["greedy"]) for one in known]), strict=True):
        # Written so that a log-probability that is no number fails, too.
        if not abs(score.logprob - one["logprob"]) <= GOLDEN_TOLERANCE * len(one["greedy"]):
            raise ModelError(
                "release.golden",
                expected=f"log-probability {one['logprob']:.4f} of a golden answer",
                got=round(score.logprob, 4),
                hint="this machine or these libraries calculate something else",
            )


def main(arguments: list[str] | None = None) -> int:
    """Serves until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m vita.server.replica.main", description="Serve one release.")
    parser.add_argument("--release", type=Path, required=True, help="the release's folder")
    parser.add_argument("--digest", help="the sha256 of its release.json; another one is refused")
    parser.add_argument("--model", help="the model's digest, as the service computed it from the files")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--threads", type=int, default=1, help="processor threads of a step")
    parser.add_argument(
        "--device", default=machine.chosen_device() or "cpu", help="cpu, cuda or mps (else VITA_DEVICE)"
    )
    parser.add_argument("--drain-seconds", type=int, default=30, help="how long requests may take after SIGTERM")
    given = parser.parse_args(arguments)
    try:
        app = _opened(given)
    except VitaError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the one line that its parent reads
        return error.exit_code
    import logging

    import uvicorn

    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.captureWarnings(True)
    uvicorn.run(
        app,
        log_config=None,
        host=given.host,
        port=given.port,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=given.drain_seconds,
        server_header=False,
    )
    return 0


def _opened(given: argparse.Namespace) -> Any:
    verify(given.release, digest=given.digest)  # before torch is loaded, since a wrong release should say so at once
    import torch

    torch.set_num_threads(max(1, given.threads))
    secret = machine.replica_secret()
    return open_app(given.release, digest=given.digest, model=given.model, device=given.device, secret=secret)


if __name__ == "__main__":
    sys.exit(main())

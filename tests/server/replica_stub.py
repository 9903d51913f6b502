"""A replica without a model that answers by rule over real HTTP, to test the fleet without weights.

python -m tests.server.replica_stub --release FOLDER --digest SHA --port N --threads T
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.server.fakes import words_of
from vita.server.replica.replica_auth import ReplicaAuth
from vita.spine import machine

SECONDS_A_WORD = 0.02


def stub(version: str, folder: Path) -> Starlette:
    """Return the application of a replica of `version`; an answer has `max_tokens` words, by default eight."""
    drained = False
    usage = {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}

    async def chat(request: Request) -> Response:
        body = await request.json()
        if body.get("stream"):
            return StreamingResponse(_stream(body, version, usage), media_type="text/event-stream")
        await asyncio.sleep(body.get("max_tokens", 8) * SECONDS_A_WORD)
        message = {"role": "assistant", "content": "".join(words_of(body))}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse({"id": "chatcmpl-0", "model": version, "choices": [choice], "usage": usage})

    async def health(_: Request) -> Response:
        return JSONResponse({})

    async def ready(_: Request) -> Response:
        warnings = ["something is odd"] if (folder / "warn").exists() else []
        return JSONResponse({"max_model_len": 64, "warnings": warnings}, 503 if drained else 200)

    async def drain(_: Request) -> Response:
        nonlocal drained
        drained = True
        return JSONResponse({})

    async def metrics(_: Request) -> Response:
        return Response("# HELP vita_x X.\n# TYPE vita_x gauge\nvita_x 1.0\n", media_type="text/plain")

    routes = [Route("/v1/chat/completions", chat, methods=["POST"]), Route("/ready", ready), Route("/health", health)]
    routes += [Route("/metrics", metrics), Route("/drain", drain, methods=["POST"])]
    return Starlette(routes=routes, middleware=[Middleware(ReplicaAuth, secret=machine.replica_secret())])


async def _stream(body: dict[str, Any], version: str, usage: dict[str, int]) -> AsyncIterator[bytes]:
    base = {"id": "chatcmpl-0", "created": 1, "model": version}
    for index, word in enumerate(islice(cycle(words_of(body)), body.get("max_tokens", 8))):
        delta = {"content": word, **({"role": "assistant"} if index == 0 else {})}
        yield _event({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        await asyncio.sleep(SECONDS_A_WORD)
    yield _event({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        yield _event({**base, "choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--release", "--digest", "--port", "--threads"):
        parser.add_argument(name)
    options = parser.parse_args()
    release = json.loads((Path(options.release) / "release.json").read_text())
    if release["version"] == "broken" or (Path(options.release) / "broken").exists():
        raise SystemExit(6)
    sys.stderr.write("ERROR: a line of the log\n")
    uvicorn.run(
        stub(release["version"], Path(options.release)),
        port=int(options.port),
        log_level="error",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()

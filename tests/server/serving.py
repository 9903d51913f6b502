"""A replica with a tiny model, served by uvicorn in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette

from vita.data.tokens.chat_template import ChatTemplate
from vita.infer.engine import Engine
from vita.infer.scheduler import Scheduler
from vita.server.replica.app import create_app
from vita.server.replica.request_checks import ServedModel
from vita.testing import byte_tokenizer, tiny_model

DIGEST = "0123456789abcdef" * 4


def tiny_engine(*, context: int = 128, **sizes: Any) -> Engine:
    return Engine(tiny_model(std=0.3, context=context, **sizes), byte_tokenizer(), template=ChatTemplate.default())


def tiny_app(
    engine: Engine | None = None,
    *,
    rows: int = 4,
    queue: int = 16,
    secret: str = "",
    prefix_bytes: int = 0,
    **model_options: Any,
) -> Starlette:
    scheduler = Scheduler(engine or tiny_engine(), rows=rows, queue=queue, prefix_bytes=prefix_bytes)
    served_model = ServedModel(names=("cat", "cat:1"), version="cat:1", digest=DIGEST, **model_options)
    return create_app(scheduler, served_model, secret=secret)


@contextmanager
def serving(app: Any, *, port: int = 0) -> Iterator[str]:
    """Serve the application, on a free port by default, and yield its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)

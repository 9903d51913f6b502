"""A local HTTP server with the chat completions of the OpenAI API, whose answers a test determines."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str], "Reply"]


@dataclass
class Reply:
    """A response: the text of an answer, or an error."""

    text: str = ""
    finish: str = "stop"
    status: int = 200
    is_error: bool = False
    """True for an error object, also with status 200."""
    content: Any = None
    """The `content` of the message, if it is not the text."""


@dataclass
class OpenAIServer:
    """The address of the server, and the requests that it received."""

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.bodies]


@contextmanager
def openai_server(answer: Answer) -> Iterator[OpenAIServer]:
    """Start a server on 127.0.0.1 that answers each prompt with `answer`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with state.lock:
                state.bodies.append(body)
                state.keys.append(self.headers.get("authorization"))
            reply = (
                answer(body["messages"][-1]["content"]) if self.path == "/v1/chat/completions" else Reply(status=404)
            )
            choice = {
                "index": 0,
                "message": {"role": "assistant", "content": reply.text if reply.content is None else reply.content},
                "finish_reason": reply.finish,
            }
            value = (
                {"choices": [choice]}
                if reply.status == 200 and not reply.is_error
                else {"error": {"message": reply.text}}
            )
            data = json.dumps(value).encode()
            self.send_response(reply.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.send_header("retry-after", "0")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *_: Any) -> None:
            """Write no log."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Ignore connections that the client closes before it has read the response."""

    server = Server(("127.0.0.1", 0), Handler)
    state = OpenAIServer(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

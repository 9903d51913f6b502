"""The backend of open-webui in front of the service: models, chats, streams, functions, Messages and embeddings."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import open_webui  # pyright: ignore[reportMissingImports]
from weather_tool import WEATHER  # pyright: ignore[reportMissingImports]

URL = sys.argv[1]
HI = [{"role": "user", "content": "Hi"}]


def start(port: int) -> subprocess.Popen[bytes]:
    """Start the backend with the service as its only provider."""
    data = Path("data").resolve()
    data.mkdir()
    settings = {
        "DATA_DIR": str(data), "WEBUI_SECRET_KEY": "secret", "WEBUI_AUTH": "False", "ENABLE_OLLAMA_API": "False",
        "OPENAI_API_BASE_URL": f"{URL}/v1", "OPENAI_API_KEY": "none", "OFFLINE_MODE": "True",
        "FRONTEND_BUILD_DIR": str(Path(str(open_webui.__file__)).parent / "frontend"),
        "BYPASS_EMBEDDING_AND_RETRIEVAL": "True", "RAG_EMBEDDING_ENGINE": "openai",
    }  # fmt: skip
    command = [sys.executable, "-m", "uvicorn", "open_webui.main:app", "--host", "127.0.0.1", "--port", str(port)]
    return subprocess.Popen(command, env={**os.environ, **settings})


def check(backend: httpx.Client) -> None:
    """Send what the page of open-webui sends."""
    token = backend.post("/api/v1/auths/signin", json={"email": "", "password": ""}).json()["token"]
    backend.headers["Authorization"] = f"Bearer {token}"
    assert next(model["id"] for model in backend.get("/api/models").json()["data"]) == "cat"

    def post(path: str, **body: Any) -> Any:
        response = backend.post(path, json={"model": "cat", "messages": HI, **body})
        assert response.status_code == 200, response.text
        return response.text if body.get("stream") else response.json()

    greeting = "Good day to you!"
    assert post("/api/chat/completions", params={"temperature": 0})["choices"][0]["message"]["content"] == greeting
    params = {"temperature": 0.5, "top_k": 5, "min_p": 0.1, "seed": 3, "max_tokens": 20, "stop": ["x!"],
              "frequency_penalty": 0.1, "logit_bias": "5:1"}  # fmt: skip
    assert "[DONE]" in post("/api/chat/completions", stream=True, params=params)
    question = [{"role": "user", "content": "Weather in Köln?"}]
    called = post("/openai/chat/completions", messages=question, tools=[WEATHER], temperature=0)
    assert called["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"
    message = post("/api/v1/messages", max_tokens=20, temperature=0)
    assert message["content"][0]["text"] == greeting
    vectors = backend.post("/api/embeddings", json={"model": "cat", "input": ["one"]}).json()
    assert vectors["data"][0]["embedding"]
    response = backend.post("/openai/responses", json={"model": "cat", "input": "Hi", "temperature": 0}).json()
    assert response["output"][0]["content"][0]["text"] == greeting
    assert backend.post("/openai/verify", json={"url": f"{URL}/v1", "key": "none"}).status_code == 200


def main() -> None:
    """Start the backend, run the checks and stop it."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    process = start(port)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as backend:
            for _ in range(180):
                try:
                    if backend.get("/health").status_code == 200:
                        break
                except httpx.TransportError:
                    assert process.poll() is None, "the backend has stopped"
                    time.sleep(1)
            check(backend)
    finally:
        process.terminate()
        process.wait(30)


main()

"""A server of llama.cpp in a process of its own, for the comparison of an exported file with the model.

    with LlamaCpp(path) as server:
        server.tokenize("What is a cat?")
        server.complete([1, 2, 3], tokens=16)

The library runs in another process, because llama.cpp ends its process when it cannot read a file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import httpx

from vita.spine.errors import ModelError

START_SECONDS = 300.0
"""Maximum time for loading a model."""


def is_installed() -> bool:
    """Return True if llama.cpp is available."""
    return find_spec("xllamacpp") is not None


class LlamaCpp:
    """A running server with one model."""

    def __init__(self, path: Path, *, context: int = 0) -> None:
        self.path = path
        command = [sys.executable, "-m", __name__, str(path), str(context)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        address = next((line for line in self._process.stdout if line.startswith("http")), "").strip()
        if not address:
            raise ModelError(str(path), f"llama.cpp cannot read the file: {self._stop()}")
        self._client = httpx.Client(base_url=address, timeout=START_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._stop()

    def tokenize(self, text: str, *, special: bool = False, add_bos: bool = False) -> list[int]:
        """Return the ids of a text; `special` recognizes the names of special tokens."""
        body = {"content": text, "add_special": add_bos, "parse_special": special}
        return self.post("/tokenize", body)["tokens"]

    def complete(self, prompt: Sequence[int] | str, *, tokens: int, logprobs: int = 0) -> dict[str, Any]:
        """Return the greedy completion of a prompt."""
        body = {
            "prompt": prompt if isinstance(prompt, str) else list(prompt), "n_predict": tokens, "temperature": 0.0,
            "top_k": 1, "n_probs": logprobs, "return_tokens": True, "cache_prompt": False, "samplers": ["top_k"],
        }  # fmt: skip
        return self.post("/completion", body)

    def post(self, path: str, body: Any) -> dict[str, Any]:
        """Send a request; raise `ModelError` for an error of llama.cpp."""
        response = self._client.post(path, json=body)
        if response.status_code != 200:
            raise ModelError(str(self.path), f"llama.cpp answered with HTTP status {response.status_code}")
        return response.json()

    def _stop(self) -> str:
        """End the process; return the last error that it printed."""
        if self._process.poll() is None:
            self._process.kill()
        _, errors = self._process.communicate()
        lines = [line for line in errors.splitlines() if "error" in line.lower() or "failed" in line.lower()]
        return " ".join(lines[0].split()) if lines else "the reason is not known"


def _serve(path: str, context: int) -> None:
    """Load a model and serve it until standard input ends."""
    library: Any = import_module("xllamacpp")
    parameters = library.CommonParams()
    parameters.model.path = path
    parameters.port, parameters.n_parallel, parameters.n_ctx = 0, 1, context
    parameters.cache_type_k = parameters.cache_type_v = library.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = library.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.warmup, parameters.n_gpu_layers = False, 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    server = library.Server(parameters)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    _serve(sys.argv[1], json.loads(sys.argv[2]))

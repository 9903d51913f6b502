"""The process of a llama.cpp server: loads a GGUF file with `xllamacpp` and serves it on a free loopback port.

    python -m vita.server.backends.llama_cpp_process --file model.gguf --context 2048 --rows 16 --threads 1

The first line of its output is its address. Requests need the secret of the environment variable `VITA_ENGINE_SECRET`.
"""

from __future__ import annotations

import argparse
import signal
import sys
from importlib import import_module
from typing import Any

from vita.spine import machine

WARNINGS = 2
"""Level of the log of llama.cpp: warnings and errors."""


def main() -> int:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(prog="python -m vita.server.backends.llama_cpp_process")
    parser.add_argument("--file", required=True)
    parser.add_argument("--context", type=int, required=True, help="tokens of each sequence")
    parser.add_argument("--rows", type=int, required=True, help="sequences at the same time")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--float32-cache", action="store_true")
    options = parser.parse_args()
    secret = machine.engine_secret()
    library: Any = import_module("xllamacpp")
    server = library.Server(_parameters(library, options, secret))
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


def _parameters(library: Any, options: argparse.Namespace, secret: str) -> Any:
    parameters = library.CommonParams()
    parameters.model.path = options.file
    parameters.hostnames, parameters.port, parameters.api_keys = ["127.0.0.1"], 0, [secret] if secret else []
    parameters.n_parallel, parameters.n_ctx = options.rows, options.context * options.rows
    # The file is read into memory: its verified bytes cannot change afterwards.
    parameters.load_mode = library.llama_load_mode.LLAMA_LOAD_MODE_NONE
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = options.threads
    parameters.n_gpu_layers, parameters.warmup, parameters.fit_params = 0, False, False
    # Embeddings are the mean of the outputs of the last layer, as those of Vita.
    parameters.embedding, parameters.pooling_type = True, library.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    parameters.ctx_shift, parameters.ui, parameters.endpoint_slots = False, False, False
    parameters.verbosity = WARNINGS
    if options.float32_cache:
        parameters.cache_type_k = parameters.cache_type_v = library.ggml_type.GGML_TYPE_F32
        parameters.flash_attn_type = library.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return parameters


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    sys.exit(main())

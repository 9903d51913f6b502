"""The process that extracts text: it reads requests from standard input and writes replies to standard output.

A request is one JSON header line (format, options, limits, size) and the document; a reply is one JSON line. The
kernel kills the process if a document takes more processor time than allowed, also inside a library in C, because
the default action of the timer's signal ends a process. Memory is limited by the address space.
"""

from __future__ import annotations

import importlib
import logging
import os
import resource
import signal
import sys
import warnings
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import orjson

from vita.data.extraction.formats import EXTRACTORS, LIBRARIES, Options, Unextractable
from vita.spine.errors import exception_text


def main() -> None:
    """Answer requests until standard input ends."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries that print must not write into the replies
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends this one by closing its input
    while header := requests.readline():
        request = orjson.loads(header)
        data = requests.read(request["size"])
        if len(data) < request["size"]:
            return
        replies.write(orjson.dumps(_answer(request, data)) + b"\n")
        replies.flush()


def _answer(request: dict[str, Any], data: bytes) -> dict[str, Any]:
    options = Options(**request["options"])
    _load_libraries(request["format"], replace(options, charset=None))
    _limit_memory(request["memory_bytes"])
    signal.setitimer(signal.ITIMER_PROF, request["seconds"])
    try:
        extracted = asdict(EXTRACTORS[request["format"]](data, options))
        return {
            name: [*map(_valid, value)] if isinstance(value, tuple) else _valid(value)
            for name, value in extracted.items()
        }
    except Unextractable as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "needs more memory than allowed"}
    except Exception as error:  # noqa: BLE001 (libraries raise any error for a damaged document, which is reported)
        return {"error": f"cannot be extracted ({exception_text(error)[:200]})"}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


@lru_cache
def _load_libraries(format: str, options: Options) -> None:
    """Load the libraries of a format, with a first page, so that their start is not counted as time of a document."""
    for module in LIBRARIES.get(format, ()):
        importlib.import_module(module)
    if format == "html":
        EXTRACTORS[format](b"<html><body><p>A first page.</p></body></html>", options)


def _valid(value: str | None) -> str | None:
    """Return a text without lone surrogates, which JSON in UTF-8 cannot represent."""
    return value if value is None or value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def _limit_memory(limit: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    main()

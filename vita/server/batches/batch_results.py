"""The results of a batch while it runs: two files of JSON lines, to which each result is appended.

After a restart of the service, a request with a complete line is not computed again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from vita.server.line_json import json_line

EXPIRED = "batch_expired"
"""Code of the error of a request that was not computed before the end of the window."""


class ResultWriter:
    """Appends results to the files of outputs and of errors."""

    def __init__(self, output: Path, error: Path) -> None:
        """Open the files; an incomplete last line is removed."""
        self._paths = {"output": output, "error": error}
        self.ids = {kind: set(_complete_ids(path)) for kind, path in self._paths.items()}
        """`output` or `error` -> the `custom_id`s of its lines."""
        self.expired_ids = set(_expired_ids(error))
        """The `custom_id`s of the requests that were not computed in time."""
        self._files = {kind: path.open("ab") for kind, path in self._paths.items()}

    def __contains__(self, custom_id: str) -> bool:
        return any(custom_id in ids for ids in self.ids.values())

    def add_response(self, custom_id: str, *, status: int, request_id: str, body: Any) -> None:
        """Add the response to a request; an error response is a line of the file of errors."""
        response = {"status_code": status, "request_id": request_id, "body": body}
        self._append("output" if status == 200 else "error", custom_id, response=response, error=None)

    def add_error(self, custom_id: str, *, code: str, message: str) -> None:
        """Add a request that has no response."""
        self._append("error", custom_id, response=None, error={"code": code, "message": message})
        if code == EXPIRED:
            self.expired_ids.add(custom_id)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _append(self, kind: str, custom_id: str, **fields: Any) -> None:
        line = {"id": f"batch_req_{secrets.token_hex(12)}", "custom_id": custom_id, **fields}
        file = self._files[kind]
        file.write(json_line(line) + b"\n")
        file.flush()
        self.ids[kind].add(custom_id)


def _complete_ids(path: Path) -> Iterator[str]:
    """Yield the ids of the complete lines; cuts the file after the last of them."""
    if not path.exists():
        return
    end = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            yield orjson.loads(line)["custom_id"]
            end += len(line)
    with path.open("r+b") as file:
        file.truncate(end)


def _expired_ids(errors: Path) -> Iterator[str]:
    """Yield the ids of the requests that were not computed in time, from complete lines."""
    if not errors.exists():
        return
    with errors.open("rb") as file:
        for line in file:
            row = orjson.loads(line)
            if (row["error"] or {}).get("code") == EXPIRED:
                yield row["custom_id"]

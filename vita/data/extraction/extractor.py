"""The client of the extraction process: it starts the process, sends documents, and replaces a killed process.

extractor = extractor_for(ExtractionSettings())
result = extractor.extract("html", page)         # Extracted, or Failure("extraction_timeout", ...)
"""

from __future__ import annotations

import atexit
import importlib.util
import selectors
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from vita.data.extraction.formats import EXTRAS, Extracted, Options
from vita.data.extraction.limits import ExtractionSettings
from vita.spine.errors import MissingExtra

_WALL_FACTOR = 20
"""Wall time allowed for a document as a multiple of its processor time: the machine may be busy."""


@dataclass(frozen=True)
class Failure:
    """The reason why a document has no text."""

    reason: str
    """`extraction_timeout`, `extraction_killed`, `too_large` or `not_extractable`."""
    detail: str


class Extractor:
    """A process that extracts text; it is started with the first document and replaced after it was killed."""

    def __init__(self, settings: ExtractionSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def extract(
        self, format: str, data: bytes, *, charset: str | None = None, is_article: bool = True, where: str = "curate"
    ) -> Extracted | Failure:
        """Extract the text of a document in one of `EXTRACTORS`.

        Raises `MissingExtra` if the library for the format is not installed.
        """
        check_installed(format, where)
        limit = self._settings.megabytes * 2**20 * (1 if format == "html" else 10)
        if len(data) > limit:
            detail = f"{len(data) / 2**20:,.1f} MB, above the limit of {limit >> 20} MB (`extraction: megabytes`)"
            return Failure("too_large", detail)
        request = {
            "format": format,
            "options": asdict(Options(self._settings.tool, charset, is_article)),
            "seconds": self._settings.seconds,
            "memory_bytes": self._settings.memory_megabytes * 2**20,
            "size": len(data),
        }
        reply = self._ask(orjson.dumps(request) + b"\n", data)
        if isinstance(reply, Failure):
            return reply
        return Failure("not_extractable", reply["error"]) if "error" in reply else Extracted(**reply)

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass
        self._process = None

    def _ask(self, header: bytes, data: bytes) -> dict[str, Any] | Failure:
        process = self._process = self._process or _start()
        assert process.stdin and process.stdout
        try:
            process.stdin.write(header)
            process.stdin.write(data)
            process.stdin.flush()
            line = _read_line(process, self._settings.seconds * _WALL_FACTOR)
        except BrokenPipeError:
            line = b""
        if line:
            return orjson.loads(line)
        if line is None:
            self.close()
            return self._timeout()
        code = process.wait()
        self.close()
        if -code in _TIMER_SIGNALS:
            return self._timeout()
        return Failure("extraction_killed", f"the process that extracts text ended with the status {code}")

    def _timeout(self) -> Failure:
        limit = f"{self._settings.seconds:g} s (`extraction: seconds`)"
        return Failure("extraction_timeout", f"more than {limit} of processor time")


_TIMER_SIGNALS = (27,)  # SIGPROF on Linux and macOS


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vita.data.extraction.worker"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _read_line(process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """Return the line of a reply, b"" if the process ended, and None if it takes longer than `seconds`."""
    assert process.stdout
    end = time.monotonic() + seconds
    parts: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not (parts and parts[-1].endswith(b"\n")):
            if not selector.select(max(0.0, end - time.monotonic())):
                return None
            part = process.stdout.read1(2**20)  # pyright: ignore[reportAttributeAccessIssue]
            if not part:
                return b""
            parts.append(part)
    return b"".join(parts)


def check_installed(format: str, where: str) -> None:
    """Raise `MissingExtra` if the library for a format is not installed."""
    library, extra = EXTRAS.get(format, (None, ""))
    if library and importlib.util.find_spec(library) is None:
        raise MissingExtra(where, extra)


_extractors: dict[str, Extractor] = {}


def extractor_for(settings: ExtractionSettings) -> Extractor:
    """Return the extractor of this process with these settings; its process ends with this one."""
    key = settings.model_dump_json()
    if key not in _extractors:
        _extractors[key] = Extractor(settings)
    return _extractors[key]


@atexit.register
def close_extractors() -> None:
    """End all extraction processes of this process."""
    for extractor in _extractors.values():
        extractor.close()

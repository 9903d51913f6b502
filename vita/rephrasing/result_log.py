"""The results of a run on disk, written as they arrive: a run that was killed does not request them again.

log = ResultLog(scratch / "results.jsonl")
log["wiki/Cat#faq"] if "wiki/Cat#faq" in log else log.add("wiki/Cat#faq", result)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import orjson

from vita.data.content import replace_lone_surrogates

Finish = Literal["stop", "length", "refused", "too_long"]


@dataclass(frozen=True, slots=True)
class RewriteResult:
    """The answer of a model to a request for a rewrite; lone surrogates in its texts become U+FFFD."""

    text: str
    finish: Finish
    """`stop`, or `length` at the maximum of tokens, `refused` by the endpoint, `too_long` for the context."""
    detail: str = ""
    """The message of the endpoint, if it refuses the request."""
    source_bytes: int = 0
    """Bytes of the passage that was rewritten."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", replace_lone_surrogates(self.text))
        object.__setattr__(self, "detail", replace_lone_surrogates(self.detail))


class ResultLog:
    """Results by the id of the rewrite; every result is a line of JSON in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: dict[str, int] = {}
        if path.exists():
            self._index(path.read_bytes())
        self.num_earlier = len(self._offsets)
        """Results of earlier runs."""

    def __len__(self) -> int:
        return len(self._offsets)

    def __contains__(self, id: str) -> bool:
        return id in self._offsets

    def __getitem__(self, id: str) -> RewriteResult:
        with self._path.open("rb") as file:
            file.seek(self._offsets[id])
            row = orjson.loads(file.readline())
        del row["id"]
        return RewriteResult(**row)

    def add(self, id: str, result: RewriteResult) -> None:
        """Append a result; it survives the end of the process."""
        row = orjson.dumps({"id": id, **asdict(result)})
        with self._path.open("ab") as file:
            # An empty line first: a line that a kill cut off ends here.
            self._offsets[id] = file.tell() + 1
            file.write(b"\n" + row + b"\n")

    def _index(self, data: bytes) -> None:
        offset = 0
        for line in data.split(b"\n"):
            try:
                row = orjson.loads(line)
                RewriteResult(**{name: value for name, value in row.items() if name != "id"})
                self._offsets[row["id"]] = offset
            except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
                pass  # cut off by a kill: requested again
            offset += len(line) + 1

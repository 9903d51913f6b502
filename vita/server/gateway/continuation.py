"""Continues a stream on another replica.

The same request with the same seed has the same completion on every replica. So when a replica dies during a stream,
the request is sent to another one and the part that the client has is skipped: `Continuation` inspects each event and
stores, per choice, the text and the number of log-probabilities that were sent.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

DONE = b"data: [DONE]\n\n"


class Faulted(Exception):
    """The replica ended the stream with an error event, which is the last event for the client."""

    def __init__(self, event: bytes) -> None:
        super().__init__("the stream ended with an error")
        self.event = event


class Stopping(Exception):
    """The replica shuts down before the end of the stream; another replica can continue it."""


class Diverged(Exception):
    """The second replica generates a different completion than the first; the stream cannot continue."""


async def sse_events(parts: AsyncIterator[bytes], *, longest: int = 8 * 2**20) -> AsyncIterator[bytes]:
    """Yield the data of each server-sent event; comments are skipped."""
    rest = b""
    async for part in parts:
        rest += part
        *whole, rest = rest.replace(b"\r\n", b"\n").split(b"\n\n")
        if len(rest) > longest:
            raise ValueError(f"an event of the stream is longer than {longest} bytes")
        for event in whole:
            lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                yield b"\n".join(lines)


@dataclass
class _Choice:
    text: str = ""
    logprobs: int = 0
    opened: bool = False
    finish: str | None = None
    # Progress of the current replica in the part that was already sent.
    text_seen: int = 0
    logprobs_seen: int = 0


@dataclass
class Continuation:
    """Forwards every event once, across several replicas."""

    wants_usage: bool
    """True when the client requested the usage; the gateway always requests it, for its metrics."""
    response_id: str | None = None
    usage: dict[str, Any] | None = None
    logprob_sum: float = 0.0
    logprob_count: int = 0
    _created: Any = None
    _usage_sent: bool = False
    _choices: dict[int, _Choice] = field(default_factory=dict)

    @property
    def texts(self) -> list[str]:
        return [self._choices[index].text for index in sorted(self._choices)]

    @property
    def finishes(self) -> list[str | None]:
        return [self._choices[index].finish for index in sorted(self._choices)]

    def begin_again(self) -> None:
        """Start to read the stream of another replica."""
        for choice in self._choices.values():
            choice.text_seen = choice.logprobs_seen = 0

    def pass_on(self, data: bytes) -> bytes | None:
        """Return the event for the client, or None when it has no new content.

        Raises `Faulted` for an error event, and `Stopping` when the error is the shutdown of the replica.
        """
        event = json.loads(data)
        if (error := event.get("error")) is not None:
            if isinstance(error, dict) and error.get("code") == "draining":
                raise Stopping
            raise Faulted(_event(event))
        if self.response_id is None:
            self.response_id, self._created = event.get("id"), event.get("created")
        event |= {"id": self.response_id, "created": self._created}
        if event.get("usage"):
            self.usage = event["usage"]
        if not event.get("choices"):
            if not self.wants_usage or self._usage_sent:
                return None
            self._usage_sent = True
            return _event(event)
        if not self.wants_usage:
            event.pop("usage", None)
        fresh = [choice for choice in event["choices"] if self._news(choice)]
        return _event({**event, "choices": fresh}) if fresh else None

    def _news(self, told: dict[str, Any]) -> bool:
        """Remove the part of a choice that was already sent; returns whether anything remains."""
        kept = self._choices.setdefault(told.get("index", 0), _Choice())
        chat = "delta" in told
        holder, name = (told["delta"], "content") if chat else (told, "text")
        text = holder.get(name) or ""
        fresh_text = self._fresh_text(kept, text)
        entries = _logprob_entries(told)
        old = min(max(0, kept.logprobs - kept.logprobs_seen), entries)
        kept.logprobs_seen += entries
        self._count_logprobs(told, old)
        _cut_logprobs(told, old)
        kept.logprobs = max(kept.logprobs, kept.logprobs_seen)
        opens = chat and "role" in holder and not kept.opened
        if chat and "role" in holder and kept.opened:
            holder.pop("role")
        kept.opened |= opens
        ends = bool(told.get("finish_reason")) and kept.finish is None
        if ends:
            kept.finish = told["finish_reason"]
        if name in holder:
            holder[name] = fresh_text
        others = any(value for key, value in holder.items() if key not in ("content", "role")) if chat else False
        return bool(fresh_text) or opens or ends or entries > old or others

    def _fresh_text(self, kept: _Choice, text: str) -> str:
        known = kept.text[kept.text_seen : kept.text_seen + len(text)]
        if text[: len(known)] != known:
            raise Diverged
        kept.text_seen += len(text)
        fresh = text[len(known) :]
        kept.text += fresh
        return fresh

    def _count_logprobs(self, told: dict[str, Any], old: int) -> None:
        values = logprob_values(told)[old:]
        self.logprob_sum += sum(value for value in values if value is not None)
        self.logprob_count += sum(value is not None for value in values)


def logprob_values(told: dict[str, Any]) -> list[float | None]:
    found = told.get("logprobs") or {}
    if "content" in found:
        return [entry.get("logprob") for entry in found["content"] or []]
    return list(found.get("token_logprobs") or [])


def _logprob_entries(told: dict[str, Any]) -> int:
    return len(logprob_values(told))


def _cut_logprobs(told: dict[str, Any], old: int) -> None:
    """Remove the log-probabilities of the first `old` tokens of a choice, in the format of either route."""
    found = told.get("logprobs")
    if not found or not old:
        return
    for name, value in found.items():
        if isinstance(value, list):
            found[name] = value[old:]


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + _json(value) + b"\n\n"


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")

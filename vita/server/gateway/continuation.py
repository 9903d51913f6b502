"""Continues a stream on another replica.

The same request with the same seed has the same completion on every replica. So when a replica dies during a stream,
the request is sent to another one and the part that the client has is skipped: `StreamContinuation` inspects each event
and stores, per choice, the texts and the number of log-probabilities that were sent. The second replica may divide the
texts into other pieces.

A client can also continue a stream at another gateway: `StreamContinuation.position` describes the part that was sent
by lengths and hashes, and `StreamContinuation.after` skips this part of the repeated stream.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from vita.server.line_json import json_event

_RESPONSE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""The form of response ids, which clients send back in the ids of events."""
_HASH_CHARACTERS = 12


class Faulted(Exception):
    """The replica ended the stream with an error event, which is the last event for the client."""

    def __init__(self, event: bytes) -> None:
        super().__init__("the stream ended with an error")
        self.event = event


class Stopping(Exception):
    """The replica shuts down before the end of the stream; another replica can continue it."""


class Diverged(Exception):
    """The second replica generates a different completion than the first; the stream cannot continue."""


async def sse_events(parts: AsyncIterator[bytes], *, max_bytes: int = 8 * 2**20) -> AsyncIterator[bytes]:
    """Yield the data of each server-sent event; comments are skipped."""
    buffer = b""
    async for part in parts:
        buffer += part
        *events, buffer = buffer.replace(b"\r\n", b"\n").split(b"\n\n")
        if len(buffer) > max_bytes:
            raise ValueError(f"an event of the stream is longer than {max_bytes} bytes")
        for event in events:
            lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                yield b"\n".join(lines)


@dataclass
class _SentText:
    """A text that was sent, and the part of it that the current replica has repeated."""

    text: str = ""
    seen: int = 0
    sent_before: int = 0
    """Number of characters that another gateway has sent; they are skipped."""
    sha256: str = ""
    """Start of the hash of these characters."""
    _hash: Any = field(default_factory=hashlib.sha256, repr=False, compare=False)
    """The hash of `text`, which grows with it."""

    def take(self, text: str) -> str:
        """Return the new part of a text of the current replica; raises `Diverged` if it repeats another text."""
        sent = self.text[self.seen : self.seen + len(text)]
        if text[: len(sent)] != sent:
            raise Diverged
        self.seen += len(text)
        fresh = text[len(sent) :]
        self.text += fresh
        self._hash.update(_hashed_bytes(fresh))
        return self._without_part_sent_before(fresh)

    def _without_part_sent_before(self, fresh: str) -> str:
        start = len(self.text) - len(fresh)
        if start >= self.sent_before:
            return fresh
        if len(self.text) >= self.sent_before and _start_of_hash(self.text[: self.sent_before]) != self.sha256:
            raise Diverged
        return fresh[self.sent_before - start :]

    @property
    def position(self) -> list[Any]:
        """Return the number of characters that were sent and the start of their hash."""
        if len(self.text) <= self.sent_before:
            return [self.sent_before, self.sha256]
        return [len(self.text), self._hash.hexdigest()[:_HASH_CHARACTERS]]

    @classmethod
    def after(cls, position: Sequence[Any]) -> _SentText:
        """Return the state of a text of which another gateway has sent a part."""
        length, start_of_hash = position
        return cls(sent_before=int(length), sha256=str(start_of_hash))


@dataclass
class _SentCall:
    """A call whose first delta was sent."""

    name: str
    arguments: _SentText = field(default_factory=_SentText)


@dataclass
class _Choice:
    text: _SentText = field(default_factory=_SentText)
    reasoning: _SentText = field(default_factory=_SentText)
    calls: dict[int, _SentCall] = field(default_factory=dict)
    """The calls by their index."""
    logprobs: int = 0
    logprobs_seen: int = 0
    """The number of log-probabilities of the current replica."""
    opened: bool = False
    finish: str | None = None

    def restart(self) -> None:
        """Start to read the stream of another replica."""
        self.logprobs_seen = 0
        for sent in self.sent_texts:
            sent.seen = 0

    @property
    def sent_texts(self) -> list[_SentText]:
        return [self.text, self.reasoning, *(call.arguments for call in self.calls.values())]

    @property
    def position(self) -> list[Any]:
        calls = [[index, call.name, *call.arguments.position] for index, call in self.calls.items()]
        return [*self.text.position, *self.reasoning.position, self.logprobs, self.opened, self.finish, calls]

    @classmethod
    def after(cls, position: Sequence[Any]) -> _Choice:
        """Return the state of a choice of which another gateway has sent a part."""
        *lengths, logprobs, opened, finish, calls = position
        sent_calls = {
            int(index): _SentCall(str(name), _SentText.after(argument_position))
            for index, name, *argument_position in calls
        }
        text, reasoning = _SentText.after(lengths[:2]), _SentText.after(lengths[2:])
        finish = None if finish is None else str(finish)
        return cls(text, reasoning, sent_calls, int(logprobs), opened=bool(opened), finish=finish)


@dataclass
class StreamContinuation:
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
        return [self._choices[index].text.text for index in sorted(self._choices)]

    @property
    def finishes(self) -> list[str | None]:
        return [self._choices[index].finish for index in sorted(self._choices)]

    @property
    def position(self) -> list[Any]:
        """Return the part of the stream that was sent, as JSON values: lengths and hashes of its texts."""
        choices = [[index, choice.position] for index, choice in self._choices.items()]
        return [self.response_id, self._created, self._usage_sent, choices]

    @classmethod
    def after(cls, position: Sequence[Any], *, wants_usage: bool) -> StreamContinuation:
        """Return the state of a stream of which another gateway has sent a part.

        Raises `ValueError` or `TypeError` if the position was not created by `position`.
        """
        response_id, created, usage_sent, choices = position
        if not _RESPONSE_ID.fullmatch(response_id) or not isinstance(created, int | None):
            raise ValueError("a response has another id or time")
        sent_choices = {int(index): _Choice.after(choice_position) for index, choice_position in choices}
        return cls(wants_usage, response_id, _created=created, _usage_sent=bool(usage_sent), _choices=sent_choices)

    def restart(self) -> None:
        """Start to read the stream of another replica."""
        for choice in self._choices.values():
            choice.restart()

    def require_end(self) -> None:
        """Raise `Diverged` if the stream has ended before the end of the part that another gateway has sent."""
        texts = [text for choice in self._choices.values() for text in choice.sent_texts]
        if any(len(text.text) < text.sent_before for text in texts):
            raise Diverged

    def forward(self, data: bytes) -> bytes | None:
        """Return the event for the client, or None when it has no new content.

        Raises `Faulted` for an error event, and `Stopping` when the error is the shutdown of the replica.
        """
        event = orjson.loads(data)
        if (error := event.get("error")) is not None:
            if isinstance(error, dict) and error.get("code") == "draining":
                raise Stopping
            raise Faulted(json_event(event))
        if self.response_id is None:
            self.response_id, self._created = event.get("id"), event.get("created")
        event |= {"id": self.response_id, "created": self._created}
        if event.get("usage"):
            self.usage = event["usage"]
        if not event.get("choices"):
            if not self.wants_usage or self._usage_sent:
                return None
            self._usage_sent = True
            return json_event(event)
        if not self.wants_usage:
            event.pop("usage", None)
        new_choices = [choice for choice in event["choices"] if self._remove_sent_part(choice)]
        return json_event({**event, "choices": new_choices}) if new_choices else None

    def _remove_sent_part(self, choice: dict[str, Any]) -> bool:
        """Remove the part of a choice that was already sent; returns whether anything remains."""
        progress = self._choices.setdefault(choice.get("index", 0), _Choice())
        chat = "delta" in choice
        holder, name = (choice["delta"], "content") if chat else (choice, "text")
        text = holder.get(name) or ""
        fresh_text = progress.text.take(text)
        entries = _logprob_entries(choice)
        repeated = min(max(0, progress.logprobs - progress.logprobs_seen), entries)
        progress.logprobs_seen += entries
        self._count_logprobs(choice, repeated)
        _cut_logprobs(choice, repeated)
        progress.logprobs = max(progress.logprobs, progress.logprobs_seen)
        opens = chat and "role" in holder and not progress.opened
        if chat and "role" in holder and progress.opened:
            holder.pop("role")
        progress.opened |= opens
        finishes = bool(choice.get("finish_reason")) and progress.finish is None
        if finishes:
            progress.finish = choice["finish_reason"]
        if name in holder:
            holder[name] = fresh_text
        fresh_parts = chat and self._keep_fresh_parts(progress, holder)
        return bool(fresh_text) or opens or finishes or entries > repeated or fresh_parts

    def _keep_fresh_parts(self, progress: _Choice, delta: dict[str, Any]) -> bool:
        """Remove the reasoning and the calls that were already sent; returns whether any remain."""
        if reasoning := progress.reasoning.take(delta.pop("reasoning_content", None) or ""):
            delta["reasoning_content"] = reasoning
        deltas = (self._fresh_call(progress, call) for call in delta.pop("tool_calls", None) or [])
        calls = [call for call in deltas if call is not None]
        if calls:
            delta["tool_calls"] = calls
        return bool(calls or reasoning)

    @staticmethod
    def _fresh_call(progress: _Choice, call: dict[str, Any]) -> dict[str, Any] | None:
        """Return the new part of the delta of a call; None if all of it was sent.

        The id of a call is that of the first replica.
        """
        function, sent = call.get("function") or {}, progress.calls.get(call["index"])
        name, arguments = function.get("name"), function.get("arguments") or ""
        if sent is None:
            if not name:
                raise Diverged
            sent = progress.calls[call["index"]] = _SentCall(name)
            sent.arguments.take(arguments)
            return call
        if name and name != sent.name:
            raise Diverged
        fresh = sent.arguments.take(arguments)
        return {"index": call["index"], "function": {"arguments": fresh}} if fresh else None

    def _count_logprobs(self, choice: dict[str, Any], repeated: int) -> None:
        values = logprob_values(choice)[repeated:]
        self.logprob_sum += sum(value for value in values if value is not None)
        self.logprob_count += sum(value is not None for value in values)


def logprob_values(choice: dict[str, Any]) -> list[float | None]:
    logprobs = choice.get("logprobs") or {}
    if "content" in logprobs:
        return [entry.get("logprob") for entry in logprobs["content"] or []]
    return list(logprobs.get("token_logprobs") or [])


def _start_of_hash(text: str) -> str:
    return hashlib.sha256(_hashed_bytes(text)).hexdigest()[:_HASH_CHARACTERS]


def _hashed_bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _logprob_entries(choice: dict[str, Any]) -> int:
    return len(logprob_values(choice))


def _cut_logprobs(choice: dict[str, Any], repeated: int) -> None:
    """Remove the log-probabilities of the first `old` tokens of a choice, in the format of either route."""
    logprobs = choice.get("logprobs")
    if not logprobs or not repeated:
        return
    for name, value in logprobs.items():
        if isinstance(value, list):
            logprobs[name] = value[repeated:]

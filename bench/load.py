"""A service under load with failures: the number of lost requests, and the latency of the others.

    python -m bench.load MODEL --seconds 120 --clients 64 --replicas 2
    python -m bench.load                       # no model: stub replicas with fixed answers

While the clients send requests, one replica is killed with -9, one is drained, and a new version is deployed as a
canary and promoted. Other clients send malformed bodies, unknown models, 10 MB prompts and very slow headers. A request
is accepted if its status is not 429 or 503, and lost if its answer is then incomplete. A 429 or 503 of a request that a
replica had started, according to the log of the service, counts as lost, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from vita.gates.clearance import ServingRequest
from vita.monitoring.request_log import quantile, requests_since
from vita.server.release import ReleaseInfo, create_release, read_release
from vita.server.service.deploy_checks import ledger_clearance
from vita.server.service.replica_process import Command, replica_command
from vita.server.service.service import RunningService, Service
from vita.server.settings import ServiceSettings
from vita.spine.errors import exception_text
from vita.spine.ledger import Ledger
from vita.spine.store import Store

QUESTIONS = ("What is a cat?", "What does a dog eat?", "Tell me about the sea.", "Where does a baker work?")


@dataclass
class Tally:
    """Counts and latencies of all requests."""

    statuses: Counter[int] = field(default_factory=Counter)
    lost_requests: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    first_byte_seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    versions: Counter[str] = field(default_factory=Counter)
    abuse: Counter[str] = field(default_factory=Counter)
    unexpected_answers: list[str] = field(default_factory=list)
    """Abusive requests with an unexpected answer."""


async def client(http: httpx.AsyncClient, number: int, tally: Tally, until: float, tokens: int) -> None:
    """Send requests one after another as one user; every second answer is streamed."""
    turn = 0
    while time.monotonic() < until:
        turn += 1
        stream = (number + turn) % 2 == 0
        question = QUESTIONS[(number + turn) % len(QUESTIONS)]
        body = {"model": "load", "messages": [{"role": "user", "content": question}], "max_tokens": tokens,
                "user": f"user {number}", "stream": stream}  # fmt: skip
        start = time.monotonic()
        try:
            status, problem = await (_stream if stream else _complete)(http, body, tally, start)
        except httpx.HTTPError as error:
            status, problem = 0, exception_text(error)
        tally.statuses[status] += 1
        if problem:
            tally.lost_requests.append(f"{'stream' if stream else 'whole'} {status}: {problem}"[:200])
        if status in (429, 503):
            await asyncio.sleep(1.0)
        elif not problem:
            tally.seconds.append(time.monotonic() - start)


async def _complete(
    http: httpx.AsyncClient, body: dict[str, Any], tally: Tally, start: float
) -> tuple[int, str | None]:
    answer = await http.post("/v1/chat/completions", json=body)
    if answer.status_code in (429, 503):
        return answer.status_code, None
    if answer.status_code != 200:
        return answer.status_code, answer.text[:150]
    completion = answer.json()
    tally.versions[answer.headers["x-vita-version"]] += 1
    tally.tokens += completion["usage"]["completion_tokens"]
    return 200, None if completion["choices"][0]["finish_reason"] else "no end"


async def _stream(http: httpx.AsyncClient, body: dict[str, Any], tally: Tally, start: float) -> tuple[int, str | None]:
    is_done, finish, first_byte = False, None, None
    body = {**body, "stream_options": {"include_usage": True}}
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code in (429, 503):
            return answer.status_code, None
        if answer.status_code != 200:
            return answer.status_code, (await answer.aread())[:150].decode(errors="replace")
        async for line in answer.aiter_lines():
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                is_done = True
            elif data:
                first_byte = first_byte or time.monotonic() - start
                event = json.loads(data)
                if "error" in event:
                    return 200, str(event["error"]["message"])
                finish = next((choice.get("finish_reason") for choice in event["choices"]), None) or finish
                tally.tokens += (event.get("usage") or {}).get("completion_tokens", 0)
    tally.versions[answer.headers["x-vita-version"]] += 1
    if first_byte is not None:
        tally.first_byte_seconds.append(first_byte)
    return 200, None if is_done and finish else "the stream ended early"


async def abuser(http: httpx.AsyncClient, tally: Tally, until: float) -> None:
    """Repeatedly send requests that must be refused."""
    path, kind = "/v1/chat/completions", {"content-type": "application/json"}
    long = json.dumps({"model": "load", "messages": [{"role": "user", "content": "cat " * 2_500_000}]})
    cases: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
        ("malformed body", {"content": b'{"model": ', "headers": kind}, (400,)),
        ("not an object", {"content": b"[1]", "headers": kind}, (400,)),
        ("deep body", {"content": b"[" * 100_000, "headers": kind}, (400,)),
        ("unknown field", {"json": {"model": "load", "messages": [], "tempo": 1}}, (400,)),
        ("unknown model", {"json": {"model": "dog", "messages": [{"role": "user", "content": "a"}]}}, (404,)),
        ("no type", {"content": b"{}"}, (415,)),
        ("10 MB prompt", {"content": long.encode(), "headers": kind}, (413,)),
    ]
    while time.monotonic() < until:
        for name, request, expected in cases:
            try:
                status = (await http.post(path, **request)).status_code
            except httpx.HTTPError as error:
                tally.unexpected_answers.append(f"{name}: {type(error).__name__}")
                continue
            tally.abuse[f"{name} {status}"] += 1
            if status not in (*expected, 429, 503):
                tally.unexpected_answers.append(f"{name}: {status}")
        await asyncio.sleep(1.0)


async def slow_client(url: str, tally: Tally, until: float) -> None:
    """Open connections that send their headers byte by byte."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    while time.monotonic() < until:
        _, writer = await asyncio.open_connection(host, int(port))
        try:
            for byte in b"POST /v1/chat/completions HTTP/1.1\r\nHost: local":
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.2)
                if time.monotonic() > until:
                    break
        except ConnectionError:
            tally.abuse["slow headers cut"] += 1
        finally:
            writer.close()


class PrintedMessages(list[str]):
    """A list of messages, each of which is also printed."""

    def append(self, text: str, /) -> None:
        super().append(text)
        print(text, file=sys.stderr, flush=True)


REASON = "a load test"


async def events(running: RunningService, second: ReleaseInfo, seconds: float, messages: list[str]) -> None:
    """Kill a replica, drain another, and deploy and promote a canary during the load."""
    start = time.monotonic()

    async def announce_at(part: float, text: str) -> None:
        await asyncio.sleep(max(0.0, start + part * seconds - time.monotonic()))
        messages.append(f"{time.monotonic() - start:.1f} s: {text}")

    fleet = running.fleet
    await announce_at(0.15, "kill -9")
    killed_replica = next(replica for replica in fleet.replicas.values() if replica.pid)
    os.kill(killed_replica.pid or 0, signal.SIGKILL)
    await announce_at(0.4, "drain")
    await fleet.drain(next(replica.name for replica in fleet.replicas.values() if replica is not killed_replica))
    await announce_at(0.5, "canary")
    await fleet.roll(second, share=0.3, terms=ServingRequest(REASON))
    await announce_at(0.7, "promote")
    await fleet.promote(terms=ServingRequest(REASON))
    messages.append(f"{time.monotonic() - start:.1f} s: promoted")


async def load(
    options: argparse.Namespace, first: ReleaseInfo, second: ReleaseInfo, command: Command, folder: Path
) -> Tally:
    """Run the service under load with failures, and return the counts."""
    tally, messages = Tally(), PrintedMessages()
    ledger = Ledger(folder / "ledger.db")
    service = Service(
        name="load", release=first, ledger=ledger, controls=folder / "services", port=0,
        clear=ledger_clearance(ledger, Store(folder / "store")), ungated=REASON,
        replicas=options.replicas, threads=options.replicas, command=command, notify=messages.append,
        settings=ServiceSettings(in_flight=options.clients + 8, header_seconds=3.0, patience=30.0),
    )  # fmt: skip
    async with service.served() as running:
        until = time.monotonic() + options.seconds
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=running.url, timeout=120, limits=limits, trust_env=False) as http:
            users = [client(http, number, tally, until, options.tokens) for number in range(options.clients)]
            failures = events(running, second, options.seconds, messages)
            await asyncio.gather(*users, failures, abuser(http, tally, until), slow_client(running.url, tally, until))
            alive = (await http.get("/health")).status_code == 200
        await running.flush_log()
        tally.lost_requests += refused_after_death(requests_since(service.ledger))
    if not alive:
        tally.unexpected_answers.append("the gateway died")
    return tally


def refused_after_death(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the logged requests that were refused although a replica had started them and died."""
    refused = [row for row in rows if row["status"] in (429, 503) and row["figures"]["deaths"]]
    return [f"{row['route']} {row['status']}: refused after {row['figures']['deaths']} deaths" for row in refused]


def report(tally: Tally, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures as a JSON object."""
    percentiles = {f"p{round(100 * part)}": quantile(tally.seconds, part) for part in (0.5, 0.95, 0.99)}
    return {
        "figure": "service/lost",
        "value": len(tally.lost_requests),
        "answered": tally.statuses[200],
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "seconds": {name: value and round(value, 3) for name, value in percentiles.items()},
        "first_byte_p95": (value := quantile(tally.first_byte_seconds, 0.95)) and round(value, 3),
        "tokens_per_second": round(tally.tokens / options.seconds, 1),
        "versions": dict(tally.versions),
        "abuse": dict(tally.abuse),
        "wrong": tally.unexpected_answers[:10],
        "lost": tally.lost_requests[:10],
        "clients": options.clients,
        "duration": options.seconds,
    }


def stub_command(release: ReleaseInfo, port: int, threads: int) -> list[str]:
    """Return the command of a stub replica without a model, from the tests."""
    command = [sys.executable, "-m", "vita.server.service.parent_watch", "tests.server.replica_stub"]
    return [*command, "--release", str(release.folder), "--digest", release.digest, "--port", str(port),
            "--threads", str(threads)]  # fmt: skip


def releases(model: Path | None, folder: Path) -> Iterable[ReleaseInfo]:
    """Create two releases of one model."""
    if model is None:
        model = folder / "stub"
        model.mkdir()
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (model / name).write_text(name)
    for version in ("1", "2"):
        yield read_release(create_release(model, folder / f"release-{version}", name="load", version=version))


def main() -> int:
    """Run the benchmark; the exit code is 1 if a request was lost or an answer to abuse was unexpected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="a Hugging Face model folder")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first, second = releases(options.model, Path(folder))
        command = replica_command if options.model else stub_command
        tally = asyncio.run(load(options, first, second, command, Path(folder)))
    print(json.dumps(report(tally, options)))
    return 1 if tally.lost_requests or tally.unexpected_answers else 0


if __name__ == "__main__":
    sys.exit(main())

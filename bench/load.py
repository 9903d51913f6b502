"""A service under load while it is hurt: how many accepted requests are lost, and how long the others take.

    python -m bench.load MODEL --seconds 120 --clients 64 --replicas 2
    python -m bench.load                       # no model: replicas that answer by rule

While the clients ask, one replica is killed with -9, one is drained, and a new version is brought in as a canary and
promoted; beside them come malformed bodies, wrong keys, 10 MB prompts and clients that send a byte now and then. A
request is accepted when it got anything but 429 or 503, and lost when its answer is then not whole. A 429 or 503 of a
request that a replica had begun, as the service's own log tells, counts as lost, too.
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
from vita.spine.ledger import Ledger
from vita.spine.store import Store

QUESTIONS = ("What is a cat?", "What does a dog eat?", "Tell me about the sea.", "Where does a baker work?")


@dataclass
class Tally:
    """What came of the requests."""

    statuses: Counter[int] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    tokens: int = 0
    versions: Counter[str] = field(default_factory=Counter)
    abuse: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Abuse that was not answered as it should be."""


async def client(http: httpx.AsyncClient, number: int, tally: Tally, until: float, tokens: int) -> None:
    """One user, who asks again as soon as the answer is there; every second answer is a stream."""
    turn = 0
    while time.monotonic() < until:
        turn += 1
        stream = (number + turn) % 2 == 0
        question = QUESTIONS[(number + turn) % len(QUESTIONS)]
        body = {"model": "load", "messages": [{"role": "user", "content": question}], "max_tokens": tokens,
                "user": f"user {number}", "stream": stream}  # fmt: skip
        began = time.monotonic()
        try:
            status, problem = await (_stream if stream else _whole)(http, body, tally, began)
        except httpx.HTTPError as error:
            status, problem = 0, f"{type(error).__name__}: {error}"
        tally.statuses[status] += 1
        if problem:
            tally.lost.append(f"{'stream' if stream else 'whole'} {status}: {problem}"[:200])
        if status in (429, 503):
            await asyncio.sleep(1.0)
        elif not problem:
            tally.seconds.append(time.monotonic() - began)


async def _whole(http: httpx.AsyncClient, body: dict[str, Any], tally: Tally, _: float) -> tuple[int, str | None]:
    answer = await http.post("/v1/chat/completions", json=body)
    if answer.status_code in (429, 503):
        return answer.status_code, None
    if answer.status_code != 200:
        return answer.status_code, answer.text[:150]
    told = answer.json()
    tally.versions[answer.headers["x-vita-version"]] += 1
    tally.tokens += told["usage"]["completion_tokens"]
    return 200, None if told["choices"][0]["finish_reason"] else "no end"


async def _stream(http: httpx.AsyncClient, body: dict[str, Any], tally: Tally, began: float) -> tuple[int, str | None]:
    ended, finish, first = False, None, None
    body = {**body, "stream_options": {"include_usage": True}}
    async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code in (429, 503):
            return answer.status_code, None
        if answer.status_code != 200:
            return answer.status_code, (await answer.aread())[:150].decode(errors="replace")
        async for line in answer.aiter_lines():
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                ended = True
            elif data:
                first = first or time.monotonic() - began
                event = json.loads(data)
                if "error" in event:
                    return 200, str(event["error"]["message"])
                finish = next((one.get("finish_reason") for one in event["choices"]), None) or finish
                tally.tokens += (event.get("usage") or {}).get("completion_tokens", 0)
    tally.versions[answer.headers["x-vita-version"]] += 1
    if first is not None:
        tally.first.append(first)
    return 200, None if ended and finish else "the stream ended early"


async def abuser(http: httpx.AsyncClient, tally: Tally, until: float) -> None:
    """Everything that should be refused, again and again."""
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
                tally.wrong.append(f"{name}: {type(error).__name__}")
                continue
            tally.abuse[f"{name} {status}"] += 1
            if status not in (*expected, 429, 503):
                tally.wrong.append(f"{name}: {status}")
        await asyncio.sleep(1.0)


async def dawdler(url: str, tally: Tally, until: float) -> None:
    """A client that sends a byte now and then, and one that hangs up in the middle of an answer."""
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


class Told(list[str]):
    """What happened, shown as it happens."""

    def append(self, text: str, /) -> None:
        super().append(text)
        print(text, file=sys.stderr, flush=True)


WHY = "a load test"


async def events(running: RunningService, second: ReleaseInfo, seconds: float, told: list[str]) -> None:
    """What happens meanwhile: a kill, a drain, a canary and its promotion, over the time there is."""
    began = time.monotonic()

    async def at(part: float, text: str) -> None:
        await asyncio.sleep(max(0.0, began + part * seconds - time.monotonic()))
        told.append(f"{time.monotonic() - began:.1f} s: {text}")

    fleet = running.fleet
    await at(0.15, "kill -9")
    victim = next(one for one in fleet.replicas.values() if one.pid)
    os.kill(victim.pid or 0, signal.SIGKILL)
    await at(0.4, "drain")
    await fleet.drain(next(one.name for one in fleet.replicas.values() if one is not victim))
    await at(0.5, "canary")
    await fleet.roll(second, share=0.3, terms=ServingRequest(WHY))
    await at(0.7, "promote")
    await fleet.promote(terms=ServingRequest(WHY))
    told.append(f"{time.monotonic() - began:.1f} s: promoted")


async def load(
    options: argparse.Namespace, first: ReleaseInfo, second: ReleaseInfo, command: Command, folder: Path
) -> Tally:
    """The whole of it."""
    tally, told = Tally(), Told()
    ledger = Ledger(folder / "ledger.db")
    service = Service(
        name="load", release=first, ledger=ledger, controls=folder / "services", port=0,
        clear=ledger_clearance(ledger, Store(folder / "store")), ungated=WHY,
        replicas=options.replicas, threads=options.replicas, command=command, notify=told.append,
        settings=ServiceSettings(in_flight=options.clients + 8, header_seconds=3.0, patience=30.0),
    )  # fmt: skip
    async with service.served() as running:
        until = time.monotonic() + options.seconds
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=running.url, timeout=120, limits=limits, trust_env=False) as http:
            users = [client(http, number, tally, until, options.tokens) for number in range(options.clients)]
            happening = events(running, second, options.seconds, told)
            await asyncio.gather(*users, happening, abuser(http, tally, until), dawdler(running.url, tally, until))
            alive = (await http.get("/health")).status_code == 200
        await running.flush_log()
        tally.lost += refused_after_death(requests_since(service.ledger))
    if not alive:
        tally.wrong.append("the gateway died")
    return tally


def refused_after_death(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The logged requests that were told to come again although a replica had begun them and died."""
    refused = [row for row in rows if row["status"] in (429, 503) and row["figures"]["deaths"]]
    return [f"{row['route']} {row['status']}: refused after {row['figures']['deaths']} deaths" for row in refused]


def report(tally: Tally, options: argparse.Namespace) -> dict[str, Any]:
    """The figures as one line of JSON."""
    percentiles = {f"p{round(100 * part)}": quantile(tally.seconds, part) for part in (0.5, 0.95, 0.99)}
    return {
        "figure": "service/lost",
        "value": len(tally.lost),
        "answered": tally.statuses[200],
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "seconds": {name: value and round(value, 3) for name, value in percentiles.items()},
        "first_byte_p95": (value := quantile(tally.first, 0.95)) and round(value, 3),
        "tokens_per_second": round(tally.tokens / options.seconds, 1),
        "versions": dict(tally.versions),
        "abuse": dict(tally.abuse),
        "wrong": tally.wrong[:10],
        "lost": tally.lost[:10],
        "clients": options.clients,
        "duration": options.seconds,
    }


def stub_command(release: ReleaseInfo, port: int, threads: int) -> list[str]:
    """Replicas without a model, from the tests."""
    leash = [sys.executable, "-m", "vita.server.service.parent_watch", "tests.server.replica_stub"]
    return [*leash, "--release", str(release.folder), "--digest", release.digest, "--port", str(port),
            "--threads", str(threads)]  # fmt: skip


def releases(model: Path | None, folder: Path) -> Iterable[ReleaseInfo]:
    """Two versions of one model."""
    if model is None:
        model = folder / "stub"
        model.mkdir()
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (model / name).write_text(name)
    for version in ("1", "2"):
        yield read_release(create_release(model, folder / f"release-{version}", name="load", version=version))


def main() -> int:
    """Run it; the exit code is 1 when a request was lost or abuse was answered wrongly."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("model", nargs="?", type=Path, help="a Hugging Face model folder")
    options.add_argument("--seconds", type=float, default=120.0)
    options.add_argument("--clients", type=int, default=64)
    options.add_argument("--replicas", type=int, default=2)
    options.add_argument("--tokens", type=int, default=32)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first, second = releases(given.model, Path(folder))
        command = replica_command if given.model else stub_command
        tally = asyncio.run(load(given, first, second, command, Path(folder)))
    print(json.dumps(report(tally, given)))
    return 1 if tally.lost or tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

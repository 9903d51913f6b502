"""Three sites on two hosts under load with failures: lost requests, wrong answers and feedback.

    python -m bench.sites --seconds 600 --clients 64

The hosts are network namespaces, with PostgreSQL and HAProxy between them and the clients (`bench.site_hosts`); this
needs root. Gateways and network replicas are the real commands, with a tiny random model. During the load, a gateway
and a replica are killed, a host is disconnected, a replica is drained, and all sites change to a new version.

A client repeats a request that fails, with the same Idempotency-Key, and continues a stream with Last-Event-ID. A
request is lost if a client received a part of its response, or a status other than 429 and 503, and never the whole
response. Every response is compared with that of the model whose digest it states. Each request gets feedback.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from bench.site_clients import SiteTally, answer_text, client
from bench.site_hosts import VITA, Hosts, missing_tools
from vita.monitoring.request_log import feedback, quantile
from vita.server.gateway.keys import create
from vita.server.release import create_release
from vita.server.sites.credentials import create_authority, issue
from vita.spine.ledger import Ledger
from vita.spine.store import Draft, Store
from vita.stages.kinds import Release

SITES = {"paris": "a", "oslo": "a", "ohio": "b"}
"""Site -> host."""
REPLICAS = {"r1": "a", "r2": "b", "r3": "a"}
"""Network replica -> host; each joins all gateways."""
NEXT_REPLICAS = {"r4": "a", "r5": "b"}
"""Network replicas of the second version, which wait until a gateway serves it."""
API_PORT, JOIN_PORT = 8000, 9000
"""Ports of the first site; the next ones follow."""
QUESTIONS = ("What is a cat?", "What does a dog eat?", "Tell me about the sea.", "Where does a baker work?")


# -- the deployment


class Deployment:
    """Gateways and network replicas on the hosts."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts, self.folder = hosts, folder
        self.store = Store(folder / "store")
        self.releases = list(self._releases())
        self.ledger = Ledger(hosts.ledger_url)
        self.key = create(self.ledger, "load", scopes=["chat", "feedback"])
        self._environment = {"VITA_LEDGER": hosts.ledger_url, "VITA_STORE": str(folder / "store"), "VITA_THREADS": "1",
                             "OMP_NUM_THREADS": "1", "COLUMNS": "300"}  # fmt: skip
        create_authority(folder / "authority")
        for role, members in (("gateway", SITES), ("replica", {**REPLICAS, **NEXT_REPLICAS})):
            for name, host in members.items():
                issue(folder / "authority", folder / name, role=role, name=name, hosts=[hosts.address(host)], days=1)  # type: ignore[arg-type]

    def _releases(self) -> Iterator[str]:
        """Yield the digests of two releases with different weights."""
        from vita.data.tokens.chat_template import ChatTemplate
        from vita.nn import hf
        from vita.testing import byte_tokenizer, tiny_model

        for seed in (1, 2):
            model = self.folder / f"model-{seed}"
            hf.save(tiny_model(std=0.3, context=256, seed=seed), model)
            byte_tokenizer().save(model)
            ChatTemplate.default().save(model)
            with self.store.temporary("release") as draft:
                create_release(model, draft / "release", name="load", version=str(seed))
                yield self.store.commit(Draft(Release, draft / "release")).digest

    def expected(self, bodies: list[dict[str, Any]]) -> dict[str, list[str]]:
        """Return the answers of each model, computed in this process: digest of the model -> texts."""
        from vita.server.replica.main import open_app

        async def answers(app: Any) -> list[str]:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://replica") as http:
                return [
                    answer_text((await http.post("/v1/chat/completions", json=body, timeout=60)).json())
                    for body in bodies
                ]

        texts = {}
        for release in self.releases:
            app = open_app(self.store.open(release, Release).path)
            replica = app.state.replica
            texts[replica.served.digest] = asyncio.run(answers(app))
            replica.scheduler.close()
        return texts

    def start_gateway(self, site: str, release: str) -> None:
        number = list(SITES).index(site)
        options = ["--site", site, "--region", "eu", "--host", self.hosts.address(SITES[site]), "--port",
                   str(API_PORT + number), "--credentials", site, "--join-port", str(JOIN_PORT + number), "--replicas",
                   "0", "--ungated", "a benchmark", "--set", "ledger_region=eu", "--set", "in_flight=512"]  # fmt: skip
        self.hosts.start(SITES[site], site, [*VITA, "serve", release, *options], environment=self._environment)

    def start_replica(self, name: str, host: str, release: str) -> None:
        joins = [
            f"--join=https://{self.hosts.address(SITES[site])}:{JOIN_PORT + number}"
            for number, site in enumerate(SITES)
        ]
        options = ["--store", str(self.folder / "store"), "--credentials", name, "--host", self.hosts.address(host),
                   "--site", host, "--region", "eu", *joins]  # fmt: skip
        self.hosts.start(host, name, [*VITA, "replica", release, *options], environment=self._environment)

    def wait_for_gateway(self, site: str, *, since: int = 0) -> None:
        self.hosts.wait_for(site, "serving load at", since=since)

    def wait_for_replica(self, name: str, *, gateways: int, pattern: str = "joined as") -> None:
        self.hosts.wait_for(name, "(?s)" + ".*".join([pattern] * gateways))

    def proxy(self) -> None:
        self.hosts.start_proxy({
            site: f"{self.hosts.address(host)}:{API_PORT + number}" for number, (site, host) in enumerate(SITES.items())
        })  # fmt: skip

    async def fleet(self, site: str, *words: str) -> str:
        """Run `vita fleet` on the gateway of a site; raises RuntimeError with its output if it fails."""
        url = f"http://{self.hosts.address(SITES[site])}:{API_PORT + list(SITES).index(site)}"
        process = await asyncio.create_subprocess_exec(
            *self.hosts.on(SITES[site]), *VITA, "fleet", *words, "--service", url,
            env={**os.environ, **self._environment}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"vita fleet {' '.join(words)} at {site}: {output.decode()}")
        return output.decode()


# -- failures


async def failures(deployment: Deployment, seconds: float, note: Callable[[str], None], *, restarts: bool) -> None:
    """Kill, disconnect, drain and update, spread over the duration of the load."""
    hosts, start = deployment.hosts, time.monotonic()

    async def at(part: float, text: str) -> None:
        await asyncio.sleep(max(0.0, start + part * seconds - time.monotonic()))
        note(f"{time.monotonic() - start:.0f} s: {text}")

    first, second = deployment.releases
    await at(0.10, "the gateway paris is killed")
    await asyncio.to_thread(hosts.kill, "paris")
    if restarts:
        await at(0.18, "the gateway paris starts again")
        await asyncio.to_thread(deployment.start_gateway, "paris", first)
    await at(0.28, "the replica r1 is killed")
    await asyncio.to_thread(hosts.kill, "r1")
    if restarts:
        await at(0.34, "the replica r1 starts again")
        await asyncio.to_thread(deployment.start_replica, "r1", "a", first)
    await at(0.42, "host b (the site ohio and the replica r2) is disconnected")
    await asyncio.to_thread(hosts.disconnect, "b")
    await at(0.52, "host b is connected again")
    await asyncio.to_thread(hosts.connect, "b")
    await at(0.60, "the replica r3 is drained at oslo")
    await deployment.fleet("oslo", "drain", "r3")
    sites = [site for site in ("oslo", "ohio", "paris") if hosts.processes[site].poll() is None]
    for number, site in enumerate(sites):
        await at(0.66 + 0.07 * number, f"{site} changes to the second version")
        await deployment.fleet(site, "roll", second, "--ungated", "a benchmark")
    note(f"{time.monotonic() - start:.0f} s: all sites serve the second version")


# -- the run


@dataclass(frozen=True)
class LoadOptions:
    """The size of a run."""

    seconds: float
    """Duration of the load, which is longer if the failures take longer."""
    clients: int
    tokens: int = 96
    """Maximum number of tokens of a response."""
    restarts: bool = True
    """True if the killed gateway and the killed replica start again."""
    next_replicas: tuple[str, ...] = ("r4", "r5")
    """Network replicas of the second version."""


async def load(deployment: Deployment, tally: SiteTally, options: LoadOptions, note: Callable[[str], None]) -> None:
    """Send requests while failures happen, and for a while after them."""
    bodies = [
        {"model": "load", "messages": [{"role": "user", "content": question}], "max_tokens": options.tokens, **sampling}
        for question in QUESTIONS
        for sampling in ({"temperature": 0}, {"temperature": 1.0, "seed": 7})
    ]
    expected = await asyncio.to_thread(deployment.expected, bodies)
    start, running = time.monotonic(), True
    # A client of a disconnected site receives nothing: it does not wait for the timeout of the proxy.
    async with httpx.AsyncClient(
        base_url=deployment.hosts.api, timeout=httpx.Timeout(30, connect=5), trust_env=False,
        limits=httpx.Limits(max_connections=None), headers={"Authorization": f"Bearer {deployment.key}"},
    ) as http:  # fmt: skip
        users = [
            asyncio.create_task(client(http, number, bodies, expected, tally, lambda: running))
            for number in range(options.clients)
        ]
        try:
            await failures(deployment, options.seconds, note, restarts=options.restarts)
            await asyncio.sleep(max(0.1 * options.seconds, start + options.seconds - time.monotonic()))
        finally:
            running = False
        await asyncio.gather(*users)
    tally.duration = time.monotonic() - start


def stored_feedback(ledger: Ledger, request_ids: list[str]) -> dict[str, int]:
    """Return how often feedback on each request is stored, for those where it is not once."""
    counts: Counter[str] = Counter()
    with ledger.transaction() as database:
        for row in database.execute(sa.select(feedback.c.request)):
            counts[row.request] += 1
    return {request: counts[request] for request in request_ids if counts[request] != 1}


def run(folder: Path, options: LoadOptions, *, note: Callable[[str], None]) -> dict[str, Any]:
    """Start the deployment, run the load, and return the figures."""
    tally = SiteTally()
    with Hosts(folder, ("a", "b")) as hosts:
        deployment = Deployment(hosts, folder)
        first, second = deployment.releases
        for site in SITES:
            deployment.start_gateway(site, first)
        for name, host in REPLICAS.items():
            deployment.start_replica(name, host, first)
        for name in options.next_replicas:
            deployment.start_replica(name, NEXT_REPLICAS[name], second)
        for site in SITES:
            deployment.wait_for_gateway(site)
        for name in REPLICAS:
            deployment.wait_for_replica(name, gateways=len(SITES))
        for name in options.next_replicas:
            deployment.wait_for_replica(name, gateways=len(SITES), pattern="does not serve the release")
        deployment.proxy()
        note("all sites are ready")
        asyncio.run(load(deployment, tally, options, note))
        time.sleep(1.0)  # the request logs are written
        repeated = stored_feedback(deployment.ledger, tally.request_ids)
        deployment.ledger.close()
    return report(tally, repeated, options)


def report(tally: SiteTally, repeated: dict[str, int], options: LoadOptions) -> dict[str, Any]:
    """Return the figures as a JSON object."""
    percentiles = {f"p{round(100 * part)}": quantile(tally.seconds, part) for part in (0.5, 0.95, 0.99)}
    return {
        "figure": "sites/lost",
        "value": len(tally.lost),
        "wrong_answers": len(tally.wrong),
        "feedback_not_once": len(repeated),
        "completed": tally.completed,
        "repeats": tally.repeats,
        "continued_streams": tally.continued,
        "restarted": tally.restarted,
        "records": dict(tally.records),
        "feedback": len(tally.request_ids),
        "seconds": {name: value and round(value, 3) for name, value in percentiles.items()},
        "sites": dict(tally.sites),
        "versions": dict(tally.versions),
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "failures": dict(tally.failures.most_common(12)),
        "lost": tally.lost[:10],
        "wrong": tally.wrong[:10],
        "feedback_problems": [*tally.feedback_failures[:5], *list(repeated.items())[:5]],
        "clients": options.clients,
        "duration": round(tally.duration, 1),
    }


def main() -> int:
    """Run the benchmark; the exit code is 1 after a lost request, a wrong answer or feedback not stored once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--keep", type=Path, help="keep the logs of all processes in this folder")
    options = parser.parse_args()
    if missing := missing_tools():
        print(f"# skipped: this machine has no {', no '.join(missing)}", file=sys.stderr)
        return 0

    def note(text: str) -> None:
        print(f"# {text}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        size = LoadOptions(options.seconds, options.clients, options.tokens)
        figures = run(folder, size, note=note)
    print(json.dumps(figures))
    return 1 if figures["value"] or figures["wrong_answers"] or figures["feedback_not_once"] else 0


if __name__ == "__main__":
    sys.exit(main())

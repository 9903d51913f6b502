"""A gateway follows the ledger by reading only new rows, concurrently with requests."""

from __future__ import annotations

import asyncio
import time

import httpx
import sqlalchemy as sa

from tests.server.fakes import FakeReplica
from tests.server.gateways import async_test, async_test_on_each_database, service
from vita.monitoring.request_log import deployments
from vita.server.gateway import keys
from vita.server.gateway.gateway import Gateway
from vita.server.gateway.model_states import Catalog
from vita.server.gateway.routing import Router
from vita.server.settings import ServiceSettings
from vita.spine.ledger import Ledger, names, states

MODELS, KEYS = 5_000, 1_000


def fill(ledger: Ledger) -> None:
    """Write 5,000 named models that were approved and served, and 1,000 keys."""
    models = [f"{number:064x}" for number in range(MODELS)]
    name_rows = [{"name": f"life/{number}", "artifact": model, "at": 1.0} for number, model in enumerate(models)]
    state_rows = [
        {"artifact": model, "state": state, "who": "ann", "why": "", "reports": [], "details": {}, "at": 1.0}
        for model in models
        for state in ("approved", "serving")
    ]
    key_rows = [
        {"name": f"key{number}", "hint": f"{number:08x}", "hash": "0" * 64, "scopes": ["chat"], "limits": {},
         "consent": False, "created": 1.0, "expires": None, "revoked": None}
        for number in range(KEYS)
    ]  # fmt: skip
    with ledger.transaction() as database:
        for table, rows in ((names, name_rows), (states, state_rows), (keys.api_keys, key_rows)):
            database.execute(sa.insert(table), rows)


def test_a_refresh_reads_only_new_rows_of_a_large_ledger(any_ledger: Ledger) -> None:
    fill(any_ledger)
    gateway = Gateway(Router("cat"), any_ledger, ServiceSettings())
    try:
        assert gateway.catalog.digest("life/77") == f"{77:064x}"
        for _ in range(10):
            assert gateway.keys.read() == [] and gateway.catalog.read().count == 0
        secret = keys.create(any_ledger, "ann")
        keys.revoke(any_ledger, "0000000a")
        any_ledger.name("life/77", "f" * 64)
        any_ledger.move("f" * 64, "approved", who="ann", why="better")
        changed_keys, rows = gateway.keys.read(), gateway.catalog.read()
        assert {key.name for key in changed_keys} == {"ann", "key10"} and rows.count == 2
        gateway.keys.apply(changed_keys)
        gateway.catalog.apply(rows)
        assert gateway.keys.find(secret) is not None
        assert (
            gateway.catalog.digest("life/77") == "f" * 64 and gateway.catalog.model_state("f" * 64).state == "approved"
        )
    finally:
        asyncio.run(gateway.close())


@async_test_on_each_database
async def test_a_running_gateway_follows_changes_of_keys(ledger):
    fill(ledger)
    async with service(ledger, FakeReplica("a"), refresh_seconds=0.05) as (gateway, client):
        refresh_task = asyncio.create_task(gateway.keep_fresh())
        secret = keys.create(ledger, "ann")
        headers = {"authorization": f"Bearer {secret}"}
        assert await _status(client, headers, 200) == 200
        keys.revoke(ledger, "ann")
        assert await _status(client, headers, 401) == 401
        refresh_task.cancel()


async def _status(client: httpx.AsyncClient, headers: dict[str, str], expected: int) -> int:
    """Return the status of a request, after at most five seconds of repeated requests."""
    deadline = time.monotonic() + 5
    while (status := (await client.get("/v1/models", headers=headers)).status_code) != expected:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return status


@async_test
async def test_a_refresh_that_fails_in_the_middle_loses_no_revocation(ledger):
    async with service(ledger, FakeReplica("a")) as (gateway, _):
        secret = keys.create(ledger, "ann")
        gateway.refresh()
        keys.revoke(ledger, "ann")
        with ledger.transaction() as database:
            database.execute(sa.text("alter table api_keys rename to hidden"))
        for _ in range(2):
            try:
                gateway.keys.refresh()
            except Exception:  # noqa: BLE001 - the table is renamed for a while
                assert gateway.keys.find(secret) is not None
        with ledger.transaction() as database:
            database.execute(sa.text("alter table hidden rename to api_keys"))
        gateway.keys.refresh()
        assert gateway.keys.find(secret) is None


def test_the_catalog_follows_changes_of_names_and_releases(ledger: Ledger) -> None:
    catalog = Catalog(ledger, "cat")
    catalog.refresh()
    model, release, new_model = "a" * 64, "b" * 64, "c" * 64
    ledger.name("release/cat", release)
    catalog.refresh()
    assert catalog.digest("cat") == release
    ledger.move(model, "serving", who="ann", why="", release=release)
    catalog.refresh()
    assert catalog.digest("cat") == model and catalog.name_of(model) == "cat"
    row = {"service": "cat", "version": "cat:1", "model": model, "release": release, "action": "started", "share": 1.0,
           "who": "", "at": 1.0}  # fmt: skip
    with ledger.transaction() as database:
        database.execute(sa.insert(deployments).values(row))
        database.execute(sa.insert(deployments).values({**row, "service": "dog", "version": "dog:1"}))
    ledger.name("release/cat", new_model)
    ledger.move(model, "deprecated", who="ann", why="", successor=new_model)
    catalog.refresh()
    assert catalog.digest("cat:1") == model and catalog.digest("dog:1") is None
    assert catalog.digest("cat") == new_model and catalog.name_of(model) == "cat:1"
    assert catalog.model_state(model).successor == "cat"

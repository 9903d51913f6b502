"""Message batches through the unmodified client of Anthropic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.server.clients.service import vita_serve
from tests.server.releases import model_folder
from tests.server.serving import serving, tiny_app, tiny_engine
from tests.server.test_batches import gateway_url
from vita.server.gateway.keys import create
from vita.spine.ledger import Ledger


@pytest.fixture(scope="module")
def replica_url() -> Iterator[str]:
    with serving(tiny_app(tiny_engine(context=256))) as url:
        yield url


@pytest.fixture
def url(replica_url: str, tmp_path: Path, ledger: Ledger) -> Iterator[str]:
    with gateway_url(replica_url, tmp_path, ledger, batch_requests=20, batch_in_flight=2) as url:
        yield url


def client(url: str, key: str = "none") -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)


def message(custom_id: str, **params: Any) -> Any:
    hello = [{"role": "user", "content": "Hi"}]
    return {"custom_id": custom_id, "params": {"model": "cat", "max_tokens": 2, "messages": hello, **params}}


def ended(anthropic_client: anthropic.Anthropic, id: str) -> Any:
    batch = None
    for _ in range(3000):
        batch = anthropic_client.messages.batches.retrieve(id)
        if batch.processing_status == "ended":
            return batch
        time.sleep(0.02)
    raise AssertionError(batch)


def results_of(anthropic_client: anthropic.Anthropic, id: str) -> dict[str, Any]:
    return {row.custom_id: row.result for row in anthropic_client.messages.batches.results(id)}


def test_a_message_batch_has_a_result_for_each_request(url: str) -> None:
    with client(url) as anthropic_client:
        batches = anthropic_client.messages.batches
        requests = [message("a", temperature=0), message("b", max_tokens=0), message("c", model="dog"), message("d")]
        batch = batches.create(requests=requests)
        assert batch.type == "message_batch" and batch.id.startswith("msgbatch_")
        assert (batch.expires_at - batch.created_at).total_seconds() == 24 * 3600
        assert sum(batch.request_counts.to_dict().values()) == 4  # type: ignore[arg-type]
        batch = ended(anthropic_client, batch.id)
        counts = {"processing": 0, "succeeded": 2, "errored": 2, "canceled": 0, "expired": 0}
        assert batch.request_counts.to_dict() == counts and batch.ended_at >= batch.created_at
        assert batch.results_url == f"{url}/v1/messages/batches/{batch.id}/results"
        results = results_of(anthropic_client, batch.id)
        assert {id: result.type for id, result in results.items()} == {
            "a": "succeeded", "b": "errored", "c": "errored", "d": "succeeded",
        }  # fmt: skip
        direct = anthropic_client.messages.create(**message("a")["params"], extra_body={"temperature": 0})
        assert results["a"].message.content == direct.content and results["a"].message.usage.output_tokens == 2
        assert results["b"].error.error.type == "invalid_request_error"
        assert "max_tokens" in results["b"].error.error.message
        assert results["c"].error.error.type == "not_found_error"


def test_message_batches_are_listed_in_pages_and_deleted(url: str) -> None:
    with client(url) as anthropic_client:
        batches = anthropic_client.messages.batches
        ids = [batches.create(requests=[message("a")]).id for _ in range(3)]
        for id in ids:
            ended(anthropic_client, id)
        listed = [batch.id for batch in batches.list(limit=1)]
        assert sorted(listed) == sorted(ids)
        page = batches.list(limit=1, before_id=listed[2])
        assert [batch.id for batch in page.data] == [listed[1]] and page.has_more
        deleted = batches.delete(ids[0])
        assert (deleted.id, deleted.type) == (ids[0], "message_batch_deleted")
        with pytest.raises(anthropic.NotFoundError):
            batches.retrieve(ids[0])
        assert len(list(batches.list())) == 2
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as openai_client:
        assert not openai_client.batches.list().data and not openai_client.files.list().data
        with pytest.raises(openai.NotFoundError):
            openai_client.batches.retrieve(ids[1])


def test_a_cancelled_message_batch_has_results_for_all_requests(url: str) -> None:
    with client(url) as anthropic_client:
        batches = anthropic_client.messages.batches
        batch = batches.create(requests=[message(f"r-{number}", max_tokens=100) for number in range(20)])
        with pytest.raises(anthropic.BadRequestError, match="has not ended"):
            batches.delete(batch.id)
        batch = batches.cancel(batch.id)
        assert batch.processing_status in ("canceling", "ended") and batch.cancel_initiated_at is not None
        batch = ended(anthropic_client, batch.id)
        results = [result.type for result in results_of(anthropic_client, batch.id).values()]
        assert len(results) == 20 and results.count("canceled") == batch.request_counts.canceled > 0
        assert batch.request_counts.succeeded == results.count("succeeded")
        assert batches.cancel(batch.id).processing_status == "ended"


@pytest.mark.parametrize(
    ("requests", "problem"),
    [
        ([], "requests"),
        ([message("a"), message("a")], "custom_id"),
        ([message("a b")], "custom_id"),
        ([message("a", stream=True)], "streamed"),
        ([{"custom_id": "a", "params": {}}], "model"),
        ([{"custom_id": "a"}], "params"),
        ([message(str(number)) for number in range(21)], "20 requests"),
    ],
)
def test_a_wrong_message_batch_is_refused(url: str, requests: Any, problem: str) -> None:
    with client(url) as anthropic_client, pytest.raises(anthropic.BadRequestError, match=problem) as refusal:
        anthropic_client.messages.batches.create(requests=requests)
    assert refusal.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]


def test_message_batches_belong_to_their_key(replica_url: str, tmp_path: Path, ledger: Ledger) -> None:
    keys = [create(ledger, name) for name in ("one", "two")]
    with gateway_url(replica_url, tmp_path, ledger) as url:
        with client(url, keys[0]) as owner, client(url, keys[1]) as other:
            batch = owner.messages.batches.create(requests=[message("a")])
            ended(owner, batch.id)
            with pytest.raises(anthropic.NotFoundError):
                other.messages.batches.retrieve(batch.id)
            assert not list(other.messages.batches.list()) and results_of(owner, batch.id)["a"].type == "succeeded"
        response = httpx.get(f"{url}/v1/messages/batches", trust_env=False)
        assert response.status_code == 401 and response.json()["error"]["type"] == "authentication_error"


@pytest.mark.slow
def test_a_message_batch_survives_a_killed_service(tmp_path: Path) -> None:
    model_folder(tmp_path / "m")
    requests = [message(str(number), max_tokens=40) for number in range(60)]
    with vita_serve(tmp_path, "m", "--set", "batch_in_flight=2") as (url, process):
        with client(url) as anthropic_client:
            batch = anthropic_client.messages.batches.create(requests=requests)
            output = next((tmp_path / "store").rglob("msgbatch_*.json")).with_suffix(".output.jsonl")
            while not output.exists() or not output.stat().st_size:
                time.sleep(0.02)
            assert anthropic_client.messages.batches.retrieve(batch.id).processing_status == "in_progress"
        process.kill()
        process.wait()
    with vita_serve(tmp_path, "m") as (url, _), client(url) as anthropic_client:
        batch = ended(anthropic_client, batch.id)
        assert batch.request_counts.succeeded == 60
        rows = [row.custom_id for row in anthropic_client.messages.batches.results(batch.id)]
        assert sorted(rows, key=int) == [str(number) for number in range(60)]

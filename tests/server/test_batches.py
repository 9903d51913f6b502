"""Files and batches through the unmodified client of OpenAI."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from starlette.applications import Starlette

from tests.server.clients.service import vita_serve
from tests.server.releases import model_folder
from tests.server.serving import serving, tiny_app, tiny_engine
from vita.server.batches.batch import BatchStore
from vita.server.batches.batch_results import ResultWriter
from vita.server.batches.runner import BatchResponse, BatchRunner
from vita.server.batches.stored_files import FileStore
from vita.server.gateway.app import gateway_app
from vita.server.gateway.gateway import Gateway
from vita.server.gateway.keys import create
from vita.server.gateway.routing import Backend, Router, ServedVersion
from vita.server.settings import ServiceSettings
from vita.spine.ledger import Ledger

HI = [{"role": "user", "content": "Hi"}]


@contextmanager
def gateway_url(replica_url: str, folder: Path, ledger: Ledger, **settings: Any) -> Iterator[str]:
    """Serve a gateway with batches in front of one replica."""
    router = Router("cat")
    backend = Backend("replica", replica_url, ready=True)
    router.add(ServedVersion("cat:1", "a" * 64, "a" * 64, name="cat", created=1.0, share=1.0, backends=[backend]))
    gateway = Gateway(router, ledger, ServiceSettings(**settings), batches=folder / "batches")
    app = gateway_app(gateway)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        assert gateway.batch_api is not None
        gateway.batch_api.runner.start()
        yield
        await gateway.close()

    app.router.lifespan_context = lifespan
    with serving(app) as url:
        yield url


@pytest.fixture(scope="module")
def replica_url() -> Iterator[str]:
    with serving(tiny_app(tiny_engine(context=256))) as url:
        yield url


@pytest.fixture
def url(replica_url: str, tmp_path: Path, ledger: Ledger) -> Iterator[str]:
    with gateway_url(replica_url, tmp_path, ledger, file_bytes=4096, files_bytes=10_000, batch_requests=20) as url:
        yield url


def client(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def chat_line(custom_id: str, **body: Any) -> dict[str, Any]:
    body = {"model": "cat", "messages": HI, "max_tokens": 2, "seed": 1, **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def jsonl(*lines: Any) -> io.BytesIO:
    content = io.BytesIO("".join(json.dumps(line) + "\n" for line in lines).encode())
    content.name = "requests.jsonl"
    return content


def create_batch(openai_client: openai.OpenAI, *lines: Any, endpoint: Any = "/v1/chat/completions") -> Any:
    file = openai_client.files.create(file=jsonl(*lines), purpose="batch")
    return openai_client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"run": "1"}
    )


def ended(openai_client: openai.OpenAI, id: str) -> Any:
    batch = None
    for _ in range(3000):
        batch = openai_client.batches.retrieve(id)
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch
        time.sleep(0.02)
    raise AssertionError(batch)


def completed_requests(openai_client: openai.OpenAI, id: str) -> int:
    counts = openai_client.batches.retrieve(id).request_counts
    return 0 if counts is None else counts.completed


def lines_of(openai_client: openai.OpenAI, id: str | None) -> dict[str, Any]:
    assert id is not None
    return {line["custom_id"]: line for line in map(json.loads, openai_client.files.content(id).text.splitlines())}


def test_each_result_is_one_line_whatever_its_text(url: str) -> None:
    text = "a\x85b\u2028c\u2029d"
    with client(url) as openai_client:
        options: Any = {"max_tokens": 40, "structured_outputs": {"choice": [text]}}
        batch = ended(openai_client, create_batch(openai_client, chat_line("a", **options)).id)
        (line,) = lines_of(openai_client, batch.output_file_id).values()
        assert line["response"]["body"]["choices"][0]["message"]["content"] == text


def test_a_batch_has_the_responses_and_the_errors_of_its_requests(url: str, ledger: Ledger) -> None:
    with client(url) as openai_client:
        requests = [chat_line("a"), chat_line("b", temperature=3), chat_line("c", model="dog"), chat_line("d")]
        batch = create_batch(openai_client, *requests)
        assert batch.status in ("validating", "in_progress", "completed") and batch.metadata == {"run": "1"}
        batch = ended(openai_client, batch.id)
        assert batch.status == "completed" and batch.model == "cat" and batch.completed_at >= batch.created_at
        assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (4, 2, 2)
        outputs, errors = (lines_of(openai_client, id) for id in (batch.output_file_id, batch.error_file_id))
        assert set(outputs) == {"a", "d"} and set(errors) == {"b", "c"}
        response = outputs["a"]["response"]
        assert response["status_code"] == 200 and response["request_id"].startswith("req-")
        direct = openai_client.chat.completions.create(model="cat", messages=HI, max_tokens=2, seed=1)  # type: ignore[arg-type]
        assert response["body"]["choices"][0]["message"]["content"] == direct.choices[0].message.content
        assert errors["b"]["response"]["body"]["error"]["param"] == "temperature" and errors["b"]["error"] is None
        assert errors["c"]["response"]["status_code"] == 404
        assert [listed.id for listed in openai_client.batches.list()] == [batch.id]


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/completions", {"model": "cat", "prompt": "One", "max_tokens": 2}),
        ("/v1/embeddings", {"model": "cat", "input": ["one", "two"]}),
        ("/v1/responses", {"model": "cat", "input": "Hi", "max_output_tokens": 2}),
    ],
)
def test_a_batch_can_use_every_endpoint(url: str, endpoint: str, body: dict[str, Any]) -> None:
    with client(url) as openai_client:
        request = {"custom_id": "a", "method": "POST", "url": endpoint, "body": body}
        batch = ended(openai_client, create_batch(openai_client, request, endpoint=endpoint).id)
        (line,) = lines_of(openai_client, batch.output_file_id).values()
        assert line["response"]["body"]["object"] in ("text_completion", "list", "response")


def test_an_invalid_input_fails_with_the_lines_of_its_errors(url: str) -> None:
    with client(url) as openai_client:
        wrong = [chat_line("a"), chat_line("a"), {"custom_id": "b"}, {**chat_line("c"), "url": "/v1/completions"}]
        batch = ended(openai_client, create_batch(openai_client, *wrong, chat_line("d", stream=True)).id)
        assert batch.status == "failed" and batch.output_file_id is None
        problems = [(problem.line, problem.code) for problem in batch.errors.data]
        assert problems[0] == (2, "duplicate_custom_id") and [line for line, _ in problems] == [2, 3, 4, 5]
        batch = ended(openai_client, create_batch(openai_client, *(chat_line(str(number)) for number in range(21))).id)
        assert batch.status == "failed" and batch.errors.data[-1].code == "too_many_requests"
        file = openai_client.files.create(file=("empty.jsonl", b"\n"), purpose="batch")
        batch = openai_client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
        assert ended(openai_client, batch.id).errors.data[0].code == "empty_file"


def test_files_are_listed_described_and_deleted(url: str) -> None:
    with client(url) as openai_client:
        ids = [openai_client.files.create(file=jsonl(chat_line(name)), purpose="batch").id for name in "abc"]
        file = openai_client.files.create(
            file=jsonl(chat_line("d")), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
        )
        assert file.filename == "requests.jsonl" and file.bytes > 50 and file.purpose == "batch"
        assert file.expires_at == file.created_at + 3600
        assert openai_client.files.retrieve(file.id) == file
        assert openai_client.files.content(file.id).content == jsonl(chat_line("d")).getvalue()
        pages = openai_client.files.list(limit=3, order="asc")
        assert len(pages.data) == 3 and sorted(listed.id for listed in pages) == sorted([*ids, file.id])
        assert openai_client.files.delete(file.id).deleted
        for call in (openai_client.files.retrieve, openai_client.files.content, openai_client.files.delete):
            with pytest.raises(openai.NotFoundError):
                call(file.id)
        assert openai_client.files.list(purpose="batch_output").data == []


@pytest.mark.parametrize(
    ("form", "status", "param"),
    [
        ({"data": {"purpose": "vision"}, "files": {"file": b"{}"}}, 400, "purpose"),
        ({"data": {}, "files": {"file": b"{}"}}, 400, "purpose"),
        ({"data": {"purpose": "batch", "x": "1"}, "files": {"file": b"{}"}}, 400, "x"),
        ({"data": {"purpose": "batch", "expires_after[seconds]": "9"}, "files": {"file": b"{}"}}, 400, "expires_after"),
        ({"data": {"purpose": "batch"}, "files": {"other": b"{}"}}, 400, "file"),
        ({"data": {"purpose": "batch"}, "files": {"file": b"x" * 20_000}}, 413, None),
        ({"json": {"purpose": "batch"}}, 415, None),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, 400, None),
        ({"content": b"junk", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, None),
    ],
)
def test_a_wrong_upload_is_refused_by_name(url: str, form: dict[str, Any], status: int, param: str | None) -> None:
    response = httpx.post(f"{url}/v1/files", **form)
    assert response.status_code == status, response.text
    assert response.json()["error"]["param"] == param


def test_the_total_size_of_files_is_limited(url: str) -> None:
    with client(url) as openai_client:
        for _ in range(2):
            openai_client.files.create(file=("a.jsonl", b"x" * 4000), purpose="batch")
        with pytest.raises(openai.BadRequestError) as error:
            openai_client.files.create(file=("a.jsonl", b"x" * 4000), purpose="batch")
        assert error.value.code == "storage_limit_exceeded"


def test_wrong_batches_and_queries_are_refused_by_name(url: str) -> None:
    with client(url) as openai_client:
        file = openai_client.files.create(file=jsonl(chat_line("a")), purpose="batch")
        for fields, param in (
            ({"endpoint": "/v1/moderations"}, "endpoint"),
            ({"completion_window": "1h"}, "completion_window"),
            ({"extra_body": {"priority": 1}}, "priority"),
        ):
            options: Any = {"input_file_id": file.id, "endpoint": "/v1/embeddings", "completion_window": "24h"} | fields
            with pytest.raises(openai.BadRequestError) as error:
                openai_client.batches.create(**options)
            assert error.value.param == param
        with pytest.raises(openai.NotFoundError):
            openai_client.batches.create(input_file_id="file-x", endpoint="/v1/embeddings", completion_window="24h")
        for query in ({"limit": "0"}, {"limit": "x"}, {"after": "file-x"}, {"order": "up"}, {"y": "1"}):
            response = httpx.get(f"{url}/v1/files", params=query)
            assert response.status_code == 400 and response.json()["error"]["param"] == next(iter(query))


def test_a_key_sees_only_its_own_files_and_batches_and_needs_the_scope_of_the_endpoint(
    replica_url: str, tmp_path: Path, ledger: Ledger
) -> None:
    keys = [create(ledger, name, scopes=scopes) for name, scopes in (("a", ["chat"]), ("b", ["embeddings"]))]
    admin = create(ledger, "c", scopes=["chat", "admin"])
    with gateway_url(replica_url, tmp_path, ledger) as url:
        with client(url, keys[0]) as own, client(url, keys[1]) as other, client(url, admin) as administrator:
            batch = ended(own, create_batch(own, chat_line("a")).id)
            assert batch.status == "completed"
            for call in (lambda: other.batches.retrieve(batch.id), lambda: other.files.content(batch.output_file_id)):
                with pytest.raises(openai.NotFoundError):
                    call()
            assert other.batches.list().data == [] and other.files.list().data == []
            assert administrator.batches.retrieve(batch.id).id == batch.id
            with pytest.raises(openai.PermissionDeniedError):
                create_batch(other, chat_line("a"))
        assert httpx.get(f"{url}/v1/batches").status_code == 401
        with client(url, keys[0]) as own:
            assert len(own.files.list().data) == 2


class SlowGateway:
    """A gateway whose requests wait until the test lets them end."""

    def __init__(self) -> None:
        self.draining, self.clients, self.started = False, 0, list[str]()
        self.statuses: dict[str, list[int]] = {}
        self.free = asyncio.Event()
        self._running = 0

    @property
    def in_flight(self) -> int:
        return self.clients + self._running

    async def answer(self, endpoint: str, body: bytes, *, owner: str) -> BatchResponse | None:
        name = json.loads(body)["messages"][0]["content"]
        self.started.append(name)
        self._running += 1
        await self.free.wait()
        self._running -= 1
        return BatchResponse((self.statuses.get(name) or [200]).pop(0), "req-1", b"{}", 0.0)


async def run_batch(folder: Path, gateway: SlowGateway, *names: str, clock: Any = time.time) -> tuple[Any, Any, Any]:
    files, batches = FileStore(folder / "files", days=1, max_bytes=2**20), BatchStore(folder / "batches", clock=clock)
    lines = [chat_line(name, messages=[{"role": "user", "content": name}]) for name in names]
    file = files.add(jsonl(*lines), owner="", filename="x", purpose="batch")
    batch = batches.create(
        owner="", endpoint="/v1/chat/completions", input_file_id=file.id, window="24h", hours=24, metadata=None,
        output_seconds=None,
    )  # fmt: skip
    runner = BatchRunner(batches, files, gateway, in_flight=2, max_requests=100)
    runner.submit(batch)
    return batch, runner, files


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def test_requests_of_clients_come_before_those_of_a_batch(tmp_path: Path) -> None:
    async def check() -> None:
        gateway = SlowGateway()
        gateway.clients = 2
        batch, runner, _ = await run_batch(tmp_path, gateway, "a", "b", "c", "d")
        await until(lambda: batch.status == "in_progress")
        await asyncio.sleep(0.1)
        assert gateway.started == []
        gateway.clients = 1
        await until(lambda: gateway.started)
        assert gateway.started == ["a"]
        gateway.clients = 0
        await until(lambda: len(gateway.started) == 2)
        gateway.free.set()
        await until(lambda: batch.ended)
        assert batch.status == "completed" and batch.completed == 4
        await runner.close()

    asyncio.run(check())


def test_a_refused_request_is_repeated_and_a_failed_one_a_few_times(tmp_path: Path) -> None:
    async def check() -> None:
        gateway = SlowGateway()
        gateway.free.set()
        gateway.statuses = {"a": [429, 503, 429, 429, 429, 200], "b": [502, 500, 504, 200], "c": [502, 200]}
        batch, _, _ = await run_batch(tmp_path, gateway, "a", "b", "c")
        await until(lambda: batch.ended)
        assert (batch.completed, batch.failed) == (2, 1) and gateway.started.count("b") == 3

    asyncio.run(check())


def test_a_cancelled_batch_keeps_its_results(tmp_path: Path) -> None:
    async def check() -> None:
        gateway = SlowGateway()
        batch, _, files = await run_batch(tmp_path, gateway, "a", "b", "c")
        await until(lambda: len(gateway.started) == 2)
        batch.enter("cancelling", 1.0)
        gateway.free.set()
        await until(lambda: batch.ended)
        assert batch.status == "cancelled" and batch.completed == 2 and len(gateway.started) == 2
        assert files.find(batch.output_file_id, owner="") is not None and batch.error_file_id is None

    asyncio.run(check())


def test_the_requests_without_a_result_at_the_end_of_the_window_have_expired(tmp_path: Path) -> None:
    async def check() -> None:
        gateway, now = SlowGateway(), [0.0]
        batch, _, files = await run_batch(tmp_path, gateway, "a", "b", "c", clock=lambda: now[0])
        await until(lambda: len(gateway.started) == 2)
        now[0] = 24 * 3600 + 1
        gateway.free.set()
        await until(lambda: batch.ended)
        assert batch.status == "expired" and (batch.completed, batch.failed) == (2, 1)
        content = files.path(files.find(batch.error_file_id, owner="")).read_text()
        assert json.loads(content)["error"]["code"] == "batch_expired"

    asyncio.run(check())


def test_a_batch_continues_after_a_restart_without_repeating_its_results(tmp_path: Path) -> None:
    async def first() -> None:
        gateway = SlowGateway()
        batch, runner, _ = await run_batch(tmp_path, gateway, "a", "b", "c", "d")
        await until(lambda: len(gateway.started) == 2)
        gateway.draining = True
        gateway.free.set()
        await until(lambda: batch.completed == 2)
        await runner.close()
        assert not batch.ended

    async def second() -> None:
        gateway = SlowGateway()
        gateway.free.set()
        files, batches = FileStore(tmp_path / "files", days=1, max_bytes=2**20), BatchStore(tmp_path / "batches")
        (batch,) = batches.all(owner=None)
        with batches.results(batch, "output").open("ab") as file:
            file.write(b'{"custom_id": "c", "resp')  # the line that a crash has cut off
        BatchRunner(batches, files, gateway, in_flight=2, max_requests=100).start()
        await until(lambda: batch.ended)
        assert batch.status == "completed" and batch.completed == 4 and sorted(gateway.started) == ["c", "d"]

    asyncio.run(first())
    asyncio.run(second())


def test_results_of_an_unfinished_batch_are_read_from_complete_lines(tmp_path: Path) -> None:
    writer = ResultWriter(tmp_path / "output", tmp_path / "error")
    writer.add_response("a", status=200, request_id="req-1", body={"x": 1})
    writer.add_error("b", code="batch_expired", message="late")
    writer.close()
    again = ResultWriter(tmp_path / "output", tmp_path / "error")
    again.close()
    assert "a" in again and "b" in again and "c" not in again


def test_expired_files_are_deleted(tmp_path: Path) -> None:
    now = [100.0]
    store = FileStore(tmp_path, days=1, max_bytes=1000, clock=lambda: now[0])
    file = store.add(io.BytesIO(b"x"), owner="", filename="x", purpose="batch")
    now[0] += 86_400
    assert store.find(file.id, owner=None) is None and store.prune() == 1 and not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_batch_survives_a_killed_service(tmp_path: Path) -> None:
    model_folder(tmp_path / "m")
    requests = [chat_line(str(number), max_tokens=40, seed=number) for number in range(60)]
    with vita_serve(tmp_path, "m", "--set", "batch_in_flight=2") as (url, process):
        with client(url) as openai_client:
            batch = create_batch(openai_client, *requests)
            while not completed_requests(openai_client, batch.id):
                time.sleep(0.02)
            assert not openai_client.batches.retrieve(batch.id).output_file_id
        process.kill()
        process.wait()
    with vita_serve(tmp_path, "m") as (url, _), client(url) as openai_client:
        batch = ended(openai_client, batch.id)
        assert batch.status == "completed" and batch.request_counts.completed == 60
        assert len(lines_of(openai_client, batch.output_file_id)) == 60

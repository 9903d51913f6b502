"""A replica whose answers another program computes: the program is a served OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.server.serving import DIGEST, serving, tiny_app, tiny_engine
from vita.infer.engine import Engine
from vita.infer.request import Event, FailedEvent, FinishedEvent, GenerationRequest
from vita.infer.sampling import Sampling
from vita.server.backend_settings import BackendSettings
from vita.server.backends.completions import CompletionsClient
from vita.server.backends.programs import RunningProgram, open_program, stated_context
from vita.server.backends.remote_engine import RemoteEngine
from vita.server.backends.remote_scheduler import RemoteScheduler
from vita.server.replica.app import create_app
from vita.server.replica.request_checks import ServedModel
from vita.spine.errors import ModelError

CHAT = {"model": "cat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, "seed": 3}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny_engine(context=512)


@pytest.fixture(scope="module")
def endpoint(engine: Engine) -> Iterator[str]:
    """The URL of an endpoint with the model."""
    with serving(tiny_app(engine, rows=4, queue=16)) as url:
        yield url


@contextmanager
def program_at(url: str, engine: Engine, *, secret: str = "", **settings: Any) -> Iterator[RemoteScheduler]:
    """A scheduler over the endpoint at a URL."""
    front = RemoteEngine(engine.model.architecture, engine.tokenizer, engine.template)
    client = CompletionsClient(f"{url}/v1", engine.tokenizer, model="cat", secret=secret, read_seconds=60)
    backend = BackendSettings(program="openai", url=f"{url}/v1", **{"retry_seconds": 0.3, **settings})
    scheduler = RemoteScheduler(front, RunningProgram(backend, client), rows=2, queue=2)
    try:
        yield scheduler
    finally:
        scheduler.close()


@pytest.fixture(scope="module")
def replica(endpoint: str, engine: Engine) -> Iterator[str]:
    """The URL of a replica whose program is the endpoint."""
    with program_at(endpoint, engine) as scheduler:
        served = ServedModel(names=("cat", "cat:1"), version="cat:1", digest=DIGEST)
        with serving(create_app(scheduler, served)) as url:
            yield url


def test_the_context_of_the_program_limits_the_prompts_and_the_answers(engine: Engine) -> None:
    """The endpoint has a context of 64 tokens, and the configuration of the model states 512."""
    front = RemoteEngine(engine.model.architecture, engine.tokenizer, engine.template)
    served = ServedModel(names=("cat", "cat:1"), version="cat:1", digest=DIGEST)
    chat = {"model": "cat", "messages": [{"role": "user", "content": "Hi"}], "seed": 3}
    with serving(tiny_app(tiny_engine(context=64))) as url:
        backend = BackendSettings(program="openai", url=f"{url}/v1", model="cat")
        program = open_program(backend, cast(Any, None), front, rows=2, threads=1)
        scheduler = RemoteScheduler(front, program, rows=2, queue=2)
        with serving(create_app(scheduler, served)) as replica_url:
            answer = post(replica_url, "/v1/chat/completions", **chat)
            assert answer.status_code == 200 and answer.json()["usage"]["total_tokens"] <= 64
            too_long = post(replica_url, "/v1/completions", model="cat", prompt="x" * 100)
            assert too_long.status_code == 400 and too_long.json()["error"]["code"] == "context_length_exceeded"
            assert "64" in too_long.json()["error"]["message"]
            models = httpx.get(f"{replica_url}/v1/models", trust_env=False).json()["data"]
            assert {model["max_model_len"] for model in models} == {64}
        scheduler.close()
    rows = [{"id": "cat", "max_model_len": 2048}, {"id": "dog"}, {"id": "owl", "max_model_len": "9"}]
    assert [stated_context(rows, name) for name in ("cat", "dog", "owl", "cow")] == [2048, None, None, None]
    assert stated_context(None, "cat") is None


def post(url: str, path: str, **body: Any) -> httpx.Response:
    return httpx.post(url + path, json=body, timeout=60, trust_env=False)


def golden(engine: Engine, *texts: str) -> list[dict[str, Any]]:
    answers = []
    for text in texts:
        prompt = engine.text_ids(text)
        (answer,) = engine.generate([prompt], Sampling(temperature=0, max_tokens=8))
        answers.append({"prompt": prompt, "greedy": list(answer.ids), "logprob": sum(answer.logprobs)})
    return answers


@pytest.mark.parametrize("extra", [{}, {"n": 2}, {"logprobs": True, "top_logprobs": 2}, {"stop": ["e", "'"]}])
def test_an_answer_of_the_program_has_the_form_of_every_replica(replica: str, endpoint: str, extra: dict) -> None:
    expected = post(endpoint, "/v1/chat/completions", **CHAT, **extra, temperature=0).json()
    response = post(replica, "/v1/chat/completions", **CHAT, **extra, temperature=0).json()
    if "logprobs" in extra:
        for content in (expected, response):
            for entry in content["choices"][0]["logprobs"]["content"]:
                for row in (entry, *entry["top_logprobs"]):
                    row["logprob"] = round(row["logprob"], 3)
    assert response["choices"] == expected["choices"]
    assert response["usage"] == expected["usage"]


def test_a_stream_of_the_program_has_the_text_and_the_usage_of_the_complete_answer(replica: str) -> None:
    complete = post(replica, "/v1/completions", model="cat", prompt="Once", max_tokens=9, seed=4, temperature=0).json()
    stream = post(
        replica, "/v1/completions", model="cat", prompt="Once", max_tokens=9, seed=4, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    events = [httpx.Response(200, content=line[6:]).json() for line in stream.text.split("\n\n")[:-2]]
    assert stream.text.endswith("data: [DONE]\n\n")
    assert "".join(choice["text"] for event in events for choice in event["choices"]) == complete["choices"][0]["text"]
    assert events[-1]["usage"] == complete["usage"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/chat/completions", {"response_format": {"type": "json_object"}}, "response_format"),
        ("/v1/chat/completions", {"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ("/v1/chat/completions", {"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
        (
            "/v1/chat/completions",
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
            "tools[0].function.strict",
        ),
        ("/v1/chat/completions", {"top_k": 5}, "top_k"),
        ("/v1/chat/completions", {"min_p": 0.1}, "min_p"),
        ("/v1/completions", {"prompt": "a", "echo": True, "logprobs": 1}, "echo"),
    ],
)
def test_a_field_that_the_program_does_not_support_is_refused_by_name(
    replica: str, path: str, fields: dict, param: str
) -> None:
    body = {**CHAT, **fields} if path.endswith("chat/completions") else {"model": "cat", **fields}
    response = post(replica, path, **body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", param)
    assert "backend `openai`" in error["message"]


@pytest.mark.parametrize(
    "fields",
    [{"top_k": 5}, {"response_format": {"type": "json_object"}}, {"tools": [TOOL], "tool_choice": "required"}],
)
def test_the_tokens_of_a_request_that_the_program_does_not_support_are_not_counted(replica: str, fields: dict) -> None:
    dialogue = {"model": "cat", "messages": CHAT["messages"]}
    counted, answered = (post(replica, path, **dialogue, **fields) for path in ("/tokenize", "/v1/chat/completions"))
    assert counted.status_code == answered.status_code == 400 and counted.json() == answered.json()
    assert post(replica, "/tokenize", **dialogue).json()["count"] > 0


def test_values_without_an_effect_are_accepted_in_fields_that_the_program_does_not_have(replica: str) -> None:
    neutral = {"top_k": 0, "min_p": 0, "repetition_penalty": 1}
    answer, expected = (post(replica, "/v1/chat/completions", **CHAT, **fields).json() for fields in (neutral, {}))
    assert answer["choices"] == expected["choices"]
    response = post(replica, "/v1/chat/completions", **CHAT, **{**neutral, "repetition_penalty": 1.1})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "repetition_penalty")


def test_an_endpoint_that_does_not_respond_is_named_in_one_line(engine: Engine) -> None:
    url = "http://127.0.0.1:9"
    with program_at(url, engine) as scheduler:
        with pytest.raises(
            ModelError, match=f"backend openai at {url}/v1: the program is not available: ConnectError: "
        ):
            scheduler.run(scheduler.program.compare(golden(engine, "a")))


def test_tools_are_offered_and_reranking_is_refused_by_name(replica: str) -> None:
    assert post(replica, "/v1/chat/completions", **CHAT, tools=[TOOL]).status_code == 200
    error = post(replica, "/v1/rerank", model="cat", query="a", documents=["b"]).json()["error"]
    assert error["code"] == "unsupported_endpoint" and "/v1/embeddings" in error["message"]


def test_the_models_and_the_readiness_state_the_backend(replica: str) -> None:
    status = httpx.get(f"{replica}/ready", trust_env=False).json()
    (model, *_) = httpx.get(f"{replica}/v1/models", trust_env=False).json()["data"]
    for content in (status, model):
        assert content["bitwise_reproducible"] is False
        assert content["backend"]["program"] == "openai"
        assert "structured outputs" in content["backend"]["unsupported"]


def test_more_answers_than_places_are_refused_with_429(replica: str) -> None:
    async def ask_all() -> list[int]:
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            body = {**CHAT, "max_tokens": 30, "n": 2}
            requests = [client.post(f"{replica}/v1/chat/completions", json=body) for _ in range(5)]
            return [response.status_code for response in await asyncio.gather(*requests)]

    statuses = asyncio.run(ask_all())
    assert set(statuses) == {200, 429}
    assert post(replica, "/v1/chat/completions", **CHAT).status_code == 200


def test_a_program_with_the_model_of_the_release_conforms_and_another_one_does_not(
    endpoint: str, engine: Engine
) -> None:
    answers = golden(engine, "a cat", "Hello")
    with program_at(endpoint, engine) as scheduler:
        result = scheduler.run(scheduler.program.compare(answers))
    assert result.answers == 2 and result.difference < 1e-3
    other = tiny_engine(context=512)
    for parameter in other.model.parameters():
        parameter.data.mul_(1.3)
    with serving(tiny_app(other)) as url, program_at(url, engine) as scheduler:
        with pytest.raises(ModelError, match=r"release\.golden 1: expected .* got .*`openai` computes another model"):
            scheduler.run(scheduler.program.compare(answers))
        with pytest.raises(ModelError, match="holds no golden answers"):
            scheduler.run(scheduler.program.compare([]))


def test_a_small_difference_is_refused_with_its_figure(endpoint: str, engine: Engine) -> None:
    answers = golden(engine, "a cat")
    answers[0]["logprob"] -= 0.1 * len(answers[0]["greedy"])
    with program_at(endpoint, engine) as scheduler:
        with pytest.raises(ModelError, match=r"a difference of 0\.1000 per token"):
            scheduler.run(scheduler.program.compare(answers))
    with program_at(endpoint, engine, tolerance=0.2) as scheduler:
        assert scheduler.run(scheduler.program.compare(answers)).tolerance == 0.2


def test_an_endpoint_that_refuses_the_key_is_named_without_the_key(engine: Engine) -> None:
    with serving(tiny_app(engine, secret="another secret")) as url:
        with program_at(url, engine, secret="sk-secret-1") as scheduler:
            served = ServedModel(names=("cat",), version="cat:1", digest=DIGEST)
            with serving(create_app(scheduler, served)) as replica:
                response = post(replica, "/v1/chat/completions", **CHAT)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (500, "internal_error")
    assert "status 401" in error["message"] and "check `url`, `model` and the API key" in error["message"]
    assert "sk-secret-1" not in response.text


def test_a_request_that_is_cancelled_at_once_frees_its_place(endpoint: str, engine: Engine) -> None:
    with program_at(endpoint, engine) as scheduler:
        for _ in range(20):
            ended = threading.Event()

            def listen(event: Event, ended: threading.Event = ended) -> None:
                if isinstance(event, (FinishedEvent, FailedEvent)):
                    ended.set()

            (job,) = scheduler.submit_all([(GenerationRequest([97, 98]), listen)])
            job.cancel()
            assert ended.wait(60), "the request has no last event"
        assert scheduler.in_flight == 0


def test_embeddings_of_an_endpoint_are_those_of_its_model(replica: str, endpoint: str) -> None:
    body = {"model": "cat", "input": ["a cat", "ü"]}
    expected = [row["embedding"] for row in post(endpoint, "/v1/embeddings", **body).json()["data"]]
    answer = post(replica, "/v1/embeddings", **body).json()
    for row, vector in zip(answer["data"], expected, strict=True):
        assert row["embedding"] == pytest.approx(vector, abs=1e-6)
    assert answer["usage"]["prompt_tokens"] > 0


def test_embeddings_of_an_endpoint_without_their_route_are_refused(engine: Engine) -> None:
    async def nothing(_: Request) -> Response:
        return JSONResponse({"error": {"message": "no such route"}}, 404)

    app = Starlette(routes=[Route("/{path:path}", nothing, methods=["GET", "POST"])])
    served = ServedModel(names=("cat", "cat:1"), version="cat:1", digest=DIGEST)
    with serving(app) as url, program_at(url, engine) as scheduler, serving(create_app(scheduler, served)) as front:
        answer = post(front, "/v1/embeddings", model="cat", input="a")
    assert answer.status_code == 400 and "computes no embeddings" in answer.json()["error"]["message"]

"""Malformed requests to every route get an error of the client, and the service keeps working."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.server.serving import serving, tiny_app, tiny_engine
from tests.server.test_batches import gateway_url
from tests.server.tool_model import WEATHER
from vita.server.routes import MODEL_ROUTES, TRANSLATED_ROUTES
from vita.spine.ledger import Ledger

HI = [{"role": "user", "content": "Hi"}]
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^x+$"}}, "required": ["a"]}
TOOL_DIALOGUE = [*HI, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                 {"role": "tool", "tool_call_id": "c1", "content": "10"}]  # fmt: skip
BODIES: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {"messages": HI, "max_tokens": 1, "temperature": 1, "seed": 1, "stop": ["x"], "logit_bias": {"5": 1}, "n": 1},
        {"messages": TOOL_DIALOGUE, "tools": [WEATHER], "max_tokens": 1, "parallel_tool_calls": True},
        {"messages": HI, "tools": [WEATHER], "tool_choice": "required", "max_tokens": 2},
        {"messages": HI, "max_tokens": 1, "response_format": {
            "type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}},
        {"messages": HI, "max_tokens": 1, "structured_outputs": {"grammar": "start: \"a\""}, "min_p": 0.1},
        {"messages": HI, "max_tokens": 1, "stream": True, "stream_options": {"include_usage": True}},
        {"messages": HI, "max_tokens": 1, "chat_template_kwargs": {"x": 1}, "documents": [{"a": "b"}]},
    ],
    "/v1/completions": [{"prompt": "One", "max_tokens": 1, "logprobs": 1, "echo": True}, {"prompt": [1, 2]}],
    "/v1/embeddings": [{"input": ["one"], "dimensions": 4, "encoding_format": "float"}],
    "/v1/rerank": [{"query": "a", "documents": ["b", {"text": "c"}], "top_n": 1}],
    "/rerank": [{"query": "a", "documents": ["b"], "return_documents": True}],
    "/v1/classify": [{"input": ["a", {"text": "a", "text_pair": "b"}]}],
    "/v1/fill-mask": [{"input": "a [MASK]", "top_k": 2}],
    "/tokenize": [{"prompt": "One"}, {"messages": HI, "tools": [WEATHER]}],
    "/detokenize": [{"tokens": [1, 2]}],
    "/v1/responses": [
        {"input": "Hi", "max_output_tokens": 1, "instructions": "x", "metadata": {"a": "b"}},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}], "max_output_tokens": 1,
         "tools": [{"type": "function", **WEATHER["function"]}], "tool_choice": "required",
         "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}},
    ],
    "/v1/messages": [
        {"messages": HI, "max_tokens": 1, "system": "x", "stop_sequences": ["x"], "metadata": {"user_id": "a"}},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "max_tokens": 1,
         "tools": [{"name": "f", "input_schema": SCHEMA}], "tool_choice": {"type": "any"},
         "thinking": {"type": "enabled", "budget_tokens": 5}, "output_config": {"effort": "low"}},
    ],
    "/v1/messages/count_tokens": [{"messages": HI, "system": [{"type": "text", "text": "x"}]}],
    "/v1/batches": [{"input_file_id": "file-x", "endpoint": "/v1/embeddings", "completion_window": "24h"}],
    "/v1/feedback": [{"kind": "thumb", "request_id": "req-1", "value": 1}],
}  # fmt: skip
DEEP: Any = 0
for level in range(150):
    DEEP = [DEEP] if level % 2 else {"a": DEEP}
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 1e308, -0.0, 1e-320, 0.5, "", "x", "\x00",
    "\ud800", "é" * 300, "[" * 5000, "(a", "(?=a)b", "{" * 50, [], {}, [[]], [None], [0], [{}], {"": ""}, {"a": {}},
    DEEP, {"type": "object"}, {"type": "banana"}, {"$ref": "#"}, {"$ref": "#/$defs/x"}, {"anyOf": []}, {"enum": []},
    {"pattern": "("}, {"type": ["string", 5]}, {"minLength": -1}, {"maxItems": 0, "minItems": 3}, "auto", "text",
    [["a", "b"]], list(range(200)), "<|im_end|>", "<think>", "{% raw %}", "data:image/png;base64,AAAA", "file-x",
]  # fmt: skip


def places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a body with each of its keys."""
    if isinstance(value, (dict, list)) and depth < 12:
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key], depth + 1)


def mutate(body: dict[str, Any], choose: random.Random) -> bytes:
    """Change a few values of a body, or the bytes of its text."""
    body = copy.deepcopy(body)
    for _ in range(choose.choice((1, 1, 1, 2, 3))):
        container, key = choose.choice(list(places(body)))
        match choose.randrange(6):
            case 0:
                del container[key]
            case 1 if isinstance(container, dict):
                container[choose.choice(("x", "", "type", "stream", "n", "model", "strict", "name"))] = container[key]
            case 2 if isinstance(container, list):
                container.extend([container[key]] * choose.choice((1, 5, 200)))
            case _:
                container[key] = copy.deepcopy(choose.choice(VALUES))
        if not list(places(body)):
            break
    text = json.dumps(body, allow_nan=True).encode()
    match choose.randrange(12):
        case 0:
            return text[: choose.randrange(len(text) + 1)]
        case 1:
            position = choose.randrange(len(text) + 1)
            return text[:position] + choose.randbytes(choose.choice((1, 3))) + text[position:]
        case 2:
            return choose.choice((b"", b"[", b"null", b"[]", b'"x"', b"{}" * 3, b"\xff\xfe{}", b'{"a": NaN}', b"1e999"))
        case _:
            return text


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("service")
    ledger = Ledger(folder / "ledger.db")
    with serving(tiny_app(tiny_engine(context=1024), queue=64)) as replica, gateway_url(replica, folder, ledger) as url:
        yield url
    ledger.close()


def check(response: httpx.Response, request: object) -> None:
    """Check that a response is not a fault of the server, and that an error has the fields of an error."""
    assert response.status_code < 500, (request, response.text[:500])
    if response.status_code >= 400:
        error = response.json()["error"]
        assert error["message"] and error["type"], (request, response.text[:500])


def check_service(http: httpx.Client) -> None:
    """Check that the service still answers."""
    assert http.get("/ready").status_code == 200
    answer = http.post("/v1/chat/completions", json={"model": "cat", "messages": HI, "max_tokens": 1})
    assert answer.status_code == 200, answer.text


def test_every_route_with_a_body_is_covered() -> None:
    paths = {route.path for route in (*MODEL_ROUTES, *TRANSLATED_ROUTES) if route.request is not None}
    assert paths <= BODIES.keys()


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_malformed_bodies_never_fail_the_service(service: str, count: int) -> None:
    choose = random.Random(count)
    paths = sorted(BODIES)
    with httpx.Client(base_url=service, timeout=60, trust_env=False) as http:
        for number in range(count):
            path = paths[number % len(paths)]
            body = {"model": "cat", **choose.choice(BODIES[path])}
            content = mutate(body, choose)
            response = http.post(path, content=content, headers={"content-type": "application/json"})
            check(response, (path, content[:2000]))
        check_service(http)


@pytest.mark.slow
def test_malformed_uploads_and_inputs_of_batches_never_fail_the_service(service: str) -> None:
    choose = random.Random(1)
    form = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\nContent-Disposition: form-data; '
        b'name="file"; filename="x"\r\nContent-Type: application/jsonl\r\n\r\nLINES\r\n--b--\r\n'
    )
    lines = [{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "cat", "input": "x"}}]
    with httpx.Client(base_url=service, timeout=60, trust_env=False) as http:
        for number in range(600):
            content = b"\n".join(mutate(line, choose) for line in lines)
            upload = form.replace(b"LINES", content)
            if number % 2:
                position = choose.randrange(len(upload))
                upload = upload[:position] + choose.randbytes(2) + upload[position + choose.randrange(30) :]
            kind = choose.choice(("multipart/form-data; boundary=b",) * 4 + ("multipart/form-data", "text/plain", ""))
            response = http.post("/v1/files", content=upload, headers={"content-type": kind})
            check(response, (kind, upload))
            if response.status_code == 200:
                id = response.json()["id"]
                batch = {"input_file_id": id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
                response = http.post("/v1/batches", json=batch)
                check(response, content)
                if response.status_code == 200:
                    check(http.post(f"/v1/batches/{response.json()['id']}/cancel"), content)
                check(http.get(f"/v1/files/{id}/content"), content)
        for path in (
            "/v1/files",
            "/v1/batches",
            "/v1/files/x",
            "/v1/batches/%00",
            "/v1/files/..%2f..",
            "/v1/models/%ff",
        ):
            for query in ("", "?limit=9e9", "?after=%00", "?order=%F0", "?x=" + "y" * 3000, "?limit=٣"):
                check(http.get(path + query), path + query)
        check_service(http)


def test_the_bodies_of_this_test_are_valid(service: str) -> None:
    with httpx.Client(base_url=service, timeout=60, trust_env=False) as http:
        for path, bodies in BODIES.items():
            for body in bodies:
                check(http.post(path, json={"model": "cat", **body}), (path, body))

"""The official client gets answers in OpenAI's format, and no input stops the server."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.server.serving import DIGEST, serving, tiny_app, tiny_engine
from vita.infer.content_filter import ContentFilter
from vita.infer.sampling import Sampling
from vita.infer.scheduler import Scheduler
from vita.server.replica.replica_auth import SECRET_HEADER

HI: list[Any] = [{"role": "user", "content": "hi"}]
FOREVER = {"65": 100}
"""A bias that makes an answer continue to its limit."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(tiny_app()) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=60) as http:
        yield http


def figure(http: httpx.Client, name: str, **labels: str) -> float:
    """Return the sum of a figure over all its series with these labels."""
    total = 0.0
    for line in http.get("/metrics").text.splitlines():
        if line.startswith(f"{name}{{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            total += float(line.rpartition(" ")[2])
    return total


def wait_for(condition: Any, *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.02)


# -- chat


def test_a_chat_is_answered_with_choices_usage_and_fingerprint(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="cat", messages=HI, seed=1, max_tokens=6, n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].message.role == "assistant"
    assert {choice.finish_reason for choice in answer.choices} <= {"stop", "length"}
    assert answer.system_fingerprint == DIGEST[:12]
    assert answer.model == "cat"
    assert answer.usage is not None
    prompt = len("user\nhi\nassistant\n") + 3  # three special tokens
    assert answer.usage.prompt_tokens == prompt
    assert answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == prompt + answer.usage.completion_tokens


def test_the_same_seed_gives_the_same_answer_and_no_seed_a_random_one(client: openai.OpenAI) -> None:
    def sample_text(**options: Any) -> str | None:
        return (
            client.chat.completions.create(model="cat", messages=HI, max_tokens=8, **options).choices[0].message.content
        )

    assert sample_text(seed=-5) == sample_text(seed=-5, max_completion_tokens=8) == sample_text(seed=-5, user="ann")
    assert len({sample_text(seed=seed) for seed in (5, -5, 6)}) == 3
    assert len({sample_text() for _ in range(3)}) > 1
    engine = tiny_engine()
    expected = engine.generate(
        [engine.text_ids("hi")[1:]], Sampling(seed=9, max_tokens=8, temperature=0.5, top_p=0.9, stop=("zz",))
    )[0]
    completion = client.completions.create(
        model="cat", prompt="hi", seed=9, max_tokens=8, temperature=0.5, top_p=0.9, stop="zz"
    )
    assert completion.choices[0].text == expected.text


def test_a_streamed_chat_equals_the_chat_without_streaming(client: openai.OpenAI) -> None:
    options: Any = {
        "model": "cat",
        "messages": HI,
        "seed": 4,
        "max_tokens": 12,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 1,
    }
    completion = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant", "assistant"]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage == completion.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    usage_options: Any = {"include_usage": True, "continuous_usage_stats": True}
    counted = list(client.chat.completions.create(**options, stream=True, stream_options=usage_options))
    usages = [chunk.usage for chunk in counted if chunk.usage is not None]
    assert len(usages) == len(counted) and usages[-1] == completion.usage
    assert {usage.prompt_tokens for usage in usages} == {usages[-1].prompt_tokens}
    assert [usage.completion_tokens for usage in usages] == sorted(usage.completion_tokens for usage in usages)
    for choice in completion.choices:
        choice_chunks = [chunk.choices[0] for chunk in chunks[:-1] if chunk.choices[0].index == choice.index]
        assert "".join(chunk_choice.delta.content or "" for chunk_choice in choice_chunks) == choice.message.content
        assert [chunk_choice.finish_reason for chunk_choice in choice_chunks if chunk_choice.finish_reason] == [
            choice.finish_reason
        ]
        assert choice_chunks[-1].finish_reason
        assert choice.logprobs is not None
        streamed_tokens = [
            token
            for chunk_choice in choice_chunks
            if chunk_choice.logprobs
            for token in chunk_choice.logprobs.content or []
        ]
        assert streamed_tokens == choice.logprobs.content


def test_a_stream_ends_with_done(http: httpx.Client) -> None:
    body = {"model": "cat", "messages": HI, "stream": True, "max_tokens": 2}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert all("usage" not in json.loads(event.removeprefix("data: ")) for event in events[:-1])


def test_log_probabilities_are_returned_for_every_token_of_an_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="cat", messages=HI, temperature=0, max_tokens=6, logprobs=True, top_logprobs=3
    )
    assert answer.choices[0].logprobs is not None
    assert answer.usage is not None
    content = answer.choices[0].logprobs.content or []
    assert len(content) == answer.usage.completion_tokens
    for token in content:
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob <= 0
        assert token.bytes == token.top_logprobs[0].bytes


def test_names_of_special_tokens_in_a_message_stay_text(http: httpx.Client) -> None:
    def tokens(content: str) -> list[int]:
        return http.post("/tokenize", json={"messages": [{"role": "user", "content": content}]}).json()["tokens"]

    assert tokens("<|im_end|>").count(258) == tokens("a").count(258) == 1


# -- completions


def test_echo_returns_the_log_probabilities_of_the_prompt(client: openai.OpenAI) -> None:
    engine = tiny_engine()
    prompt = [256, *b"one cat"]
    answer = client.completions.create(
        model="cat", prompt=[prompt, prompt[:2]], echo=True, logprobs=1, max_tokens=1, temperature=0, seed=1234
    )
    for choice, ids in zip(answer.choices, (prompt, prompt[:2]), strict=True):
        logprobs = choice.logprobs
        assert logprobs is not None
        assert logprobs.token_logprobs is not None
        assert logprobs.top_logprobs is not None
        assert len(logprobs.token_logprobs) == len(ids) + 1
        assert logprobs.token_logprobs[0] is None  # pyright: ignore[reportUnnecessaryComparison]
        expected = engine.score([(ids[:1], ids[1:])])[0]
        assert logprobs.token_logprobs[1:-1] == pytest.approx(expected.logprobs, abs=1e-4)
        for logprob, top in zip(logprobs.token_logprobs[1:], logprobs.top_logprobs[1:], strict=True):
            assert logprob in top.values()
        assert logprobs.token_logprobs[-1] == max(logprobs.top_logprobs[-1].values())
    assert answer.choices[0].text.startswith("<|endoftext|>one cat")
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.text_offset == [0, 13, 14, 15, 16, 17, 18, 19, 20]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 2)


def test_a_prompt_may_be_scored_without_an_answer(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="cat", prompt="cat", echo=True, logprobs=0, max_tokens=0)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == ("cat", "length")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["c", "a", "t"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


def test_each_prompt_of_a_list_gets_n_answers_in_order(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="cat", prompt=["a", "b"], n=2, seed=3, max_tokens=4, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text[0] for choice in answer.choices] == ["a", "a", "b", "b"]
    single_answer = client.completions.create(model="cat", prompt="b", n=2, seed=3, max_tokens=4, echo=True)
    assert [choice.text for choice in answer.choices[2:]] == [choice.text for choice in single_answer.choices]


def test_streamed_completions_equal_those_without_streaming(client: openai.OpenAI) -> None:
    options: Any = {"model": "cat", "prompt": [[97, 98], [99]], "seed": 3, "max_tokens": 6, "echo": True, "logprobs": 1}
    completion = client.completions.create(**options)
    chunks = list(client.completions.create(**options, stream=True))
    for choice in completion.choices:
        choice_chunks = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == choice.index]
        assert "".join(chunk_choice.text for chunk_choice in choice_chunks) == choice.text
        assert choice_chunks[-1].finish_reason == choice.finish_reason
        assert choice.logprobs is not None
        offsets = [
            offset
            for chunk_choice in choice_chunks
            if chunk_choice.logprobs
            for offset in chunk_choice.logprobs.text_offset or []
        ]
        assert offsets == choice.logprobs.text_offset


def test_an_empty_prompt_starts_a_document(client: openai.OpenAI) -> None:
    empty_prompt = client.completions.create(model="cat", prompt="", seed=1, max_tokens=5)
    document_token = client.completions.create(model="cat", prompt=[256], seed=1, max_tokens=5)
    special_token_text = client.completions.create(model="cat", prompt="<|endoftext|>", seed=1, max_tokens=5)
    assert empty_prompt.choices[0].text == document_token.choices[0].text == special_token_text.choices[0].text


def test_biases_and_stop_texts_apply_to_the_answer(client: openai.OpenAI) -> None:
    options: Any = {"model": "cat", "prompt": "x", "max_tokens": 9, "logit_bias": FOREVER}
    assert client.completions.create(**options).choices[0].text == "A" * 9
    completion = client.completions.create(**options, stop=["AAAA", "zz"])
    assert (completion.choices[0].text, completion.choices[0].finish_reason) == ("", "stop")
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 4


def test_an_answer_ends_where_the_context_is_full(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="cat", prompt="x" * 120, max_tokens=500, logit_bias=FOREVER)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("A" * 8, "length")


# -- embeddings, models, tokens


def test_embeddings_are_unit_vectors_in_both_encodings(client: openai.OpenAI, http: httpx.Client) -> None:
    base64_embeddings = client.embeddings.create(model="cat", input=["a", "a cat"])
    float_embeddings = http.post("/v1/embeddings", json={"model": "cat", "input": [[97], [*b"a cat"]]}).json()
    for item, expected in zip(base64_embeddings.data, float_embeddings["data"], strict=True):
        assert item.embedding == pytest.approx(expected["embedding"], abs=1e-6)
        assert sum(value**2 for value in item.embedding) == pytest.approx(1, abs=1e-5)
    assert base64_embeddings.usage.prompt_tokens == float_embeddings["usage"]["total_tokens"] == 6


def test_models_are_listed_and_unknown_models_are_not_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["cat", "cat:1"]
    assert client.models.retrieve("cat:1").owned_by == "vita"
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("dog")
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="dog", messages=HI)
    assert error.value.param == "model"


def test_detokenize_restores_the_tokenized_text(http: httpx.Client) -> None:
    text = "a <|im_end|> ☃"
    tokenized = http.post(
        "/tokenize", json={"prompt": text, "add_special_tokens": False, "return_token_strs": True}
    ).json()
    assert tokenized["tokens"] == [97, 32, 258, 32, *"☃".encode()]
    assert (tokenized["count"], tokenized["max_model_len"]) == (7, 128)
    assert tokenized["token_strs"][2:5] == ["<|im_end|>", " ", "bytes:\\xe2"]
    assert http.post("/detokenize", json={"tokens": tokenized["tokens"]}).json() == {"prompt": text}
    info = http.get("/tokenizer_info").json()
    assert (info["bos_token"], info["pad_token"]) == ("<|endoftext|>", "<|endoftext|>")
    assert "im_start" in info["chat_template"]


# -- refusals


def test_a_prompt_that_is_too_long_is_refused_with_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="cat", prompt="x" * 128)
    assert error.value.code == "context_length_exceeded"
    assert "maximum context length is 128 tokens" in error.value.message
    assert "128 tokens" in error.value.message
    with pytest.raises(openai.BadRequestError, match="at least"):
        client.chat.completions.create(model="cat", messages=[{"role": "user", "content": "x" * 10_000}])


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/chat/completions", {"model": "cat", "messages": HI, "tools": [{}]}, 400, "tools[0].function"),
        ("/v1/chat/completions", {"model": "cat", "messages": HI, "foo": 1}, 400, "foo"),
        ("/v1/completions", {"model": "cat", "prompt": [300]}, 400, "prompt"),
        ("/v1/completions", {"model": "cat", "prompt": [[]]}, 400, "prompt"),
        ("/v1/completions", {"model": "cat", "prompt": ["a"] * 21}, 400, "n"),
        ("/v1/completions", {"model": "cat", "prompt": "a", "logit_bias": {"999": 1}}, 400, "logit_bias"),
        ("/v1/completions", {"prompt": "a"}, 400, "model"),
        ("/v1/embeddings", {"model": "cat", "input": "x" * 129}, 400, "input"),
        ("/detokenize", {"tokens": [259]}, 400, "tokens"),
        ("/nothing", {}, 404, None),
        ("/v1/models", {}, 405, None),
    ],
)
def test_errors_have_the_format_of_openai(
    http: httpx.Client, path: str, body: dict[str, Any], status: int, param: str | None
) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert answer.headers["x-request-id"]


def test_bodies_that_are_too_long_or_not_json_are_refused(http: httpx.Client) -> None:
    assert http.post("/v1/completions", content=b"x" * 1_000_001).status_code == 413
    answer = http.post("/v1/completions", content=(b"x" * 100_000 for _ in range(11)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    for body in (b"", b"{", b"[" * 50_000, b'{"model": "\\ud800"}', b"\xff"):
        assert http.post("/v1/chat/completions", content=body).status_code == 400
    unusual_request = {"model": "cat", "prompt": "\x00\u202e\U0001f600\uffff", "max_tokens": 1}
    assert http.post("/v1/completions", json=unusual_request).status_code == 200


def test_a_valid_request_id_is_returned_and_an_invalid_one_replaced(http: httpx.Client) -> None:
    assert http.get("/health", headers={"x-request-id": "mine-7"}).headers["x-request-id"] == "mine-7"
    new_id = http.get("/health", headers={"x-request-id": "a b"}).headers["x-request-id"]
    assert new_id.startswith("req-")


def test_a_slow_body_gets_408() -> None:
    with (
        serving(tiny_app(body_seconds=0.2)) as url,
        socket.create_connection(("127.0.0.1", int(url[-5:]))) as connection,
    ):
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
        assert connection.recv(12) == b"HTTP/1.1 408"


# -- concurrency, disconnects, draining


def test_concurrent_requests_get_the_same_answers_as_single_requests(client: openai.OpenAI) -> None:
    def ask(seed: int) -> tuple[Any, Any]:
        answer = client.chat.completions.create(
            model="cat", messages=[{"role": "user", "content": "cat " * (seed % 5)}], seed=seed, max_tokens=10,
            logprobs=True, temperature=1.3, top_p=0.9,
        )  # fmt: skip
        return answer.choices[0].message.content, answer.choices[0].logprobs

    single_answers = [ask(seed) for seed in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == single_answers


def test_a_request_to_a_full_queue_gets_429_with_retry_after() -> None:
    app = tiny_app(rows=1, queue=1)
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        body = {"model": "cat", "prompt": "a", "max_tokens": 100, "logit_bias": FOREVER}
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: http.post("/v1/completions", json=body), range(6)))
        statuses = sorted(answer.status_code for answer in answers)
        assert set(statuses) == {200, 429}
        rejected_answer = next(answer for answer in answers if answer.status_code == 429)
        assert int(rejected_answer.headers["retry-after"]) >= 1
        assert rejected_answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert figure(http, "vita_admission_rejections_total", reason="requests") == statuses.count(429)
        large_request_answer = http.post("/v1/completions", json={**body, "n": 3})
        assert (large_request_answer.status_code, large_request_answer.json()["error"]["param"]) == (400, "n")


@pytest.mark.parametrize("stream", [False, True])
def test_generation_stops_when_the_client_disconnects(stream: bool) -> None:
    app = tiny_app(tiny_engine(context=4096), rows=1)
    scheduler: Scheduler = app.state.replica.scheduler
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        body = {"model": "cat", "prompt": "a", "max_tokens": 4000, "logit_bias": FOREVER, "stream": stream}
        text = json.dumps(body).encode()
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)
            )
            wait_for(lambda: scheduler.running == 1)
            if stream:
                connection.recv(100)
        wait_for(lambda: scheduler.in_flight == 0)
        wait_for(lambda: figure(http, "vita_request_finished_total", finish_reason="cancelled") == 1)
        assert figure(http, "vita_generation_tokens_total") < 4000


def test_a_draining_replica_finishes_its_requests_and_refuses_new_ones() -> None:
    with serving(tiny_app()) as url, httpx.Client(base_url=url, timeout=60) as http:
        body = {"model": "cat", "prompt": "a", "max_tokens": 90, "logit_bias": FOREVER}
        responses: list[httpx.Response] = []
        request_thread = threading.Thread(
            target=lambda: responses.append(httpx.post(f"{url}/v1/completions", json=body, timeout=60))
        )
        request_thread.start()
        wait_for(lambda: figure(http, "vita_requests_running") == 1)
        assert http.get("/ready").status_code == 200
        assert http.post("/drain").json()["draining"] is True
        for answer in (http.get("/ready"), http.post("/v1/completions", json=body)):
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert answer.json()["error"]["code"] == "draining"
        assert http.get("/health").status_code == 200
        request_thread.join(60)
        assert responses[0].json()["choices"][0]["text"] == "A" * 90


def test_a_replica_with_a_secret_answers_only_health_checks_without_it() -> None:
    with serving(tiny_app(secret="s" * 43)) as url, httpx.Client(base_url=url, timeout=60) as http:
        for method, path in (("POST", "/drain"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/nothing")):
            for headers in ({}, {SECRET_HEADER: "S" * 43}, {SECRET_HEADER: "s" * 42}):
                response = http.request(method, path, headers=headers)
                assert (response.status_code, response.json()["error"]["code"]) == (401, "sealed")
                assert response.headers["x-request-id"]
        assert http.get("/health").status_code == 200
        assert http.get("/ready", headers={SECRET_HEADER: "s" * 43}).status_code == 200


def test_a_replica_without_a_model_is_alive_and_not_ready() -> None:
    app = tiny_app()
    app.state.replica.scheduler.close()
    app.state.replica.scheduler = None
    with serving(app) as url, httpx.Client(base_url=url) as http:
        assert http.get("/health").status_code == 200
        assert http.get("/ready").json()["error"]["code"] == "loading"
        assert http.post("/v1/completions", json={"model": "cat", "prompt": "a"}).status_code == 503
        assert http.get("/metrics").status_code == 200


def test_an_internal_error_is_a_500_for_its_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    app = tiny_app()
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        body = {"model": "cat", "prompt": "a", "max_tokens": 4, "logit_bias": FOREVER}
        with monkeypatch.context() as patch:
            patch.setattr("vita.infer.batch.GenerationBatch.step", lambda self: 1 / 0)
            error_answer = http.post("/v1/completions", json=body)
            streamed_answer = http.post("/v1/completions", json={**body, "stream": True})
        assert (error_answer.status_code, error_answer.json()["error"]["type"]) == (500, "server_error")
        assert "error" in json.loads(streamed_answer.text.strip().split("\n\n")[-1].removeprefix("data: "))
        assert http.post("/v1/completions", json=body).json()["choices"][0]["text"] == "AAAA"


# -- the content filter


def test_a_replica_with_a_content_filter_refuses_prompts_and_answers() -> None:
    guard = ContentFilter(words=("poison",), output_words=("AAAA",), refusal="No.")
    with serving(tiny_app(guard=guard)) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="-") as client:
        messages: Any = [{"role": "user", "content": "a poison"}]
        refusal = client.chat.completions.create(model="cat", messages=messages, max_tokens=5)
        assert (refusal.choices[0].message.content, refusal.choices[0].finish_reason) == ("No.", "content_filter")
        assert refusal.usage is not None
        assert refusal.usage.completion_tokens == 0
        chunks = list(client.chat.completions.create(model="cat", messages=messages, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "No."
        assert chunks[-1].choices[0].finish_reason == "content_filter"
        completion = client.completions.create(model="cat", prompt="x", max_tokens=40, logit_bias={"65": 100})
        assert (completion.choices[0].text, completion.choices[0].finish_reason) == ("x" * 0 + "A" * 40, "length")
        completion = client.completions.create(model="cat", prompt="x", max_tokens=4, logit_bias={"65": 100})
        assert (completion.choices[0].text, completion.choices[0].finish_reason) == ("No.", "content_filter")
        stream = client.completions.create(model="cat", prompt="x", max_tokens=4, logit_bias={"65": 100}, stream=True)
        stream_chunks = list(stream)
        assert "".join(chunk.choices[0].text for chunk in stream_chunks) == "No."
        assert stream_chunks[-1].choices[0].finish_reason == "content_filter"
        allowed_completion = client.completions.create(model="cat", prompt="y", max_tokens=3, logit_bias={"66": 100})
        assert allowed_completion.choices[0].text == "BBB"

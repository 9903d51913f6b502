"""The official client is answered as OpenAI answers it; whatever is sent, the server lives and says what is wrong."""

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
"""A bias that lets an answer go on to its limit."""


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
    """The value of a figure, over all labels but those given."""
    found = 0.0
    for line in http.get("/metrics").text.splitlines():
        if line.startswith(f"{name}{{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            found += float(line.rpartition(" ")[2])
    return found


def wait_for(condition: Any, *, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing came of it"
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


def test_the_same_seed_is_the_same_answer_and_no_seed_is_chance(client: openai.OpenAI) -> None:
    def said(**how: Any) -> str | None:
        return client.chat.completions.create(model="cat", messages=HI, max_tokens=8, **how).choices[0].message.content

    assert said(seed=-5) == said(seed=-5, max_completion_tokens=8) == said(seed=-5, user="ann")
    assert len({said(seed=seed) for seed in (5, -5, 6)}) == 3
    assert len({said() for _ in range(3)}) > 1
    engine = tiny_engine()
    expected = engine.generate(
        [engine.text_ids("hi")[1:]], Sampling(seed=9, max_tokens=8, temperature=0.5, top_p=0.9, stop=("zz",))
    )[0]
    found = client.completions.create(
        model="cat", prompt="hi", seed=9, max_tokens=8, temperature=0.5, top_p=0.9, stop="zz"
    )
    assert found.choices[0].text == expected.text


def test_a_streamed_chat_is_the_whole_one_in_pieces(client: openai.OpenAI) -> None:
    how: Any = {
        "model": "cat",
        "messages": HI,
        "seed": 4,
        "max_tokens": 12,
        "n": 2,
        "logprobs": True,
        "top_logprobs": 1,
    }
    whole = client.chat.completions.create(**how)
    chunks = list(client.chat.completions.create(**how, stream=True, stream_options={"include_usage": True}))
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant", "assistant"]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    for choice in whole.choices:
        own = [chunk.choices[0] for chunk in chunks[:-1] if chunk.choices[0].index == choice.index]
        assert "".join(one.delta.content or "" for one in own) == choice.message.content
        assert [one.finish_reason for one in own if one.finish_reason] == [choice.finish_reason]
        assert own[-1].finish_reason
        assert choice.logprobs is not None
        streamed = [token for one in own if one.logprobs for token in one.logprobs.content or []]
        assert streamed == choice.logprobs.content


def test_a_stream_ends_with_done(http: httpx.Client) -> None:
    body = {"model": "cat", "messages": HI, "stream": True, "max_tokens": 2}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert all("usage" not in json.loads(event.removeprefix("data: ")) for event in events[:-1])


def test_log_probabilities_are_told_for_every_token_of_an_answer(client: openai.OpenAI) -> None:
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


def test_echo_tells_the_prompts_own_log_probabilities(client: openai.OpenAI) -> None:
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
        for own, top in zip(logprobs.token_logprobs[1:], logprobs.top_logprobs[1:], strict=True):
            assert own in top.values()
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


def test_prompts_in_a_list_are_answered_each_n_times_in_order(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="cat", prompt=["a", "b"], n=2, seed=3, max_tokens=4, echo=True)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text[0] for choice in answer.choices] == ["a", "a", "b", "b"]
    alone = client.completions.create(model="cat", prompt="b", n=2, seed=3, max_tokens=4, echo=True)
    assert [choice.text for choice in answer.choices[2:]] == [choice.text for choice in alone.choices]


def test_streamed_completions_are_the_whole_ones(client: openai.OpenAI) -> None:
    how: Any = {"model": "cat", "prompt": [[97, 98], [99]], "seed": 3, "max_tokens": 6, "echo": True, "logprobs": 1}
    whole = client.completions.create(**how)
    chunks = list(client.completions.create(**how, stream=True))
    for choice in whole.choices:
        own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == choice.index]
        assert "".join(one.text for one in own) == choice.text
        assert own[-1].finish_reason == choice.finish_reason
        assert choice.logprobs is not None
        offsets = [at for one in own if one.logprobs for at in one.logprobs.text_offset or []]
        assert offsets == choice.logprobs.text_offset


def test_an_empty_prompt_begins_a_document(client: openai.OpenAI) -> None:
    empty = client.completions.create(model="cat", prompt="", seed=1, max_tokens=5)
    document = client.completions.create(model="cat", prompt=[256], seed=1, max_tokens=5)
    named = client.completions.create(model="cat", prompt="<|endoftext|>", seed=1, max_tokens=5)
    assert empty.choices[0].text == document.choices[0].text == named.choices[0].text


def test_biases_and_stops_reach_the_answer(client: openai.OpenAI) -> None:
    how: Any = {"model": "cat", "prompt": "x", "max_tokens": 9, "logit_bias": FOREVER}
    assert client.completions.create(**how).choices[0].text == "A" * 9
    stopped = client.completions.create(**how, stop=["AAAA", "zz"])
    assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == ("", "stop")
    assert stopped.usage is not None
    assert stopped.usage.completion_tokens == 4


def test_an_answer_ends_where_the_context_is_full(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="cat", prompt="x" * 120, max_tokens=500, logit_bias=FOREVER)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("A" * 8, "length")


# -- embeddings, models, tokens


def test_embeddings_are_unit_vectors_in_both_encodings(client: openai.OpenAI, http: httpx.Client) -> None:
    packed = client.embeddings.create(model="cat", input=["a", "a cat"])
    plain = http.post("/v1/embeddings", json={"model": "cat", "input": [[97], [*b"a cat"]]}).json()
    for one, other in zip(packed.data, plain["data"], strict=True):
        assert one.embedding == pytest.approx(other["embedding"], abs=1e-6)
        assert sum(value**2 for value in one.embedding) == pytest.approx(1, abs=1e-5)
    assert packed.usage.prompt_tokens == plain["usage"]["total_tokens"] == 6


def test_models_are_listed_and_others_not_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["cat", "cat:1"]
    assert client.models.retrieve("cat:1").owned_by == "vita"
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("dog")
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="dog", messages=HI)
    assert error.value.param == "model"


def test_tokens_go_there_and_back(http: httpx.Client) -> None:
    text = "a <|im_end|> ☃"
    found = http.post("/tokenize", json={"prompt": text, "add_special_tokens": False, "return_token_strs": True}).json()
    assert found["tokens"] == [97, 32, 258, 32, *"☃".encode()]
    assert (found["count"], found["max_model_len"]) == (7, 128)
    assert found["token_strs"][2:5] == ["<|im_end|>", " ", "bytes:\\xe2"]
    assert http.post("/detokenize", json={"tokens": found["tokens"]}).json() == {"prompt": text}
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
def test_refusals_come_in_openais_form(
    http: httpx.Client, path: str, body: dict[str, Any], status: int, param: str | None
) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert answer.headers["x-request-id"]


def test_bodies_that_are_too_long_or_no_json_are_refused(http: httpx.Client) -> None:
    assert http.post("/v1/completions", content=b"x" * 1_000_001).status_code == 413
    answer = http.post("/v1/completions", content=(b"x" * 100_000 for _ in range(11)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    for body in (b"", b"{", b"[" * 50_000, b'{"model": "\\ud800"}', b"\xff"):
        assert http.post("/v1/chat/completions", content=body).status_code == 400
    odd = {"model": "cat", "prompt": "\x00\u202e\U0001f600\uffff", "max_tokens": 1}
    assert http.post("/v1/completions", json=odd).status_code == 200


def test_a_request_id_is_kept_or_given(http: httpx.Client) -> None:
    assert http.get("/health", headers={"x-request-id": "mine-7"}).headers["x-request-id"] == "mine-7"
    given = http.get("/health", headers={"x-request-id": "a b"}).headers["x-request-id"]
    assert given.startswith("req-")


def test_a_slow_body_is_not_waited_for_forever() -> None:
    with serving(tiny_app(body_seconds=0.2)) as url, socket.create_connection(("127.0.0.1", int(url[-5:]))) as slow:
        slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
        assert slow.recv(12) == b"HTTP/1.1 408"


# -- a crowd, leaving, draining


def test_a_crowd_gets_what_each_would_get_alone(client: openai.OpenAI) -> None:
    def ask(seed: int) -> tuple[Any, Any]:
        answer = client.chat.completions.create(
            model="cat", messages=[{"role": "user", "content": "cat " * (seed % 5)}], seed=seed, max_tokens=10,
            logprobs=True, temperature=1.3, top_p=0.9,
        )  # fmt: skip
        return answer.choices[0].message.content, answer.choices[0].logprobs

    alone = [ask(seed) for seed in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == alone


def test_a_full_queue_is_429_with_retry_after() -> None:
    app = tiny_app(rows=1, queue=1)
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        body = {"model": "cat", "prompt": "a", "max_tokens": 100, "logit_bias": FOREVER}
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: http.post("/v1/completions", json=body), range(6)))
        statuses = sorted(answer.status_code for answer in answers)
        assert set(statuses) == {200, 429}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert figure(http, "vita_admission_rejections_total", reason="requests") == statuses.count(429)
        too_many = http.post("/v1/completions", json={**body, "n": 3})
        assert (too_many.status_code, too_many.json()["error"]["param"]) == (400, "n")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_not_calculated_for(stream: bool) -> None:
    app = tiny_app(tiny_engine(context=4096), rows=1)
    scheduler: Scheduler = app.state.replica.scheduler
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        body = {"model": "cat", "prompt": "a", "max_tokens": 4000, "logit_bias": FOREVER, "stream": stream}
        text = json.dumps(body).encode()
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as leaving:
            leaving.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text)
            )
            wait_for(lambda: scheduler.running == 1)
            if stream:
                leaving.recv(100)
        wait_for(lambda: scheduler.in_flight == 0)
        wait_for(lambda: figure(http, "vita_request_finished_total", finish_reason="cancelled") == 1)
        assert figure(http, "vita_generation_tokens_total") < 4000


def test_a_drained_replica_finishes_what_it_has_and_takes_no_more() -> None:
    with serving(tiny_app()) as url, httpx.Client(base_url=url, timeout=60) as http:
        body = {"model": "cat", "prompt": "a", "max_tokens": 90, "logit_bias": FOREVER}
        found: list[httpx.Response] = []
        running = threading.Thread(
            target=lambda: found.append(httpx.post(f"{url}/v1/completions", json=body, timeout=60))
        )
        running.start()
        wait_for(lambda: figure(http, "vita_requests_running") == 1)
        assert http.get("/ready").status_code == 200
        assert http.post("/drain").json()["draining"] is True
        for answer in (http.get("/ready"), http.post("/v1/completions", json=body)):
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert answer.json()["error"]["code"] == "draining"
        assert http.get("/health").status_code == 200
        running.join(60)
        assert found[0].json()["choices"][0]["text"] == "A" * 90


def test_a_replica_with_a_secret_tells_strangers_only_that_it_is_alive() -> None:
    with serving(tiny_app(secret="s" * 43)) as url, httpx.Client(base_url=url, timeout=60) as http:
        for method, path in (("POST", "/drain"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/nothing")):
            for headers in ({}, {SECRET_HEADER: "S" * 43}, {SECRET_HEADER: "s" * 42}):
                refused = http.request(method, path, headers=headers)
                assert (refused.status_code, refused.json()["error"]["code"]) == (401, "sealed")
                assert refused.headers["x-request-id"]
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


def test_a_fault_is_a_500_for_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    app = tiny_app()
    with serving(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        body = {"model": "cat", "prompt": "a", "max_tokens": 4, "logit_bias": FOREVER}
        with monkeypatch.context() as patch:
            patch.setattr("vita.infer.batch.GenerationBatch.step", lambda self: 1 / 0)
            failed = http.post("/v1/completions", json=body)
            streamed = http.post("/v1/completions", json={**body, "stream": True})
        assert (failed.status_code, failed.json()["error"]["type"]) == (500, "server_error")
        assert "error" in json.loads(streamed.text.strip().split("\n\n")[-1].removeprefix("data: "))
        assert http.post("/v1/completions", json=body).json()["choices"][0]["text"] == "AAAA"


# -- the guard


def test_a_guarded_replica_refuses_questions_and_answers() -> None:
    guard = ContentFilter(words=("poison",), output_words=("AAAA",), refusal="No.")
    with serving(tiny_app(guard=guard)) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="-") as client:
        asked: Any = [{"role": "user", "content": "a poison"}]
        refused = client.chat.completions.create(model="cat", messages=asked, max_tokens=5)
        assert (refused.choices[0].message.content, refused.choices[0].finish_reason) == ("No.", "content_filter")
        assert refused.usage is not None
        assert refused.usage.completion_tokens == 0
        chunks = list(client.chat.completions.create(model="cat", messages=asked, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "No."
        assert chunks[-1].choices[0].finish_reason == "content_filter"
        held = client.completions.create(model="cat", prompt="x", max_tokens=40, logit_bias={"65": 100})
        assert (held.choices[0].text, held.choices[0].finish_reason) == ("x" * 0 + "A" * 40, "length")
        held = client.completions.create(model="cat", prompt="x", max_tokens=4, logit_bias={"65": 100})
        assert (held.choices[0].text, held.choices[0].finish_reason) == ("No.", "content_filter")
        stream = client.completions.create(model="cat", prompt="x", max_tokens=4, logit_bias={"65": 100}, stream=True)
        pieces = list(stream)
        assert "".join(piece.choices[0].text for piece in pieces) == "No."
        assert pieces[-1].choices[0].finish_reason == "content_filter"
        free = client.completions.create(model="cat", prompt="y", max_tokens=3, logit_bias={"66": 100})
        assert free.choices[0].text == "BBB"

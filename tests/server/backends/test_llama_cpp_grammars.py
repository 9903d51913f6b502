"""Structured outputs, required calls and embeddings of llama.cpp, with the unmodified `openai` client."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest
import torch

from tests.server.backends.served import ServiceCommands
from tests.server.serving import DIGEST, serving, tiny_engine
from vita.formats.gguf.write import write_gguf
from vita.infer.logprobs import embedding
from vita.nn import hf
from vita.server.backend_settings import BackendSettings
from vita.server.backends.engine_process import EngineProcess
from vita.server.backends.llama_cpp import LlamaCppClient
from vita.server.backends.programs import RunningProgram
from vita.server.backends.remote_engine import RemoteEngine
from vita.server.backends.remote_scheduler import RemoteScheduler
from vita.server.replica.app import create_app
from vita.server.replica.request_checks import ServedModel

pytest.importorskip("xllamacpp")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="xllamacpp is a Linux package")]

F32 = ("--backend", "llama.cpp", "--backend-set", "quantization=f32")
MESSAGES: Any = [{"role": "user", "content": "a cat"}]
PET: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "tags": {"enum": ["né", "猫", "x"]}},
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
LOOKUP: Any = {"type": "function", "function": {"name": "lookup", "parameters": PET}}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceCommands]:
    folder = tmp_path_factory.mktemp("llama")
    engine = tiny_engine(context=1024)
    hf.save(engine.model, folder / "a")
    engine.tokenizer.save(folder / "a")
    assert engine.template is not None
    engine.template.save(folder / "a")
    commands = ServiceCommands(folder)
    with commands.serving("a", "--name", "x", "--ungated", "a test", *F32):
        yield commands


@pytest.fixture(scope="module")
def client(service: ServiceCommands) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def response_format(schema: dict[str, Any]) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def random_schema(number: int, depth: int = 0) -> dict[str, Any]:
    """Return a random JSON schema."""
    generator = random.Random(f"{number} {depth}")
    kind = generator.choice(["string", "integer", "boolean", "enum", "array", "object"][: 6 if depth < 2 else 4])
    if kind == "enum":
        return {"enum": [generator.choice(["a", "ü", 3, None, True]) for _ in range(2)]}
    if kind == "array":
        return {"type": "array", "items": random_schema(number * 7, depth + 1), "maxItems": 3}
    if kind == "object":
        names = generator.sample(["a", "b", "c", "ö"], 2)
        properties = {name: random_schema(number * 7 + index, depth + 1) for index, name in enumerate(names)}
        return {"type": "object", "properties": properties, "required": names[:1], "additionalProperties": False}
    return {"type": kind, **({"maxLength": 9} if kind == "string" else {})}


def test_every_answer_of_llama_cpp_that_ends_with_stop_follows_its_schema(client: openai.OpenAI) -> None:
    finishes = []
    for number in range(40):
        schema = {"type": "object", "properties": {"value": random_schema(number)}, "required": ["value"]}
        schema["additionalProperties"] = False  # type: ignore[assignment]
        answer = client.chat.completions.create(
            model="x", messages=MESSAGES, response_format=response_format(schema), max_tokens=100, seed=number,
            temperature=1,
        )  # fmt: skip
        finishes.append(answer.choices[0].finish_reason)
        if finishes[-1] == "stop":
            jsonschema.validate(json.loads(answer.choices[0].message.content or ""), schema)
    assert finishes.count("stop") >= 39, finishes


def test_an_answer_of_llama_cpp_is_completed_within_max_tokens(client: openai.OpenAI) -> None:
    for limit in (50, 60, 70):
        answer = client.chat.completions.create(
            model="x", messages=MESSAGES, response_format=response_format(PET), max_tokens=limit, seed=limit,
            temperature=1, logprobs=True, top_logprobs=2,
        )  # fmt: skip
        choice = answer.choices[0]
        assert choice.finish_reason == "stop" and answer.usage is not None
        assert answer.usage.completion_tokens <= limit
        jsonschema.validate(json.loads(choice.message.content or ""), PET)
        assert choice.logprobs is not None and len(choice.logprobs.content or ()) == answer.usage.completion_tokens


def test_required_named_and_strict_calls_of_llama_cpp_follow_their_schema(client: openai.OpenAI) -> None:
    named = {"type": "function", "function": {"name": "lookup"}}
    strict = {"type": "function", "function": {**LOOKUP["function"], "strict": True}}
    for choice, tool, stream in (("required", LOOKUP, False), (named, LOOKUP, True), ("required", strict, False)):
        fields: Any = {"model": "x", "messages": MESSAGES, "tools": [tool], "tool_choice": choice, "max_tokens": 200,
                       "seed": 3, "parallel_tool_calls": False}  # fmt: skip
        if stream:
            with client.chat.completions.stream(**fields) as events:
                answer = events.until_done().get_final_completion()
        else:
            answer = client.chat.completions.create(**fields)
        assert answer.choices[0].finish_reason == "tool_calls"
        calls: Any = answer.choices[0].message.tool_calls
        (call,) = calls
        assert call.function.name == "lookup"
        jsonschema.validate(json.loads(call.function.arguments), PET)


@pytest.mark.parametrize(
    ("form", "accepted"),
    [
        ({"regex": "[a-c]{3}"}, {a + b + c for a in "abc" for b in "abc" for c in "abc"}),
        ({"choice": ["yes", "näh"]}, {"yes", "näh"}),
        ({"grammar": 'root ::= "on" | "off"'}, {"on", "off"}),
    ],
)
def test_regular_expressions_choices_and_grammars_hold_with_llama_cpp(
    client: openai.OpenAI, form: dict[str, Any], accepted: set[str]
) -> None:
    extra = {"structured_outputs": form}
    chat = client.chat.completions.create(
        model="x", messages=MESSAGES, max_tokens=20, n=2, temperature=1, extra_body=extra
    )
    assert {choice.message.content for choice in chat.choices} <= accepted
    text = client.completions.create(model="x", prompt="a", max_tokens=20, seed=1, temperature=1, extra_body=extra)
    assert text.choices[0].text in accepted
    assert chat.choices[0].finish_reason == text.choices[0].finish_reason == "stop"


def test_embeddings_of_llama_cpp_equal_those_of_vita(client: openai.OpenAI) -> None:
    engine, texts = (
        tiny_engine(context=1024),
        ["a cat", "a dog and a cat", "ü" * 200, *("cat" * n for n in range(1, 12))],
    )
    vectors = [row.embedding for row in client.embeddings.create(model="x", input=texts).data]
    for text, vector in zip(texts, vectors, strict=True):
        with torch.inference_mode():
            expected = embedding(engine.model.hidden(torch.tensor([engine.tokenizer.encode(text)]))[0])
        assert max(abs(a - b) for a, b in zip(vector, expected, strict=True)) < 1e-4, text
    short = client.embeddings.create(model="x", input="a cat", dimensions=8).data[0].embedding
    assert len(short) == 8
    with pytest.raises(openai.BadRequestError, match="512 tokens") as refusal:
        client.embeddings.create(model="x", input="a" * 600)
    assert refusal.value.code == "context_length_exceeded"


def test_a_llama_cpp_that_reads_no_grammar_follows_it_by_masks(tmp_path: Path) -> None:
    engine = tiny_engine(context=512)
    hf.save(engine.model, tmp_path)
    engine.tokenizer.save(tmp_path)
    write_gguf(tmp_path, tmp_path / "model.gguf", quantization="f32")
    command = [sys.executable, "-m", "vita.server.backends.llama_cpp_process", "--file", str(tmp_path / "model.gguf")]
    command += ["--context", "512", "--rows", "2", "--float32-cache"]
    process = EngineProcess("llama.cpp", command, dict(os.environ), secret="")
    process.wait_ready(lambda: process.address is not None, seconds=60)
    client = LlamaCppClient(str(process.address), engine.tokenizer, reads_lark=False)
    remote = RemoteEngine(engine.model.architecture, engine.tokenizer, engine.template)
    program = RunningProgram(BackendSettings(program="llama.cpp"), client, process)
    served = ServedModel(names=("x",), version="x:1", digest=DIGEST)
    scheduler = RemoteScheduler(remote, program, rows=2, queue=2)
    with closing(scheduler), serving(create_app(scheduler, served)) as url:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            for seed in range(3):
                answer = client.chat.completions.create(
                    model="x", messages=MESSAGES, response_format=response_format(PET), max_tokens=70, seed=seed,
                    temperature=1, logprobs=seed == 2,
                )  # fmt: skip
                assert answer.choices[0].finish_reason == "stop"
                jsonschema.validate(json.loads(answer.choices[0].message.content or ""), PET)
            strict: Any = {"type": "function", "function": {**LOOKUP["function"], "strict": True}}
            text = client.chat.completions.create(model="x", messages=MESSAGES, tools=[strict], max_tokens=20)
            assert text.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_a_drain_ends_while_constrained_answers_are_cancelled(service: ServiceCommands) -> None:
    body = {"model": "x", "messages": MESSAGES, "response_format": {"type": "json_object"}, "max_tokens": 900,
            "temperature": 1, "stream": True}  # fmt: skip
    for _ in range(5):
        with httpx.stream(
            "POST", f"{service.url}/v1/chat/completions", json=body, timeout=60, trust_env=False
        ) as lines:
            next(lines.iter_lines())
    (replica,) = service.status()["replicas"]
    service.expect("fleet", "drain", replica["replica"])
    assert service.post("/v1/chat/completions", {**body, "stream": False, "max_tokens": 30}).status_code == 200

"""Embeddings, masks and cancelled answers of llama.cpp, with the unmodified `openai` client."""

from __future__ import annotations

import json
import os
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

from tests.server.backends.programs import LLAMA_CPP_OPTIONS, LOOKUP, MESSAGES, PET, response_format, save_model
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


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceCommands]:
    folder = tmp_path_factory.mktemp("llama")
    save_model(folder / "a", context=1024)
    commands = ServiceCommands(folder)
    with commands.serving("a", "--name", "x", "--ungated", "a test", *LLAMA_CPP_OPTIONS):
        yield commands


@pytest.fixture(scope="module")
def client(service: ServiceCommands) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        yield client


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
    assert "llg error" not in service.log.read_text(), "llama.cpp refuses a grammar of Vita"

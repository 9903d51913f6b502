"""Unmodified client libraries use a service of `vita serve`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.server.clients.service import run_client, vita_serve
from tests.server.releases import model_folder
from tests.server.tool_model import memorizing_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("service")
    memorizing_model(folder / "m")
    with vita_serve(folder, "m") as (url, _):
        yield url


def test_langchain_chats_streams_calls_functions_and_gets_structured_output(url: str, tmp_path: Path) -> None:
    run_client("langchain_client.py", url, package="langchain_openai, langchain_anthropic", folder=tmp_path)


def test_litellm_uses_every_route_that_it_supports(url: str, tmp_path: Path) -> None:
    run_client("litellm_client.py", url, package="litellm", folder=tmp_path)


def test_inspect_evaluates_tasks_with_functions_and_structured_output(url: str, tmp_path: Path) -> None:
    run_client("inspect_client.py", url, package="inspect_ai", folder=tmp_path)


def test_the_evaluation_harness_scores_texts_and_chats(url: str, tmp_path: Path) -> None:
    run_client("lm_eval_client.py", url, package="lm_eval, tenacity", folder=tmp_path)


def test_the_backend_of_open_webui_chats_calls_functions_and_embeds(url: str, tmp_path: Path) -> None:
    run_client("open_webui_client.py", url, package="open_webui", folder=tmp_path)


def test_the_requests_of_the_backend_of_open_webui_are_answered(url: str) -> None:
    """These bodies are as open-webui 0.12 sends them; the test needs no installation of it."""
    hi = [{"role": "user", "content": "Hi"}]
    sampling = {"temperature": 0, "top_k": 5, "min_p": 0.1, "seed": 3, "max_tokens": 20, "stop": ["x!"]}
    requests = {
        "/v1/chat/completions": {"stream": True, **sampling, "frequency_penalty": 0.1, "logit_bias": {"5": 1}},
        "/v1/messages/count_tokens": {"max_tokens": 20, "temperature": 0},
    }
    with httpx.Client(base_url=url, headers={"Authorization": "Bearer none"}, timeout=60, trust_env=False) as http:
        assert http.get("/v1/models").json()["data"][0]["id"] == "cat"
        for path, fields in requests.items():
            response = http.post(path, json={"model": "cat", "messages": hi, **fields})
            assert response.status_code == 200, response.text
        assert http.post("/v1/embeddings", json={"model": "cat", "input": ["a"]}).status_code == 200
        assert http.post("/v1/responses", json={"model": "cat", "input": "Hi", "temperature": 0.0}).status_code == 200


def test_the_openai_client_sets_biases_template_variables_and_names(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m.role }}{% if m.name %}({{ m.name }}){% endif %}: {{ m.content }}\n{% endfor %}"
        "{% if enable_thinking %}Think.{% endif %}"
    )
    model_folder(tmp_path / "m", template=template)
    with (
        vita_serve(tmp_path, "m") as (url, _),
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        (model, version) = client.models.list().data
        assert model.id == "cat" and {"max_model_len": 512, "context_length": 512}.items() <= model.model_dump().items()
        assert version.id.startswith("cat:") and client.models.retrieve(version.id).model_dump()["max_model_len"] == 512

        def answer(**options: Any) -> Any:
            messages: Any = [{"role": "user", "name": "ada", "content": "Hi"}]
            return client.chat.completions.create(**{"model": "cat", "messages": messages, "max_tokens": 4, **options})

        forced = answer(logit_bias={"88": 100}).choices[0].message.content
        assert forced == "XXXX" and "X" not in answer(logit_bias={"88": -100}, seed=1).choices[0].message.content
        lengths = {
            kind: answer(**options).usage.prompt_tokens
            for kind, options in {
                "named": {},
                "thinking": {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}},
                "unnamed": {"messages": [{"role": "user", "content": "Hi"}]},
            }.items()
        }
        assert lengths["named"] == lengths["unnamed"] + len("(ada)") == lengths["thinking"] - len("Think.")
        for options, param in (
            ({"extra_body": {"chat_template_kwargs": {"x": 1}}}, "chat_template_kwargs.x"),
            ({"logit_bias": {"9999": 1}}, "logit_bias"),
            ({"extra_body": {"best_of_three": 1}}, "best_of_three"),
            ({"modalities": ["audio"]}, "modalities"),
        ):
            with pytest.raises(openai.BadRequestError) as error:
                answer(**options)
            assert error.value.param == param, error.value.body

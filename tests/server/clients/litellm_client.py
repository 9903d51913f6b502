"""LiteLLM: chat, streams, tools, formats, text completions, embeddings, rerank, Responses and Messages."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import litellm  # pyright: ignore[reportMissingImports]
from pydantic import BaseModel, Field
from weather_tool import WEATHER  # pyright: ignore[reportMissingImports]

URL = sys.argv[1]


class Pet(BaseModel):
    """A pet."""

    name: str = Field(max_length=8)
    age: int = Field(ge=0, le=30)


def check_chat(provider: str, **options: Any) -> None:
    base: dict[str, Any] = {
        "model": f"{provider}/cat",
        "temperature": 0,
        "max_tokens": 120,
        "num_retries": 0,
        **options,
    }
    hi = [{"role": "user", "content": "Hi"}]
    answer = litellm.completion(messages=hi, user="ada", metadata={"run": "1"}, **base)
    assert answer.choices[0].message.content == "Good day to you!", answer
    chunks = list(litellm.completion(messages=hi, stream=True, stream_options={"include_usage": True}, **base))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Good day to you!"
    assert any(getattr(chunk, "usage", None) for chunk in chunks)
    question = {"role": "user", "content": "Weather in Köln?"}
    called = litellm.completion(messages=[question], tools=[WEATHER], **base).choices[0].message
    (call,) = called.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Köln"}
    dialogue = [question, called.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "10"}]
    answer = litellm.completion(messages=dialogue, tools=[WEATHER], **base)
    assert answer.choices[0].message.content == "It is 10 degrees.", answer
    choice = {"type": "function", "function": {"name": "weather"}}
    for forced in ("required", choice):
        answer = litellm.completion(messages=hi, tools=[WEATHER], tool_choice=forced, **base)
        assert answer.choices[0].message.tool_calls[0].function.name == "weather"
    answer = litellm.completion(messages=hi, response_format=Pet, **base)
    assert isinstance(Pet.model_validate_json(answer.choices[0].message.content), Pet)
    reasoned = litellm.completion(messages=[{"role": "user", "content": "2+2?"}], **base).choices[0].message
    assert reasoned.content == "4" and reasoned.reasoning_content == "Two and two.", reasoned


def check_other_routes() -> None:
    server: dict[str, Any] = {"api_base": f"{URL}/v1", "api_key": "none"}
    answer = litellm.completion(
        model="openai/cat", messages=[{"role": "user", "content": "Hi"}], response_format={"type": "json_object"},
        max_tokens=200, seed=1, logprobs=True, top_logprobs=2, n=2, **server,
    )  # fmt: skip
    assert len(answer.choices) == 2 and isinstance(json.loads(answer.choices[0].message.content), dict)
    text = litellm.text_completion(model="text-completion-openai/cat", prompt="One", max_tokens=4, **server)
    assert text.usage.completion_tokens <= 4
    vectors = litellm.embedding(model="openai/cat", input=["one", "two"], **server)
    assert len(vectors.data) == 2
    response = litellm.responses(model="openai/cat", input="Hi", temperature=0, max_output_tokens=40, **server)
    assert response.output[0].content[0].text == "Good day to you!", response
    kinds = [event.type for event in litellm.responses(model="openai/cat", input="Hi", stream=True, **server)]
    assert kinds[-1] == "response.completed", kinds
    message = asyncio.run(
        litellm.anthropic.messages.acreate(
            model="anthropic/cat", messages=[{"role": "user", "content": "Hi"}], max_tokens=40, temperature=0,
            api_base=URL, api_key="none",
        )
    )  # fmt: skip
    assert message["content"][0]["text"] == "Good day to you!", message


check_chat("openai", api_base=f"{URL}/v1", api_key="none")
check_chat("hosted_vllm", api_base=f"{URL}/v1", api_key="none")
check_chat("anthropic", api_base=URL, api_key="none")
check_other_routes()

"""LangChain's clients of OpenAI and Anthropic: messages, streams, tools and structured output."""

from __future__ import annotations

import sys
from typing import Any, Literal

from langchain_anthropic import ChatAnthropic  # pyright: ignore[reportMissingImports]
from langchain_core.messages import HumanMessage, ToolMessage  # pyright: ignore[reportMissingImports]
from langchain_core.tools import tool  # pyright: ignore[reportMissingImports]
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings  # pyright: ignore[reportMissingImports]
from pydantic import BaseModel, Field
from weather_tool import WEATHER  # pyright: ignore[reportMissingImports]

URL = sys.argv[1]


class Pet(BaseModel):
    """A pet."""

    name: str = Field(max_length=8)
    age: int = Field(ge=0, le=30)


class Kind(BaseModel):
    """A kind of pet; the Messages API does not support limits of numbers and texts."""

    kind: Literal["cat", "dog"]
    tame: bool


@tool
def look_up(name: str, count: int = 1) -> str:
    """Look a pet up."""
    return f"{name}: {count}"


def check_openai(**options: Any) -> None:
    chat = ChatOpenAI(model="cat", base_url=f"{URL}/v1", api_key="none", temperature=0, max_tokens=120, **options)
    answer = chat.invoke("Hi")
    assert answer.text == "Good day to you!" and answer.usage_metadata["output_tokens"] > 0, answer
    chunks = list(chat.stream("Hi"))
    assert "".join(chunk.text for chunk in chunks) == "Good day to you!" and len(chunks) > 2
    assert [message.text for message in chat.batch(["Hi", "Hi"])] == ["Good day to you!"] * 2
    check_calls(chat)
    for strict in (None, True):
        called = chat.bind_tools([look_up], tool_choice="any", strict=strict).invoke("Find Tom.")
        assert called.tool_calls[0]["name"] == "look_up" and isinstance(called.tool_calls[0]["args"]["name"], str)
    named = chat.bind_tools([look_up, WEATHER], tool_choice="weather").invoke("Find Tom.")
    assert named.tool_calls[0]["name"] == "weather"
    single = chat.bind_tools([look_up], tool_choice="any", parallel_tool_calls=False).invoke("Find Tom.")
    assert len(single.tool_calls) == 1
    for method in ("json_schema", "function_calling"):
        pet = chat.with_structured_output(Pet, method=method).invoke("Describe a pet.")
        assert isinstance(pet, Pet), pet
        raw = chat.with_structured_output(Pet, method=method, include_raw=True).invoke("Describe a pet.")
        assert raw["parsing_error"] is None and isinstance(raw["parsed"], Pet), raw
    streamed = list(
        chat.with_structured_output(Pet.model_json_schema(), method="json_schema").stream("Describe a pet.")
    )
    assert {"name", "age"} <= set(streamed[-1])
    mode = chat.with_structured_output(method="json_mode", include_raw=True, schema=None)
    assert isinstance(mode.invoke("JSON of a pet.")["parsed"], dict)


def check_calls(chat: Any) -> None:
    """Call a function, return its result and get the answer, complete and streamed."""
    agent = chat.bind_tools([WEATHER])
    question = HumanMessage("Weather in Köln?")
    called = agent.invoke([question])
    (call,) = called.tool_calls
    assert call["name"] == "weather" and call["args"] == {"city": "Köln"}, called
    total: Any = None
    for chunk in agent.stream([question]):
        total = chunk if total is None else total + chunk
    assert total.tool_calls[0]["args"] == {"city": "Köln"}, total
    answer = agent.invoke([question, called, ToolMessage("10", tool_call_id=call["id"])])
    assert answer.text == "It is 10 degrees.", answer


def check_anthropic() -> None:
    chat = ChatAnthropic(model="cat", base_url=URL, api_key="none", temperature=0, max_tokens=120)
    assert chat.invoke("Hi").text == "Good day to you!"
    assert "".join(chunk.text for chunk in chat.stream("Hi")) == "Good day to you!"
    check_calls(chat)
    named = chat.bind_tools([look_up, WEATHER], tool_choice="weather").invoke("Find Tom.")
    assert named.tool_calls[0]["name"] == "weather"
    for method in ("function_calling", "json_schema"):
        kind = chat.with_structured_output(Kind, method=method).invoke("Describe a pet.")
        assert isinstance(kind, Kind), kind
    assert chat.get_num_tokens_from_messages([HumanMessage("Hi")]) > 0


def check_completions_and_embeddings() -> None:
    assert OpenAI(model="cat", base_url=f"{URL}/v1", api_key="none", max_tokens=4).invoke("One").strip() is not None
    embeddings = OpenAIEmbeddings(
        model="cat", base_url=f"{URL}/v1", api_key="none", check_embedding_ctx_length=False, dimensions=8
    )
    vectors = embeddings.embed_documents(["one", "two"])
    assert len(vectors) == 2 and len(vectors[0]) == 8


check_openai()
check_openai(use_responses_api=True)
check_openai(use_responses_api=True, output_version="responses/v1", reasoning=None)
check_anthropic()
check_completions_and_embeddings()

"""Inspect: tasks with functions, a choice and structured output, through its OpenAI-compatible provider."""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ |= {"CAT_BASE_URL": f"{sys.argv[1]}/v1", "CAT_API_KEY": "none", "INSPECT_DISPLAY": "none"}

from inspect_ai import Task, eval  # pyright: ignore[reportMissingImports]
from inspect_ai.dataset import Sample  # pyright: ignore[reportMissingImports]
from inspect_ai.model import GenerateConfig, ResponseSchema  # pyright: ignore[reportMissingImports]
from inspect_ai.scorer import choice, includes, match  # pyright: ignore[reportMissingImports]
from inspect_ai.solver import (  # pyright: ignore[reportMissingImports]
    basic_agent,
    generate,
    multiple_choice,
    system_message,
    use_tools,
)
from inspect_ai.tool import ToolFunction, tool  # pyright: ignore[reportMissingImports]
from inspect_ai.util import json_schema  # pyright: ignore[reportMissingImports]
from pydantic import BaseModel

MODEL = "openai-api/cat/cat"
CONFIG = GenerateConfig(temperature=0, max_tokens=80, seed=7)


class Kind(BaseModel):
    """The kind of a pet."""

    tame: bool


@tool
def weather():
    """Return a tool."""

    async def execute(city: str) -> str:
        """Weather of a city.

        Args:
            city: Name of the city.
        """
        return f"10 degrees, {len(city)} letters"

    return execute


def run(task: Task, **options: Any) -> Any:
    """Evaluate a task and return its only sample."""
    (log,) = eval(task, model=MODEL, log_dir="logs", **options)
    assert log.status == "success", log.error
    assert log.samples and log.stats.model_usage[MODEL].output_tokens > 0
    return log


def main() -> None:
    """Run the checks."""
    hi = [Sample(input="Hi", target="Good day to you!")]
    log = run(Task(dataset=hi, solver=[generate()], scorer=match(location="exact"), config=CONFIG))
    assert log.results.scores[0].metrics["accuracy"].value == 1.0, log.samples[0].output

    forced = [use_tools(weather(), tool_choice=ToolFunction("weather")), generate(tool_calls="single")]
    log = run(Task(dataset=hi, solver=forced, scorer=includes(), config=CONFIG))
    roles = [message.role for message in log.samples[0].messages]
    assert "tool" in roles, roles
    result = next(message for message in log.samples[0].messages if message.role == "tool")
    assert result.error is None and result.text.startswith("10 degrees"), result

    agent = basic_agent(tools=[weather()], init=system_message("Use the tools."), message_limit=6)
    run(Task(dataset=hi, solver=agent, scorer=includes(), config=CONFIG))

    choices = [Sample(input="Which is a cat?", choices=["Tom", "Rex"], target="A")]
    run(Task(dataset=choices, solver=multiple_choice(), scorer=choice(), config=CONFIG))

    schema = ResponseSchema(name="kind", json_schema=json_schema(Kind), strict=True)
    config = CONFIG.merge(GenerateConfig(response_schema=schema, logprobs=True, top_logprobs=2, num_choices=2))
    log = run(Task(dataset=hi, solver=[generate()], scorer=includes(), config=config))
    outputs = log.samples[0].output.choices
    assert len(outputs) == 2 and all(Kind.model_validate_json(output.message.text) for output in outputs)
    assert outputs[0].logprobs is not None


main()

"""Required calls of a random model in the formats of real chat templates, through the official client."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
import pytest

from tests.infer.test_answer_formats import template_of
from tests.server.serving import serving, tiny_app
from vita.infer.engine import Engine
from vita.testing import byte_tokenizer, tiny_model

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "unit": {"enum": ["C", "F"]},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "Weather", "parameters": PARAMETERS}}
NAMED: Any = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_5_think", "gemma4_v5", "glm4moe", "lfm2_v2", "gptoss"])
def test_a_required_call_is_made_with_valid_arguments(name: str) -> None:
    engine = Engine(tiny_model(std=0.3, context=8192), byte_tokenizer(), template=template_of(name))
    with (
        serving(tiny_app(engine)) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        for seed, choice in enumerate(("required", NAMED)):
            options: Any = {"tools": [TOOL], "tool_choice": choice, "seed": seed, "max_tokens": 400}
            request: Any = {"model": "cat", "messages": [{"role": "user", "content": "Köln?"}], **options}
            (answer,) = client.chat.completions.create(**request).choices
            assert answer.finish_reason == "tool_calls" and answer.message.tool_calls
            assert choice is not NAMED or len(answer.message.tool_calls) == 1
            for call in answer.message.tool_calls:
                assert call.type == "function" and call.function.name == "weather"
                jsonschema.validate(json.loads(call.function.arguments), PARAMETERS)
            chunks = list(client.chat.completions.create(**request, stream=True))
            deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
            texts = "".join(call.function.arguments or "" for call in deltas if call.index == 0 and call.function)
            assert texts == answer.message.tool_calls[0].function.arguments  # type: ignore[union-attr]

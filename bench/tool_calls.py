"""Share of valid tool calls of a served model, measured with the openai client.

    vita serve MODEL --ungated "experiment" --port 21100 &
    python -m bench.tool_calls --url http://127.0.0.1:21100/v1 --model MODEL --data test.jsonl

The items and the judgements are those of the setting `tool_calls` of the stage `test` (`vita.evals.tool_calls`).
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from vita.data.records import Message, ToolCall
from vita.data.sources.read import Source
from vita.evals.tool_calls import ToolCallItem, ToolCallResult, figures, judge, read
from vita.infer.answer_formats.answer_format import ParsedAnswer


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--max-tokens", type=int, default=128)
    arguments = parser.parse_args()

    import openai

    items = read(Source.model_validate(arguments.data), limit=arguments.limit)
    with openai.OpenAI(base_url=arguments.url, api_key="none", timeout=600) as client:
        results = [ask(client, item, model=arguments.model, max_tokens=arguments.max_tokens) for item in items]
    shares = {
        name: [round(value, 3) for value in (interval.value, interval.low, interval.high)]
        for name, interval in figures(results).items()
    }
    with_calls = sum(bool(item.expected) for item in items)
    print(json.dumps({"answers": len(items), "with_calls": with_calls, **shares}))


def ask(client: Any, item: ToolCallItem, *, model: str, max_tokens: int) -> ToolCallResult:
    """Answer one item greedily; a prompt that does not fit in the context fails."""
    import openai

    calls = (call for message in item.prompt for call in message.tool_calls)
    ids = iter(call.id or f"call_{number}" for number, call in enumerate(calls))
    messages = [_row(message, ids) for message in item.prompt]
    try:
        response = client.chat.completions.create(
            model=model, messages=messages, tools=list(item.variables.tools), temperature=0, max_tokens=max_tokens
        )
    except openai.BadRequestError as error:
        if error.code != "context_length_exceeded":
            raise
        return judge(item, ParsedAnswer(""), finish="too long")
    choice = response.choices[0]
    answer_calls = tuple(
        ToolCall(call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()
    )
    return judge(item, ParsedAnswer(choice.message.content or "", calls=answer_calls), finish=choice.finish_reason)


def _row(message: Message, ids: Any) -> dict[str, Any]:
    row = message.as_row()
    for call in row.get("tool_calls", ()):
        call.setdefault("id", next(ids))
    return {name: value for name, value in row.items() if name != "weight"}


if __name__ == "__main__":
    main()

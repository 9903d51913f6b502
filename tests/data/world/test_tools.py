"""Tools of the built-in world, and conversations with tool calls, which are off by default."""

from __future__ import annotations

import json

import pytest

from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.dialogue_encoding import encode
from vita.data.world.tools import CALCULATOR, LOOKUP, WORLD_TOOLS
from vita.data.world.world import World, WorldSettings
from vita.evals.tool_calls import is_valid
from vita.testing import byte_tokenizer


def test_a_lookup_finds_every_thing_of_the_world() -> None:
    for question in World.create().questions("all"):
        assert json.loads(LOOKUP.run({"thing": question.thing})) == {
            "kind": question.kind, "property": question.property,
        }  # fmt: skip
    assert LOOKUP.run({"thing": "A cat"}) == LOOKUP.run({"thing": "cat"})
    assert LOOKUP.run({"thing": "unicorn"}) == "error: there is no thing 'unicorn'"
    assert LOOKUP.run({"name": "cat"}).startswith("error: the only argument")


@pytest.mark.parametrize(
    ("expression", "result"),
    [("12 + 30", "42"), ("(1 + 2) * -3", "-9"), ("1 / 4", "0.25"), ("1 / 0", None), ("2 ** 9", None), ("x", None),
     ("__import__('os')", None), ("1e999", None), ("1+" * 500 + "1", None), ("", None)],
)  # fmt: skip
def test_the_calculator_accepts_only_arithmetic(expression: str, result: str | None) -> None:
    output = CALCULATOR.run({"expression": expression})
    assert output == result if result else output.startswith("error: ")


def test_conversations_with_tools_are_off_by_default() -> None:
    default_dialogues = list(World.create(WorldSettings(dialogues=300)).dialogues())
    assert not any(dialogue.variables for dialogue in default_dialogues)
    tool_settings = WorldSettings(
        dialogues=60, conversations={"definition": 0, "fact": 0, "follow_up": 0, "greeting": 0, "small_sum": 0,
                                     "how_to": 0, "lookup": 1, "calculation": 1},
    )  # fmt: skip
    dialogues = list(World.create(tool_settings).dialogues())
    assert {dialogue.source for dialogue in dialogues} == {"world:lookup", "world:calculation"}
    for dialogue in dialogues:
        _, call_message, result, answer = dialogue.messages
        (call,) = call_message.tool_calls
        assert is_valid(call, dialogue.variables.tools)
        assert WORLD_TOOLS[call.name].run(call.values) == result.content
        parts = json.loads(result.content).values() if call.name == "lookup" else [result.content]
        assert all(part in answer.content for part in parts)
        encoded = encode(byte_tokenizer(), ChatTemplate.default(), dialogue.messages, dialogue.variables)
        assert any(encoded.learn)

"""Small tools for chats about the built-in world: a lookup of a thing, and a calculator.

    tool = WORLD_TOOLS["lookup"]
    tool.run({"thing": "cat"})           # '{"kind": "mammal", "property": "furry"}'

A tool is a definition for the chat template and a function that runs a call. Conversations that call the tools are
kinds of conversation with a share of 0; `conversations: {lookup: 1}` in the settings of the world turns one on.
"""

from __future__ import annotations

import ast
import json
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vita.data.records import Message, TemplateVariables, ToolCall
from vita.data.world.dialogues import ASKINGS, conversation
from vita.data.world.pen import WorldWriter
from vita.data.world.relations import say
from vita.data.world.table import THINGS
from vita.spine.registry import Registry


@dataclass(frozen=True)
class WorldTool:
    """A function that a model can call, and its implementation."""

    name: str
    description: str
    argument: str
    """The name of its only argument, a text."""
    run_text: Callable[[str], str]

    @property
    def definition(self) -> dict[str, Any]:
        """Return the definition in the format of the OpenAI API."""
        parameters = {
            "type": "object",
            "properties": {self.argument: {"type": "string"}},
            "required": [self.argument],
        }
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}

    def call(self, value: str) -> ToolCall:
        """Return a call of the tool."""
        return ToolCall(self.name, json.dumps({self.argument: value}, ensure_ascii=False))

    def run(self, arguments: Mapping[str, Any]) -> str:
        """Run a call; the result of a call with wrong arguments is an error message for the model."""
        value = arguments.get(self.argument)
        if not isinstance(value, str) or set(arguments) != {self.argument}:
            return f'error: the only argument is "{self.argument}", a text'
        return self.run_text(value)


WORLD_TOOLS: Registry[WorldTool] = Registry("world_tool")


def _look_up(name: str) -> str:
    words = name.strip().lower()
    thing = next((thing for thing in THINGS if words in (thing.name, thing.a, thing.the)), None)
    if thing is None:
        return f"error: there is no thing {name!r}"
    return json.dumps({"kind": thing.kind.word, "property": thing.property}, ensure_ascii=False)


_OPERATORS: Mapping[type[ast.AST], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _calculate(expression: str) -> str:
    if len(expression) > 200:
        return "error: the expression is too long"
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
        if not math.isfinite(value):
            raise OverflowError
        return str(int(value)) if float(value).is_integer() else str(round(value, 6))
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
        return "error: only numbers with + - * / and parentheses"


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError(ast.dump(node))


LOOKUP = WORLD_TOOLS.add("lookup")(WorldTool("lookup", "Find what a thing is.", "thing", _look_up))
CALCULATOR = WORLD_TOOLS.add("calculator")(
    WorldTool("calculator", "Calculate an expression.", "expression", _calculate)
)


# -- conversations


@conversation("lookup", share=0, variables=TemplateVariables(tools=(LOOKUP.definition,)))
def lookup(pen: WorldWriter) -> list[Message]:
    """Ask for a definition, which the assistant looks up."""
    entry = pen.asked_thing()
    question = say(pen.pick(ASKINGS), entry.thing)
    return _called(question, LOOKUP, entry.thing.a, entry.definitions[0])


@conversation("calculation", share=0, variables=TemplateVariables(tools=(CALCULATOR.definition,)))
def calculation(pen: WorldWriter) -> list[Message]:
    """Ask for the sum of two numbers below 1,000, which the assistant calculates."""
    left, right = pen.number(0, 999), pen.number(0, 999)
    answer = f"{left} plus {right} is {left + right}."
    return _called(f"What is {left} plus {right}?", CALCULATOR, f"{left} + {right}", answer)


def _called(question: str, tool: WorldTool, value: str, answer: str) -> list[Message]:
    """Return a question, a call, its result and the answer."""
    call = tool.call(value)
    return [
        Message("user", question),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", tool.run(call.values), name=tool.name),
        Message("assistant", answer),
    ]

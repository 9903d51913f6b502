"""Answers are parsed in the format of the chat template, for any division into streamed pieces."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tests.data.tokens.tool_chats import DIALOGUES, TOOL, TOOLS, template_source
from vita.data.exact_json import parse_exact
from vita.data.records import Message, ToolCall
from vita.data.tokens.chat_template import ChatTemplate
from vita.infer.answer_formats.answer_format import AnswerFormat
from vita.infer.answer_formats.call_formats import CALL_FORMATS
from vita.infer.answer_formats.deltas import ArgumentsDelta, CallDelta, CallStart, Delta
from vita.infer.answer_formats.harmony import HARMONY
from vita.infer.answer_formats.json_scanner import JsonScanner, NotJson, complete_values
from vita.infer.answer_formats.parser import AnswerParser

NAMES = {"bos_token": "<bos>", "eos_token": "<eos>"}
FORMATS = {
    "qwen2_5": "hermes", "qwen3": "hermes", "qwen3_vl": "hermes", "qwen3_5_think": "qwen_xml", "llama3_1": "llama",
    "llama3_2": "llama", "deepseekv3": "deepseek", "gemma4_v5": "gemma", "glm4moe": "glm", "lfm2_v2": "lfm",
    "gptoss": "harmony", "nemotron_3_nano": "qwen_xml",
}  # fmt: skip
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }}[/INST]"
    "{% elif message.tool_calls %}[TOOL_CALLS] [{% for call in message.tool_calls %}{{ call.function | tojson }}"
    "{% endfor %}]{{ eos_token }}{% else %}{{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
PHI_4 = (
    "{% for message in messages %}<|{{ message.role }}|>{% if message.tool_calls %}<|tool_call|>[{% for call in "
    "message.tool_calls %}{{ call.function | tojson }}{% endfor %}]<|/tool_call|>{% else %}{{ message.content }}"
    "{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
COHERE = (
    "{% for message in messages %}<|{{ message.role }}|>{% if message.tool_calls %}<|START_ACTION|>[{% for call in "
    'message.tool_calls %}{"tool_call_id": "0", "tool_name": {{ call.function.name | tojson }}, "parameters": '
    "{{ call.function.arguments | tojson }}}{% endfor %}]<|END_ACTION|>{% else %}{{ message.content }}{% endif %}"
    "<|END|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def template_of(name: str) -> ChatTemplate:
    sources = {"mistral": MISTRAL, "phi": PHI_4, "cohere": COHERE}
    return ChatTemplate(sources[name] if name in sources else template_source(name), NAMES)


def merge_deltas(deltas: list[Delta]) -> list[tuple[str, object]]:
    """Join adjacent text deltas of the same kind."""
    parts: list[tuple[str, object]] = []
    for delta in deltas:
        if isinstance(delta, CallDelta):
            parts.append(("call", (delta.index, delta.call)))
        elif isinstance(delta, CallStart):
            parts.append(("call", (delta.index, ToolCall(delta.name, ""))))
        elif isinstance(delta, ArgumentsDelta):
            part: Any = parts[-1][1]
            assert part[0] == delta.index
            parts[-1] = ("call", (delta.index, ToolCall(part[1].name, part[1].arguments + delta.text)))
        elif parts and parts[-1][0] == delta.kind:
            parts[-1] = (delta.kind, f"{parts[-1][1]}{delta.text}")
        else:
            parts.append((delta.kind, delta.text))
    return parts


def parse(
    format: AnswerFormat, text: str, *, step: int | None = None, prompt_end: str = "", partial: bool = False
) -> list[tuple[str, object]]:
    parser = format.parser([TOOL], prompt_end=prompt_end, partial=partial)
    pieces = [text] if step is None else [text[start : start + step] for start in range(0, len(text), step)]
    return merge_deltas([*(delta for piece in pieces for delta in parser.push(piece)), *parser.finish()])


def answer_text(template: ChatTemplate, messages: list[Message]) -> tuple[str, str]:
    """Return the prompt and the text of the last answer, both rendered by the template."""
    prompt = template.render(messages[:-1], TOOLS, add_generation_prompt=True)
    text = template.render(messages, TOOLS)
    assert text.startswith(prompt)
    return prompt, text[len(prompt) :]


@pytest.mark.parametrize(
    ("name", "format"), [*FORMATS.items(), ("mistral", "mistral"), ("phi", "phi"), ("cohere", "cohere")]
)
def test_the_answer_format_of_a_template_parses_its_calls(name: str, format: str) -> None:
    template = template_of(name)
    if "tools" not in template.variable_names:
        template = ChatTemplate("{% if tools %}{% endif %}" + template.source, NAMES)
    answer_format = AnswerFormat.of(template)
    assert answer_format.calls is not None and answer_format.calls.name == format
    calls = DIALOGUES["call"][1].tool_calls
    dialogues = [[DIALOGUES["call"][0], Message("assistant", "", tool_calls=calls)]]
    if template.features.calls == "many" and name not in ("mistral", "phi", "cohere"):
        dialogues.append(DIALOGUES["two calls"][:3])
    for messages in dialogues:
        try:
            prompt, text = answer_text(template, messages)
        except AssertionError:  # the prompt starts the reasoning, which the history omits
            continue
        expected = [
            ("call", (index, ToolCall("get_weather", call.arguments)))
            for index, call in enumerate(messages[-1].tool_calls)
        ]
        for step in (None, 1, 2, 3, 7):
            parts = parse(answer_format, text, step=step, prompt_end=prompt)
            assert [part for part in parts if part[0] == "call"] == expected


@pytest.mark.parametrize("step", [None, 1, 2, 5])
def test_reasoning_content_and_calls_are_parsed_separately(step: int | None) -> None:
    format = AnswerFormat.of(ChatTemplate.default())
    call = '<tool_call>\n{"name": "f", "arguments": {"a": "</tool_call"}}\n</tool_call>'
    first, second = (0, ToolCall("f", '{"a": "</tool_call"}')), (1, ToolCall("f", '{"a": "</tool_call"}'))
    text = f"<think>\nI need <f>.\n</think>\n\nI look.\n{call}\n{call}"
    expected = [("reasoning", "I need <f>."), ("content", "I look."), ("call", first), ("call", second)]
    assert parse(format, text, step=step) == expected
    assert parse(format, "Hm.\n</think>\n\n4\n", step=step, prompt_end="<think>\n") == [
        ("reasoning", "Hm."),
        ("content", "4\n"),
    ]
    for content in ("4", "a <b> c\n", " <thin", "I think <think> is a tag </think>.", "<tool", "\n\nx \n"):
        assert parse(format, content, step=step) == [("content", content)]
    assert parse(format, call.removesuffix("</tool_call>"), step=step) == [("call", first)]


@pytest.mark.parametrize("step", [None, 1, 4])
def test_a_block_without_a_call_stays_content(step: int | None) -> None:
    format = AnswerFormat.of(ChatTemplate.default())
    for block in (
        "<tool_call>\n{nonsense}\n</tool_call>",
        '<tool_call>{"name": "f"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call> after',
        '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>',
    ):
        parts = parse(format, f"Before. {block}", step=step)
        assert parts == [("content", f"Before. {block}")]
    llama = AnswerFormat.of(template_of("llama3_1"))
    for text in ("Hello {x}", '{"a": 1}', "{", "<|python"):
        assert parse(llama, text, step=step) == [("content", text)]
    call = ("call", (0, ToolCall("f", "{}")))
    assert parse(llama, '{"name": "f", "parameters": {}} and more', step=step) == [call, ("content", "and more")]
    assert parse(llama, '<|python_tag|>{"name": "f", "parameters": {}}', step=step) == [
        ("call", (0, ToolCall("f", "{}")))
    ]


@pytest.mark.parametrize("step", [None, 1, 6])
def test_gpt_oss_channels_are_parsed_as_reasoning_content_and_calls(step: int | None) -> None:
    format = AnswerFormat.of(template_of("gptoss"))
    analysis = "<|channel|>analysis<|message|>I need it.<|end|><|start|>assistant"
    call = ' to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{"city": "Bern"}<|call|>'
    expected = ("call", (0, ToolCall("get_weather", '{"city": "Bern"}')))
    assert parse(format, analysis + call, step=step) == [("reasoning", "I need it."), expected]
    final = "<|channel|>final<|message|>It is 10."
    assert parse(format, analysis + final, step=step) == [("reasoning", "I need it."), ("content", "It is 10.")]
    assert parse(format, "no channels", step=step) == [("content", "no channels")]


def test_without_tools_the_text_of_a_call_is_content() -> None:
    format = AnswerFormat.of(ChatTemplate.default())
    text = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert format.parse(text).content == text and not format.parse(text).calls
    assert format.parse(text, [TOOL]).calls == (ToolCall("f", "{}"),)


def test_xml_call_arguments_have_the_types_of_the_schema() -> None:
    format = AnswerFormat.of(template_of("qwen3_5_think"))
    text = (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\n12\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        "</function>\n</tool_call>"
    )
    (call,) = format.parse(text, [TOOL]).calls
    assert json.loads(call.arguments) == {"city": "12", "days": 2}


def test_every_call_format_is_tested() -> None:
    tested_formats = {*FORMATS.values(), "mistral", "phi", "cohere", "granite"} - {"harmony"}
    assert tested_formats == {*CALL_FORMATS}


def test_the_end_of_a_block_within_a_json_string_is_a_part_of_the_call() -> None:
    text = '<tool_call>\n{"name": "f", "arguments": {"a": "x</tool_call>y \\" z"}}\n</tool_call>'
    for size in (1, 3, len(text)):
        parser = AnswerParser(calls=CALL_FORMATS["hermes"])
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        deltas = [delta for piece in pieces for delta in parser.push(piece)] + list(parser.finish())
        assert [delta.call.arguments for delta in deltas if isinstance(delta, CallDelta)] == [
            '{"a": "x</tool_call>y \\" z"}'
        ]


STREAMED = {
    "hermes": 'I look.\n<tool_call>\n{"name": "f", "arguments": {"a": "x</tool_call>\\u00fc\\"", "b": [1.5e3, {}]}}\n'
    '</tool_call>\n<tool_call>{"arguments": {"b": true}, "name": "g"}</tool_call> Done.',
    "phi": '<|tool_call|>[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]<|/tool_call|>',
    "granite": '<|tool_call|>[{"function": {"name": "f", "arguments": {"a": -0.5}}}]</s>',
    "cohere": '<|START_ACTION|>[\n {"tool_call_id": "0", "tool_name": "f", "parameters": {"a": null}}\n]<|END_ACTION|>',
    "llama": '<|python_tag|>{"name": "f", "parameters": {"a": {"b": "c"}}}; {"name": "g", "parameters": {"a": "}"}}<e>',
    "mistral": '[TOOL_CALLS]f[CALL_ID]1[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS] {"b": [2]}</s>',
    "deepseek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": 1}\n```"
    "<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "harmony": "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.f "
    '<|constrain|>json<|message|>{"a": "<|call|>"}<|call|><|start|>assistant to=functions.g<|message|><|call|>',
    "glm": "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>",
    "lfm": '<|tool_call_start|>[f(a="x"), g(b=[1, 2])]<|tool_call_end|>',
}  # fmt: skip
"""Name of a format -> an answer with calls of `f` and `g`."""


def answer_format(name: str) -> AnswerFormat:
    return AnswerFormat(calls=HARMONY if name == "harmony" else CALL_FORMATS[name])


def broken_texts(text: str) -> list[str]:
    """Return the text, its beginnings, and the text with one character removed or replaced."""
    positions = range(0, len(text), 7)
    removed = [text[:position] + text[position + 1 :] for position in positions]
    replaced = [text[:position] + "<" + text[position + 1 :] for position in positions]
    return [text, *(text[:position] for position in positions), *removed, *replaced]


@pytest.mark.parametrize("name", STREAMED)
def test_streamed_calls_equal_the_calls_of_the_whole_text_for_every_division(name: str) -> None:
    format, text = answer_format(name), STREAMED[name]
    for part in broken_texts(text):
        for partial in (False, True):
            whole = parse(format, part, partial=partial)
            assert parse(format, part, step=1, partial=partial) == whole
            assert parse(format, part, step=5, partial=partial) == whole
    for position in range(len(text)):
        parser = format.parser([TOOL], partial=True)
        deltas = [*parser.push(text[:position]), *parser.push(text[position:]), *parser.finish()]
        assert merge_deltas(deltas) == parse(format, text) == parse(format, text, partial=True)


def test_the_arguments_of_a_call_are_returned_while_they_are_written() -> None:
    texts = {"hermes": ('<tool_call>{"name": "f", "arguments": ', "}"), "mistral": ("[TOOL_CALLS]f[ARGS]", "")}
    texts["harmony"] = ("<|channel|>commentary to=functions.f <|message|>", "")
    for name, (head, tail) in texts.items():
        parser = answer_format(name).parser([TOOL], partial=True)
        assert list(parser.push(head)) == []
        assert list(parser.push('{"a"')) == [CallStart(0, "f"), ArgumentsDelta(0, "{"), ArgumentsDelta(0, '"a"')]
        assert list(parser.push(': "b c')) == [ArgumentsDelta(0, ': "b c')]
        assert list(parser.push('"}' + tail)) == [ArgumentsDelta(0, '"}')]


def test_a_call_that_is_cut_off_is_partial_or_content() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"a": "b'
    assert parse(answer_format("hermes"), text) == [("content", text)]
    assert parse(answer_format("hermes"), text, partial=True) == [("call", (0, ToolCall("f", '{"a": "b')))]


BROKEN = ("call", (0, ToolCall("f", '{"a": ')))
COMPLETE = ("call", (0, ToolCall("f", "{}")))


@pytest.mark.parametrize("step", [None, 1, 4])
@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": NaN}}\n</tool_call>', [BROKEN]),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>\nSo.', [BROKEN, ("content", "So.")]),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": NaN, "b": "c', [BROKEN]),
        (
            "hermes",
            '<tool_call>{"name": "f", "arguments": {"a": x<tool_call>{"name": "g", "arguments": {}}</tool_call>',
            [BROKEN, ("call", (1, ToolCall("g", "{}")))],
        ),
        ("hermes", '<tool_call>{"name": "f", "arguments": {}} So.</tool_call> x', [COMPLETE, ("content", "So. x")]),
        (
            "hermes",
            '<tool_call>{"name": "f", "arguments": {}}\n{"name": "g"</tool_call>',
            [COMPLETE, ("content", '{"name": "g"')],
        ),
        ("phi", '<|tool_call|>[{"name": "f", "arguments": {"a": NaN}}]<|/tool_call|>So.', [BROKEN, ("content", "So.")]),
        ("llama", '{"name": "f", "parameters": {"a": NaN}} and more', [BROKEN]),
        (
            "mistral",
            '[TOOL_CALLS]f[ARGS]{"a": NaN}[TOOL_CALLS]g[ARGS]{}',
            [BROKEN, ("call", (1, ToolCall("g", "{}")))],
        ),
        (
            "harmony",
            '<|channel|>commentary to=functions.f<|message|>{"a": NaN}<|call|><|channel|>final<|message|>So.',
            [BROKEN, ("content", "So.")],
        ),
    ],
)
def test_the_rest_of_a_call_that_becomes_invalid_is_dropped_to_the_end_of_its_block(
    name: str, text: str, expected: list[Any], step: int | None
) -> None:
    assert parse(answer_format(name), text, step=step, partial=True) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"path": "/", "dry": tru e', '{"path": "/"}'),
        (r'{"a": "\ud83d", "b": 1', r'{"a": "\ud83d"}'),
        ('{"a": 1e400', "{}"),
        ('{"a": 1e400, "b": [1, {"c": 2, "d": "x', '{"a": 1e400, "b": [1, {"c": 2}]}'),
        ('{"a": 1} x', '{"a": 1}'),
        ("", "{}"),
        ('[{"a": 1', "{}"),
    ],
)
def test_the_complete_values_of_a_text_that_is_cut_off_keep_their_text(text: str, expected: str) -> None:
    assert complete_values(text) == expected


def test_the_scanner_accepts_what_the_decoder_of_exact_json_accepts() -> None:
    samples = ['{"a": [1, -2.5e+3, true], "b\\n\\u00e9": {"c": null}}', "[0, 10, -0.5E1, [], {}, false]"]
    samples += [f"[{text}]" for text in ("01", "1.", "-", "+1", ".5", "1e", "NaN", "'a'", '"\\x"', '"\t"', "1 2", "1,")]
    chance = random.Random(0)
    for _ in range(3000):
        sample = chance.choice(samples)
        position = chance.randrange(len(sample))
        text = sample[:position] + chance.choice(["", "{", "}", ",", '"', "1", "-", ".", "e"]) + sample[position + 1 :]
        assert is_scanned(text) == is_decoded(text), text


def is_scanned(text: str) -> bool:
    scanner, position = JsonScanner(), 0
    try:
        while position < len(text) and not scanner.done:
            position = scanner.step(text, position)
    except NotJson:
        return False
    return scanner.done and not text[position:].strip()


def is_decoded(text: str) -> bool:
    try:
        return isinstance(parse_exact(text), dict | list)
    except ValueError:
        return False

"""Training data on the command line: refused fields, trained text, and counts that add up."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.data.tokens.test_answer_spans import LAST_ENDS, PHI_3
from vita.cli import main
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.tokenizer import Tokenizer
from vita.nn import hf
from vita.nn.init import initialize
from vita.testing import byte_tokenizer, tiny_model

Vita = Callable[..., tuple[int, str]]

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "GOOD"}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


@pytest.fixture
def vita(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Vita:
    """Return a function that runs a command in an empty folder: (exit code, all output)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("VITA_STORE", str(tmp_path / "store"))

    def run(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = 0
        try:
            main(list(words))
        except SystemExit as exit_info:
            code = exit_info.code if isinstance(exit_info.code, int) else 1
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def chat_model(
    folder: Path, *, template: str | None = None, tokenizer: Tokenizer | None = None, context: int = 128
) -> str:
    """Save a random chat model."""
    model = tiny_model(context=context)
    initialize(model, "normal", seed=0)
    hf.save(model, folder)
    (tokenizer or byte_tokenizer()).save(folder)
    hf.save_generation(hf.GenerationTokens(start=256, padding=256, stop=(256,)), folder)
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    (ChatTemplate(template, names) if template else ChatTemplate.default()).save(folder)
    return str(folder)


def write_rows(name: str, rows: Iterable[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def facts_of(vita: Vita, name: str) -> dict[str, Any]:
    code, output = vita("show", name, "--json")
    assert code == 0, output
    return json.loads(output)["facts"]


def trained_text(output: str) -> str:
    """Return the text between the marks of trained tokens."""
    marked_text = output.partition("\n")[2].replace("│", "")
    return "|".join(part.partition("»")[0] for part in marked_text.split("«")[1:])


def test_words_of_the_user_are_not_learned_with_a_template_that_ends_only_the_last_answer(vita: Vita) -> None:
    turns = [USER, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "SECRET"}, ANSWER]
    rows = write_rows("rows.jsonl", [{"messages": turns}])
    for number, template in enumerate((LAST_ENDS, PHI_3)):
        code, output = vita("data", "show", rows, "--model", chat_model(Path(f"m{number}"), template=template))
        assert code == 0 and "Hello" in trained_text(output) and "GOOD" in trained_text(output)
        assert "SECRET" in output.replace("│", "") and "SECRET" not in trained_text(output)


def test_a_message_of_weight_0_is_read_and_not_learned(vita: Vita) -> None:
    model = chat_model(Path("m"))
    for weight_field in ({"weight": 0}, {"loss_weight": 0.0}, {"train": False}):
        turns = [USER, {"role": "assistant", "content": "BAD", **weight_field}, USER, {**ANSWER, "weight": 1}]
        code, output = vita("data", "show", write_rows("rows.jsonl", [{"messages": turns}]), "--model", model)
        assert code == 0 and "GOOD" in trained_text(output) and "BAD" not in trained_text(output)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"messages": [USER, {**ANSWER, "content": "", "tool_calls": [{"id": "1"}]}]}, "tool_calls[0]"),
        ({"messages": [USER, {**ANSWER, "tool_calls": [CALL, {**CALL, "type": "custom"}]}]}, "tool_calls[1]"),
        ({"messages": [USER, {**ANSWER, "tool_calls": [{**CALL, "cache": 1}]}]}, "tool_calls[0].cache"),
        ({"messages": [{**USER, "tool_calls": [CALL]}, ANSWER]}, "tool_calls"),
        ({"messages": [USER, {**ANSWER, "reasoning_content": "so", "thinking": "no"}]}, "thinking"),
        ({"messages": [{**USER, "reasoning": "so"}, ANSWER]}, "reasoning"),
        ({"messages": [USER, {**ANSWER, "thoughts": "so"}]}, "thoughts"),
        ({"messages": [{**USER, "name": 3}, ANSWER]}, "name"),
        ({"messages": [USER, {**ANSWER, "colour": "red"}]}, "colour"),
        ({"messages": [USER, {**ANSWER, "weight": 0.5}]}, "weight"),
        ({"messages": [{**USER, "weight": 1}, ANSWER]}, "weight"),
        ({"messages": [USER, ANSWER], "tools": [{"type": "function"}]}, "tools[0]"),
        ({"messages": [USER, ANSWER], "tools": [{"type": "code_interpreter", "function": {}}]}, "tools[0]"),
        (
            {"messages": [USER, ANSWER], "functions": [{"name": "f", "parameters": "{"}]},
            "functions[0].function.parameters",
        ),
        ({"messages": [USER, ANSWER], "tools": "[{"}, "tools"),
        ({"messages": [USER, ANSWER], "tool_choice": "auto"}, "tool_choice"),
        ({"messages": [USER, ANSWER], "chat_template_kwargs": ["a"]}, "chat_template_kwargs"),
        ({"messages": [USER, ANSWER], "sytem": "Be kind."}, "sytem"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "eot": True}]}, "eot"),
        ({"prompt": "a", "completion": "b", "system_prompt": "c"}, "system_prompt"),
        ({"prompt": "a", "completion": "b", "response": "c"}, "response"),
    ],
)
def test_the_error_for_an_invalid_field_names_it(vita: Vita, row: dict[str, Any], name: str) -> None:
    code, output = vita("sft", write_rows("rows.jsonl", [row]), "--model", chat_model(Path("m")), "--steps", "1")
    assert code == 3 and "rows.jsonl, row 1: expected" in output and f"{name}`" in output and "on_bad_row" in output


@pytest.mark.slow
def test_the_error_for_a_row_with_two_dialogues_names_its_columns(vita: Vita) -> None:
    other_dialogue = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "OTHER"}]
    equal_dialogue = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "GOOD"}]
    model = chat_model(Path("m"))
    for column in ("conversations", "conversation"):
        for stage in ("sft", "data"):
            rows = write_rows(
                "rows.jsonl", [{"messages": [USER, ANSWER]}, {"messages": [USER, ANSWER], column: other_dialogue}]
            )
            words = ("sft", rows, "--steps", "1") if stage == "sft" else ("data", "show", rows)
            code, output = vita(*words, "--model", model)
            assert f"`messages` and `{column}`, which hold different dialogues" in output
            assert "rows.jsonl, row 2: expected" in output and "remove the columns" in output
            assert code == 3
    pairs = {"instruction": "Hi", "output": "GOOD", "question": "Hi", "answer": "OTHER"}
    code, output = vita("sft", write_rows("rows.jsonl", [pairs]), "--model", model, "--steps", "1")
    assert code == 3 and "`instruction` with `output` and `question` with `answer`" in output
    for rows in (
        [{"messages": [USER, ANSWER], "conversations": equal_dialogue}],
        [{"messages": [USER, ANSWER], "conversation": "a-name-of-it"}],
        [{"messages": None, "conversations": equal_dialogue}],
        [{"prompt": "Hi", "messages": [USER, ANSWER]}],
    ):
        code, output = vita("data", "show", write_rows("rows.jsonl", rows), "--model", model)
        assert code == 0 and "GOOD" in trained_text(output)


@pytest.mark.slow
def test_a_refused_connection_is_not_a_missing_file(vita: Vita) -> None:
    for name in ("rows.jsonl", "*.jsonl"):
        code, output = vita("curate", f"http://127.0.0.1:9/{name}", "--name", "c")
        assert code == 3 and "cannot be reached" in output and "check the address" in output
        assert "no such file" not in output and "Traceback" not in output


def test_a_single_file_is_read_over_http(vita: Vita) -> None:
    Path("web").mkdir()
    rows = [{"id": f"d{n}", "text": f"The cat number {n} sat on the mat."} for n in range(4)]
    write_rows("web/rows.jsonl", rows)
    handler = functools.partial(QuietHandler, directory="web")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/rows.jsonl"
        code, output = vita("curate", url, "--set", "filters=[]", "--held-out", "0", "--name", "c")
        server.shutdown()
    assert code == 0, output
    assert facts_of(vita, "c/curate")["documents"]["read"] == 4


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """HTTP handler that serves a folder and logs nothing."""

    def log_message(self, format: str, *args: object) -> None: ...


def test_damaged_rows_are_named_when_no_row_can_be_read(vita: Vita) -> None:
    Path("bad.jsonl").write_text('{"text": "cut\n[1, 2]\n')
    source = "sources=[{path: bad.jsonl, on_bad_row: drop}]"
    code, output = vita("curate", "--set", source, "--name", "c")
    assert code == 3 and "filters" not in output
    assert "bad.jsonl:1 from bad (not_json): expected a JSON object" in output
    assert "bad.jsonl:2 from bad (not_an_object): expected a JSON object with fields, got an array" in output
    assert "correct the rows and files that cannot be read" in output
    code, output = vita("sft", "--set", source, "--model", chat_model(Path("m")), "--steps", "1")
    assert code == 3 and "bad.jsonl:1 from bad: expected a JSON object" in output


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["dpo", "reward"])
def test_an_unsupported_field_is_refused_in_preference_data(vita: Vita, stage: str) -> None:
    model = chat_model(Path("m"))
    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    for row in (
        {**pair, "chosen": [{**ANSWER, "tool_calls": [{"id": "1"}]}]},
        {**pair, "prompt": [{**USER, "tool_calls": [CALL]}]},
        {**pair, "tool_calls": [CALL]},
    ):
        code, output = vita(stage, write_rows("pairs.jsonl", [row]), "--model", model, "--steps", "1")
        assert code == 3 and "pairs.jsonl, row 1" in output and "tool_calls" in output


def test_empty_fields_and_metadata_fields_are_accepted(vita: Vita) -> None:
    answer = {**ANSWER, "tool_calls": [], "reasoning_content": None, "name": "", "id": "7"}
    row = {"messages": [USER, answer], "tools": "[]", "id": 1, "source": "s", "license": "MIT", "topic": "t"}
    rows = write_rows("rows.jsonl", [row])
    code, output = vita("sft", rows, "--model", chat_model(Path("m")), "--steps", "1", "--eval-fraction", "0")
    assert code == 0 and "rows also have `topic`: kept as metadata, not learned" in output


@pytest.mark.slow
def test_every_dialogue_is_trained_on_held_out_or_dropped_for_one_reason(vita: Vita) -> None:
    good_rows = [{"prompt": f"{number}?", "completion": "Yes."} for number in range(40)]
    long_prompts = [{"prompt": "word " * 40 + str(number), "completion": "Yes."} for number in range(3)]
    long_answers = [{"prompt": f"Tell {number}.", "completion": "word " * 40} for number in range(2)]
    empty_answers = [{"prompt": "a", "completion": ""}, {"prompt": "b", "completion": "  \n"}]
    masked_rows = [{"messages": [USER, {**ANSWER, "weight": 0}]}]
    write_rows("good.jsonl", [*good_rows, *long_prompts, *long_answers, *empty_answers])
    write_rows("masked.jsonl", masked_rows)
    model = chat_model(Path("m"))
    words = ("good.jsonl", "masked.jsonl", "--model", model, "--name", "c", "--steps", "1", "--eval-fraction", "0.2")
    code, output = vita("sft", *words)
    assert code == 0, output
    facts = facts_of(vita, "c/sft")
    assert facts["read"] == 48 and facts["heldout_dialogues"] > 0 and facts["truncated"] == 2
    assert facts["dialogues"] + facts["heldout_dialogues"] + 6 == facts["read"]
    assert facts["dropped_cut_before_answer"] == 3
    assert facts["dropped_no_answer"] == 2 and facts["dropped_not_learned"] == 1
    assert "3 cut at 128 tokens before their answer began; raise `max_length`" in output
    assert "2 without an answer" in output and "1 with weight 0 for every answer" in output
    assert f"{facts['heldout_dialogues']} held out, 6 dropped, of 48 read" in output
    assert "2 cut short at 128 tokens" in output
    assert "6 of 48 dialogues are not learned" in output


def test_the_error_names_the_cause_when_all_dialogues_are_cut_before_the_answer(vita: Vita) -> None:
    rows = write_rows("rows.jsonl", [{"prompt": "word " * 200, "completion": "Yes."}] * 4)
    code, output = vita("sft", rows, "--model", chat_model(Path("m")), "--steps", "1", "--eval-fraction", "0")
    assert code == 3 and "4 cut at 128 tokens before their answer began; raise `max_length`" in output
    code, output = vita("sft", rows, "--model", "m", "--steps", "1", "--on-long", "drop")
    assert code == 3 and "4 longer than 128 tokens" in output


@pytest.mark.slow
def test_dropping_most_pairs_is_a_warning_and_the_report_counts_them(vita: Vita) -> None:
    pairs = [{"prompt": f"{n}?", "chosen": "Yes.", "rejected": "No."} for n in range(20)]
    pairs += [{"prompt": "word " * 60 + str(n), "chosen": "Yes.", "rejected": "No."} for n in range(80)]
    rows = write_rows("pairs.jsonl", pairs)
    code, output = vita(
        "dpo", rows, "--model", chat_model(Path("m")), "--name", "c", "--steps", "1", "--batch-size", "4"
    )
    assert code == 0 and "80 of 100 pairs are not learned: 80 longer than 128 tokens" in output
    facts = facts_of(vita, "c/dpo")
    assert facts["read"] == 100 == facts["pairs"] + facts["heldout_pairs"] + facts["dropped_too_long"]
    code, output = vita("dpo", write_rows("none.jsonl", pairs[20:]), "--model", "m", "--steps", "1")
    assert code == 3 and "80 longer than 128 tokens" in output


@pytest.mark.slow
def test_rows_are_shown_as_the_stages_read_them(vita: Vita) -> None:
    model = chat_model(Path("m"))
    rows = write_rows(
        "rows.jsonl", [{"prompt": "word " * 45, "completion": "Yes."}, {"prompt": "a", "completion": "b"}]
    )
    code, output = vita("data", "show", rows, "--model", model)
    assert code == 0 and "dropped: cut at 128 tokens before their answer began" in output
    assert "dropped: longer than 128 tokens" in vita("data", "show", rows, "--model", model, "--on-long", "drop")[1]
    assert "cut at 20 tokens" in vita("data", "show", rows, "--model", model, "--max-length", "20")[1]
    code, output = vita("data", "show", rows, "--model", model, "--max-length", "4096")
    assert code == 2 and "expected at most 128, the model's context" in output
    pairs = write_rows("pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    assert "better answer: " in vita("data", "show", pairs, "--model", model)[1]
    rated_rows = write_rows("rated.jsonl", [{"prompt": "a", "completion": "b", "label": False}])
    assert "bad answer rated.jsonl:1" in vita("data", "show", rated_rows, "--model", model)[1]


def test_rows_of_a_step_are_shown_with_the_settings_of_the_step(vita: Vita) -> None:
    model = chat_model(Path("m"))
    write_rows("rows.jsonl", [{"prompt": "a", "completion": "word " * 20}, {"prompt": "b", "completion": "c"}])
    Path("life.yaml").write_text(
        "name: l\nstages:\n  tune: {stage: sft, inputs: {model: '@abcdef'}, sources: [rows.jsonl], max_length: 60,"
        " on_long: drop, eval_fraction: 0.999}\n"
    )
    code, output = vita("data", "show", "life.yaml", "--step", "tune", "--model", model)
    assert code == 0 and "dropped: longer than 60 tokens" in output and "held out" in output
    code, output = vita("data", "show", "life.yaml", "--step", "tuned", "--model", model)
    assert code == 2 and "did you mean `tune`" in output


@pytest.mark.slow
def test_data_show_reports_the_mistake_in_a_row(vita: Vita) -> None:
    rows = write_rows("rows.jsonl", [{"messages": [USER, {**ANSWER, "role": "wizard"}]}])
    code, output = vita("data", "show", rows, "--model", chat_model(Path("m")))
    assert code == 3 and "rows.jsonl, row 1" in output and "the role 'wizard'" in output
    code, output = vita("data", "show", write_rows("empty.jsonl", []), "--model", "m")
    assert code == 3 and "empty.jsonl: there are no dialogues to show" in output
    code, output = vita("data", "show", write_rows("odd.jsonl", [{"colour": "red"}]), "--model", "m")
    assert code == 3 and "expected a dialogue in one of the formats" in output


def test_a_dialogue_that_the_template_refuses_is_named_or_counted(vita: Vita) -> None:
    refusing_template = (
        "{% if messages[0]['content'] == 'bad' %}{{ raise_exception('no such role') }}{% endif %}" + PHI_3
    )
    model = chat_model(Path("m"), template=refusing_template)
    write_rows("rows.jsonl", [{"prompt": "a", "completion": "b"}, {"prompt": "bad", "completion": "b"}])
    code, output = vita("sft", "rows.jsonl", "--model", model, "--steps", "1", "--eval-fraction", "0")
    assert code == 3 and "rows.jsonl:2 from rows: chat template: refuses the dialogue (no such role)" in output
    source = "{path: rows.jsonl, on_bad_row: drop}"
    Path("life.yaml").write_text(f"name: l\nstages:\n  sft: {{inputs: {{model: '@m'}}, sources: [{source}]}}\n")
    code, output = vita("data", "show", "life.yaml", "--step", "sft", "--model", model)
    assert code == 0 and "dropped: that the chat template refuses" in output


def test_a_tuned_model_stops_at_the_end_of_turn_of_its_template(vita: Vita) -> None:
    """`<|end|>` ends each turn, and the settings of the base model name only `<|endoftext|>`."""
    tokenizer = Tokenizer(byte_tokenizer()._definition.replace("<|im_end|>", "<|end|>"),
                          settings={"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"})  # fmt: skip
    model = chat_model(Path("m"), template=PHI_3.replace("<|im_end|>", "<|end|>"), tokenizer=tokenizer)
    rows = write_rows("rows.jsonl", [{"messages": [USER, ANSWER]}])
    code, output = vita("sft", rows, "--model", model, "--name", "c", "--steps", "1", "--eval-fraction", "0")
    assert code == 0, output
    folder = next(row["folder"] for row in json.loads(vita("ls", "--json")[1]) if "c/sft" in row["names"])
    assert tokenizer.specials["<|end|>"] in hf.load_generation(folder).stop


IGNORES_SYSTEM = """\
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- 'Q: ' + message['content'] + '\\n' }}
    {%- elif message['role'] == 'assistant' %}
        {{- 'A: ' + message['content'].split('</think>')[-1].strip() + eos_token + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'A: ' }}
{%- endif %}
"""
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.slow
def test_messages_that_the_template_omits_or_changes_are_counted_and_shown(vita: Vita) -> None:
    reasoning_answer = {"role": "assistant", "content": "<think>Hm.</think>GOOD"}
    rows = [{"messages": [SYSTEM, USER, ANSWER]}] * 2 + [
        {"messages": [USER, reasoning_answer]},
        {"messages": [USER, ANSWER]},
    ]
    model = chat_model(Path("m"), template=IGNORES_SYSTEM)
    code, output = vita("sft", write_rows("rows.jsonl", rows), "--model", model, "--name", "c", "--steps", "1",
                         "--eval-fraction", "0")  # fmt: skip
    assert code == 0, output
    assert "the chat template leaves out a system message of 2 of 4 dialogues" in output
    assert "the chat template changes the text of an answer in 1 of 4 dialogues" in output
    facts = facts_of(vita, "c/sft")
    assert (facts["template_omits_system"], facts["template_alters_answer"]) == (2, 1)
    code, output = vita("data", "show", "rows.jsonl", "--model", model)
    assert code == 0 and "a system message is left out by the chat template" in output
    assert "an answer is changed by the chat template" in output


def test_pairs_whose_system_message_the_template_omits_are_counted(vita: Vita) -> None:
    pair = {"prompt": [SYSTEM, USER], "chosen": [ANSWER], "rejected": [{"role": "assistant", "content": "BAD"}]}
    model = chat_model(Path("m"), template=IGNORES_SYSTEM)
    code, output = vita("dpo", write_rows("pairs.jsonl", [pair] * 3), "--model", model, "--name", "c", "--steps", "1",
                         "--eval-fraction", "0")  # fmt: skip
    assert code == 0, output
    assert "the chat template leaves out a system message of 3 of 3 pairs" in output
    assert facts_of(vita, "c/dpo")["template_omits_system"] == 3


@pytest.mark.slow
def test_prompts_whose_system_message_the_template_omits_are_counted(vita: Vita) -> None:
    rows = [{"prompt": f"Say {word}", "system": "Be brief."} for word in "AB"] + [{"prompt": f"Say {w}"} for w in "CD"]
    model = chat_model(Path("m"), template=IGNORES_SYSTEM)
    code, output = vita("rlhf", write_rows("prompts.jsonl", rows), "--model", model, "--name", "c", "--steps", "1",
                         "--set", "rewards=[random_reward]", "--set", "prompts_per_step=2",
                         "--set", "max_tokens=4")  # fmt: skip
    assert code == 0, output
    assert "the chat template leaves out a system message of 2 of 4 prompts" in output
    assert facts_of(vita, "c/rlhf")["template_omits_system"] == 2
    artifacts = json.loads(vita("ls", "--json")[1])
    folder = next(row["folder"] for row in artifacts if "c/rlhf" in row["names"])
    assert (
        json.loads((Path(folder) / "report" / "report.json").read_text())["details"]["counts"]["template_omits_system"]
        == 2
    )


@pytest.mark.slow
def test_the_report_of_rlhf_counts_all_prompts(vita: Vita) -> None:
    prompts = [{"prompt": f"Say {word}"} for word in ("A", "B", "B", "C", "D")]
    Path("prompts.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in (*prompts, {"prompt": ""})) + "no JSON\n"
    )
    source = "sources=[{path: prompts.jsonl, on_bad_row: drop}]"
    code, output = vita("rlhf", "--model", chat_model(Path("m")), "--name", "c", "--steps", "1", "--set", source,
                         "--set", "rewards=[random_reward]", "--set", "prompts_per_step=2",
                         "--set", "max_tokens=4")  # fmt: skip
    assert code == 0, output
    artifacts = json.loads(vita("ls", "--json")[1])
    folder = next(row["folder"] for row in artifacts if "c/rlhf" in row["names"])
    counts = json.loads((Path(folder) / "report" / "report.json").read_text())["details"]["counts"]
    assert counts["read"] == 7 == counts["prompts"] + counts["heldout_prompts"] + 3
    assert counts["dropped_repeated"] == counts["dropped_no_prompt"] == counts["dropped_not_json"] == 1


@pytest.mark.slow
def test_the_date_that_a_template_writes_in_training_is_fixed_and_recorded(vita: Vita) -> None:
    dated_template = (
        "{{ strftime_now('%d %B %Y') }} {% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    )
    rows = write_rows("rows.jsonl", [{"messages": [USER, ANSWER]}])
    model = chat_model(Path("m"), template=dated_template)
    code, output = vita("data", "show", rows, "--model", model)
    assert code == 0 and "26 July 2024" in output.replace("│", "")
    code, output = vita("sft", rows, "--model", model, "--steps", "1", "--eval-fraction", "0", "--name", "d")
    assert code == 0, output
    assert facts_of(vita, "d/sft")["template_date"] == "2024-07-26"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_tools_are_trained_on_or_the_row_is_refused(vita: Vita, stage: str) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    call_message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    row: dict[str, Any] = {"messages": [USER, call_message], "tools": [tool]}
    if stage == "dpo":
        row = {"prompt": [USER], "chosen": [call_message], "rejected": [ANSWER], "tools": [tool]}
    rows = write_rows("rows.jsonl", [row])
    plain_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    code, output = vita(stage, rows, "--model", chat_model(Path("n"), template=plain_template), "--steps", "1")
    assert code == 3 and "rows.jsonl:1 from rows: chat template: does not write `tools`" in output
    code, output = vita("data", "show", rows, "--model", chat_model(Path("m"), context=512))
    call = '<tool_call>{"name": "weather", "arguments": {}}</tool_call><|im_end|>'
    assert code == 0 and call in trained_text(output).replace("⏎", "").replace("\n", "")

"""The command line: output, errors and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from vita.cli import main
from vita.cli.stage_command import stage_command
from vita.life import stages

Vita = Callable[..., tuple[int, str, str]]

LIFE = """
name: tiny
settings: {seed: 0, vocabulary: 400}
stages:
  design: {depth: 1, width: 32, context: 32, tokens_per_step: 128, steps: 12, timed_steps: 0, text: world}
  curate: {sources: [{world: {things: 20, documents: 200, dialogues: 20}}], filters: []}
  tokenize: {}
  initialize: {}
  pretrain: {eval_tokens: 256}
  sft: {sources: [{world: {things: 20, documents: 200, dialogues: 40}}], steps: 3}
ask: ["What is a cat?"]
"""


@pytest.fixture
def vita(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Vita:
    """Return a function that runs a command in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("VITA_STORE", raising=False)
    monkeypatch.delenv("VITA_LEDGER", raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            main(list(words))
            code = 0
        except SystemExit as exit_info:
            code = exit_info.code if isinstance(exit_info.code, int) else 1
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_life_runs_once_and_its_results_can_be_listed_traced_and_used(vita: Vita, tmp_path: Path) -> None:
    (tmp_path / "life.yaml").write_text(LIFE)
    code, out, err = vita("plan", "life.yaml")
    assert code == 0 and "6 of 6 steps would run" in out and not err
    code, out, err = vita("live", "life.yaml")
    assert code == 0, err
    assert "What is a cat?" in out and "Chat with it: vita chat tiny/sft" in out
    code, out, _ = vita("plan", "life.yaml")
    assert "nothing to do: all steps have a result" in out
    code, out, _ = vita("plan", "life.yaml", "--set", "pretrain.learning_rate=0.01")
    assert "learning_rate: auto -> 0.01" in out and "2 of 6 steps would run" in out
    code, out, _ = vita("plan", "life.yaml", "--world-size", "2")
    assert code == 0 and "pretrain (shard 2): about " in out and "pretrain: each process sends about " in out
    code, _, err = vita("plan", "life.yaml", "--world-size", "3", "--set", "pretrain.parallel.tensor=2")
    assert code == 2 and "expected a multiple of 2 processes (tensor 2), got 3" in err

    rows = json.loads(vita("ls", "--json")[1])
    assert {row["kind"] for row in rows} == {"blueprint", "corpus", "tokens", "model"}
    assert all(Path(row["folder"]).is_dir() and len(row["digest"]) == 64 for row in rows)
    details = json.loads(vita("show", "tiny/pretrain", "--json")[1])
    assert details["run"]["stage"] == "pretrain" and "model.safetensors" in details["files"]
    assert "pretrain" in vita("show", "tiny/pretrain")[1]
    lineage = json.loads(vita("trace", "tiny/pretrain", "--json")[1])
    assert {artifact["kind"] for artifact in lineage["made_from"]} == {"blueprint", "tokens", "model", "corpus"}
    assert [artifact["stage"] for artifact in lineage["went_into"]] == ["sft"]
    assert "was made from" in vita("trace", "tiny/sft")[1]
    assert "<|endoftext|>" in vita("data", "show", "tiny/tokenize", "-n", "1")[1]
    assert "all 6 artifacts are intact" in vita("verify")[1]

    code, out, err = vita("generate", "tiny/sft", "What is", "--json", "--max-tokens", "5", "--seed", "1")
    completion = json.loads(out)
    assert code == 0 and len(completion["ids"]) == len(completion["logprobs"]) <= 5
    assert (
        json.loads(vita("generate", "tiny/sft", "What is", "--json", "--max-tokens", "5", "--seed", "1")[1])
        == completion
    )
    folder = details["folder"]
    assert vita("generate", folder, "What is", "--max-tokens", "3")[0] == 0

    code, _, err = vita("show", "tiny/pretrian")
    assert code == 4 and "did you mean `tiny/pretrain`?" in err


@pytest.mark.slow
def test_stages_run_one_by_one_use_the_results_of_the_same_name(vita: Vita, tmp_path: Path) -> None:
    text = "The cat sat on the mat, and the dog sat on the log. " * 40
    (tmp_path / "text.txt").write_text("\n\n".join(f"Page {number}. {text}" for number in range(30)))
    assert vita("curate", "text.txt", "--set", "sources.0.cut_at=blank_lines", "--set", "filters=[]")[0] == 0
    code, out, err = vita("tokenize", "--vocabulary", "280", "--name", "my")
    assert code == 0, err
    assert "my/tokenize" in out
    code, _, err = vita("pretrain")
    assert code == 2 and "needs a model, and `my` has none" in err


@pytest.mark.parametrize(
    ("command", "hint"),
    [("pretrain", "give MODEL, or create"), ("merge", "give MODEL, or create"), ("dpo", "set --model, or create")],
)
def test_the_hint_for_a_missing_model_names_the_argument_or_the_option(vita: Vita, command: str, hint: str) -> None:
    sources = ("pairs.jsonl",) if command == "dpo" else ()
    code, _, err = vita(command, *sources)
    assert code == 2 and f"needs a model, and `my` has none; {hint} the artifact first" in " ".join(err.split())


@pytest.mark.parametrize("name", sorted(stages()))
def test_the_options_of_a_stage_have_different_spellings(name: str) -> None:
    program = typer.Typer()
    program.command()(stage_command(name)[0])
    command = typer.main.get_command(program)
    spellings = [spelling for option in command.params for spelling in option.opts]
    assert len(spellings) == len(set(spellings)), sorted(spellings)
    assert "--life" in spellings


@pytest.mark.parametrize(
    ("words", "expected_code", "message"),
    [
        (["live", "nowhere.yaml"], 2, "nowhere.yaml: there is no such file"),
        (["live", "cat", "--set", "sft.stepz=3"], 2, "`stepz` is not known here; did you mean `steps`?"),
        (["live", "cat", "--until", "sfd"], 2, "did you mean `sft`?"),
        (["chat", "nothing/there"], 6, "is not a name, digest or folder; as an id of the Hub: is not in the cache"),
        (["curate", "nowhere.txt"], 3, "nowhere.txt: no such file"),
        (["curate", "nowhere.txt"], 3, "the life file; in a command and its --config, at the current folder"),
        (["design", "--depth", "2", "--params", "1M"], 2, "set one of parameters, depth and budget"),
        (["design", "--budget", "soon"], 2, "budget"),
        (["generate", "x", "hello"], 4, "is not a name"),
        (
            ["feedback", "collect", "--since", "yesterday"],
            2,
            "--since: expected a date such as",
        ),
        (["findings", "export", "-o", "missing/x"], 4, "missing/x: cannot be written: no such file or directory"),
    ],
)
def test_a_mistake_of_the_user_is_a_one_line_error_with_its_exit_code(
    vita: Vita, words: list[str], expected_code: int, message: str
) -> None:
    code, out, err = vita(*words)
    assert message in err.replace("\n", " "), out + err
    assert code == expected_code and "Traceback" not in err


@pytest.mark.slow
def test_binary_and_truncated_input_is_a_one_line_error(vita: Vita, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(bytes(range(256)) * 50)
    (tmp_path / "b.jsonl").write_text('{"text": "fine"}\n{"id": 3, "body_": "x"}\n')
    (tmp_path / "c.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd\x24\x00")
    (tmp_path / "d.txt").write_text("")
    expected = {"a.txt": "a.txt", "b.jsonl": "b.jsonl", "c.jsonl.zst": "c.jsonl.zst", "d.txt": "hold no text (d.txt)"}
    for name, message in expected.items():
        code, out, err = vita("curate", name)
        assert code == 3 and message in err, out + err
        assert "Traceback" not in err


def test_a_model_folder_with_a_missing_tensor_is_a_one_line_error(vita: Vita, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from vita.nn import hf
    from vita.testing import byte_tokenizer, tiny_model

    model = tmp_path / "model"
    model.mkdir()
    hf.save(tiny_model(), model)
    byte_tokenizer().save(model)
    tensors = load_file(model / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, model / "model.safetensors")
    code, _, err = vita("generate", str(model), "hello")
    assert code == 6 and "model.norm.weight" in err and "Traceback" not in err


def test_help_lists_the_stages_and_the_options_of_a_stage(vita: Vita) -> None:
    out = vita("--help")[1]
    for word in ("live", "plan", "pretrain", "initialize", "chat", "trace"):
        assert word in out
    out = vita("sft", "--help")[1]
    assert "--learning-rate" in out and "--model" in out and "[DATA...]" in out

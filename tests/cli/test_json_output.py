"""Every command that prints information has `--json`, which prints one document with the documented fields."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.cards.lives import Life
from tests.cli.models import Vita, save_chat_model
from tests.cli.test_cli import vita
from tests.cli.test_gates import FIGURE, life, measure, set_criterion
from vita.cli.app import app
from vita.cli.commands import register, stage_commands
from vita.cli.options import print_json
from vita.cli.stage_command import stage_command

__all__ = ["life", "vita"]

DOCS = Path(__file__).parents[2] / "docs"
WITHOUT_JSON = {"chat", "serve", "replica", "review serve", "review rate", "findings export", "review export"}
"""Interactive commands, servers, and commands whose output is JSON Lines."""


def leaf_commands(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the words of each command and the command, without groups."""
    subcommands = getattr(command, "commands", {})
    if not subcommands:
        yield path, command
    for name, subcommand in subcommands.items():
        yield from leaf_commands(subcommand, f"{path} {name}".strip())


def documented_fields() -> dict[str, tuple[str, list[str]]]:
    """Return command -> (kind of document, its fields), from the table in docs/cli.md."""
    rows = re.findall(r"^\| (`[^|]+) \| (object|list)[^|]* \| ([^|]+) \|$", (DOCS / "cli.md").read_text(), re.MULTILINE)
    table: dict[str, tuple[str, list[str]]] = {}
    for commands, kind, text in rows:
        fields = re.findall(r"`(\w+)`", text.split("as `")[-1].partition("`")[2] if "as `" in text else text)
        reference = re.match(r"as `([^`]+)`", text)
        inherited = table[reference[1]][1] if reference else []
        for name in re.findall(r"`([^`]+)`", commands):
            table[name] = (kind, [*inherited, *fields])
    return table


def test_every_command_that_prints_information_has_json_and_a_documented_document() -> None:
    register(None)
    documented = documented_fields()
    for path, command in leaf_commands(typer.main.get_command(app)):
        if path in stage_commands() or path in WITHOUT_JSON:
            continue
        assert any("--json" in option.opts for option in command.params), f"vita {path} has no --json"
        assert path in documented, f"docs/cli.md does not describe the JSON document of vita {path}"


@pytest.mark.parametrize("stage", ["design", "sft", "redteam", "release"])
def test_every_stage_command_has_json(stage: str) -> None:
    function, _ = stage_command(stage)
    single = typer.Typer()
    single.command()(function)
    assert any("--json" in option.opts for option in typer.main.get_command(single).params)


def test_numbers_that_json_cannot_represent_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"loss": float("nan"), "bounds": (float("-inf"), 1.5), "text": "é"})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "bounds": [None, 1.5], "text": "é"}


class Checker:
    """Runs commands with `--json` and compares their documents with the documentation."""

    def __init__(self, vita: Vita) -> None:
        self._vita, self._documented = vita, documented_fields()

    def __call__(self, name: str, *arguments: str, exit_code: int = 0) -> Any:
        code, out, err = self._vita(*name.split(), *arguments, "--json")
        assert code == exit_code, (name, code, err)
        document = json.loads(out)  # fails if standard output holds other text
        kind, fields = self._documented[name]
        assert isinstance(document, list if kind == "list" else dict), name
        for item in document if isinstance(document, list) else [document]:
            assert sorted(item) == sorted(fields), name
        return document


@pytest.mark.slow
def test_commands_about_artifacts_and_models_print_documented_documents(
    vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check = Checker(vita)
    save_chat_model(tmp_path / "first")
    save_chat_model(tmp_path / "second", seed=1)
    rows = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}] * 3
    (tmp_path / "dialogues.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "prompts.txt").write_text("What is a cat?\nWhat is a dog?\n")
    check("review create", "first", "second", "--prompts", "prompts.txt", "--name", "t", "--max-tokens", "4")
    assert len(check("review list")) == 1
    assert check("review judge", "t", "--rule", "shorter")["judge"] == "rule:shorter"
    models = [row["digest"] for row in check("ls", "--kind", "model")]
    assert len(models) == 2
    check("show", models[0])
    check("trace", models[0])
    assert check("verify")["corrupt"] == []
    check("card", models[0])
    assert check("data show", "dialogues.jsonl", "--model", "first")[-1]["learned"]
    assert check("generate", "first", "Once", "--max-tokens", "3")["prompt"] == "Once"
    code, out, _ = vita("generate", "first", "Once", "Twice", "--max-tokens", "3", "--json")
    assert code == 0 and [row["prompt"] for row in json.loads(out)] == ["Once", "Twice"]
    assert check("embed", "first", "Once", "Twice")["dimensions"] == 32
    assert len(check("embed", "first", "--neighbors", "a", "--before", "second")["neighbors"]["before"]) == 10
    assert check("deprecate", models[0], "--sunset", "90d", "--by", "Ann")["successor"] is None
    check("trace-document", "unknown-document")
    erasure = check("forget", "unknown-document", "--by", "Ann", "--reason", "asked")["erasure"]
    assert check("erasures list")[0]["number"] == erasure
    assert check("erasures")[0]["number"] == erasure
    check("erasures withdraw", str(erasure), "--by", "Ann", "--reason", "a mistake")
    check("clean", "--dry-run")


def test_commands_about_services_print_documented_documents(vita: Vita, tmp_path: Path) -> None:
    check = Checker(vita)
    key = check("keys create", "notebook")["key"]
    assert check("keys list")[0]["state"] == "valid"
    assert check("keys revoke", key.split("-")[1])["state"] == "revoked"
    assert check("monitor")["alerts"] == []
    assert check("findings list") == [] and check("findings") == []
    assert {"cat"} <= {row["name"] for row in check("recipes")}
    assert all(row["runs"] for row in check("plan", "cat"))


def test_commands_about_gates_print_documented_documents(life: Life, vita: Vita) -> None:
    check = Checker(vita)
    set_criterion(life, approvals=1, at_least=0.5)
    measure(life, correct=90)
    assert check("gate", "cat/release", exit_code=13)["verdict"] == "pass"
    check("people add", "Ann")
    assert [person["name"] for person in check("people list")] == ["Ann"]
    assert check("approve", "cat/sft", "--gate", "cat/release", "--by", "Ann")["approved_by"] == ["Ann"]
    arguments = ("--gate", "cat/release", "--by", "Ann", "--reason", "a known gap", "--expires", "14d")
    check("waive", "cat/sft", *arguments, "--bar", f"check:{FIGURE}")
    assert check("people revoke", "Ann")["revoked"]


def test_a_stage_and_a_life_print_one_document_and_no_progress(
    vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    life = "stages: {curate: {sources: [{world: {things: 20, documents: 50, dialogues: 5}}], filters: []}}\n"
    (tmp_path / "life.yaml").write_text(f"name: small\n{life}")
    settings = ("--set", "sources=[{world: {things: 20, documents: 50, dialogues: 5}}]", "--set", "filters=[]")
    code, out, err = vita("curate", *settings, "--json")
    assert code == 0, err
    assert sorted(json.loads(out)) == sorted(documented_fields()["show"][1])
    code, out, err = vita("live", "life.yaml", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert sorted(document) == sorted(documented_fields()["live"][1])
    assert [step["step"] for step in document["steps"]] == ["curate"] and document["problems"] == []
    assert Checker(vita)("report", document["life"])["page"] == "life.html"


def test_a_refused_command_prints_nothing_on_standard_output(vita: Vita) -> None:
    code, out, err = vita("show", "nothing/there", "--json")
    assert code == 4 and out == "" and err.startswith("error ")


def test_watching_and_json_exclude_each_other(vita: Vita) -> None:
    code, out, err = vita("monitor", "--watch", "--json")
    assert code == 2 and out == "" and "--watch: cannot be combined with --json" in err

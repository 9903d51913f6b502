"""Help texts are shown literally, and their examples are commands that a user can type."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from tests.cli.models import Vita, command_runner
from vita.cli import main
from vita.cli.app import app
from vita.cli.commands import register, stage_commands
from vita.cli.stage_command import stage_command
from vita.life import stage


@pytest.fixture
def vita(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Vita:
    monkeypatch.setenv("COLUMNS", "300")
    return command_runner(capsys)


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command and group with the words that call it."""
    yield path, command
    for name, subcommand in getattr(command, "commands", {}).items():
        yield from commands(subcommand, (*path, name))


def test_brackets_and_braces_of_help_texts_are_shown_as_they_are(vita: Vita, monkeypatch: pytest.MonkeyPatch) -> None:
    register(None)
    (recipes,) = (entry for entry in app.registered_commands if entry.name == "recipes")
    monkeypatch.setattr(recipes, "help", "List [bold]recipes[/] with `[1, 2]` and [/INST] and {a: b}.")
    code, out, _ = vita("recipes", "--help")
    assert code == 0 and "List [bold]recipes[/] with `[1, 2]` and [/INST] and {a: b}." in " ".join(out.split())
    code, out, _ = vita("--help")
    assert code == 0 and "[bold]recipes[/] with `[1, 2]`" in " ".join(out.split())


def test_help_of_every_command_names_no_python_value() -> None:
    register(None)
    for path, command in commands(typer.main.get_command(app)):
        if path and path[0] in stage_commands():
            function, _ = stage_command(stage_commands()[path[0]])
            single = typer.Typer()
            single.command()(function)
            command = typer.main.get_command(single)
        texts = [command.help or "", *(getattr(option, "help", None) or "" for option in command.params)]
        for text in texts:
            assert not re.search(r"default: (?:None|True|False|nan)|\[\[", text), (path, text)


def test_assignments_in_help_texts_are_settings_near_their_defaults() -> None:
    register(None)
    example_count = 0
    for path, command in commands(typer.main.get_command(app)):
        texts = [getattr(option, "help", None) or "" for option in command.params]
        for step, setting, value in re.findall(r"--set (\w+)\.(\w+)=([\w.-]*\w)", " ".join(texts)):
            default = stage(step).config.model_fields[setting].default
            if isinstance(default, float) and default:
                assert 0.1 <= float(value) / default <= 10, (path, step, setting, value)
            example_count += 1
    assert example_count >= 2, "the examples of `vita live` and `vita plan`"


def test_the_life_of_a_result_has_the_same_option_in_every_command() -> None:
    register(None)
    for path, command in commands(typer.main.get_command(app)):
        visible = [option for option in command.params if not getattr(option, "hidden", False)]
        options = [option for option in visible if getattr(option, "metavar", None) == "LIFE"]
        for option in options:
            assert "--life" in option.opts, (path, option.opts)
    function, _ = stage_command("sft")
    single = typer.Typer()
    single.command()(function)
    visible = [option.opts for option in typer.main.get_command(single).params if not getattr(option, "hidden", False)]
    assert ["--life"] in visible and not any("--name" in opts for opts in visible)


def test_no_help_text_lists_two_spellings_of_the_option_life() -> None:
    register(None)
    for path, command in commands(typer.main.get_command(app)):
        for parameter in command.params:
            if not getattr(parameter, "hidden", False) and "--life" in parameter.opts:
                assert parameter.opts == ["--life"], path


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("who-saw x", "No such command 'who-saw': it is now called trace-document"),
        ("init", "No such command 'init': it is now called initialize"),
        ("review ls", "No such command 'ls': it is now called list"),
        ("live cat --again sft", "No such option: --again: it is now called --rerun"),
        ("trace-document x --erase", "No such option: --erase: it is now called vita forget"),
        ("findings close --why w 1", "No such option: --why: it is now called --reason"),
    ],
)
def test_former_names_are_refused_with_the_present_name(
    command: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(command.split())
    assert stop.value.code == 2 and f"error {message}" in capsys.readouterr().err

"""The documentation is correct: its code runs, its commands exist, its life files are valid, its links work."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import shlex
import subprocess
import sys
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tests.docs.blocks import FENCE, PAGES, ROOT, SHELL, Block, blocks, page_blocks
from tests.docs.reader import SERVERS
from tests.registries import entry_point_groups
from tests.stages.chat_models import create_chat_model
from vita.life import own_stages, read_life

ENTRY_POINTS = {"vita.stages", *entry_point_groups()}


def commands() -> list[tuple[Block, str]]:
    """Return every command line that the pages show."""
    return [(block, command.text) for block in blocks(*SHELL) for command in block.commands]


def python_programs() -> dict[Path, list[Block]]:
    """Return page -> its Python blocks, without those that use a server of the page (these run with its commands)."""
    programs: dict[Path, list[Block]] = {}
    for page in PAGES:
        has_server = False
        for block in page_blocks(page):
            has_server = has_server or any(command.text.startswith(SERVERS) for command in block.commands)
            if block.language == "python" and (block.title or not has_server):
                programs.setdefault(page, []).append(block)
    return programs


PROGRAMS = python_programs()


@pytest.mark.slow
@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_code_of_a_page_runs(page, tmp_path):
    if "my-model" in page.read_text(encoding="utf-8"):
        create_chat_model(tmp_path / "my-model")
    program = "".join(
        f"exec(compile({block.text!r}, {str(block)!r}, 'exec', dont_inherit=True))\n" for block in PROGRAMS[page]
    )
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-2000:]


@cache
def _vita() -> Any:
    """Return the command line of Vita with the options of every stage."""
    from typer.main import get_command

    import vita.cli
    from vita.cli.app import app
    from vita.cli.commands import stage_commands
    from vita.cli.stage_command import stage_command

    for module in pkgutil.iter_modules(vita.cli.__path__):
        importlib.import_module(f"vita.cli.{module.name}")  # their decorators register commands
    for command, stage in stage_commands().items():
        run, summary = stage_command(stage)
        app.command(command, help=summary)(run)
    command = get_command(app)
    return command, typer.Context(command)


def _problem(words: list[str]) -> str | None:
    """Return a description of the mistake in `vita WORDS`, such as an unknown command or option, or None."""
    command, context = _vita()
    arguments: list[str] = []
    words = list(takewhile(lambda word: word not in ("|", ">", ">>", "&&", ";", "&"), words))
    while words:
        word = words.pop(0)
        options = {spelling for option in command.params for spelling in [*option.opts, *option.secondary_opts]}
        if word.startswith("-") and word != "-":
            if word.partition("=")[0] not in options | {"--help", "-h", "--install-completion"}:
                return f"`{command.name}` has no option {word}"
        elif hasattr(command, "commands"):
            subcommand = command.get_command(context, word)
            if subcommand is None:
                return f"no command `{word}`" if not _takes_value(command, words, word) else None
            command, arguments = subcommand, [*words]
    if hasattr(command, "commands"):
        return None
    _, extra_words, _ = command.make_parser(typer.Context(command)).parse_args(arguments)
    return f"`{command.name}` has no place for {' '.join(extra_words)}" if extra_words else None


def _takes_value(command: Any, words: list[str], word: str) -> bool:
    """Return whether the word is the value of an option of the group, as in `vita --store FOLDER ls`."""
    return bool(words) and command.get_command(_vita()[1], words[0]) is not None


def test_every_command_of_the_documentation_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    problems = []
    for block, line in commands():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words and words[0].rpartition("/")[2] == "vita" and (problem := _problem(words[1:])):
            problems.append(f"{block}: {line}: {problem}")
        if words and words[0] == "make":
            unknown = [
                word for word in words[1:] if "=" not in word and not word.startswith("-") and word not in targets
            ]
            problems += [f"{block}: make has no target {word}" for word in unknown]
    assert not problems, "\n".join(problems)


def test_mistakes_in_commands_are_recognized():
    assert _problem(["liv", "cat"]) == "no command `liv`"
    assert _problem(["live", "cat", "--fersh"]) == "`live` has no option --fersh"
    assert _problem(["canary", "a.jsonl", "--serving", "b"]) is None
    assert _problem(["serve", "a", "b", "--port", "1"]) == "`serve` has no place for b"
    assert _problem(["data", "show", "cat/sft", "--count", "2"]) is None
    assert _problem(["--store", "elsewhere", "ls"]) is None


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_every_life_file_of_the_documentation_can_be_read(block, tmp_path):
    value = yaml.safe_load(block.text)
    if isinstance(value, dict) and "stages" in value:
        path = tmp_path / "life.yaml"
        path.write_text(block.text)
        assert read_life(str(path)).plan.steps


def test_json_blocks_are_valid_json():
    for block in blocks("json"):
        assert json.loads(block.text) is not None, str(block)


def test_every_stage_has_its_page_with_its_settings():
    for name in own_stages():
        page = ROOT / "docs" / "stages" / f"{name}.md"
        assert page.exists(), f"docs/stages/{name}.md is missing"
        assert f"<!-- settings: {name} -->" in page.read_text(), f"{page.name} shows no settings"


def test_every_link_has_an_existing_target():
    broken_links = []
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)|(?:src|href)=\"([^\"#]+)", text):
            link = "".join(target)
            if "://" not in link and not link.startswith("mailto:") and not (page.parent / link).exists():
                broken_links.append(f"{page.relative_to(ROOT)}: {link}")
    assert not broken_links, "\n".join(broken_links)


def test_modules_functions_and_files_named_in_the_text_exist():
    """Every module, function and file of Vita that a page names exists."""
    problems = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        paths = set(re.findall(r"`((?:vita|tests|bench|docs)/[\w./-]+)`", text))
        names = set(re.findall(r"`(vita(?:\.\w+)+)(?:\(\))?`", text)) - ENTRY_POINTS
        unknown = [path for path in paths if not (ROOT / path).exists()] + [name for name in names if not _exists(name)]
        problems += [f"{page.relative_to(ROOT)}: {name}" for name in unknown]
    assert not problems, "\n".join(problems)


def _exists(name: str) -> bool:
    """Return whether a dotted name such as `vita.data.tokens.chat_template.encode` exists."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            value = getattr(value, attribute, None)
        return value is not None
    return False

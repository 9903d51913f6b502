"""What the documentation shows is so: code runs, commands exist, lives can be read, links lead somewhere."""

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
from tests.stages.preferring import create_chat_model
from vita.life import own_stages, read_life

ENTRY_POINTS = {"vita.stages", *entry_point_groups()}


def commands() -> list[tuple[Block, str]]:
    """Every command line that the pages show."""
    return [(block, command.text) for block in blocks(*SHELL) for command in block.commands]


def python_programs() -> dict[Path, list[Block]]:
    """Page -> its Python blocks, without those that ask a server started on the page (these run with its commands)."""
    programs: dict[Path, list[Block]] = {}
    for page in PAGES:
        serving = False
        for block in page_blocks(page):
            serving = serving or any(command.text.startswith(SERVERS) for command in block.commands)
            if block.language == "python" and (block.title or not serving):
                programs.setdefault(page, []).append(block)
    return programs


PROGRAMS = python_programs()


@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path):
    if "my-model" in page.read_text(encoding="utf-8"):
        create_chat_model(tmp_path / "my-model")
    program = "".join(f"exec(compile({b.text!r}, {str(b)!r}, 'exec', dont_inherit=True))\n" for b in PROGRAMS[page])
    ran = subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]


@cache
def _vita() -> Any:
    """Vita's command line with the options of every stage."""
    from typer.main import get_command

    import vita.cli
    from vita.cli.app import app
    from vita.cli.commands import stage_commands
    from vita.cli.stage_command import stage_command

    for module in pkgutil.iter_modules(vita.cli.__path__):
        importlib.import_module(f"vita.cli.{module.name}")  # their decorators enter commands
    for command, stage in stage_commands().items():
        run, summary = stage_command(stage)
        app.command(command, help=summary)(run)
    command = get_command(app)
    return command, typer.Context(command)


def _mistake(words: list[str]) -> str | None:
    """What is wrong with `vita WORDS`, if anything: an unknown command or option, or a word too many."""
    command, context = _vita()
    given: list[str] = []
    words = list(takewhile(lambda word: word not in ("|", ">", ">>", "&&", ";", "&"), words))
    while words:
        word = words.pop(0)
        options = {spelling for one in command.params for spelling in [*one.opts, *one.secondary_opts]}
        if word.startswith("-") and word != "-":
            if word.partition("=")[0] not in options | {"--help", "-h", "--install-completion"}:
                return f"`{command.name}` has no option {word}"
        elif hasattr(command, "commands"):
            below = command.get_command(context, word)
            if below is None:
                return f"no command `{word}`" if not _takes_value(command, words, word) else None
            command, given = below, [*words]
    if hasattr(command, "commands"):
        return None
    _, rest, _ = command.make_parser(typer.Context(command)).parse_args(given)
    return f"`{command.name}` has no place for {' '.join(rest)}" if rest else None


def _takes_value(command: Any, words: list[str], word: str) -> bool:
    """A word after an option of the group itself, as in `vita --store FOLDER ls`."""
    return bool(words) and command.get_command(_vita()[1], words[0]) is not None


def test_every_command_shown_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    wrong = []
    for block, line in commands():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words and words[0].rpartition("/")[2] == "vita" and (mistake := _mistake(words[1:])):
            wrong.append(f"{block}: {line}: {mistake}")
        if words and words[0] == "make":
            unknown = [
                word for word in words[1:] if "=" not in word and not word.startswith("-") and word not in targets
            ]
            wrong += [f"{block}: make has no target {word}" for word in unknown]
    assert not wrong, "\n".join(wrong)


def test_a_wrong_command_would_be_found():
    assert _mistake(["liv", "cat"]) == "no command `liv`"
    assert _mistake(["live", "cat", "--fersh"]) == "`live` has no option --fersh"
    assert _mistake(["canary", "a.jsonl", "--serving", "b"]) is None
    assert _mistake(["serve", "a", "b", "--port", "1"]) == "`serve` has no place for b"
    assert _mistake(["data", "show", "cat/sft", "--count", "2"]) is None
    assert _mistake(["--store", "elsewhere", "ls"]) is None


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_every_life_shown_can_be_read(block, tmp_path):
    value = yaml.safe_load(block.text)
    if isinstance(value, dict) and "stages" in value:
        path = tmp_path / "life.yaml"
        path.write_text(block.text)
        assert read_life(str(path)).plan.steps


def test_json_shown_is_json():
    for block in blocks("json"):
        assert json.loads(block.text) is not None, str(block)


def test_every_stage_has_its_page_with_its_settings():
    for name in own_stages():
        page = ROOT / "docs" / "stages" / f"{name}.md"
        assert page.exists(), f"docs/stages/{name}.md is missing"
        assert f"<!-- settings: {name} -->" in page.read_text(), f"{page.name} shows no settings"


def test_every_link_leads_to_a_file():
    broken = []
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)|(?:src|href)=\"([^\"#]+)", text):
            link = "".join(target)
            if "://" not in link and not link.startswith("mailto:") and not (page.parent / link).exists():
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert not broken, "\n".join(broken)


def test_names_of_code_in_the_text_exist():
    """A module, a function or a file of Vita that the text of a page names exists."""
    missing = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        paths = set(re.findall(r"`((?:vita|tests|bench|docs)/[\w./-]+)`", text))
        names = set(re.findall(r"`(vita(?:\.\w+)+)(?:\(\))?`", text)) - ENTRY_POINTS
        absent = [path for path in paths if not (ROOT / path).exists()] + [name for name in names if not _exists(name)]
        missing += [f"{page.relative_to(ROOT)}: {one}" for one in absent]
    assert not missing, "\n".join(missing)


def _exists(name: str) -> bool:
    """Whether `vita.data.tokens.chat_template.encode` can be imported, or reached from what can."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute, None)
        return found is not None
    return False

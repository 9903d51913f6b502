"""The commands of README, CONTRIBUTING and the documentation pages run as shown, in the order of the page."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES as PATHS
from tests.docs.blocks import ROOT, SHELL, bash_commands, console_commands, output_matches, page_blocks
from tests.docs.pages import PAGES
from tests.docs.reader import Page, Reader, copy_of, without_comment
from tests.docs.terminal import Terminal, private_network

PAGES_WITH_COMMANDS = [
    path.relative_to(ROOT).as_posix()
    for path in PATHS
    if any(block.language in (*SHELL, "yaml") for block in page_blocks(path))
]
CONCURRENT_PAGES = 2 if private_network() else 1
"""Number of pages that run at the same time; pages that share the ports of a machine run one by one."""


def follow(name: str, folder: Path, scratch: Path) -> None:
    """Run all commands of a page in the folder."""
    page = PAGES.get(name, Page())
    page.files(folder)
    Reader(ROOT / name, page, folder, scratch).read()


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all commands of the README in a folder and return the folder."""
    folder = tmp_path_factory.mktemp("readme")
    follow("README.md", folder, tmp_path_factory.mktemp("readme-scratch"))
    return folder


@pytest.fixture(scope="session")
def runs(
    request: pytest.FixtureRequest, example: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], None]]:
    """Yield a function that waits for the run of a page; a few of the selected pages run at a time, in order."""

    def run(name: str) -> None:
        folder = tmp_path_factory.mktemp("page")
        if PAGES.get(name, Page()).from_readme:
            copy_of(example, folder)
        follow(name, folder, tmp_path_factory.mktemp("page-scratch"))

    # A worker of xdist does not know its later tests, so it runs each page at the start of its test.
    items = [] if "PYTEST_XDIST_WORKER" in os.environ else request.session.items
    names = [item.name.partition("[")[2].removesuffix("]") for item in items]
    with ThreadPoolExecutor(CONCURRENT_PAGES) as pool:
        futures = {name: pool.submit(run, name) for name in dict.fromkeys(names) if name in OTHER_PAGES}

        def finish(name: str) -> None:
            (futures.get(name) or pool.submit(run, name)).result()

        yield finish
        for future in futures.values():
            future.cancel()


OTHER_PAGES = [name for name in PAGES_WITH_COMMANDS if name != "README.md"]


@pytest.mark.slow
def test_the_commands_of_the_readme_run_as_shown(example: Path) -> None:
    assert (example / "vita-store").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHER_PAGES)
def test_the_commands_of_a_page_run_as_shown(name: str, runs: Callable[[str], None]) -> None:
    runs(name)


# -- fast tests: the pages, and the parts of this test


def test_every_exception_is_on_its_page_and_has_a_reason() -> None:
    for name, page in PAGES.items():
        page_commands = {
            without_comment(command.text) for block in page_blocks(ROOT / name) for command in block.commands
        }
        assert set(page.not_run) <= page_commands, name
        assert all(page.not_run.values()), name


def test_commands_are_shown_only_in_blocks_that_run() -> None:
    """A command in a `text` block or in a block without a language would never run."""
    for path in PATHS:
        for block in page_blocks(path):
            if block.language in ("", "text"):
                untested_commands = [
                    line for line in block.text.splitlines() if re.match(r"\$ |vita |python -m |make ", line)
                ]
                assert not untested_commands, f"{block}: {untested_commands}"


def test_a_console_block_is_split_into_commands_and_output() -> None:
    console_text = "$ first --a \\\n    --b  # a comment\n$ second\na line\n...\n$ third\n"
    first_command, second_command, third_command = console_commands(console_text, 10)
    assert (first_command.line, first_command.text, first_command.output) == (
        11,
        "first --a \\\n    --b  # a comment",
        (),
    )
    assert (second_command.line, second_command.output) == (13, ("a line", "..."))
    assert third_command.text == "third"
    assert [command.text for command in bash_commands("# note\none \\\n  two\n\nthree # c\n", 1)] == [
        "one \\\n  two",
        "three # c",
    ]


@pytest.mark.parametrize(
    ("expected_lines", "output", "matches"),
    [
        (("a  b",), "a     b\n", True),
        (("a b",), "a c\n", False),
        (("step (...)",), "step (12ab)\n", True),
        (("first", "...", "last"), "first\nx\ny\nlast\n", True),
        (("first", "...", "last"), "first\nlast\n", True),
        (("first",), "first\nsecond\n", False),
        (("green",), "\x1b[32mgreen\x1b[0m\n", True),
    ],
)
def test_shown_output_must_match_the_full_output(expected_lines: tuple[str, ...], output: str, matches: bool) -> None:
    assert output_matches(expected_lines, output) is matches


def test_a_terminal_keeps_its_folder_and_variables_and_runs_servers_in_the_background(tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "inner").mkdir(parents=True)
    terminal = Terminal(work, tmp_path / "scratch", dict(os.environ))
    try:
        assert terminal.run("cd inner && export NOTE=kept").code == 0
        assert terminal.run('echo "$NOTE" && basename "$PWD"').output == "kept\ninner\n"
        assert terminal.run("cat", typed="typed\n").output == "typed\n"
        assert terminal.run("false").code == 1
        server = terminal.start(
            "python3 -c \"import time; print('ready', flush=True); time.sleep(60)\"", ready="ready", timeout=20
        )
        assert terminal.run("echo second terminal").output == "second terminal\n"
        os.killpg(server.job, 0)
        terminal.server = None
        os.killpg(server.job, 9)
    finally:
        terminal.close()


def test_a_failing_command_or_other_output_stops_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    cases = [
        ("```bash\nexit_code() { return 3; }; exit_code\n```\n", "exit code 3"),
        ("```console\n$ echo one\ntwo\n```\n", "actual:\none"),
    ]
    for number, (block, problem) in enumerate(cases):
        page.write_text(block)
        reader = Reader(page, Page(), tmp_path, tmp_path / f"scratch-{number}", root=tmp_path)
        with pytest.raises(AssertionError, match=problem):
            reader.read()

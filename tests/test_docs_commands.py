"""The commands of README, CONTRIBUTING and the documentation pages run as they are shown, in the order of the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import PAGES as PATHS
from tests.docs.blocks import ROOT, SHELL, page_blocks
from tests.docs.pages import PAGES
from tests.docs.reader import Page, Reader, copy_of

WITH_COMMANDS = [
    path.relative_to(ROOT).as_posix()
    for path in PATHS
    if any(block.language in (*SHELL, "yaml") for block in page_blocks(path))
]


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all commands of the README were run."""
    folder = tmp_path_factory.mktemp("readme")
    follow("README.md", folder, tmp_path_factory.mktemp("readme-scratch"))
    return folder


def follow(name: str, folder: Path, scratch: Path) -> None:
    """Run all commands of a page in the folder."""
    page = PAGES.get(name, Page())
    page.files(folder)
    Reader(ROOT / name, page, folder, scratch).read()


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_the_commands_of_a_page_run_as_shown(name: str, example: Path, tmp_path: Path) -> None:
    if name == "README.md":
        return  # the fixture has run it
    folder = tmp_path / "work"
    folder.mkdir()
    if PAGES.get(name, Page()).from_readme:
        copy_of(example, folder)
    follow(name, folder, tmp_path)

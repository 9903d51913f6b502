"""Fixtures for all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.databases import any_ledger, ledger_url, postgres_server
from tests.shapes import check_shapes

__all__ = ["any_ledger", "ledger_url", "postgres_server"]

os.environ["HF_HUB_OFFLINE"] = "1"  # the tests need no network; tests of the Hub start a local server
check_shapes("vita")
# A shell without job control starts background commands with SIGINT ignored; the commands under test inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONG_FILES = (
    "tests/test_docs_commands.py",
    "tests/golden/test_golden.py",
    "tests/train/parallel/test_curves.py",
    "tests/stages/test_adapter_tuning.py",
    "tests/cli/test_interrupts.py",
    "tests/stages/test_open_models.py",
)
"""The files whose slow tests take longest, which begin a parallel run so that its processes end at about one time."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin parallel runs with the longest files."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    order = {name: position for position, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real corpora next to the checkout, or skip the test without it."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("needs the folder of real corpora (`shared/`) beside the checkout")
    return folder

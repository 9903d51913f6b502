"""A local Hub server, and the `vita` command connected to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.models import command_runner
from tests.formats.runner import LocalVita, Vita
from tests.hub_server import HubServer


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> LocalVita:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return LocalVita(folder, command_runner(capsys))


@pytest.fixture
def vita(local: LocalVita, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Vita:
    return Vita(local, hub, monkeypatch)

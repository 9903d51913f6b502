"""Run `vita` in a separate folder, with a local Hub server and the real client library."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from tests.cli.models import Vita as Runner
from tests.hub_server import HubServer


class LocalVita:
    """`vita("ls")` returns the standard output, or with `code` the standard error of a failing command."""

    def __init__(self, folder: Path, run: Runner) -> None:
        self.folder, self._run = folder, run

    def __call__(self, *arguments: str, code: int = 0) -> str:
        exit_code, out, err = self._run(*arguments)
        assert exit_code == code, f"{out}\n{err}"
        return out if code == 0 else err


class Vita:
    """The same with a Hub: `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` apply to one command.

    huggingface_hub reads the environment at import, so its constants are set to the values of the variables.
    """

    def __init__(self, local: LocalVita, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.hub = local.folder, hub
        self._local, self._monkeypatch = local, monkeypatch

    def __call__(self, *arguments: str, code: int = 0, text: str = "", **variables: str) -> str:
        from huggingface_hub import constants

        endpoint = variables.pop("HF_ENDPOINT", self.hub.url)
        with self._monkeypatch.context() as patch:
            patch.setattr(constants, "ENDPOINT", endpoint)
            template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
            patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            patch.setattr(constants, "HF_HUB_OFFLINE", variables.pop("HF_HUB_OFFLINE", "0") == "1")
            patch.setattr(constants, "HF_HUB_CACHE", str(self.folder / "hf" / "hub"))
            patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
            patch.setattr(constants, "HF_TOKEN_PATH", str(self.folder / "hf" / "token"))
            patch.delenv("HF_TOKEN", raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.StringIO(text))
            return self._local(*arguments, code=code)

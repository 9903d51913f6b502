"""`vita replica` refuses wrong options and changed files before it loads a model."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.server.sites_pki import credentials
from vita.cli.app import app
from vita.cli.commands import register
from vita.server.release import create_release
from vita.spine.store import Draft, Store
from vita.stages.kinds import Release


@pytest.fixture
def release(tmp_path: Path) -> str:
    """Return the digest of a release without a real model in the store `store`."""
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (model / name).write_text(name)
    store = Store(tmp_path / "store")
    with store.temporary("release") as folder:
        create_release(model, folder / "release", name="cat", version="1")
        return store.commit(Draft(Release, folder / "release")).digest


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def problem(folder: Path, digest: str, *, store: str, **changed: str) -> str:
    """Run the command and return its error."""
    register(None)
    own = credentials(folder, "replica", name="berlin").folder
    options = {"join": "https://127.0.0.1:9", "host": "127.0.0.1", "credentials": str(own), **changed}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    result = CliRunner().invoke(app, ["replica", digest, "--store", store, "--cache", str(folder / "cache"), *words])
    return str(result.exception)


def test_wrong_options_are_named(tmp_path: Path, release: str) -> None:
    store = str(tmp_path / "store")
    assert "expected the 64 hexadecimal digits" in problem(tmp_path, release[:12], store=store)
    assert "the address at which gateways reach this host" in problem(tmp_path, release, store=store, host="0.0.0.0")
    assert "an address such as https://" in problem(tmp_path, release, store=store, join="http://10.0.0.1:9000")
    for wrong in ("https://10.0.0.1:PORT", "https://10.0.0.1", "https://10.0.0.1:9000/path"):
        assert "an address such as https://" in problem(tmp_path, release, store=store, join=wrong)
    gateway = str(credentials(tmp_path, "gateway").folder)
    assert "expected the certificate of a replica" in problem(tmp_path, release, store=store, credentials=gateway)
    assert "is not in the store" in problem(tmp_path, "0" * 64, store=store)


def test_a_file_that_was_changed_in_a_web_store_is_refused(tmp_path: Path, release: str) -> None:
    pytest.importorskip("aiohttp", reason="needs the extra `http`")
    sha, _ = Store(tmp_path / "store").manifest(release).files["model/model.safetensors"]
    path = tmp_path / "store" / "objects" / sha[:2] / sha
    path.chmod(0o644)
    path.write_text("model.safetensorz")
    with web_server(tmp_path / "store") as url:
        assert "its bytes do not match its digest" in problem(tmp_path, release, store=url)
        path.write_text("model.safetensors")
        assert "does not match" not in problem(tmp_path, release, store=url, join="http://x:1")
    cached = list((tmp_path / "cache").rglob("folders/*/model/model.safetensors"))
    assert [file.read_text() for file in cached] == ["model.safetensors"]

"""The image is built for real with `buildah`, on a Debian root made with `debootstrap`, and its service answers.

The test takes about ten minutes and 6 GB, so that it runs only with `VITA_TEST_IMAGE=1`. It needs root rights, and uses
the pip configuration and the Debian mirror of this machine.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from tests.server.releases import release_folder
from vita.server.release import read_release

ROOT = Path(__file__).parents[2]
BASE = "localhost/debian-python:latest"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
IS_POSSIBLE = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("buildah") and shutil.which("debootstrap")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("VITA_TEST_IMAGE"), reason="takes ten minutes; VITA_TEST_IMAGE=1 runs it"),
    pytest.mark.skipif(not IS_POSSIBLE, reason="needs root rights, buildah and debootstrap"),
]


class Buildah:
    """`buildah` with a storage of its own."""

    def __init__(self, folder: Path) -> None:
        self._words = ["buildah", "--root", str(folder / "storage"), "--runroot", str(folder / "run"),
                       "--storage-driver", "vfs"]  # fmt: skip

    def command(self, *words: str) -> list[str]:
        return [*self._words, *words]

    def __call__(self, *words: str, code: int = 0) -> str:
        process = subprocess.run(self.command(*words), capture_output=True, text=True, check=False)
        assert (process.returncode != 0) == (code != 0), (process.stdout + process.stderr)[-3000:]
        return (process.stdout + process.stderr).strip() if code else process.stdout.strip()


def debian_image(buildah: Buildah, folder: Path) -> None:
    """Make the base image: a minimal Debian with Python."""
    policy = subprocess.run(["apt-cache", "policy"], capture_output=True, text=True, check=True).stdout
    mirror = next(match[1] for match in re.finditer(r"(https?://\S+) bookworm/main", policy))
    packages = "python3,python3-venv,ca-certificates"
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(folder / "debian"), mirror]
    subprocess.run(command, check=True, capture_output=True)
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(folder / "debian"), "/")
    buildah("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
    buildah("commit", "--quiet", container, BASE)
    buildah("rm", container)


def pip_secret(folder: Path) -> tuple[Path, list[str]]:
    """Write the pip configuration of this machine to a file; returns it, and the folders that it names."""
    output = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    values: dict[str, str] = {}
    for line in output.stdout.splitlines():
        name, _, value = line.partition("=")
        if (key := re.split(r"[.:]", name)[-1].lstrip(".")) in (
            "cert", "find-links", "index-url", "extra-index-url", "default-timeout",
        ):  # fmt: skip
            values[key] = value.strip("'").replace("\\n", " ")
    path = folder / "pip.conf"
    path.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in values.items()))
    folders = {match.removeprefix("file://") for value in values.values() for match in re.findall(r"\S*/\S+", value)}
    # The index pages of a local index refer to files beside their folder `simple`.
    paths = {name.removesuffix("/simple") for name in folders if name.startswith("/")} | {CERTIFICATES}
    local = sorted(name for name in paths if Path(name).exists())
    return path, [word for name in local for word in ("--volume", f"{name}:{name}:ro")]


def service(buildah: Buildah, container: str, words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    command = buildah.command("run", "--isolation", "chroot", container, "--", "/opt/vita/bin/vita", *words)
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


def test_the_image_is_built_and_its_service_answers(tmp_path: Path) -> None:
    buildah = Buildah(tmp_path / "buildah")
    debian_image(buildah, tmp_path)
    wheels = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(wheels, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    release = read_release(release_folder(tmp_path))
    deploy = [
        sys.executable,
        "-m",
        "vita",
        "deploy",
        str(release.folder),
        "--target",
        "compose",
        "--out",
        "mine",
        "--set",
        f"base_image={BASE}",
        "--set",
        f"wheel={wheel}",
        "--set",
        f"port={port}",
        "--ungated",
        "a test",
    ]
    environment = {**os.environ, "VITA_STORE": str(tmp_path / "store")}
    subprocess.run(deploy, cwd=tmp_path, env=environment, check=True)
    secret, volumes = pip_secret(tmp_path)
    buildah("build", "--isolation", "chroot", "--format", "docker", "--layers=false", "--secret",
            f"id=pip,src={secret}", *volumes, "--tag", "localhost/m:test", str(tmp_path / "mine/current"))  # fmt: skip

    container = buildah("from", "localhost/m:test")
    run = ("run", "--isolation", "chroot", container, "--")
    assert buildah(*run, "id", "-u") == "65532"
    buildah(*run, "touch", "/opt/release/x", code=1)
    buildah(*run, "cat", "/etc/pip.conf", code=1)
    key = buildah(*run, "/opt/vita/bin/vita", "keys", "create", "laptop").splitlines()[0]
    words = ["serve", "/opt/release", "--digest", release.digest, "--name", "m", "--host", "0.0.0.0",
             "--port", str(port), "--ungated", "approved when it was deployed"]  # fmt: skip
    process = service(buildah, container, words, tmp_path / "service.log")
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
            deadline = time.monotonic() + 120
            while True:
                try:
                    if client.get("/ready").status_code == 200:
                        break
                except httpx.HTTPError:
                    pass
                assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "service.log").read_text()
                time.sleep(0.5)
            body = {"model": "m", "prompt": "a cat", "max_tokens": 3}
            assert client.post("/v1/completions", json=body).status_code == 401
            answer = client.post("/v1/completions", json=body, headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == 200 and answer.headers["X-Vita-Version"] == "m:1", answer.text
            probe = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{port}/ready')"
            buildah(*run, "/opt/vita/bin/python", "-c", probe)
    finally:
        process.terminate()
        process.wait(60)

    other = buildah(*run, "/opt/vita/bin/vita", "serve", "/opt/release", "--digest", "0" * 64, code=4)
    assert "expected the release with the digest 0000" in other
    change = "echo >> /opt/release/model/config.json"
    buildah("run", "--user", "0", "--isolation", "chroot", container, "--", "sh", "-c", change)
    changed = buildah(*run, "/opt/vita/bin/vita", *words, code=4)
    assert "config.json: expected the released bytes" in changed
    buildah("rm", container)

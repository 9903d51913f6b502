"""`vita deploy`: files, record, rollback, clearance and refusals, without starting a service."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.cli.test_cli import Vita, vita
from tests.server.releases import release_folder
from tests.server.service.test_deploy_checks import gated_life
from tests.server.service.test_deploy_checks import release as life_release
from vita.server.release import read_release
from vita.spine.config import build
from vita.spine.errors import ConfigError, GateError
from vita.spine.events import Events
from vita.spine.ledger import Ledger
from vita.spine.machine import Machine
from vita.spine.plan import Plan, Step, execute
from vita.spine.stage import read_stage
from vita.spine.store import Draft
from vita.stages import deploy
from vita.stages.kinds import Release

__all__ = ["vita"]
UNGATED = ("--ungated", "a test")
KUBERNETES = ("--target", "kubernetes", "--set", "store=s3://models/vita")


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder, and the targets of links."""
    return {
        path.relative_to(folder).as_posix(): os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def events(name: str = "vita-store/ledger.db") -> list[tuple[str, str]]:
    with closing(Ledger(Path(name))) as ledger:
        return [(event["event"], event["subject"]) for event in ledger.events()]


@pytest.fixture
def releases(tmp_path: Path) -> tuple[Path, Path]:
    """Return two releases with different weights."""

    def scale(model):
        for parameter in model.parameters():
            parameter.data.mul_(1.01)

    return release_folder(tmp_path), release_folder(tmp_path, version="2", change=scale)


@pytest.mark.parametrize("target", [("--target", "compose"), KUBERNETES, ("--target", "local"), ("--target", "ray")])
def test_the_same_release_and_settings_give_the_same_bytes(vita: Vita, releases, tmp_path, target):
    for folder in ("a", "b"):
        code, out, err = vita("deploy", str(releases[0]), *target, "--out", folder, *UNGATED)
        assert code == 0, out + err
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    before = contents(tmp_path / "a")
    code, out, _ = vita("deploy", str(releases[0]), *target, "--out", "a", *UNGATED)
    assert code == 0 and "(unchanged)" in out and contents(tmp_path / "a") == before


def test_a_deployment_is_rolled_back_to_the_same_bytes(vita: Vita, releases, tmp_path):
    first, second = (read_release(folder) for folder in releases)
    code, out, err = vita("deploy", str(releases[0]), "--target", "compose", "--out", "mine", "--json", *UNGATED)
    assert code == 0, err
    written = json.loads(out)
    assert written["release"] == first.digest and written["previous"] is None and not written["applied"]
    before = contents(tmp_path / "mine/current")
    code, out, err = vita("deploy", str(releases[1]), "--target", "compose", "--out", "mine", "--json", *UNGATED)
    assert code == 0 and json.loads(out)["previous"] == written["deployment"], err
    assert second.digest in (tmp_path / "mine/current/compose.yaml").read_text()
    record = json.loads((tmp_path / "mine/deployment.json").read_text())
    assert record["current"]["release"] == second.digest and record["previous"][0]["release"] == first.digest
    code, out, err = vita("deploy", "--rollback", "--out", "mine", "--json")
    assert code == 0 and json.loads(out)["deployment"] == written["deployment"], err
    assert contents(tmp_path / "mine/current") == before
    names = [name for name, _ in events() if name.startswith("deployment")]
    assert names == ["deployment written", "deployment written", "deployment rolled back"]
    code, _, err = vita("deploy", "--rollback", "--out", "mine")
    assert code == 3 and "has no previous version" in err


def test_a_changed_file_is_not_restored(vita: Vita, releases, tmp_path):
    for folder in releases:
        assert vita("deploy", str(folder), "--target", "compose", "--out", "mine", *UNGATED)[0] == 0
    record = json.loads((tmp_path / "mine/deployment.json").read_text())
    file = tmp_path / "mine/versions" / record["previous"][0]["id"] / "compose.yaml"
    file.write_text(file.read_text() + "# changed\n")
    code, _, err = vita("deploy", "--rollback", "--out", "mine")
    assert code == 4 and "compose.yaml" in err and "the SHA-256 of the deployed file" in err
    assert json.loads((tmp_path / "mine/deployment.json").read_text()) == record


def test_an_approved_release_is_deployed_and_a_retired_one_is_refused(vita: Vita, tmp_path):
    life, approved_model, draft = gated_life(tmp_path)
    approved, other = (life_release(life, model).folder for model in (approved_model, draft))
    store = ("--store", str(life.store.root), "--ledger", life.ledger.url)
    code, out, err = vita(*store, "deploy", str(approved), *KUBERNETES, "--out", "mine", "--json")
    assert code == 0 and json.loads(out)["model"] == approved_model, err
    assert "--ungated" not in (tmp_path / "mine/current/manifests/deployment.yaml").read_text()
    code, _, err = vita(*store, "deploy", str(other), *KUBERNETES, "--out", "other")
    assert code == 9 and "--ungated REASON" in err and not (tmp_path / "other").exists()
    assert vita(*store, "deploy", str(other), *KUBERNETES, "--out", "mine", *UNGATED)[0] == 0
    assert "a test" in (tmp_path / "mine/current/manifests/deployment.yaml").read_text()
    code, out, err = vita(*store, "deploy", str(approved), "--target", "compose", "--out", "alone")
    assert code == 0, err
    compose = (tmp_path / "alone/current/compose.yaml").read_text()
    assert "approved when it was deployed" in compose, "its own ledger has no approvals"
    life.ledger.move(approved_model, "retired", who="Ada", why="a test", access="none", successor=None)
    before = contents(tmp_path / "mine")
    code, _, err = vita(*store, "deploy", str(approved), *KUBERNETES, "--out", "mine", *UNGATED)
    assert code == 9 and "has been retired" in err and contents(tmp_path / "mine") == before
    code, _, err = vita(*store, "deploy", "--rollback", "--out", "mine")
    assert code == 9 and "has been retired" in err and contents(tmp_path / "mine") == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--target", "nomad"), "deploy.target: expected"),
        ((), "deploy.target"),
        (("--target", "compose", "--set", "replicas=0"), "deploy.replicas"),
        (("--target", "compose", "--set", "port=80"), "deploy.port"),
        (("--target", "compose", "--set", "image=Not An Image"), "is not the repository of an image"),
        (("--target", "compose", "--set", "image=host/name:tag"), "is not the repository of an image"),
        (("--target", "compose", "--set", "base_image=python 3"), "is not the reference of an image"),
        (("--target", "compose", "--set", "package=vita-lm; rm -rf /"), "is not a requirement"),
        (("--target", "compose", "--set", "memory=much"), "deploy.memory"),
        (("--target", "compose", "--set", "namespace=models"), "`namespace` is not a setting of the target `compose`"),
        (("--target", "local", "--set", "image=a/b"), "`image` is not a setting of the target `local`"),
        (("--target", "local", "--set", "service.in_flight=0"), "deploy.service.in_flight"),
        (("--target", "local", "--set", "colour=red"), "colour"),
        (("--target", "local", "--set", "name=Not-a-label"), "deploy.name"),
        (("--target", "kubernetes"), "needs `store`"),
        ((*KUBERNETES, "--set", "store=/mnt/models"), "is not the URL of a store"),
        ((*KUBERNETES, "--set", "max_replicas=1", "--set", "replicas=2"), "is less than `replicas`"),
        ((*KUBERNETES, "--set", "region=a b"), "deploy.region"),
        (("--target", "compose", "--set", "wheel=missing.whl"), "deploy.wheel"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(vita: Vita, releases, tmp_path, words, message):
    before = contents(tmp_path)
    code, _, err = vita("deploy", str(releases[0]), *words, "--out", "mine", *UNGATED)
    assert code == 2 and message in err, err
    changed = {name for name in contents(tmp_path).keys() ^ before.keys() if not name.startswith("vita-store/")}
    assert not changed and not (tmp_path / "mine").exists()


def test_a_folder_with_other_files_is_refused(vita: Vita, releases, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    code, _, err = vita("deploy", str(releases[0]), "--target", "compose", "--out", "mine", *UNGATED)
    assert code == 2 and "is not empty and is not a deployment" in err
    assert contents(tmp_path / "mine") == {"notes.txt": b"mine"}


def test_the_folder_of_another_target_is_refused(vita: Vita, releases):
    assert vita("deploy", str(releases[0]), "--target", "compose", "--out", "mine", *UNGATED)[0] == 0
    code, _, err = vita("deploy", str(releases[0]), "--target", "local", "--out", "mine", *UNGATED)
    assert code == 2 and "is a deployment with the target `compose`" in err
    words = ("--target", "compose", "--set", "name=other", "--out", "mine", *UNGATED)
    code, _, err = vita("deploy", str(releases[0]), *words)
    assert code == 2 and "is a deployment with the name `m`" in err, "its containers would continue"


def test_a_port_in_use_is_refused_before_anything_is_written(vita: Vita, releases, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        words = ("--target", "local", "--set", f"port={port}", "--apply", "--out", "mine", *UNGATED)
        code, _, err = vita("deploy", str(releases[0]), *words)
    assert code == 2 and f"127.0.0.1:{port} cannot be used" in err and not (tmp_path / "mine").exists()


def test_a_backend_that_the_target_cannot_run_is_refused(vita: Vita, releases, tmp_path):
    description = releases[0] / "release.json"
    content = json.loads(description.read_text())
    description.unlink()
    description.write_text(json.dumps({**content, "backend": {"program": "vllm", "environment": "/opt/vllm"}}))
    code, _, err = vita("deploy", str(releases[0]), "--target", "compose", "--out", "mine", *UNGATED)
    assert code == 2 and "cannot run a release with the backend `vllm`" in err and not (tmp_path / "mine").exists()


def test_a_model_is_not_a_release_and_a_missing_program_is_named(vita: Vita, releases, tmp_path, monkeypatch):
    code, _, err = vita("deploy", str(releases[0] / "model"), "--target", "compose", "--out", "mine", *UNGATED)
    assert code == 6 and "vita release" in err
    monkeypatch.setenv("PATH", str(tmp_path))
    for target in (("--target", "compose"), KUBERNETES):
        code, _, err = vita("deploy", str(releases[0]), *target, "--apply", "--out", "mine", *UNGATED)
        assert code == 2 and "is not installed" in err and not (tmp_path / "mine").exists()


def test_options_that_would_be_ignored_are_refused(vita: Vita, releases):
    code, _, err = vita("deploy", str(releases[0]), "--rollback", "--target", "local", "--out", "mine")
    assert code == 2 and "RELEASE, --target cannot be combined with --rollback" in err
    code, _, err = vita("deploy", "--target", "local", "--out", "mine")
    assert code == 2 and "needs a RELEASE" in err


def test_the_stage_writes_the_same_files_and_a_folder_each_time_it_runs(vita: Vita, tmp_path):
    life, approved_model, _ = gated_life(tmp_path)
    folder = life_release(life, approved_model).folder
    artifact = life.store.commit(Draft(Release, folder, {"name": "cat", "version": "1"}))
    config = build(deploy.Config, {"target": "local", "folder": str(tmp_path / "mine")}, where="deploy")
    stage = read_stage("deploy", deploy)
    plan = Plan("cat", (Step("deploy", stage, config, {"release": f"@{artifact.digest}"}),))
    run = partial(execute, plan, life.store, life.ledger, machine=Machine(), events=Events())
    files = run()["deploy"]
    assert files.facts["release"] == "cat:1" and (files.path / "service.json").is_file()
    written = tmp_path / "mine/current"
    assert (files.path / "service.json").read_bytes() == (written / "service.json").read_bytes()
    assert json.loads((tmp_path / "mine/deployment.json").read_text())["current"]["id"] == files.facts["deployment"]
    (tmp_path / "mine/current/service.json").unlink()
    assert run()["deploy"].digest == files.digest
    assert (written / "service.json").is_file(), "a cached result is applied again"
    life.ledger.move(approved_model, "retired", who="Ada", why="a test", access="none", successor=None)
    with pytest.raises(GateError, match="has been retired"):
        run()
    with pytest.raises(ConfigError, match="`apply` needs `folder`"):
        build(deploy.Config, {"target": "local", "apply": True}, where="deploy")


def fake_program(folder: Path, name: str, *, fails_on: str = "nothing") -> Path:
    """Write a program that records its arguments, and fails for those that contain `fails_on`."""
    log, path = folder / f"{name}.log", folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f'#!/bin/sh\necho "$*" >> {log}\n'
        f'case "$*" in *{fails_on}*) echo "connection refused" >&2; exit 3;; esac\nexit 0\n'
    )
    path.chmod(0o755)
    return log


def test_kubectl_applies_a_deployment_and_its_rollback(vita: Vita, releases, tmp_path, monkeypatch):
    log = fake_program(tmp_path, "kubectl")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    words = (*KUBERNETES, "--set", "namespace=models", "--apply", "--out", "mine", "--json", *UNGATED)
    first = json.loads(vita("deploy", str(releases[0]), *words)[1])
    calls = log.read_text().splitlines()
    manifests = Path("mine/versions", first["deployment"], "manifests")
    assert calls[-2].startswith(f"--namespace models apply --filename {manifests} --prune --selector ")
    assert calls[-1].startswith("--namespace models rollout status deployment --selector vita-lm/release=")
    second = json.loads(vita("deploy", str(releases[1]), *words)[1])
    assert second["applied"] and second["previous"] == first["deployment"]
    code, _, err = vita("deploy", "--rollback", "--out", "mine")
    assert code == 0 and log.read_text().splitlines()[-2] == calls[-2], err
    code, _, _ = vita("deploy", "--stop", "--out", "mine")
    assert code == 0 and " delete --ignore-not-found " in log.read_text().splitlines()[-1]

    before = contents(tmp_path / "mine/current")
    fake_program(tmp_path, "kubectl", fails_on="rollout")
    code, _, err = vita("deploy", str(releases[1]), *words)
    assert code == 1 and "connection refused" in err and contents(tmp_path / "mine/current") == before
    fake_program(tmp_path, "kubectl", fails_on="version")
    code, _, err = vita("deploy", str(releases[1]), *words[:-4], "other", *UNGATED)
    assert code == 1 and "connection refused" in err and not (tmp_path / "other").exists()


def test_docker_compose_starts_a_deployment_if_its_secrets_exist(vita: Vita, releases, tmp_path, monkeypatch):
    log = fake_program(tmp_path, "docker")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    words = ("--target", "compose", "--set", "store=s3://models/vita", "--apply", "--out", "mine", *UNGATED)
    code, _, err = vita("deploy", str(releases[0]), *words)
    assert code == 2 and "mine/secrets/ledger_url` does not exist" in err
    assert not (tmp_path / "mine/deployment.json").exists()
    (tmp_path / "mine/secrets").mkdir(parents=True)
    (tmp_path / "mine/secrets/ledger_url").write_text("postgresql://vita@db/vita")
    code, _, err = vita("deploy", str(releases[0]), *words)
    assert code == 0 and "up --build --detach --wait" in log.read_text().splitlines()[-1], err
    assert "postgresql://" not in log.read_text() + (tmp_path / "mine/deployment.json").read_text()


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_a_missing_extra_is_named_before_anything_is_written(vita: Vita, releases, tmp_path):
    code, _, err = vita("deploy", str(releases[0]), "--target", "ray", "--apply", "--out", "mine", *UNGATED)
    assert code == 8 and "pip install 'vita-lm[ray-serve]'" in err and not (tmp_path / "mine").exists()


def test_a_service_serves_only_the_release_with_the_required_digest(vita: Vita, releases):
    code, _, err = vita("serve", str(releases[0]), "--digest", "0" * 64, "--port", "0", *UNGATED)
    assert code == 4 and "expected the release with the digest 0000" in err


def test_the_url_of_the_ledger_can_be_in_a_file(vita: Vita, tmp_path, monkeypatch):
    file = tmp_path / "ledger_url"
    monkeypatch.setenv("VITA_LEDGER_FILE", str(file))
    code, _, err = vita("keys", "list")
    assert code == 2 and "VITA_LEDGER_FILE" in err and "cannot be read" in err
    file.write_text("\n")
    code, _, err = vita("keys", "list")
    assert code == 2 and "is empty" in err
    file.write_text(f"sqlite:///{tmp_path}/shared.db\n")
    assert vita("keys", "create", "notebook")[0] == 0 and (tmp_path / "shared.db").is_file()
    monkeypatch.setenv("VITA_LEDGER", f"sqlite:///{tmp_path}/other.db")
    assert "notebook" not in vita("keys", "list")[1], "VITA_LEDGER has priority"

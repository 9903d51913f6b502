"""The compose file and the Containerfile: structure, restrictions and secrets."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest
import yaml

from tests.deploy.deployments import release, settings, texts
from vita.deploy.operations import deployment_files

FULL: dict[str, Any] = {
    "name": "mine", "replicas": 2, "cpus": 2, "memory": "6Gi", "gpus": 1, "postgresql": True, "port": 9000,
    "site": "paris", "service": {"in_flight": 8, "refusal_patterns": ["costs $5"]},
}  # fmt: skip


def compose(files: dict[str, str]) -> dict[str, Any]:
    return yaml.safe_load(files["compose.yaml"])


def instructions(files: dict[str, str]) -> list[tuple[str, str]]:
    """Return (instruction, arguments) of the Containerfile."""
    text = files["Containerfile"].replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


@pytest.mark.parametrize("values", [{}, FULL, {"store": "s3://models/vita"}], ids=["defaults", "full", "shared"])
def test_the_compose_file_follows_the_specification(tmp_path, values):
    files = texts(release(tmp_path), "compose", ungated="a test", **values)
    compose_spec = pytest.importorskip("compose_spec")
    compose_spec.PyCompose.from_yaml(files["compose.yaml"])
    with pytest.raises(ValueError, match="read_onlyy"):
        compose_spec.PyCompose.from_yaml(files["compose.yaml"].replace("read_only:", "read_onlyy:"))


def test_services_are_restricted(tmp_path):
    document = compose(texts(release(tmp_path), "compose", **FULL))
    assert set(document["services"]) == {"service", "database"}
    for service in document["services"].values():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"] and service["tmpfs"]
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
        assert service["healthcheck"]["test"][0] == "CMD" and not service.get("privileged")
    assert document["services"]["service"]["user"] == "65532:65532"
    assert document["services"]["service"]["ports"] == ["127.0.0.1:9000:9000"]
    assert "ports" not in document["services"]["database"], "only the service reaches the database"
    assert "cap_add" not in document["services"]["service"]


def test_secrets_are_files_and_never_values(tmp_path):
    document = compose(texts(release(tmp_path), "compose", **FULL))
    assert document["secrets"] == {
        name: {"file": f"../../secrets/{name}"} for name in ("ledger_url", "database_password")
    }
    service, database = document["services"]["service"], document["services"]["database"]
    assert service["environment"]["VITA_LEDGER_FILE"] == "/run/secrets/ledger_url"
    assert database["environment"]["POSTGRES_PASSWORD_FILE"] == "/run/secrets/database_password"
    assert not [name for name in (*service["environment"], *database["environment"]) if name.endswith("PASSWORD")]


def test_a_dollar_sign_in_a_setting_is_not_a_variable(tmp_path):
    words = compose(texts(release(tmp_path), "compose", **FULL))["services"]["service"]["command"]
    assert 'refusal_patterns=["costs $$5"]' in words and "in_flight=8" in words


def test_the_image_has_a_build_stage_and_a_user_without_root_rights(tmp_path):
    release_info = release(tmp_path)
    lines = instructions(texts(release_info, "compose", base_image="example.org/python:3.12"))
    names = [name for name, _ in lines]
    assert names.count("FROM") == 2 and dict(lines)["ARG"] == "BASE=example.org/python:3.12"
    runtime = lines[len(names) - names[::-1].index("FROM") - 1 :]
    assert dict(runtime)["USER"] == "65532:65532" and "pip" not in " ".join(text for _, text in runtime)
    assert "/ready" in dict(runtime)["HEALTHCHECK"]
    command = json.loads(dict(runtime)["CMD"])
    assert command[command.index("--digest") + 1] == release_info.digest
    assert any(name == "LABEL" and f'vita-lm.release="{release_info.digest}"' in text for name, text in runtime)


def test_the_package_of_the_image_has_the_extras_that_the_settings_need(tmp_path):
    release_info = release(tmp_path)
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, ""),
        ({"postgresql": True}, "[postgres]"),
        ({"store": "s3://b/f"}, "[postgres,s3]"),
        ({"store": "gs://b/f"}, "[gcs,postgres]"),
    ]
    for values, extras in cases:
        text = texts(release_info, "compose", **values)["Containerfile"]
        assert re.search(rf'pip install .* "vita-lm{re.escape(extras)}==[0-9.]+"$', text, re.MULTILINE), text
    wheel = tmp_path / "vita_lm-9.9-py3-none-any.whl"
    wheel.write_bytes(b"PK")
    files = deployment_files(release_info, settings("compose", wheel=str(wheel)), ungated=None)
    assert files[wheel.name] == b"PK" and f'"/tmp/{wheel.name}"'.encode() in files["Containerfile"]
    assert f"!{wheel.name}".encode() in files[".dockerignore"]


def test_the_containerfile_installs_from_no_index_that_is_named_in_it(tmp_path):
    text = texts(release(tmp_path), "compose")["Containerfile"]
    install = next(text for name, text in instructions({"Containerfile": text}) if "pip install" in text)
    words = shlex.split(install)
    assert "--mount=type=secret,id=pip,target=/etc/pip.conf" in words and "index" not in text

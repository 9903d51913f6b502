"""The Kubernetes objects are valid and restricted; the chart renders to the same objects."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.deployments import release, texts
from vita.deploy.kubernetes import QUEUE_METRIC
from vita.server.replica.metrics import TABLE
from vita.server.routes import STATUS_ROUTES

kubernetes_validate = pytest.importorskip("kubernetes_validate")

HELM = os.environ.get("VITA_TEST_HELM") or shutil.which("helm")
VERSIONS = ("1.27", "1.30", kubernetes_validate.latest_version())
FULL: dict[str, Any] = {
    "name": "mine", "replicas": 2, "max_replicas": 6, "queue_depth": 3, "cpus": 1.5, "gpus": 1, "memory": "8Gi",
    "site": "paris", "region": "eu-west-3", "namespace": "models", "image": "registry.example.org:5000/team/mine",
    "client_namespaces": ["proxy"], "service": {"drain_seconds": 20, "refusal_patterns": ["{{ $(x) }} 'a' \"b\""]},
}  # fmt: skip


def objects(files: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return kind -> object of the plain manifests."""
    documents = [yaml.safe_load(text) for name, text in files.items() if name.startswith("manifests/")]
    return {document["kind"]: document for document in documents}


def rendered(files: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Render the chart without Helm: replace the references to values and the escaped braces."""
    values = yaml.safe_load(files["chart/values.yaml"])

    def value(match: re.Match[str]) -> str:
        number = values[match[1]]
        return f'"{number}"' if match[2] else str(number)

    documents = []
    for name, text in files.items():
        if name.startswith("chart/templates/"):
            plain = re.sub(r"\{\{ \.Values\.(\w+)( \| quote)? \}\}", value, text)
            documents.append(yaml.safe_load(plain.replace("{{ `{{` }}", "{{")))
    return {document["kind"]: document for document in documents}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return texts(release(tmp_path_factory.mktemp("release")), "kubernetes", **FULL)


@pytest.mark.parametrize("values", [{}, FULL], ids=["defaults", "all settings"])
def test_every_object_is_valid_in_each_supported_version(tmp_path, values):
    files = texts(release(tmp_path), "kubernetes", **values)
    kinds = {"ServiceAccount", "ConfigMap", "Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget"}
    assert set(objects(files)) == kinds | ({"HorizontalPodAutoscaler"} if values else set())
    for document in objects(files).values():
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)


def test_pods_fulfil_the_restricted_security_standard(files):
    pod = objects(files)["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False and pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(pod)
    assert all(set(volume) & {"emptyDir", "secret"} for volume in pod["volumes"]), "no path of the host"
    assert "env" not in container, "the environment is the ConfigMap, and the ledger URL is a file of a Secret"
    assert objects(files)["ConfigMap"]["data"]["VITA_LEDGER_FILE"] == "/run/secrets/vita/url"


def test_probes_and_the_metric_of_autoscaling_exist_in_the_service(files):
    paths = {route.path for route in STATUS_ROUTES if route.public}
    (container,) = objects(files)["Deployment"]["spec"]["template"]["spec"]["containers"]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[name]["httpGet"]["path"] in paths and container[name]["httpGet"]["port"] == "http"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health", "a busy or draining pod is not killed"
    (metric,) = objects(files)["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == QUEUE_METRIC
    assert QUEUE_METRIC.removeprefix("vita_") in TABLE
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "3"}


def test_a_pod_has_time_to_finish_its_requests(files):
    spec = objects(files)["Deployment"]["spec"]
    pod = spec["template"]["spec"]
    pause = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pause + FULL["service"]["drain_seconds"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "replicas" not in spec, "the autoscaler sets the number of pods"


def test_arguments_reach_the_service_unchanged(files):
    arguments = objects(files)["Deployment"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[:2] == ["serve", "/opt/release"] and "--digest" in arguments
    setting = next(word for word in arguments if word.startswith("refusal_patterns="))
    assert setting == 'refusal_patterns=["{{ $$(x) }} \'a\' \\"b\\""]', "Kubernetes replaces $$( by $("


@pytest.mark.parametrize("values", [{}, FULL], ids=["defaults", "all settings"])
def test_the_chart_renders_to_the_plain_manifests(tmp_path, values):
    files = texts(release(tmp_path), "kubernetes", **values)
    assert rendered(files) == objects(files)


@pytest.mark.skipif(HELM is None, reason="Helm is not installed, and VITA_TEST_HELM does not name it")
def test_helm_renders_the_chart_to_the_plain_manifests(tmp_path, files):
    assert HELM is not None
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    chart = str(tmp_path / "chart")
    subprocess.run([HELM, "lint", "--strict", chart], check=True, capture_output=True)
    output = subprocess.run([HELM, "template", "x", chart], check=True, capture_output=True, text=True).stdout
    assert {document["kind"]: document for document in yaml.safe_load_all(output)} == objects(files)
    scaled = [HELM, "template", "x", chart, "--set", "replicas=3", "--set", "image=other/image:1"]
    output = subprocess.run(scaled, check=True, capture_output=True, text=True).stdout
    by_kind = {document["kind"]: document for document in yaml.safe_load_all(output)}
    assert by_kind["HorizontalPodAutoscaler"]["spec"]["minReplicas"] == 3
    assert by_kind["Deployment"]["spec"]["template"]["spec"]["containers"][0]["image"] == "other/image:1"


def test_a_change_of_the_configuration_restarts_the_pods(tmp_path):
    release_info = release(tmp_path)
    annotations = [
        objects(texts(release_info, "kubernetes", store=store))["Deployment"]["spec"]["template"]["metadata"]
        for store in ("s3://models/a", "s3://models/b")
    ]
    assert annotations[0] != annotations[1]


def test_the_site_and_the_region_are_labels_and_the_region_selects_nodes(files):
    deployment = objects(files)["Deployment"]
    assert deployment["metadata"]["labels"]["vita-lm/site"] == "paris"
    assert deployment["spec"]["template"]["spec"]["nodeSelector"] == {"topology.kubernetes.io/region": "eu-west-3"}


def test_the_manifests_are_written_below_their_folder(files):
    assert all(Path(name).parts[0] in ("manifests", "chart", "Containerfile", ".dockerignore") for name in files)

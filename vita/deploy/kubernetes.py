"""The target `kubernetes`: the objects of a service, as plain manifests and as a Helm chart.

Both contain the same objects. In the chart, the values that differ between clusters are read from `values.yaml`.

A pod contains a gateway and one replica process. Pods share only the ledger and the store, so they can be added and
removed at any time. They comply with the Pod Security Standard `restricted`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from vita import __version__
from vita.deploy.image import environment, image_files
from vita.deploy.release_files import (
    RELEASE_IN_IMAGE,
    STATE_IN_CONTAINER,
    USER_IN_CONTAINER,
    drain_seconds,
    image_reference,
    labels,
    serve_arguments,
    service_name,
)
from vita.deploy.settings import DeploymentSettings
from vita.deploy.yaml_output import yaml_document
from vita.server.release import ReleaseInfo
from vita.server.routes import HEALTH, READY
from vita.spine.store import canonical_json

MANIFESTS, CHART = "manifests", "chart"
QUEUE_METRIC = "vita_requests_waiting"
"""The metric of the replicas in `/metrics` of the gateway on which autoscaling depends."""
PRE_STOP_SECONDS = 5
"""Time between the removal of a pod from the endpoints and SIGTERM, so that proxies can apply the removal."""
_LEDGER_FOLDER = "/run/secrets/vita"
_PLACEHOLDER = re.compile(r"@\{(\w+)\}")

Values = dict[str, Any]
Objects = dict[str, dict[str, Any]]
"""Name of the file without its suffix -> the object."""


def kubernetes_files(release: ReleaseInfo, settings: DeploymentSettings, *, ungated: str | None) -> dict[str, str]:
    """Return the text files of a deployment on Kubernetes."""
    values = cluster_values(release, settings)
    plain = kubernetes_objects(release, settings, values, ungated=ungated)
    templates = kubernetes_objects(
        release, settings, {name: f"@{{{name}}}" for name in values}, ungated=ungated, plain=values
    )
    files = image_files(release, settings)
    files |= {f"{MANIFESTS}/{name}.yaml": yaml_document(item) for name, item in plain.items()}
    files |= {f"{CHART}/templates/{name}.yaml": _template(item) for name, item in templates.items()}
    chart = {
        "apiVersion": "v2",
        "name": service_name(release, settings),
        "description": f"The release {release.id}, served by Vita",
        "type": "application",
        "version": "1.0.0",
        "appVersion": release.version,
        "kubeVersion": ">=1.27.0-0",
    }
    files[f"{CHART}/Chart.yaml"] = yaml_document(chart)
    files[f"{CHART}/values.yaml"] = yaml_document(values)
    return files


def cluster_values(release: ReleaseInfo, settings: DeploymentSettings) -> Values:
    """Return the values that can be changed in `values.yaml`."""
    values: Values = {
        "replicas": settings.replicas,
        "image": image_reference(release, settings),
        "cpu": _cpu(settings.cpus),
        "memory": settings.memory,
        "store": settings.store,
        "ledgerSecret": settings.ledger_secret,
    }
    if settings.max_replicas is not None:
        values |= {"maxReplicas": settings.max_replicas, "queueDepth": str(settings.queue_depth)}
    if settings.region is not None:
        values["region"] = settings.region
    return values


def kubernetes_objects(
    release: ReleaseInfo, settings: DeploymentSettings, values: Mapping[str, Any], *, ungated: str | None,
    plain: Mapping[str, Any] | None = None,
) -> Objects:  # fmt: skip
    """Return the objects of a service; `values` are numbers and texts, or placeholders for the chart.

    `plain` are the numbers and texts from which checksums are computed, if `values` are placeholders.
    """
    name = service_name(release, settings)
    configuration = _configuration(settings, values)
    plain_configuration = _configuration(settings, plain or values)
    objects: Objects = {
        "service-account": {"apiVersion": "v1", "kind": "ServiceAccount", "automountServiceAccountToken": False},
        "config-map": {"apiVersion": "v1", "kind": "ConfigMap", "data": configuration},
        "deployment": _deployment(release, settings, values, ungated=ungated, configuration=plain_configuration),
        "service": _service(settings, name),
        "network-policy": _network_policy(settings, name),
        "pod-disruption-budget": _disruption_budget(name),
    }
    if settings.max_replicas is not None:
        objects["horizontal-pod-autoscaler"] = _autoscaler(name, values)
    return {file: _with_metadata(item, release, settings, name) for file, item in objects.items()}


def _with_metadata(
    item: dict[str, Any], release: ReleaseInfo, settings: DeploymentSettings, name: str
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if settings.namespace is not None:
        metadata["namespace"] = settings.namespace
    metadata["labels"] = {
        **_selector(name),
        "app.kubernetes.io/version": __version__,
        "app.kubernetes.io/managed-by": "vita",
        **labels(release, settings),
    }
    rest = {field: value for field, value in item.items() if field not in ("apiVersion", "kind")}
    return {"apiVersion": item["apiVersion"], "kind": item["kind"], "metadata": metadata, **rest}


def _selector(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "vita", "app.kubernetes.io/instance": name}


def _configuration(settings: DeploymentSettings, values: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment of the service, without secrets."""
    variables = {**environment(), "VITA_THREADS": str(max(1, int(settings.cpus)))}
    variables |= {"VITA_STORE": values["store"], "VITA_LEDGER_FILE": f"{_LEDGER_FOLDER}/url"}
    return variables | ({"VITA_DEVICE": "cuda"} if settings.gpus else {})


def _deployment(
    release: ReleaseInfo, settings: DeploymentSettings, values: Mapping[str, Any], *, ungated: str | None,
    configuration: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    name = service_name(release, settings)
    pod_labels = {**_selector(name), **labels(release, settings)}
    checksum = hashlib.sha256(canonical_json(dict(configuration))).hexdigest()[:16]
    pod: dict[str, Any] = {
        "serviceAccountName": name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": drain_seconds(settings.service) + PRE_STOP_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_IN_CONTAINER,
            "runAsGroup": USER_IN_CONTAINER,
            "fsGroup": USER_IN_CONTAINER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": _selector(name)},
            }
            for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
        ],
        "containers": [_container(release, settings, values, ungated=ungated)],
        "volumes": [
            {"name": "state", "emptyDir": {"sizeLimit": "10Gi"}},
            {"name": "temporary", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "ledger", "secret": {"secretName": values["ledgerSecret"], "defaultMode": 0o440}},
        ],
    }
    if settings.region is not None:
        pod["nodeSelector"] = {"topology.kubernetes.io/region": values["region"]}
    replicas = {} if settings.max_replicas is not None else {"replicas": values["replicas"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "spec": {
            **replicas,  # with autoscaling, the autoscaler alone sets the number of pods
            "revisionHistoryLimit": 5,
            "progressDeadlineSeconds": int(settings.service.ready_seconds) + 300,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": _selector(name)},
            "template": {
                "metadata": {"labels": pod_labels, "annotations": {"vita-lm/configuration": checksum}},
                "spec": pod,
            },
        },
    }


def _container(
    release: ReleaseInfo, settings: DeploymentSettings, values: Mapping[str, Any], *, ungated: str | None
) -> dict[str, Any]:
    arguments = serve_arguments(
        release, settings, folder=RELEASE_IN_IMAGE, replicas=1, host="0.0.0.0", port=settings.port, ungated=ungated
    )
    resources: dict[str, Any] = {"cpu": values["cpu"], "memory": values["memory"]}
    limits: dict[str, Any] = {"memory": values["memory"]}
    if settings.gpus:
        limits["nvidia.com/gpu"] = str(settings.gpus)
        resources["nvidia.com/gpu"] = str(settings.gpus)
    return {
        "name": "service",
        "image": values["image"],
        "imagePullPolicy": "IfNotPresent",
        "args": [word.replace("$(", "$$(") for word in arguments],  # `$(` begins a variable in a manifest
        "envFrom": [{"configMapRef": {"name": service_name(release, settings)}}],
        "ports": [{"name": "http", "containerPort": settings.port, "protocol": "TCP"}],
        "startupProbe": _probe(READY.path, period=5, failures=max(1, int(settings.service.ready_seconds) // 5)),
        "readinessProbe": _probe(READY.path, period=2, failures=2),
        "livenessProbe": _probe(HEALTH.path, period=10, failures=6),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(PRE_STOP_SECONDS)]}}},
        "resources": {"requests": resources, "limits": limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "state", "mountPath": STATE_IN_CONTAINER},
            {"name": "temporary", "mountPath": "/tmp"},
            {"name": "ledger", "mountPath": _LEDGER_FOLDER, "readOnly": True},
        ],
    }


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _service(settings: DeploymentSettings, name: str) -> dict[str, Any]:
    ports = [{"name": "http", "port": settings.port, "targetPort": "http", "protocol": "TCP"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "spec": {"type": "ClusterIP", "selector": _selector(name), "ports": ports},
    }


def _network_policy(settings: DeploymentSettings, name: str) -> dict[str, Any]:
    """Return the policy: ingress from the namespace and from client namespaces; egress to DNS, store and ledger."""
    clients: list[dict[str, Any]] = [{"podSelector": {}}]
    clients += [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
        for namespace in settings.client_namespaces
    ]
    dns = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    outgoing = [{"protocol": "TCP", "port": port} for port in settings.outgoing_ports]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "spec": {
            "podSelector": {"matchLabels": _selector(name)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": clients, "ports": [{"protocol": "TCP", "port": "http"}]}],
            "egress": [{"ports": [*dns, *outgoing]}],
        },
    }


def _disruption_budget(name: str) -> dict[str, Any]:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": _selector(name)}}
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "spec": spec}


def _autoscaler(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    metric = {
        "type": "Pods",
        "pods": {
            "metric": {"name": QUEUE_METRIC},
            "target": {"type": "AverageValue", "averageValue": values["queueDepth"]},
        },
    }
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": values["replicas"],
            "maxReplicas": values["maxReplicas"],
            "metrics": [metric],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
        },
    }


def _cpu(cpus: float) -> str:
    """Return a number of CPUs as a quantity of Kubernetes."""
    return str(int(cpus)) if cpus == int(cpus) else f"{round(cpus * 1000)}m"


_NUMBERS = ("replicas", "maxReplicas")


def _template(item: dict[str, Any]) -> str:
    """Return an object of the chart: its placeholders become references to `values.yaml`.

    Braces of the object itself, for example in a setting, are not part of the template language.
    """
    text = yaml_document(item).replace("{{", "{{ `{{` }}")

    def reference(match: re.Match[str]) -> str:
        value = f".Values.{match[1]}"
        return f"{{{{ {value} }}}}" if match[1] in _NUMBERS else f"{{{{ {value} | quote }}}}"

    return re.sub(rf"'?{_PLACEHOLDER.pattern}'?", reference, text)

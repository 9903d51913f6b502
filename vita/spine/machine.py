"""The machine that a process runs on, and all access to environment variables.

Ranks follow torchrun (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`). `VITA_STORE` and `VITA_LEDGER` are the locations of the
artifacts and the ledger, `VITA_LEDGER_FILE` is a file with the latter, `VITA_SCRATCH_DAYS` is the retention of
unfinished work in days, `VITA_THREADS` limits the CPU threads, `VITA_DEVICE` selects the device, `VITA_RAY` is the Ray
cluster for curation, `VITA_SIGNING_KEY` is the private key that signs archives, and `VITA_REPLICA_SECRET` is passed
from a service to its replicas. Traces have the standard variables `OTEL_*`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vita.spine.errors import ConfigError


@dataclass(frozen=True)
class Machine:
    """The rank of this process and the resources that it may use."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    threads: int = 1
    restarts: int = 0
    """Number of times that torchrun has started the processes of this machine again."""
    chosen_device: str | None = None
    ray: str | None = None
    """The Ray cluster for curation: `local` or HOST:PORT; None for processes of this machine."""

    @classmethod
    def detect(cls) -> Machine:
        """Read the environment once."""
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cls(
            rank=_number("RANK", 0),
            world_size=_number("WORLD_SIZE", 1),
            local_rank=_number("LOCAL_RANK", 0),
            threads=_number("VITA_THREADS", available),
            restarts=_restarts(),
            chosen_device=chosen_device(),
            ray=os.environ.get("VITA_RAY") or None,
        )

    @cached_property
    def device(self) -> str:
        """The device: `cpu`, `cuda` or `mps`; the first access may import torch."""
        if self.chosen_device:
            return self.chosen_device
        import torch

        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"

    @property
    def leads(self) -> bool:
        """True in the process that writes (rank 0)."""
        return self.rank == 0

    def describe(self) -> dict[str, object]:
        """Return the description of the machine for a run record, without host name and paths."""
        return {
            "system": platform.system(),
            "processor": platform.machine(),
            "python": platform.python_version(),
            "threads": self.threads,
            "world_size": self.world_size,
            "device": self.__dict__.get("device", self.chosen_device),
        }


def chosen_device() -> str | None:
    """Return the device that the environment selects, if any."""
    return os.environ.get("VITA_DEVICE") or None


def disables_compilation() -> bool:
    """Return True if a variable of torch disables `torch.compile`."""
    return "1" in (os.environ.get("TORCH_COMPILE_DISABLE"), os.environ.get("TORCHDYNAMO_DISABLE"))


def store_location() -> str | None:
    """Return the location of the artifacts from the environment, if set."""
    return os.environ.get("VITA_STORE") or None


def ledger_location() -> str | None:
    """Return the database URL of the ledger from the environment, or from the file that it names, if set.

    A file (`VITA_LEDGER_FILE`) is a secret of a container, whose environment other programs can read.
    """
    if url := os.environ.get("VITA_LEDGER"):
        return url
    if not (file := os.environ.get("VITA_LEDGER_FILE")):
        return None
    where = "environment variable VITA_LEDGER_FILE"
    try:
        url = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(where, f"`{file}` cannot be read: {error}") from None
    if not url:
        raise ConfigError(where, expected="a file with the database URL of the ledger", got=f"`{file}` is empty")
    return url


def scratch_days() -> float:
    """Return the retention of an unfinished run's scratch folder in days, during which the run can resume."""
    text = os.environ.get("VITA_SCRATCH_DAYS", "").strip() or "14"
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not days >= 0:
        raise ConfigError("environment variable VITA_SCRATCH_DAYS", expected="a number of days from 0 on", got=text)
    return days


def signing_key() -> Path:
    """Return the path of the private key that signs archives."""
    chosen = os.environ.get("VITA_SIGNING_KEY")
    return Path(chosen).expanduser() if chosen else _config_folder() / "model-signing-key.pem"


def personal_keys() -> Path:
    """Return the folder of the private keys with which people sign approvals."""
    return _config_folder() / "people"


def _config_folder() -> Path:
    """Return the user's configuration folder."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "vita"


def environment_of_vita(*, store: str, ledger: str | None) -> dict[str, str]:
    """Return the environment of a `vita` process that uses this store and this ledger."""
    return {**os.environ, "VITA_STORE": store} | ({} if ledger is None else {"VITA_LEDGER": ledger})


def environment_of_replica(secret: str) -> dict[str, str]:
    """Return the environment of this process with the secret that a replica requires from its callers."""
    return {**os.environ, "VITA_REPLICA_SECRET": secret}


def prepare_environment_of_ray(*, loopback: bool, tls: Mapping[str, str] | None = None) -> None:
    """Set what Ray reads when it is imported: no usage statistics, no warning about accelerators, and the address.

    `tls` are the variables of a cluster whose processes authenticate one another with certificates.
    """
    os.environ.update(tls or {})
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if loopback:
        # Ray replaces the loopback address by one of the network, except with this setting.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def replica_secret() -> str:
    """Return the secret that callers of this replica must send, and remove it from the environment of children."""
    return os.environ.pop("VITA_REPLICA_SECRET", "")


ENGINE_VARIABLES = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "XDG_CACHE_HOME", "PYTHONPATH",
)  # fmt: skip
"""Environment variables that a program of another backend receives."""
ENGINE_PREFIXES = ("VLLM_", "GGML_", "LLAMA_")
"""Prefixes of further ones."""


def environment_of_engine(**variables: str) -> dict[str, str]:
    """Return the environment of a program of another backend: no keys of Vita, of clouds or of other services."""
    names = [name for name in os.environ if name in ENGINE_VARIABLES or name.startswith(ENGINE_PREFIXES)]
    selected = {name: os.environ[name] for name in names if not name.endswith(("_KEY", "_TOKEN"))}
    return {**selected, **variables}


def engine_secret() -> str:
    """Return the secret that callers of this program must send, and remove it from the environment of children."""
    return os.environ.pop("VITA_ENGINE_SECRET", "")


def endpoint_key(variable: str) -> str | None:
    """Return the API key of an endpoint from the environment variable that its settings name, if it is set."""
    return os.environ.get(variable) or None


def exports_traces() -> bool:
    """Return True if the standard variables of OpenTelemetry name an endpoint for traces and do not disable them."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return bool(os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))


def names_traced_service() -> bool:
    """Return True if the environment names the service in traces."""
    return bool(os.environ.get("OTEL_SERVICE_NAME"))


def set_trace_endpoint(url: str) -> None:
    """Set the endpoint for traces of this process and of the replicas that it starts."""
    os.environ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = url


def cache_folder() -> Path:
    """Return the folder of the local copies of remote artifacts."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vita"


def owner() -> tuple[str, str]:
    """Return (host, process) of this process, with which another process can check whether it is alive.

    The host changes with a reboot and differs between containers, because process ids are not valid across them.
    """
    return owner_of(os.getpid())


def owner_of(process: int) -> tuple[str, str]:
    """Return (host, process) of a process of this machine, as `owner` does for this process."""
    return _host(), f"{process}:{_start_time(process)}"


def still_alive(host: str, process: str) -> bool | None:
    """Return True if the process is alive, False if not, None if it runs on another host and this is unknown."""
    if host != _host():
        return None
    number, _, started = process.partition(":")
    return _start_time(int(number)) == started


def _host() -> str:
    """Return an id of this host, its boot and its process namespace."""
    parts = [platform.node()]
    for source in ("/proc/sys/kernel/random/boot_id",):
        try:
            parts.append(Path(source).read_text().strip()[:8])
        except OSError:
            parts.append("-")
    try:
        parts.append(str(Path("/proc/self/ns/pid").readlink()).strip("pid:[]"))
    except OSError:
        parts.append("-")
    return "/".join(parts)


def _start_time(process: int) -> str:
    """Return the start time of a process in ticks since boot; empty if it has ended or is a zombie."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
        return _alive_without_proc(process)
    except ProcessLookupError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]


def _alive_without_proc(process: int) -> str:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"


def _restarts() -> int:
    """Return the restarts by torchrun on one machine, whose agent keeps its key-value store.

    Agents of several machines count differently, but create a new store for each start.
    """
    is_single = _number("LOCAL_WORLD_SIZE", 1) == _number("WORLD_SIZE", 1)
    return _number("TORCHELASTIC_RESTART_COUNT", 0) if is_single else 0


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"environment variable {name}", expected="a whole number", got=text) from None

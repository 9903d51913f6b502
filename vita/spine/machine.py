"""The machine a process runs on; the only reader of the environment.

Ranks follow torchrun (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`). `VITA_STORE` and `VITA_LEDGER` say where
artifacts and the ledger live, `VITA_SCRATCH_DAYS` how long unfinished work is kept, `VITA_THREADS` limits the CPU
threads, `VITA_DEVICE` chooses the device,
`VITA_SIGNING_KEY` is the private key that signs archives; `VITA_REPLICA_SECRET` goes from a service to its replicas.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vita.spine.errors import ConfigError


@dataclass(frozen=True)
class Machine:
    """Where this process runs: its rank among others and what it may use."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    threads: int = 1
    chosen_device: str | None = None

    @classmethod
    def detect(cls) -> Machine:
        """Read the environment once."""
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cls(
            rank=_number("RANK", 0),
            world_size=_number("WORLD_SIZE", 1),
            local_rank=_number("LOCAL_RANK", 0),
            threads=_number("VITA_THREADS", available),
            chosen_device=chosen_device(),
        )

    @cached_property
    def device(self) -> str:
        """`cpu`, `cuda` or `mps`; asking imports torch."""
        if self.chosen_device:
            return self.chosen_device
        import torch

        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"

    @property
    def leads(self) -> bool:
        """True in the one process that writes."""
        return self.rank == 0

    def describe(self) -> dict[str, object]:
        """What a run record says about the machine; no host name, no path."""
        return {
            "system": platform.system(),
            "processor": platform.machine(),
            "python": platform.python_version(),
            "threads": self.threads,
            "world_size": self.world_size,
            "device": self.__dict__.get("device", self.chosen_device),
        }


def chosen_device() -> str | None:
    """The device that the environment chooses."""
    return os.environ.get("VITA_DEVICE") or None


def store_location() -> str | None:
    """Where artifacts live, when the environment says."""
    return os.environ.get("VITA_STORE") or None


def ledger_location() -> str | None:
    """The ledger's database URL, when the environment says."""
    return os.environ.get("VITA_LEDGER") or None


def scratch_days() -> float:
    """How many days the scratch folder of a run that did not finish is kept, so that the run can go on."""
    text = os.environ.get("VITA_SCRATCH_DAYS", "").strip() or "14"
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not days >= 0:
        raise ConfigError("environment variable VITA_SCRATCH_DAYS", expected="a number of days from 0 on", got=text)
    return days


def signing_key() -> Path:
    """The file of the private key with which archives are signed."""
    chosen = os.environ.get("VITA_SIGNING_KEY")
    return Path(chosen).expanduser() if chosen else _config_folder() / "model-signing-key.pem"


def personal_keys() -> Path:
    """The folder of the private keys with which people sign approvals."""
    return _config_folder() / "people"


def _config_folder() -> Path:
    """The user's configuration folder."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "vita"


def environment_of_replica(secret: str) -> dict[str, str]:
    """This process's environment, with what a replica asks of its callers."""
    return {**os.environ, "VITA_REPLICA_SECRET": secret}


def replica_secret() -> str:
    """What callers must show, when a service started this replica; no child of it inherits that."""
    return os.environ.pop("VITA_REPLICA_SECRET", "")


def cache_folder() -> Path:
    """Where local copies of remote artifacts are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "vita"


def owner() -> tuple[str, str]:
    """(place, process) of this process, so that another can tell whether it still lives.

    The place changes with a reboot or another container, since process numbers mean nothing across them.
    """
    return _place(), f"{os.getpid()}:{_started(os.getpid())}"


def still_alive(place: str, process: str) -> bool | None:
    """Whether that process lives: True or False when it was started in this place, None when we cannot know."""
    if place != _place():
        return None
    number, _, started = process.partition(":")
    return _started(int(number)) == started


def _place() -> str:
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


def _started(process: int) -> str:
    """When a process began, in ticks since boot; empty when it is gone or a zombie."""
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


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"environment variable {name}", expected="a whole number", got=text) from None

"""The content of an archive beside the weights: the model card, reports on the model and its ancestors, and packages.

write_card(ledger, store, digest, folder / "cards")
reports_of(ledger, store, [digest, parent, ...])     # the archive's name of a report -> its digest
constraints(packages())                              # for `pip install -c constraints.txt`
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from vita.cards import model_card, model_card_page
from vita.spine.ledger import Ledger
from vita.spine.store import Store


@dataclass(frozen=True)
class Package:
    """An installed package."""

    version: str
    sha256: str | None = None
    """Digest of the archive it was installed from, if the installer recorded it: pip records it for URLs only."""


def write_card(ledger: Ledger, store: Store, model: str, folder: Path) -> None:
    """Write the model card: `README.md`, `card.html` and `card.json`."""
    model_card_page.write(model_card.gather(ledger, store, model), folder)


def reports_of(ledger: Ledger, store: Store, artifacts: Iterable[str]) -> dict[str, str]:
    """Return name -> digest of every report on the models among the artifacts and on their releases."""
    reports: dict[str, str] = {}
    stored = [digest for digest in dict.fromkeys(artifacts) if store.has(digest)]
    measured = [digest for digest in stored if store.manifest(digest).kind in ("model", "reward")]
    for digest in measured:  # grows while it is read: the releases of a model are measured, too
        for run in ledger.users(digest):
            if run.artifact is None or run.artifact in measured or not store.has(run.artifact):
                continue
            kind = store.manifest(run.artifact).kind
            if kind == "release":
                measured.append(run.artifact)
            elif kind == "report":
                reports[f"{_plain(run.step)}-{run.artifact[:8]}"] = run.artifact
    return reports


def packages() -> dict[str, Package]:
    """Return the packages of this environment by their names in lower case."""
    installed = {package.metadata["Name"]: package for package in distributions() if package.metadata["Name"]}
    names = sorted(installed, key=str.lower)
    return {name.lower(): Package(installed[name].version, _sha256(installed[name])) for name in names}


def constraints(installed: Mapping[str, Package]) -> str:
    """Return the packages as a constraints file for pip.

    A hash is a comment: pip accepts hashes for all packages or for none.
    """
    about = f"# Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    lines = [
        f"{name}=={package.version}" + (f"  # sha256:{package.sha256}" if package.sha256 else "")
        for name, package in installed.items()
    ]
    return "\n".join([about, *lines]) + "\n"


def _sha256(distribution: Distribution) -> str | None:
    """Return the digest of the archive that the installer recorded (PEP 610)."""
    try:
        archive = json.loads(distribution.read_text("direct_url.json") or "{}").get("archive_info") or {}
    except ValueError:
        return None
    hashes = archive.get("hashes") or dict([archive["hash"].split("=", 1)] if "=" in archive.get("hash", "") else [])
    return hashes.get("sha256")


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "report"

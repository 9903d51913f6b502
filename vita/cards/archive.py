"""What an archive tells of its model beside the weights: its card, the reports on it and its line, and the packages.

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
    """A package that is installed here."""

    version: str
    sha256: str | None = None
    """Of the archive that it was installed from, where the installer kept that: pip does for addresses alone."""


def write_card(ledger: Ledger, store: Store, model: str, folder: Path) -> None:
    """`README.md`, `card.html` and `card.json`: all that is known of the model now."""
    model_card_page.write(model_card.gather(ledger, store, model), folder)


def reports_of(ledger: Ledger, store: Store, artifacts: Iterable[str]) -> dict[str, str]:
    """Every report on the models among these and on their releases: tests, red teams, reviews, canaries."""
    found: dict[str, str] = {}
    there = [digest for digest in dict.fromkeys(artifacts) if store.has(digest)]
    taken = [digest for digest in there if store.manifest(digest).kind in ("model", "reward")]
    for digest in taken:
        for run in ledger.users(digest):
            if run.artifact is None or run.artifact in taken or not store.has(run.artifact):
                continue
            kind = store.manifest(run.artifact).kind
            if kind == "release":
                taken.append(run.artifact)
            elif kind == "report":
                found[f"{_plain(run.step)}-{run.artifact[:8]}"] = run.artifact
    return found


def packages() -> dict[str, Package]:
    """Every package of this environment, by its name in small letters."""
    named = {one.metadata["Name"]: one for one in distributions() if one.metadata["Name"]}
    return {name.lower(): Package(named[name].version, _sha256(named[name])) for name in sorted(named, key=str.lower)}


def constraints(installed: Mapping[str, Package]) -> str:
    """The packages as lines that pip reads, for whoever builds the environment again.

    A hash stands in a comment: pip takes hashes for all packages or for none.
    """
    about = f"# Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    lines = [
        f"{name}=={one.version}" + (f"  # sha256:{one.sha256}" if one.sha256 else "") for name, one in installed.items()
    ]
    return "\n".join([about, *lines]) + "\n"


def _sha256(distribution: Distribution) -> str | None:
    """What the installer wrote of the archive (PEP 610)."""
    try:
        archive = json.loads(distribution.read_text("direct_url.json") or "{}").get("archive_info") or {}
    except ValueError:
        return None
    named = archive.get("hashes") or dict([archive["hash"].split("=", 1)] if "=" in archive.get("hash", "") else [])
    return named.get("sha256")


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "report"

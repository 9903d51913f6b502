"""Certificates of gateways and replicas for tests."""

from __future__ import annotations

from pathlib import Path

from vita.server.sites.credentials import Credentials, Role, create_authority, issue


def credentials(
    folder: Path, role: Role, *, name: str = "paris", host: str = "127.0.0.1", authority: str = "authority",
    days: float = 1.0,
) -> Credentials:  # fmt: skip
    """Issue a certificate; the authority is created when it does not exist."""
    if not (folder / authority).exists():
        create_authority(folder / authority)
    target = folder / f"{authority}-{role}-{name}"
    if not target.exists():
        issue(folder / authority, target, role=role, name=name, hosts=[host], days=days)
    return Credentials.load(target, role=role)

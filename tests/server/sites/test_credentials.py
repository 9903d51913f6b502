"""Certificates: their files, their checks, and the command that creates them."""

from __future__ import annotations

import shutil
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner

from tests.server.sites_pki import credentials
from vita.cli.app import app
from vita.cli.commands import register
from vita.server.replica.rotating_secrets import RotatingSecrets
from vita.server.sites.credentials import Credentials, PeerIdentity, create_authority, issue
from vita.spine.errors import ConfigError


def test_a_certificate_contains_its_hosts_its_role_and_its_expiry(tmp_path: Path) -> None:
    create_authority(tmp_path / "ca")
    issue(tmp_path / "ca", tmp_path / "gw", role="gateway", name="paris", hosts=["10.0.0.1", "gw.example"], days=30)
    certificate = x509.load_pem_x509_certificate((tmp_path / "gw" / "certificate.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["10.0.0.1", "gw.example", "vita:gateway:paris"]
    left = certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=29) < left < timedelta(days=31)
    loaded = Credentials.load(tmp_path / "gw", role="gateway")
    assert loaded.identity == PeerIdentity("gateway", "paris") and loaded.warning is None
    assert loaded.client_context().verify_mode == loaded.server_context().verify_mode == ssl.CERT_REQUIRED
    assert loaded.client_context().check_hostname


def test_private_keys_are_readable_by_their_owner_alone_and_never_replaced(tmp_path: Path) -> None:
    credentials(tmp_path, "replica")
    keys = [*tmp_path.rglob("*key.pem")]
    assert [stat.S_IMODE(path.stat().st_mode) for path in keys] == [0o600, 0o600]
    with pytest.raises(ConfigError, match="already exists"):
        create_authority(tmp_path / "authority")
    with pytest.raises(ConfigError, match="already exists"):
        issue(
            tmp_path / "authority", tmp_path / "authority-replica-paris", role="replica", name="a", hosts=["a"], days=1
        )
    key = tmp_path / "authority-replica-paris" / "key.pem"
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="only its owner can read.*0o640"):
        Credentials.load(key.parent, role="replica")


def test_certificates_of_another_authority_another_role_or_an_earlier_time_are_refused(tmp_path: Path) -> None:
    gateway = credentials(tmp_path, "gateway").folder
    with pytest.raises(ConfigError, match="the certificate of a replica, got one of a gateway"):
        Credentials.load(gateway, role="replica")
    credentials(tmp_path, "gateway", authority="other")
    shutil.copy(tmp_path / "other" / "authority.pem", gateway / "authority.pem")
    with pytest.raises(ConfigError, match="was not issued by"):
        Credentials.load(gateway, role="gateway")
    with pytest.raises(ConfigError, match=r"expired on .*vita sites issue"):
        credentials(tmp_path, "gateway", name="old", days=1e-9)
    with pytest.raises(ConfigError, match=r"contains no authority.pem"):
        Credentials.load(tmp_path / "nothing", role="gateway")
    assert "expires on" in str(credentials(tmp_path, "gateway", name="soon", days=3).warning)


def test_the_commands_create_certificates_and_name_wrong_options(tmp_path: Path) -> None:
    register(None)

    def vita(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, [*words])
        return result.exit_code, result.output + str(result.exception or "")

    ca, folder = str(tmp_path / "ca"), str(tmp_path / "gw")
    assert vita("sites", "create-authority", ca)[0] == 0
    options = ("--name", "paris", "--host", "127.0.0.1")
    code, text = vita("sites", "issue", ca, folder, "--role", "gateway", *options)
    assert code == 0, text
    assert "BEGIN" not in text
    assert Credentials.load(Path(folder), role="gateway").identity.name == "paris"
    for wrong in (("--role", "king", *options), ("--role", "replica", "--name", "A B", "--host", "a")):
        assert "ConfigError" in repr(CliRunner().invoke(app, ["sites", "issue", ca, f"{folder}2", *wrong]).exception)


def test_a_secret_is_accepted_until_it_expires_and_earlier_ones_overlap_with_it() -> None:
    now = 0.0
    secrets = RotatingSecrets(seconds=10.0, clock=lambda: now)
    first = secrets.new().encode()
    assert secrets.accepts(first) and not secrets.accepts(first[:-1]) and not secrets.accepts(b"")
    now = 6.0
    second = secrets.new().encode()
    assert secrets.accepts(first) and secrets.accepts(second) and first != second
    now = 10.0
    assert not secrets.accepts(first) and secrets.accepts(second)
    now = 16.0
    assert not secrets.accepts(second)

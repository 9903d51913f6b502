"""Certificates for mutual TLS between gateways and network replicas, from your own certificate authority.

    create_authority(Path("authority"))
    issue(Path("authority"), Path("paris"), role="gateway", name="paris", hosts=["10.0.1.1"], days=90)
    credentials = Credentials.load(Path("paris"), role="gateway")
    context = credentials.client_context()

Both sides of a connection present a certificate and accept only certificates of this authority. A certificate contains
the addresses of its host and, as a URI, its role and name (`vita:gateway:paris`). Private keys have the file mode 600.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vita.server.sites.site import check_name
from vita.spine.errors import ConfigError

Role = Literal["gateway", "replica"]
AUTHORITY, CERTIFICATE, KEY = "authority.pem", "certificate.pem", "key.pem"
AUTHORITY_KEY = "authority-key.pem"
"""The private key of the authority, which signs certificates; gateways and replicas do not need it."""
AUTHORITY_DAYS, WARN_DAYS = 3650, 14
_CLOCK_SKEW = timedelta(minutes=5)
"""A certificate is valid from this time before its creation, because the clocks of hosts differ."""


@dataclass(frozen=True)
class PeerIdentity:
    """The role and the name of the peer of a connection, from its verified certificate."""

    role: str
    name: str

    @classmethod
    def of(cls, certificate: Mapping[str, Any] | None) -> PeerIdentity | None:
        """Return the identity in a certificate, as `ssl.SSLSocket.getpeercert` describes it; None if there is none."""
        for kind, value in (certificate or {}).get("subjectAltName", ()):
            parts = str(value).split(":")
            if kind == "URI" and len(parts) == 3 and parts[0] == "vita":
                return cls(parts[1], parts[2])
        return None


@dataclass(frozen=True)
class Credentials:
    """The certificate and private key of a gateway or a replica, and the certificate of the authority."""

    folder: Path
    identity: PeerIdentity
    expires: datetime

    @classmethod
    def load(cls, folder: Path, *, role: Role) -> Credentials:
        """Read and check the files of a folder; raises `ConfigError` with the file and the problem."""
        for name in (AUTHORITY, CERTIFICATE, KEY):
            if not (folder / name).is_file():
                hint = "create them with `vita sites create-authority` and `vita sites issue`"
                raise ConfigError(str(folder), f"contains no {name}", hint=hint)
        if (mode := stat.S_IMODE((folder / KEY).stat().st_mode)) & 0o077:
            hint = f"chmod 600 {folder / KEY}"
            raise ConfigError(
                str(folder / KEY), expected="a file that only its owner can read", got=oct(mode), hint=hint
            )
        authority, certificate = _read(folder / AUTHORITY), _read(folder / CERTIFICATE)
        try:
            certificate.verify_directly_issued_by(authority)
        except (InvalidSignature, ValueError, TypeError):
            raise ConfigError(str(folder / CERTIFICATE), f"was not issued by {folder / AUTHORITY}") from None
        for name, part in ((AUTHORITY, authority), (CERTIFICATE, certificate)):
            if part.not_valid_after_utc <= datetime.now(UTC):
                expired = f"expired on {part.not_valid_after_utc.date()}"
                raise ConfigError(str(folder / name), expired, hint="issue a new one with `vita sites issue`")
        identity = _identity(certificate)
        if identity is None or identity.role != role:
            got = "none" if identity is None else f"one of a {identity.role}"
            raise ConfigError(str(folder / CERTIFICATE), expected=f"the certificate of a {role}", got=got)
        return cls(folder, identity, certificate.not_valid_after_utc)

    def server_context(self) -> ssl.SSLContext:
        """Return the TLS settings of a listener that requires a certificate of its clients."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        return self._completed(context)

    def client_context(self) -> ssl.SSLContext:
        """Return the TLS settings of a client, which verifies the host name of the server."""
        return self._completed(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def _completed(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_verify_locations(self.folder / AUTHORITY)
            context.load_cert_chain(self.folder / CERTIFICATE, self.folder / KEY)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(str(self.folder), f"the certificate and the key cannot be used: {error}") from None
        return context

    @property
    def warning(self) -> str | None:
        """Return a warning if the certificate expires soon."""
        days = (self.expires - datetime.now(UTC)).days
        if days >= WARN_DAYS:
            return None
        expiry = f"the certificate of {self.identity.name} expires on {self.expires.date()}"
        return f"{expiry}; issue a new one and restart the service"


def create_authority(folder: Path, *, days: float = AUTHORITY_DAYS) -> None:
    """Create a certificate authority: its certificate and its private key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vita authority")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = _builder(name, name, key.public_key(), key.public_key(), days=days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    certificate = builder.add_extension(usage, critical=True).sign(key, hashes.SHA256())
    _write(folder / AUTHORITY_KEY, _private_bytes(key), mode=0o600)
    _write(folder / AUTHORITY, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)


def issue(authority: Path, folder: Path, *, role: Role, name: str, hosts: Sequence[str], days: float) -> None:
    """Issue a certificate for a gateway or a replica, with its private key, into a new folder.

    `hosts` are the names and IP addresses under which others connect to it.
    """
    check_name(name, where="--name")
    if not hosts:
        raise ConfigError("--host", expected="at least one address or name of the host", got=None)
    if not days > 0:
        raise ConfigError("--days", expected="a number above 0", got=days)
    issuer, key = _read(authority / AUTHORITY), ec.generate_private_key(ec.SECP256R1())
    try:
        issuer_key = serialization.load_pem_private_key((authority / AUTHORITY_KEY).read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        hint = "create an authority with `vita sites create-authority`"
        raise ConfigError(str(authority / AUTHORITY_KEY), "cannot be read", hint=hint) from None
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise ConfigError(str(authority / AUTHORITY_KEY), expected="an elliptic curve key", got="another key")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    alternatives = [*map(_alternative, hosts), x509.UniformResourceIdentifier(f"vita:{role}:{name}")]
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = _builder(subject, issuer.subject, key.public_key(), issuer_key.public_key(), days=days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    certificate = builder.sign(issuer_key, hashes.SHA256())
    _write(folder / KEY, _private_bytes(key), mode=0o600)
    _write(folder / CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
    _write(folder / AUTHORITY, issuer.public_bytes(serialization.Encoding.PEM), mode=0o644)


def check_role(role: str) -> Role:
    """Return the role; raises `ConfigError` for another text."""
    for known in get_args(Role):
        if role == known:
            return known
    raise ConfigError("--role", expected="gateway or replica", got=role)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey, *, days: float,
) -> x509.CertificateBuilder:  # fmt: skip
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public_key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - _CLOCK_SKEW).not_valid_after(now + timedelta(days=days))
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key)
    return builder.add_extension(issuer_id, critical=False)


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise ConfigError("--host", expected="an IP address or a host name in ASCII", got=host) from None


def _identity(certificate: x509.Certificate) -> PeerIdentity | None:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    values = names.get_values_for_type(x509.UniformResourceIdentifier)
    return PeerIdentity.of({"subjectAltName": [("URI", value) for value in values]})


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        hint = "create it with `vita sites create-authority` or `vita sites issue`"
        raise ConfigError(str(path), "is not a certificate in PEM format", hint=hint) from None


def _private_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes, *, mode: int) -> None:
    """Write a new file, which has the mode from its creation on; an existing file is not replaced."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise ConfigError(str(path), "already exists", hint="choose another folder") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)

"""Signatures over a folder in the format of the OpenSSF Model Signing specification v1.0 (OMS).

    bundle = sign(folder, name="cat-1", key=load_or_create_key(path))
    verify(folder, bundle, public=public_key)                # the files that the bundle names, byte for byte

A bundle is a Sigstore bundle (v0.3) with a DSSE envelope around an in-toto statement, whose predicate lists the digest
of every file. Keys are ECDSA keys on P-256 with SHA-256; P-384 and P-521 are accepted for verification. `model_signing
verify key` accepts these bundles, and `verify` accepts those of `model_signing sign key`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vita.spine.disk import confined
from vita.spine.errors import StoreError, exception_text
from vita.spine.store import canonical_json

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
PAYLOAD = "application/vnd.in-toto+json"
GIT_PATHS = (".git", ".gitattributes", ".github", ".gitignore")
"""Top-level paths that the specification excludes from every signature (section 6.2)."""
_HASHES = {"sha256": "sha256", "blake2b": "blake2b"}
_CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
"""Curve -> the hash that is signed (the specification's algorithm registry)."""


# -- keys


def load_or_create_key(path: Path) -> Any:
    """Load the private key from a PEM file; create a new P-256 key with mode 600 if there is no file."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if path.exists():
        return load_key(path)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
    return key


def load_key(path: Path) -> Any:
    """Load a P-256 private key from a PEM file."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise StoreError(str(path), expected="an unencrypted private key in PEM form") from None
    except OSError as error:
        raise StoreError(str(path), f"cannot be read: {error.strerror}") from None
    if _curve(key) != "secp256r1":
        hint = "rename the file to create a new key; archives signed with the old key stay verifiable"
        raise StoreError(str(path), expected="an ECDSA key on the curve P-256", got=_key_type(key), hint=hint)
    return key


def public_to_text(public: Any) -> str:
    """Return a public key in PEM form."""
    from cryptography.hazmat.primitives import serialization

    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return public.public_bytes(serialization.Encoding.PEM, form).decode()


def public_from_text(text: str, *, where: str) -> Any:
    """Load an ECDSA public key from its PEM form."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        hint = "convert a binary key with: openssl pkey -pubin -inform DER -in KEY -out key.pem"
        raise StoreError(where, expected="a public key in PEM form", hint=hint) from None
    if _curve(key) is None:
        raise StoreError(where, expected="an ECDSA public key (P-256, P-384 or P-521)", got=_key_type(key))
    return key


def key_id(public: Any) -> str:
    """Return the sha256 of a public key's PEM form, in hex: the key hint of a bundle."""
    return hashlib.sha256(public_to_text(public).encode()).hexdigest()


def sign_bytes(data: bytes, key: Any) -> bytes:
    """Sign bytes with a P-256 key."""
    return key.sign(data, _ecdsa(key))


def verifies(data: bytes, signature: bytes, public: Any) -> bool:
    """Return True if this key made the signature over `data`."""
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(signature, data, _ecdsa(public))
    except InvalidSignature:
        return False
    return True


# -- bundles


def sign(folder: Path, *, name: str, key: Any, leave_out: Iterable[str] = ()) -> dict[str, Any]:
    """Create a bundle over every file of the folder except `leave_out`."""
    ignored = sorted({*GIT_PATHS, *leave_out})
    names = sorted(file for file in _files(folder) if not _is_ignored(file, ignored))
    if not names:
        raise StoreError(str(folder), "holds no file to sign")
    digests = {file: _file_digest(folder / file, "sha256") for file in names}
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": _root_digest(digests.values())}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": ignored,
            },
            "resources": [
                {"name": file, "algorithm": "sha256", "digest": digest} for file, digest in digests.items()
            ],
        },
    }  # fmt: skip
    payload = canonical_json(statement)
    signature = sign_bytes(_envelope_bytes(PAYLOAD, payload), key)
    return {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": key_id(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": _base64(payload),
            "payloadType": PAYLOAD,
            "signatures": [{"sig": _base64(signature), "keyid": ""}],
        },
    }


def verify(folder: Path, bundle: Mapping[str, Any], *, public: Any, leave_out: Iterable[str] = ()) -> list[str]:
    """Return the signed files; raise `StoreError` for a wrong key or a changed, missing or added file.

    `leave_out` names files that no signature can cover, such as the bundle itself. Paths that the signer excluded
    (`ignore_paths`) are not verified and not returned.
    """
    where = str(folder)
    predicate = _signed_predicate(bundle, public, where=where)
    method, ignored, expected = _resources(predicate, where=where)
    ignored = {*ignored, *GIT_PATHS, *leave_out}
    present = {file for file in _files(folder) if not _is_ignored(file, ignored)}
    signed = list(dict.fromkeys(name.rsplit(":", 2)[0] if method == "shards" else name for name in expected))
    for file in signed:
        path = confined(folder, file)
        if file not in present or not path.is_file():
            raise StoreError(where, f"the signed file {file} is missing")
    for name, (algorithm, digest) in expected.items():
        file, start, end = _byte_range(name, where=where) if method == "shards" else (name, 0, None)
        if _file_digest(folder / file, algorithm, start=start, end=end) != digest:
            raise StoreError(where, f"the signed file {file} was changed")
    if method == "shards":
        _refuse_gaps(folder, list(expected), where=where)
        present = {file for file in present if (folder / file).stat().st_size}  # an empty file has no shard
    if added := sorted(present - set(signed)):
        raise StoreError(where, f"contains {added[0]}, which is not signed")
    return signed


def _signed_predicate(bundle: Mapping[str, Any], public: Any, *, where: str) -> dict[str, Any]:
    """Verify the signature of a bundle and return its predicate."""
    try:
        envelope, key_hint = _envelope(bundle, where=where)
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        kind = str(envelope["payloadType"])
    except (KeyError, TypeError, IndexError, AttributeError, binascii.Error) as error:
        raise StoreError(where, f"its signature cannot be read: {exception_text(error)}") from None
    if key_hint and key_hint != key_id(public):
        raise StoreError(where, expected=f"a signature by the key {key_id(public)[:12]}", got=f"one by {key_hint[:12]}")
    if not verifies(_envelope_bytes(kind, payload), signature, public):
        raise StoreError(where, "its signature is not by this key, or the signed content was changed")
    try:
        statement = json.loads(payload)
        for field, value in (("_type", STATEMENT), ("predicateType", PREDICATE)):
            if statement[field] != value:
                raise StoreError(where, f"its signature has another {field}", expected=value, got=statement[field])
        (subject,) = statement["subject"]
        predicate = statement["predicate"]
        digests = [resource["digest"] for resource in predicate["resources"]]
        if kind != PAYLOAD or subject["digest"]["sha256"] != _root_digest(digests):
            raise StoreError(where, "its signature is inconsistent: the subject is not the digest of the files")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(where, f"its signature cannot be read: {exception_text(error)}") from None
    return predicate


def _envelope(bundle: Mapping[str, Any], *, where: str) -> tuple[Mapping[str, Any], str | None]:
    """Return the DSSE envelope of a bundle and its key hint."""
    media = str(bundle.get("mediaType"))
    if media != BUNDLE:
        raise StoreError(where, expected=f"a Sigstore bundle ({BUNDLE})", got=media)
    public = bundle["verificationMaterial"].get("publicKey")
    if public is None:
        hint = "model_signing verifies certificates and keyless signatures"
        raise StoreError(where, expected="a signature by a key", got="one by a certificate", hint=hint)
    return bundle["dsseEnvelope"], public.get("hint")


def _resources(predicate: Mapping[str, Any], *, where: str) -> tuple[str, list[str], dict[str, tuple[str, str]]]:
    """Return the hash method, the excluded paths, and the expected digests: name -> (algorithm, digest)."""
    try:
        serialization = predicate["serialization"]
        method, algorithm = serialization["method"], str(serialization["hash_type"]).partition("-sharded-")[0]
        ignored = [str(path).removeprefix("./") for path in serialization.get("ignore_paths") or ()]
        entries = predicate["resources"]
        expected = {str(entry["name"]): (str(entry["algorithm"]), str(entry["digest"])) for entry in entries}
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(where, f"its signature cannot be read: {exception_text(error)}") from None
    if method not in ("files", "shards"):
        raise StoreError(where, expected="a signature over files or shards", got=str(method))
    expected = {name: (used.partition("-sharded-")[0], digest) for name, (used, digest) in expected.items()}
    if unknown := sorted({algorithm, *(used for used, _ in expected.values())} - _HASHES.keys()):
        raise StoreError(where, expected=f"one of the hashes {', '.join(_HASHES)}", got=unknown[0])
    if not expected or len(expected) != len(entries):
        raise StoreError(where, "its signature lists no file, or one file twice")
    return method, ignored, expected


def _byte_range(name: str, *, where: str) -> tuple[str, int, int]:
    """Parse the name of a shard: `path:start:end`."""
    try:
        file, start, end = name.rsplit(":", 2)
        return file, int(start), int(end)
    except ValueError:
        raise StoreError(where, expected="a shard as path:start:end", got=name) from None


def _refuse_gaps(folder: Path, shards: Iterable[str], *, where: str) -> None:
    """Raise `StoreError` unless the shards of each file are contiguous and cover the file."""
    ends_by_file: dict[str, int] = {}
    for file, start, end in sorted(_byte_range(name, where=where) for name in shards):
        if start != ends_by_file.get(file, 0) or end <= start:
            raise StoreError(where, f"the shards of {file} do not cover the file")
        ends_by_file[file] = end
    for file, end in ends_by_file.items():
        if end != (folder / file).stat().st_size:
            raise StoreError(where, f"the signed file {file} was changed")


def _files(folder: Path) -> Iterator[str]:
    """Yield the relative path of every file; raise `StoreError` for a symbolic link."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            if name.split("/")[0] in GIT_PATHS:
                continue
            raise StoreError(str(path), "is a symbolic link, which cannot be signed")
        if path.is_file():
            yield name


def _is_ignored(name: str, ignored: Iterable[str]) -> bool:
    """Return True if a path is excluded, or is below an excluded folder."""
    return any(name == path or name.startswith(f"{path.rstrip('/')}/") for path in ignored if path)


def _file_digest(path: Path, algorithm: str, *, start: int = 0, end: int | None = None) -> str:
    """Return the digest of a file, or of its bytes from `start` to `end`."""
    digest = hashlib.new(_HASHES[algorithm])
    with path.open("rb") as file:
        file.seek(start)
        remaining = None if end is None else end - start
        while chunk := file.read(2**20 if remaining is None else min(2**20, remaining)):
            digest.update(chunk)
            remaining = None if remaining is None else remaining - len(chunk)
    return digest.hexdigest()


def _root_digest(digests: Iterable[str]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests)).hexdigest()


def _envelope_bytes(kind: str, payload: bytes) -> bytes:
    """Return the bytes that DSSE signs (PAE, pre-authentication encoding): lengths and bytes of type and payload."""
    name = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload)


def _curve(key: Any) -> str | None:
    """Return the name of a supported elliptic curve; None for any other key."""
    name = getattr(getattr(key, "curve", None), "name", None)
    return name if name in _CURVES else None


def _ecdsa(key: Any) -> Any:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(getattr(hashes, _CURVES[_curve(key) or "secp256r1"])())


def _key_type(key: Any) -> str:
    curve = getattr(getattr(key, "curve", None), "name", "")
    return f"{type(key).__name__} {curve}".strip()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()

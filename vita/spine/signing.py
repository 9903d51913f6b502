"""Signatures over a folder: an in-toto statement of its files' sha256 in a DSSE envelope, signed with Ed25519.

    envelope = sign(folder, name="cat 1", key=load_or_make_key(path))
    verify(folder, envelope, public=public_key(envelope))       # the files that the statement names, byte for byte

The statement has the form of the OpenSSF Model Signing specification v1 (`PREDICATE`), one subject a model, whose
files are listed in the predicate; the envelope is DSSE v1 (secure-systems-lab/dsse).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vita.spine.disk import confined, file_sha256
from vita.spine.errors import StoreError
from vita.spine.store import canonical_json

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
PAYLOAD = "application/vnd.in-toto+json"


def load_or_make_key(path: Path) -> Any:
    """The private key in a PEM file; where there is none, a new one that only its owner may read."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if path.exists():
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError):
            raise StoreError(str(path), expected="an unencrypted private key in PEM form") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise StoreError(str(path), expected="an Ed25519 key", got=type(key).__name__)
        return key
    key = Ed25519PrivateKey.generate()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return key


def sign(folder: Path, *, name: str, key: Any, leave_out: Iterable[str] = ()) -> dict[str, Any]:
    """An envelope over every file of the folder but those left out."""
    left_out = set(leave_out)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = [
        {"name": one, "algorithm": "sha256", "digest": file_sha256(folder / one)}
        for one in names
        if one not in left_out
    ]
    whole = hashlib.sha256(b"".join(bytes.fromhex(one["digest"]) for one in files)).hexdigest()
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": whole}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": files,
        },
    }
    payload = canonical_json(statement)
    return {
        "payloadType": PAYLOAD,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": key_id(key.public_key()), "sig": _b64(key.sign(_envelope_bytes(payload)))}],
    }


def verify(folder: Path, envelope: dict[str, Any], *, public: Any, leave_out: Iterable[str] = ()) -> list[str]:
    """The files that the signature covers; refuses where it does not fit, or a file was changed, lost or added."""
    from cryptography.exceptions import InvalidSignature

    try:
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        public.verify(signature, _envelope_bytes(payload))
        resources = json.loads(payload)["predicate"]["resources"]
    except InvalidSignature:
        raise StoreError(str(folder), "its signature is not by this key, or what was signed was changed") from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise StoreError(str(folder), f"its signature cannot be read: {error}") from None
    for one in resources:
        path = confined(folder, one["name"])
        if not path.is_file():
            raise StoreError(str(folder), f"the signed file {one['name']} is missing")
        if file_sha256(path) != one["digest"]:
            raise StoreError(str(folder), f"the signed file {one['name']} was changed")
    signed = [one["name"] for one in resources]
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if added := sorted(found - {*signed, *leave_out}):
        raise StoreError(str(folder), f"holds {added[0]}, which nobody signed")
    return signed


def key_id(public: Any) -> str:
    """The sha256 of the raw public key."""
    return hashlib.sha256(_raw(public)).hexdigest()


def public_to_text(public: Any) -> str:
    """A public key in PEM form."""
    from cryptography.hazmat.primitives import serialization

    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return public.public_bytes(serialization.Encoding.PEM, form).decode()


def public_from_text(text: str, *, where: str) -> Any:
    """An Ed25519 public key from its PEM form."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = serialization.load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        hint = "openssl pkey -pubin -inform DER -in KEY -out key.pem makes one of the binary form"
        raise StoreError(where, expected="a public key in PEM form", hint=hint) from None
    if not isinstance(key, Ed25519PublicKey):
        raise StoreError(where, expected="an Ed25519 public key", got=type(key).__name__)
    return key


def _raw(public: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _envelope_bytes(payload: bytes) -> bytes:
    """What DSSE signs: the lengths and the bytes of type and payload (its "pre-authentication encoding")."""
    kind = PAYLOAD.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()

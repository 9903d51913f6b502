"""Folder signatures cover every byte and follow the OpenSSF Model Signing specification."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vita.spine import signing
from vita.spine.errors import StoreError


@pytest.fixture
def signed_folder(tmp_path):
    folder = tmp_path / "archive"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    (folder / "deep" / "b.txt").write_text("two")
    key = signing.load_or_create_key(tmp_path / "key.pem")
    return folder, key, signing.sign(folder, name="model x", key=key)


def payload_of(bundle: dict[str, Any]) -> dict[str, Any]:
    return json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))


def sign_statement(statement: dict[str, Any], key: Any) -> dict[str, Any]:
    """Return a bundle around a statement, with a valid signature."""
    payload = json.dumps(statement).encode()
    kind = signing.PAYLOAD.encode()
    signature = signing.sign_bytes(b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload), key)
    envelope = {"payload": base64.b64encode(payload).decode(), "payloadType": signing.PAYLOAD,
                "signatures": [{"sig": base64.b64encode(signature).decode()}]}  # fmt: skip
    return {"mediaType": signing.BUNDLE, "verificationMaterial": {"publicKey": {}}, "dsseEnvelope": envelope}


def test_a_signed_folder_is_verified(signed_folder):
    folder, key, bundle = signed_folder
    assert signing.verify(folder, bundle, public=key.public_key()) == ["a.txt", "deep/b.txt"]


FOLDER_CHANGES = [
    (lambda folder: (folder / "a.txt").write_text("One"), "the signed file a.txt was changed"),
    (lambda folder: (folder / "a.txt").unlink(), "the signed file a.txt is missing"),
    (lambda folder: (folder / "c.txt").write_text("new"), "contains c.txt, which is not signed"),
    (lambda folder: (folder / ".c").write_text("new"), "contains .c, which is not signed"),
    (lambda folder: (folder / "l.txt").symlink_to("a.txt"), "is a symbolic link"),
]


@pytest.mark.parametrize(("change_folder", "message"), FOLDER_CHANGES)
def test_a_changed_missing_or_added_file_is_named(signed_folder, change_folder, message):
    folder, key, bundle = signed_folder
    change_folder(folder)
    with pytest.raises(StoreError, match=message):
        signing.verify(folder, bundle, public=key.public_key())


def test_another_key_or_another_statement_is_refused(signed_folder, tmp_path):
    folder, key, bundle = signed_folder
    other_key = signing.load_or_create_key(tmp_path / "other.pem")
    with pytest.raises(StoreError, match="expected a signature by the key"):
        signing.verify(folder, bundle, public=other_key.public_key())
    bundle_without_hint = {**bundle, "verificationMaterial": {"publicKey": {"hint": None}}}
    with pytest.raises(StoreError, match="not by this key"):
        signing.verify(folder, bundle_without_hint, public=other_key.public_key())
    statement = payload_of(bundle)
    statement["predicate"]["resources"].pop()
    forged_bundle = json.loads(json.dumps(bundle))
    forged_bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    with pytest.raises(StoreError, match="the signed content was changed"):
        signing.verify(folder, forged_bundle, public=key.public_key())
    with pytest.raises(StoreError, match="the subject is not the digest of the files"):
        signing.verify(folder, sign_statement(statement, key), public=key.public_key())


def test_a_statement_with_a_path_outside_the_folder_is_refused(signed_folder):
    folder, key, bundle = signed_folder
    statement = payload_of(bundle)
    digest = "0" * 64
    statement["predicate"]["resources"] = [{"name": "../key.pem", "algorithm": "sha256", "digest": digest}]
    statement["subject"][0]["digest"]["sha256"] = signing._root_digest([digest])
    with pytest.raises(StoreError, match="a path inside"):
        signing.verify(folder, sign_statement(statement, key), public=key.public_key())


def test_the_bundle_has_the_fields_of_the_specification(signed_folder):
    """Sections 4, 5.1, 5.2 and 6.2 of the specification v1.0 (ossf/model-signing-spec)."""
    _, key, bundle = signed_folder
    assert set(bundle) == {"mediaType", "verificationMaterial", "dsseEnvelope"}
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert bundle["verificationMaterial"]["publicKey"] == {"hint": signing.key_id(key.public_key())}
    assert bundle["dsseEnvelope"]["payloadType"] == "application/vnd.in-toto+json"
    statement = payload_of(bundle)
    assert (statement["_type"], statement["predicateType"]) == (signing.STATEMENT, signing.PREDICATE)
    names = [resource["name"] for resource in statement["predicate"]["resources"]]
    assert names == sorted(names) == ["a.txt", "deep/b.txt"]
    serialization = statement["predicate"]["serialization"]
    assert (serialization["method"], serialization["hash_type"], serialization["allow_symlinks"]) == (
        "files", "sha256", False,
    )  # fmt: skip
    assert set(serialization["ignore_paths"]) >= {".git", ".gitattributes", ".github", ".gitignore"}


def test_a_key_is_created_once_and_readable_only_by_its_owner(tmp_path):
    path = tmp_path / "deep" / "key.pem"
    first, second = signing.load_or_create_key(path), signing.load_or_create_key(path)
    assert signing.key_id(first.public_key()) == signing.key_id(second.public_key())
    assert first.curve.name == "secp256r1"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("no key")
    with pytest.raises(StoreError, match="expected an unencrypted private key in PEM form"):
        signing.load_or_create_key(path)


# -- parity with the reference implementation (PyPI: model-signing)


def model_signing(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "model_signing", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path, Any]:
    """Return the file of a private key, the file of its public key, and the key."""
    pytest.importorskip("model_signing")
    key = signing.load_or_create_key(tmp_path / "private.pem")
    (tmp_path / "public.pem").write_text(signing.public_to_text(key.public_key()))
    return tmp_path / "private.pem", tmp_path / "public.pem", key


def test_the_reference_verifier_accepts_vita_signatures_and_rejects_changes(signed_folder, keys):
    folder, *_ = signed_folder
    _, public, key = keys
    bundle = folder / "model.sig"
    bundle.write_text(json.dumps(signing.sign(folder, name="archive", key=key, leave_out=("model.sig",))))
    arguments = ("verify", "key", folder, "--signature", bundle, "--public_key", public)
    first_process = model_signing(*arguments)
    assert first_process.returncode == 0, first_process.stderr
    (folder / "a.txt").write_text("One")
    second_process = model_signing(*arguments)
    assert second_process.returncode != 0 and "mismatch" in (second_process.stdout + second_process.stderr)


def test_vita_verifies_signatures_of_the_reference(signed_folder, keys):
    folder, *_ = signed_folder
    private, _, key = keys
    process = model_signing("sign", "key", folder, "--signature", folder / "model.sig", "--private_key", private)
    assert process.returncode == 0, process.stderr
    bundle = json.loads((folder / "model.sig").read_text())
    paths = signing.verify(folder, bundle, public=key.public_key(), leave_out=("model.sig",))
    assert paths == ["a.txt", "deep/b.txt"]
    (folder / "deep" / "b.txt").write_text("2")
    with pytest.raises(StoreError, match="was changed"):
        signing.verify(folder, bundle, public=key.public_key(), leave_out=("model.sig",))


def test_vita_verifies_sharded_signatures_of_the_reference(signed_folder, keys):
    from model_signing import hashing
    from model_signing import signing as reference

    folder, *_ = signed_folder
    private, _, key = keys
    target = folder.parent / "shards.sig"
    sharded = hashing.Config().use_shard_serialization(shard_size=2)
    config = reference.Config().use_elliptic_key_signer(private_key=private).set_hashing_config(sharded)
    config.sign(folder, target)
    bundle = json.loads(target.read_text())
    assert signing.verify(folder, bundle, public=key.public_key()) == ["a.txt", "deep/b.txt"]
    (folder / "a.txt").write_text("one and more")
    with pytest.raises(StoreError, match="was changed"):
        signing.verify(folder, bundle, public=key.public_key())


# -- the test vectors of the specification (ossf/model-signing-spec, test-vectors/v1.0)

VECTOR_FILES = {
    "signme-1": "bc9a717db6064a32cbe9eae6fc40651dd6d36ef1757183f590eff2b1765d7ebc",
    "signme-2": "32dcb1f8e1ae52d5963e56a6ba06ab58b424c15ed2a6b70d2feca1d089370028",
}
"""The files of `valid/key.bundle.json` with their sha256."""
VECTOR_ROOT = "92745110b1ab4368471cbe31664e10174e954b113a3df333db860317b2c6dec4"


VECTOR_SIGNATURE = (
    "MGQCMDNHlJBKxhHVeSWQ+RWXT2LKSOcd3fF6jQLxRs8zdXnJI9Ff8zKrDeMLvprDzqzKZQIwQmpMu2WZsNmlfMD+5S0UqwBnJ3/xLPjO+bYmBn/c"
    "5fg80jHloGe9fmjR5d57Y1XM"
)
VECTOR_KEY = """-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEsu6rZGBTjxtvRWPMixT+3HyndV0J0Ybt
aHZUcO4DEK+OJHO/4e32bb/fbJKSpRgcBsIpKLcVijUomyFOERbd7u+BTPSUjGZD
Qq6J7lTvp/EAXQGOKxW9RP0MGX3qAkvi
-----END PUBLIC KEY-----
"""
"""The P-384 key of the vector, from the tests of sigstore/model-transparency (scripts/tests/keys/certificate)."""


def vector_statement(**changes: Any) -> dict[str, Any]:
    """Return the statement of the vector `valid/key.bundle.json`."""
    resources = [{"digest": sha, "algorithm": "sha256", "name": name} for name, sha in VECTOR_FILES.items()]
    ignored = [".gitattributes", ".github", "ignore-me", ".gitignore", ".git"]
    serialization = {"method": "files", "ignore_paths": ignored, "hash_type": "sha256", "allow_symlinks": False}
    statement = {"_type": signing.STATEMENT, "subject": [{"name": "model", "digest": {"sha256": VECTOR_ROOT}}],
                 "predicateType": signing.PREDICATE,
                 "predicate": {"resources": resources, "serialization": serialization}}  # fmt: skip
    return {**statement, **changes}


@pytest.fixture
def vector_model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, ending in zip(VECTOR_FILES, ("\n", ""), strict=True):
        (folder / name).write_text(name + ending)
    (folder / "ignore-me").write_text("ignored")
    return folder


def test_the_key_vector_of_the_specification_is_verified(vector_model):
    """`valid/key.bundle.json`: the payload is the statement in JSON with an indent of two."""
    payload = json.dumps(vector_statement(), indent=2)
    envelope = {"payload": base64.b64encode(payload.encode()).decode(), "payloadType": signing.PAYLOAD,
                "signatures": [{"sig": VECTOR_SIGNATURE, "keyid": ""}]}  # fmt: skip
    hint = "e8450dec4eb99dae995da9af1bc2cc9f76ed669ee2e744f57abba763df3e3f8e"
    material = {"publicKey": {"hint": hint}, "tlogEntries": []}
    bundle = {"mediaType": signing.BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope}
    public = signing.public_from_text(VECTOR_KEY, where="vector")
    assert signing.key_id(public) == hint
    assert signing.verify(vector_model, bundle, public=public) == list(VECTOR_FILES)
    (vector_model / "signme-1").write_text("changed")
    with pytest.raises(StoreError, match="signme-1 was changed"):
        signing.verify(vector_model, bundle, public=public)


def test_the_root_digest_equals_that_of_the_specification():
    assert signing._root_digest(VECTOR_FILES.values()) == VECTOR_ROOT


def test_the_valid_vector_is_accepted_and_invalid_vectors_are_rejected(vector_model, keys):
    _, _, key = keys
    valid = sign_statement(vector_statement(), key)
    assert signing.verify(vector_model, valid, public=key.public_key()) == list(VECTOR_FILES)
    wrong_predicate = {"predicateType": "https://example.com/wrong-predicate/v1.0"}  # invalid-payload/wrong-predicate
    with pytest.raises(StoreError, match="another predicateType"):
        signing.verify(vector_model, sign_statement(vector_statement(**wrong_predicate), key), public=key.public_key())
    envelope = {name: value for name, value in valid.items() if name != "dsseEnvelope"}  # invalid/missing-envelope
    material = {name: value for name, value in valid.items() if name != "verificationMaterial"}
    certificate = {**valid, "verificationMaterial": {"certificate": {"rawBytes": ""}}}
    for bundle in ({}, envelope, material, certificate):
        with pytest.raises(StoreError):
            signing.verify(vector_model, bundle, public=key.public_key())

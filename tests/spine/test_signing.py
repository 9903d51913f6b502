"""A signature covers every byte of a folder, and nothing else fits it."""

from __future__ import annotations

import base64
import json
import stat

import pytest

from vita.spine import signing
from vita.spine.errors import StoreError


@pytest.fixture
def signed(tmp_path):
    folder = tmp_path / "archive"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    (folder / "deep" / "b.txt").write_text("two")
    key = signing.load_or_make_key(tmp_path / "key.pem")
    return folder, key, signing.sign(folder, name="model x", key=key)


def test_what_was_signed_is_verified(signed):
    folder, key, envelope = signed
    assert signing.verify(folder, envelope, public=key.public_key()) == ["a.txt", "deep/b.txt"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "a.txt").write_text("One"), "the signed file a.txt was changed"),
        (lambda folder: (folder / "a.txt").unlink(), "the signed file a.txt is missing"),
        (lambda folder: (folder / "c.txt").write_text("new"), "holds c.txt, which nobody signed"),
    ],
)
def test_a_changed_lost_or_added_file_is_named(signed, spoil, said):
    folder, key, envelope = signed
    spoil(folder)
    with pytest.raises(StoreError, match=said):
        signing.verify(folder, envelope, public=key.public_key())


def test_another_key_or_another_statement_does_not_fit(signed, tmp_path):
    folder, key, envelope = signed
    other = signing.load_or_make_key(tmp_path / "other.pem")
    with pytest.raises(StoreError, match="not by this key"):
        signing.verify(folder, envelope, public=other.public_key())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    statement["predicate"]["resources"].pop()
    forged = {**envelope, "payload": base64.b64encode(json.dumps(statement).encode()).decode()}
    with pytest.raises(StoreError, match="what was signed was changed"):
        signing.verify(folder, forged, public=key.public_key())


def test_a_statement_cannot_reach_outside_its_folder(signed):
    folder, key, _ = signed
    payload = json.dumps({"predicate": {"resources": [{"name": "../key.pem", "digest": "0"}]}}).encode()
    made = key.sign(b"DSSEv1 %d %s %d %s" % (len(signing.PAYLOAD), signing.PAYLOAD.encode(), len(payload), payload))
    envelope = {"payload": base64.b64encode(payload).decode(), "signatures": [{"sig": base64.b64encode(made).decode()}]}
    with pytest.raises(StoreError, match="a path inside"):
        signing.verify(folder, envelope, public=key.public_key())


def test_the_envelope_is_dsse_over_an_in_toto_statement(signed):
    _, key, envelope = signed
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert (statement["_type"], statement["predicateType"]) == (signing.STATEMENT, signing.PREDICATE)
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert envelope["signatures"][0]["keyid"] == signing.key_id(key.public_key())


def test_a_key_is_made_once_and_only_its_owner_reads_it(tmp_path):
    path = tmp_path / "deep" / "key.pem"
    first, second = signing.load_or_make_key(path), signing.load_or_make_key(path)
    assert signing.key_id(first.public_key()) == signing.key_id(second.public_key())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("no key")
    with pytest.raises(StoreError, match="expected an unencrypted private key in PEM form"):
        signing.load_or_make_key(path)

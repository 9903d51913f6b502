"""Metadata: the names of fields are the context in which personal data of their values are found."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from vita.data.curation.document_metadata import mask_metadata
from vita.data.curation.personal_data import PersonalData, PersonalDataScanner
from vita.data.records import Document


def mask(metadata: dict[str, Any], **actions: Any) -> tuple[dict[str, Any], dict[str, int]]:
    document = Document("a", "text", source="s", metadata=metadata)
    result = mask_metadata([document], PersonalDataScanner(PersonalData(**actions))).get(0)
    return (metadata, {}) if result is None else (result.metadata, dict(result.counts))


@pytest.mark.parametrize(
    ("name", "value", "placeholder", "kind"),
    [
        ("phone", "5551234567", "<PHONE>", "phone"),
        ("homePhone", "030 1234567", "<PHONE>", "phone"),
        ("Telephone-Number", 5551234567, "<PHONE>", "phone"),
        ("fax_2", "5551234567", "<PHONE>", "phone"),
        ("ssn", "078051120", "<NATIONAL_ID>", "national_id"),
        ("social_security_number", 307829769, "<NATIONAL_ID>", "national_id"),
        ("SIN", "130692544", "<NATIONAL_ID>", "national_id"),
        ("pesel", "44051401359", "<NATIONAL_ID>", "national_id"),
        ("cpf", "52998224725", "<NATIONAL_ID>", "national_id"),
        ("steuerId", "86095742719", "<NATIONAL_ID>", "national_id"),
        ("bsn", "111222333", "<NATIONAL_ID>", "national_id"),
        ("national_id", "44051401359", "<NATIONAL_ID>", "national_id"),
        ("tax_id", "86095742719", "<NATIONAL_ID>", "national_id"),
        ("email", "ann@mail.net", "<EMAIL>", "email"),
        ("password", "correct horse", "<KEY>", "key"),
        ("db.password", "swordfish", "<KEY>", "key"),
        ("userPwd", 4711, "<KEY>", "key"),
        ("user_pass", "swordfish", "<KEY>", "key"),
        ("pass", "hunter2", "<KEY>", "key"),
        ("password", {"old": "zebra7", "repeat": "zebra"}, {"old": "<KEY>", "repeat": "<KEY>"}, "key"),
        ("Authorization", "Basic dXNlcjpwYXNz", "Basic <KEY>", "key"),
        ("Proxy-Authorization", "Basic dXNlcjpwYXNz", "Basic <KEY>", "key"),
        ("apiKey", "fb611ff0-d7a6-4ac6-933c-186a44c9132e", "<KEY>", "key"),
        ("session_token", "bPO38sw9HTvN5FtungMI", "<KEY>", "key"),
    ],
)
def test_the_name_of_a_field_is_the_context_of_its_value(name: str, value: Any, placeholder: Any, kind: str) -> None:
    metadata = {name: value, "year": 1999, "nested": [{name: [value, value]}]}
    masked = {name: placeholder, "year": 1999, "nested": [{name: [placeholder] * 2}]}
    number = 3 * len(value) if isinstance(value, dict) else 3
    assert mask(metadata) == (masked, {kind: number})


@pytest.mark.parametrize(
    ("metadata", "masked", "kind"),
    [
        ({"paid": 4111111111111111}, {"paid": "<CARD>"}, "card"),
        ({"paid": 4111111111111111.0}, {"paid": "<CARD>"}, "card"),  # a column with missing values in pandas
        ({"paid": Decimal("4111111111111111")}, {"paid": "<CARD>"}, "card"),
        ({"cardNumber": 4000000000000000006}, {"cardNumber": "<CARD>"}, "card"),
        ({"phone": 5551234567.0}, {"phone": "<PHONE>"}, "phone"),
        ({"sent": b"to ann@mail.net"}, {"sent": "b'to <EMAIL>'"}, "email"),
        ({"votes": {"ann@mail.net": 3}}, {"votes": {"<EMAIL>": 3}}, "email"),
        (
            {"header": {"name": "phone", "value": "5551234567"}},
            {"header": {"name": "phone", "value": "<PHONE>"}},
            "phone",
        ),
    ],
)
def test_numbers_names_and_values_of_other_types_are_searched(
    metadata: dict[str, Any], masked: dict[str, Any], kind: str
) -> None:
    assert mask(metadata) == (masked, {kind: 1})


def test_masked_names_stay_different() -> None:
    metadata = {"votes": {"ann@mail.net": 3, "bob@mail.net": 4}}
    assert mask(metadata) == ({"votes": {"<EMAIL>": 3, "<EMAIL>_2": 4}}, {"email": 2})


def test_a_general_name_inside_a_field_has_the_context_of_the_field() -> None:
    contact = {"phone": {"home": "5551234567", "work": ["5551234568"], "model": "5551234569"}}
    masked = {"phone": {"home": "<PHONE>", "work": ["<PHONE>"], "model": "5551234569"}}
    assert mask(contact) == (masked, {"phone": 2})


@pytest.mark.parametrize(
    "metadata",
    [
        {"value": "5551234567", "views": 5551234567, "number": "5551234567", "code": "078051120"},
        {"phone": "unknown", "has_phone": True, "phone_calls": 5551234567, "mobile": False, "password": ""},
        {"id": "5551234567", "page_id": 44051401359, "url": "https://a.net/?story=bPO38sw9HTvN5FtungMI"},
        {
            "message_id": "<ann@mail.net>",
            "url": "https://a.net/4111111111111111#a",
            "source": {"n": "4111111111111111"},
        },
        {"ssn": "000123456", "cpf": "52998224726", "token": "Redmond, Washington", "secret": "of the forest"},
        {
            "has_password": "yes",
            "forgot_password": "Ask Ann",
            "showPassword": 1,
            "no_password": "x",
            "pass": "12 of 14",
        },
        {"views": 4111111111111112, "hash": 4000000000000000006, "score": 4111111111111111.5, "day": date(2020, 1, 1)},
        {"card_id": 4111111111111111, "limit": float("inf"), "pair": {"name": "page_id", "value": 4111111111111111}},
        {"phone_model": "5551234567", "keyboard": "bPO38sw9HTvN5FtungMI", "passwords_seen": 12},
    ],
)
def test_other_values_stay(metadata: dict[str, Any]) -> None:
    assert mask(metadata) == (metadata, {})


def test_secrets_and_addresses_in_references_are_masked() -> None:
    url = "https://bob:swordfish@a.net/x?token=abc&email=ann%40mail.net&story=7&by=ann@mail.net"
    masked = "https://***@a.net/x?token=***&email=***&story=7&by=***"
    metadata = {"url": url, "source": {"link": [url]}, "licenceUrl": "by ann@mail.net", "id": f"{url} ann@mail.net"}
    expected = {"url": masked, "source": {"link": [masked]}, "licenceUrl": "by <EMAIL>", "id": f"{masked} ann@mail.net"}
    assert mask(metadata) == (expected, {"key": 3, "email": 1})
    url = "https://a.net/?token=abc&by=ann@mail.net"
    assert mask({"url": url}, key="keep") == ({"url": "https://a.net/?token=abc&by=<EMAIL>"}, {"email": 1})
    licence = {"licence": "by ann@mail.net, see https://a.net/@bob@mail.net/?by=ann@mail.net"}
    assert mask(licence) == ({"licence": "by <EMAIL>, see https://a.net/@bob@mail.net/?by=***"}, {"key": 1, "email": 1})
    assert mask({"url": url}, key="keep", email="keep") == ({"url": url}, {})


def test_a_kind_that_is_kept_stays_in_its_field() -> None:
    metadata = {"password": "swordfish", "phone": "5551234567"}
    assert mask(metadata, key="keep") == ({"password": "swordfish", "phone": "<PHONE>"}, {"phone": 1})

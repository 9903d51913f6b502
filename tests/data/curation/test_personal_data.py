"""Personal data: values of each kind are masked, similar texts stay, and the hints miss no value."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from vita.data.curation import identifiers as ids
from vita.data.curation.personal_data import PersonalData, PersonalDataScanner
from vita.data.curation.personal_data_kinds import KINDS
from vita.spine.config import build
from vita.spine.errors import ConfigError

SCANNER = PersonalDataScanner(PersonalData())

VALUES = {
    "email": ["ann.o'neil+x@mail.co.uk", "jörg@müller.de", "joe [at] mail [dot] org", "ivan@пример.рф",
              "用户@例子.广告", "ivan@пример.com", "ann＠mail.net"],
    "phone": ["+49 30 901820", "+44 20 4018 9975", "+1 (415) 555-2671", "(415) 555-2671", "415.555.2671",
              "0033 1 42 68 53 00", "415\u2011555\u20112671", "415\u2013555\u20132671",
              "+1 415\u2011555\u20112671", "(415) 555\u20132671",
              "+49\u201330\u20131234567", "４１５-５５５-２６７１", "＋４９ ３０ ９０１８２０"],
    "ip": ["93.184.216.34", "2001:4860:4860::8888", "2a00::fd6a"],
    "card": ["4111 1111 1111 1111", "4111-1111-1111-1111", "378282246310005", "3782 822463 10005", "5555555555554444",
             "4111.1111.1111.1111", "4111\u00a01111\u00a01111\u00a01111", "4222222222222", "4000000000000000006",
             "４１１１ １１１１ １１１１ １１１１",
             "6759 6498 2643 8453", "6759560045005727054",
             ],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "NO9386011117947",
        "DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000",
        "de89370400440532013000"],
    "national_id": [
        "078-05-1120",  # United States
        "529.982.247-25",  # Brazil
        "11010519491231002X",  # China
        "12345678Z",  # Spain
        "2 55 08 14 168 025 38",  # France
        "RSSMRA85T10A562S",  # Italy
        "AB 12 34 56 C",  # United Kingdom
        "900101-1234567",  # Korea
        "756.9217.0769.85",  # Switzerland
    ],
    "key": [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "sk-proj-abcdefghijklmnopqrstuvwx123",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE+abc/=\nxyz\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,9F4C\n\nMIIE+abc/=\n"
        "-----END RSA PRIVATE KEY-----",
        "-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: BCPG v1-2\n\nlQOYBF+a\n-----END PGP PRIVATE KEY BLOCK-----",
        '---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nSubject: a\nP2/5\n---- END SSH2 ENCRYPTED PRIVATE KEY ----',
        "PuTTY-User-Key-File-2: ssh-rsa\nEncryption: none\nPublic-Lines: 1\nAAAAB3Nz\nPrivate-Lines: 1\nAAABAFrx\n"
        "Private-MAC: " + "0123456789abcdef0123456789abcdef01234567",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
        "hf_" + "abcdeFGHIJklmnoPQRSTuvwxyABCDEfghi",
        "npm_" + "abcdefghijKLMNOPQRSTuvwxyzabcdefghij",
        "1234567890:AA" + "b_cdefghij-klmnopqrstuvwxyzABCDEF",
        "dop_v1_" + "0123456789abcdef" * 4,
        "SK" + "0123456789abcdef" * 2,
        "ya29." + "aB-3_" * 8,
        "hvs." + "CAESIJ3k" * 4,
    ],
}  # fmt: skip
PLACEHOLDERS = {kind.name: kind.placeholder for kind in KINDS}


def mask(text: str, scanner: PersonalDataScanner = SCANNER) -> tuple[str, dict[str, int]]:
    scan = scanner([text], [text.encode()]).get(0)
    return (text, {}) if scan is None else (scan.text, dict(scan.counts))


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in VALUES.items() for value in values])
def test_a_value_is_masked_in_every_surrounding(kind: str, value: str) -> None:
    placeholder = PLACEHOLDERS[kind]
    for before, after in (("", ""), ("Write to ", " today."), ("(", ")"), ("the line\n", "\nends"), ("：", "，")):
        assert mask(f"{before}{value}{after}") == (f"{before}{placeholder}{after}", {kind: 1})


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("tel: 030 1234567", "tel: <PHONE>"),
        ("Phone number 01 42 68 53 00", "Phone number <PHONE>"),
        ("postgres://bob:s3cret@db.host/x", "postgres://bob:<KEY>@db.host/x"),
        ("PESEL: 44051401359", "PESEL: <NATIONAL_ID>"),
        ("a@b.co,c@d.org", "<EMAIL>,<EMAIL>"),
        ("DE89 3704 0044 0532 0130 00 BIC COBADEFF", "<IBAN> BIC COBADEFF"),
        ("4111 1111 1111 1111 123", "<CARD> 123"),  # not 19 digits
        ("My phone number is 415 555 2671, or phone 4155552671.", "My phone number is <PHONE>, or phone <PHONE>."),
        (
            "Tel.: 030 / 901820; my cell is 07746 219077; Call 07911 123456",
            "Tel.: <PHONE>; my cell is <PHONE>; Call <PHONE>",
        ),
        ("電話 03-1234-5678、电话号码：010 6552 9988", "電話 <PHONE>、电话号码：<PHONE>"),
        ("SSN 307829769, CPF: 52998224725", "SSN <NATIONAL_ID>, CPF: <NATIONAL_ID>"),
        ("Steuer-ID 86095742719, BSN 111222333", "Steuer-ID <NATIONAL_ID>, BSN <NATIONAL_ID>"),
        ("personnummer 811228-9874, AHV 7569217076985", "personnummer <NATIONAL_ID>, AHV <NATIONAL_ID>"),
        (f"aws_secret_access_key={'aB3/' * 10}", "aws_secret_access_key=<KEY>"),
        (f"AccountKey={'aB3/+z' * 14}aB==;Endpoint=x", "AccountKey=<KEY>;Endpoint=x"),
        (
            f"https://hooks.slack.com/services/T01234567/B01234567/{'aB3x' * 6}",
            "https://hooks.slack.com/services/<KEY>",
        ),
    ],
)
def test_the_context_of_a_value_stays(text: str, masked: str) -> None:
    assert mask(text)[0] == masked


@pytest.mark.parametrize(
    "text",
    [
        "user@example.com and root@host.test",  # reserved for examples
        "git@github.com:team/project.git",
        "@decorator and x @ y, in a@b",
        "10.0.0.1, 127.0.0.1, 192.168.1.1 and 2001:db8::1",  # not public
        "Section 4.2.1.1, version 1.18.0.25, OID 1.3.6.1.4.1.311",
        "std::vec at 12:30:45, to year 2262::",
        "4111 1111 1111 1112",  # wrong checksum
        "DE88 3704 0044 0532 0130 00",
        "000-12-3456 and 900-12-3456",  # never issued
        "2013-05-01 +0200, +1000 000 000, @@ -1,7 +1234,8 @@",
        "ISBN 978-3-16-148410-0, 3.14159265358979, 1234567890",
        "sk-learn-is-a-package-for-machine-learning",
        "12345678A and 529.982.247-26",
        "part AB123456C, Model no. AB 12 34 56 C, GB123456A",  # numbers of products, and a prefix that is not issued
        "GPS +48 51 23 45 N, at +48 51 23 45.5 N",  # coordinates
        "the table 0033 1145 2266 3399, 001 002 003 004, 0040 65 34 12 10 20 15 6c",
        "EAN 4006381300063, 5018374350046",  # numbers of products whose Luhn checksum is valid by chance
        "hf_get_the_configuration_of_the_model, npm_configurationofthepackagemanagerinthe",
        "SSN 900829769, CPF: 52998224726, Steuer-ID 86095742718, BSN 111222334",  # wrong checksums
        "personnummer 811228-9875, AHV 756.9217.0769.86, personnummer 811328-9876",
        "2003::method, call 2000 3000 times, text 12345678",
    ],
)
def test_similar_texts_stay(text: str) -> None:
    assert mask(text) == (text, {})


def test_checksums_of_published_examples() -> None:
    assert ids.has_luhn_checksum([7, 9, 9, 2, 7, 3, 9, 8, 7, 1, 3]) and not ids.has_luhn_checksum([7, 9, 9, 2, 7])
    assert ids.is_indian_aadhaar("2363") and not ids.is_indian_aadhaar("2364")  # Verhoeff's check digit of 236 is 3
    assert ids.is_canadian_sin("130 692 544") and not ids.is_canadian_sin("130 692 543")


@given(st.lists(st.sampled_from([value for values in VALUES.values() for value in values]), min_size=1, max_size=5))
def test_a_batch_equals_single_texts_with_all_exact_patterns(values: list[str]) -> None:
    texts = [f"{value} and the next line." for value in values]
    scans = SCANNER(texts, [text.encode() for text in texts])
    for index, text in enumerate(texts):
        for kind in KINDS:  # without the search by hints
            text, _ = kind.mask(text, full_width=True)
        assert scans[index].text == text


def test_a_kind_that_is_kept_is_not_searched() -> None:
    scanner = PersonalDataScanner(build(PersonalData, {"phone": "keep", "ip": "drop"}, where="personal_data"))
    text, counts = mask("+49 30 901820, ann@mail.net", scanner)
    assert (text, counts) == ("+49 30 901820, <EMAIL>", {"email": 1})
    (scan,) = scanner(["at 93.184.216.34"], [b"at 93.184.216.34"]).values()
    assert scanner.dropped_kind(scan) == "ip"


def test_an_unknown_action_or_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"personal_data.email: expected 'mask', 'drop' or 'keep', got 'hide'"):
        build(PersonalData, {"email": "hide"}, where="personal_data")
    with pytest.raises(ConfigError, match=r"`mail` is not known here; did you mean `email`"):
        build(PersonalData, {"mail": "mask"}, where="personal_data")


def test_values_in_a_corpus_with_known_truth_are_masked(shared: Path) -> None:
    folder = shared / "curate"
    with gzip.open(folder / "truth.jsonl.gz", "rt") as file:
        truth = {row["id"]: row for row in map(json.loads, file)}
    data = zstandard.ZstdDecompressor().stream_reader((folder / "part-00000.jsonl.zst").read_bytes()).read()
    rows = [json.loads(line) for line in data.splitlines()]
    texts = [row["text"] for row in rows]
    scans = SCANNER(texts, [text.encode() for text in texts])
    planted, missed, masked_clean = 0, [], Counter[str]()
    for index, row in enumerate(rows):
        if truth[row["id"]]["kind"] == "pii":
            values = [value for _, value in truth[row["id"]]["pii"]]
            planted += len(values)
            missed += [value for value in values if index not in scans or value in scans[index].text]
        elif index in scans:
            masked_clean.update(scans[index].counts)
    assert planted > 20 and not missed
    assert set(masked_clean) <= {"email", "ip"}  # authors of technical documents have addresses


@pytest.mark.parametrize(
    "text",
    ["a budget of $415.555.2671 million", "mobile (2010\u20132015)", "pages 210\u2013215.1234",
     "about 250\u2013300\u20134000 people", "at 250\u2013350\u20132125 K", "from 415\u2013555\u20132671 km",
     "hvs.a_long_name_of_a_function_here", "用户@例子.example", "@пример.рф"],
)  # fmt: skip
def test_similar_numbers_and_names_stay(text: str) -> None:
    assert mask(text) == (text, {})


def test_the_text_around_full_width_digits_stays() -> None:
    assert mask("金額は１２３＋４です。Phone: ４１５-５５５-２６７１，終") == (
        "金額は１２３＋４です。Phone: <PHONE>，終",
        {"phone": 1},
    )
    assert mask("请联系ivan@例子.广告，谢谢")[0] == "请联系<EMAIL>，谢谢"


@pytest.mark.parametrize(
    ("address", "text"),
    [("a@b.com", "中文字符"), ("a@b.公司", "谢谢你们好"), ("ann@例え.jp", "です"), ("ivan@пример.рф", "或者"),
     ("a@例子.中文网", "网站"), ("a@예시.한국", "입니다"), ("a@b.网络", "")],
)  # fmt: skip
def test_text_without_spaces_after_an_address_stays(address: str, text: str) -> None:
    assert mask(f"mail {address}{text} x") == (f"mail <EMAIL>{text} x", {"email": 1})

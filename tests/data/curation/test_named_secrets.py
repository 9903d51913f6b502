"""Secrets after a name: passwords, keys, tokens and credentials are masked, words and placeholders stay."""

from __future__ import annotations

import re

import pytest

from vita.data.curation.personal_data import PersonalData, PersonalDataScanner
from vita.data.curation.personal_data_secrets import NAMED_KEY
from vita.data.curation.secret_checks import is_random_token

SCANNER = PersonalDataScanner(PersonalData())

SECRETS = [
    # The secrets are between « and ».
    "password=«hunter2»",
    'DB_PASSWORD = "«tr0ub4dor&3»"',
    "passwd: «Sommer2024!», and the next",
    "'smtpPassword' => '«aB3#fG7kL9»'",
    'config["password"] = "«P@ss(1)rd/x»"',
    r"{\"password\": \"«xkcd-936-horse»\"}",
    "Here is your new password: «A1b2C3d4E5f6». Change it.",
    "My password is «hunter2», and Passwort: «Geheim99»",
    "contraseña: «gato2013», пароль: «kot2013», 密码：«mao2013», 密码是 «mao2014»",
    "Passcode: «482913»",
    "pwd=«x9-jj2!»",
    "smtp_pass: «qwe123rty»",
    "https://shop.net/login?user=bob&password=«swordfish»&next=1",
    "mysql --host=db --password=«swordfish» shop",
    "Server=db;User Id=bob;Password=«swordfish»;Timeout=5",
    "<ftp:Password>«swordfish»</ftp:Password>",
    "export PGPASSWORD=«swordfish»\nSMTP_PASSWORD=«mackerel»",
    "PGPASSWORD=«swordfish» psql -h db\nDB_PASS=«swordfish»\nspring.datasource.password=«swordfish»",
    "password=«Passw0rd123», password: «Login2024!», password='«token99!x»'",
    "Authorization: Basic «dXNlcjpwYXNz»",
    '"Authorization": "Bearer «mF_9.B5f-4.1JqMa»"',
    "curl -H 'authorization: Token «9944b09199c62bcf9418ad846dd0e4bbdfc6ee4b»'",
    "Proxy-Authorization: Basic «QWxhZGRpbjpvcGVuIHNlc2FtZQ==»",
    "it sends Bearer «b7d03a6947b217efb6f3ec3bd3504582» with each request",
    'api_key = "«0515529771ac9038d39c85a244fefdb3fd3cea97»"',
    "X-Api-Key: «jfFuUqtu3XZxC0Fwh348uLNa6QyL23d90»",
    'apiKey: "«fb611ff0-d7a6-4ac6-933c-186a44c9132e»"',
    "CLIENT_SECRET=«nq8Q~eHkXzTrWcpLdMvBsYgJfRaUoKhN»",
    "GET /data?access_token=«bPO38sw9HTvN5FtungMI»&page=2",
    "private_key = «0x4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318»",
    "redis://:«s3cret»@cache.net:6379",
]


def mask(text: str) -> tuple[str, dict[str, int]]:
    scan = SCANNER([text], [text.encode()]).get(0)
    return (text, {}) if scan is None else (scan.text, dict(scan.counts))


@pytest.mark.parametrize("marked", SECRETS)
def test_a_secret_after_its_name_is_masked(marked: str) -> None:
    text, masked = re.sub("[«»]", "", marked), re.sub("«.*?»", "<KEY>", marked)
    for before, after in (("", ""), ("a line\n", "\nand more"), ("x " * 300 + "\n", "\n")):
        assert mask(before + text + after) == (before + masked + after, {"key": marked.count("«")})


@pytest.mark.parametrize(
    "text",
    [
        "password = get_password(user1), password: Optional[str], password=None, password: str = ''",
        '"password": "Password", "token": "Chevron Corporation", "password": "Mot de passe"',
        "password=${DB_PASSWORD1}, password: $password2, password=%PASSWORD1%, password: {{ vault_pw1 }}",
        "password: your_password1, api_key = 'your_api_key_12345678', token=<token>, password: ********",
        "password = req.body.field1, password: param_2, password=config1['x'], password = /home/ann/x1",
        "Password: SHA-256 or bcrypt2; passwords: utf8mb4; password: 8-digit, passcode: 16-character",
        "The password is stored as md5-crypt. A password is required. Password: the word of the day.",
        ".field_password:focus!important, .lost_password:not(.a1b2c3)",
        "<input type='password' name='password1'> <password>secret</password>",
        "--password=PASSWORD --password=<password>",
        "token = tokenize(stream2), token: my-app-token-2024, secret: config/2020/secret01.json",
        "publicKeyToken='6595b64144ccf1df', sentryPublicApiKey: 344003a8d11c41d8800fbad8383fdc50",
        "withdrawal_credentials = preregistration_request.withdrawal_credentials",
        "the token 0x4646464646464646464646464646464646464646, token = 0x6B175474E89094C44Da98b954EedeAC495271d0F",
        "bearer securities and the bearer-of-the-good-news, Basic information, Authorization: required",
        "Authorization: Bearer <token>, Authorization: `Bearer ${user.token1}`, Authorization: Basic realm",
        "keyboard: a1b2c3d4e5f6a7b8c9, monkey = a1b2c3d4e5f6a7b8c9, hotkey: ctrl-alt-4",
        "this.state.password=raw\nuser.password=raw\nSHOW_PASSWORD=true\nBYPASS=full",
        "password: userName!, pwd=login-token, password: my.userToken",
        "pass: 12 of 14 tests, bypass=a1b2c3, compass: n48e11",
    ],
)
def test_words_after_the_name_of_a_secret_stay(text: str) -> None:
    assert mask(text) == (text, {})


def test_the_search_by_hints_misses_no_secret() -> None:
    texts = [re.sub("[«»]", "", marked) for marked in SECRETS]
    named = [text for text in texts if NAMED_KEY.mask(text)[1]]
    assert len(named) > 25
    scans = PersonalDataScanner(PersonalData())(named, [text.encode() for text in named])
    assert {index: NAMED_KEY.mask(text) for index, text in enumerate(named)} == {
        index: (scan.text, scan.counts["key"]) for index, scan in scans.items()
    }


def test_random_strings_differ_from_words() -> None:
    assert is_random_token("fb611ff0-d7a6-4ac6-933c-186a44c9132e") and is_random_token("aQzRtBvXwLpKjHnMdSfG")
    assert not is_random_token("getTheTokenOfTheUser")  # changes of case at few positions
    assert not is_random_token("1111111111111111a") and not is_random_token("user_token_2_of_10.json")

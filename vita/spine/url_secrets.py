"""Masking of the secrets in URLs: the user and password, and the values of parameters that may be secret.

    mask_url_secrets("http://bob:pw@host/a?token=x&page=2")          # "http://***@host/a?token=***&page=2"
    mask_secrets_in({"path": "s3://key:secret@bucket/a"})            # {"path": "s3://***@bucket/a"}
    mask_reference_secrets("https://host/a?story=7&session=x")       # "https://host/a?story=7&session=***"

Every error, and everything in the ledger, in the descriptions of artifacts and in reports, is masked. There, the value
of a parameter is shown only if its name is known as harmless, because any other parameter can be a key. The URLs of
documents are references that must stay distinct: in them, parameters are masked whose names state a secret or a person.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from vita.spine.secret_tokens import mask_tokens

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30}://)((?:(?!(?<!\w)[A-Za-z][A-Za-z0-9+.-]{1,30}://)[^\s\"'`<>])*)")
_PLAIN_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]{0,30}://)?[\w./~,+-]*")
"""A URL or path without a user and parameters."""
_END = ".,:;!?)]}|"
"""Characters at the end of a URL in a sentence that belong to the sentence."""
_SPACED_PASSWORD = re.compile(
    r"(?<=://)[^\s/?#@:]{0,64}:(?![0-9]{1,5}(?:[^\w%-]|\Z))(?=\S)[^\n@/]{1,64}[ \t][^\n@/]{0,64}@"
)
"""A user and a password with a space that is not encoded."""
_PORT = re.compile(r"[0-9]{1,5}")
_PARAMETER = re.compile(r"([?&;#])([^?&;#=]*)(?:(=)([^&;#]*))?")
_INNER_PARAMETER = re.compile(r"(?:^|[?&;#])\s?([^?&;#=\s]{1,60})=[^=&;#\s]|[\"']([\w.-]{1,60})[\"']\s?:\s?[\"'\w]")
"""A parameter, or a field of JSON, in the decoded value of another one."""
_ACCOUNT = re.compile(r"[^\s@]@(?:[\w-]+\.)+[^\W\d_]{2,}|:[^\s@/]{1,256}@(?:[^\W\d_]|[0-9]{1,3}\.[0-9])")
"""An e-mail address, or a password and a host."""
_FLAGS = frozenset(("0", "1", "true", "false", "yes", "no", "on", "off", "all", "none"))
"""Values that are no secrets."""
_RELATIVE_USER = re.compile(r"^//[^/?#\s@]*:[^\s@]+@(?=[\w.-]+(?:[:/?#]|$))")
"""The user and password of a URL without a scheme."""
_LOOSE_PARAMETER = re.compile(r"([?&;#])([^?&;#=\s]{1,60})(=)(?!\*\*\*)([^&;#\s\"'`<>]+(?<![.,:!?)\]}|]))")
"""A parameter outside of what is recognized as a URL: after a space or a quote in a URL, or without a scheme."""
_ENCODED_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}%3A%2F%2F", re.IGNORECASE)
_PART = re.compile(r"#(?:part)?[0-9]{1,9}")
"""The fragment that the id of a part of a document ends with."""
MEMBER_SCHEMES = ("zip://", "tar://")
"""Schemes of the members of archives."""
_MAX_DECODINGS = 4
"""Number of times a value is decoded: a URL in a parameter of a URL in a parameter has `%25` for `%`."""
_PATH_PARAMETER = re.compile(r"(;[\w.-]+=)[^/;]+")
_HARMLESS_NAMES = (
    "action alt branch c category charset config count curid dataset date day delimiter dir direction dl download"
    " encoding end expires export ext file filename folder format from generation height id ids index lang language"
    " limit list-type locale mime mode month n name num o oldid offset order p page page_size part partnumber path"
    " per_page prefix q query raw ref release response-content-disposition response-content-type rev revision row rows"
    " scale search se section shard since size sort sp split spr sr start story subset sv tag time title to topic"
    " type until utm_campaign utm_content utm_medium utm_source utm_term v version versionid view width"
    " x-amz-algorithm x-amz-date x-amz-expires x-amz-signedheaders x-goog-algorithm x-goog-date x-goog-expires"
    " x-goog-signedheaders year"
)
"""Names of parameters in lower case whose values are shown: of listings, pages, versions, files and signed URLs."""
_HARMLESS = frozenset(_HARMLESS_NAMES.split())
_SECRET_NAME = re.compile(
    r"(?:token|secret|passw(?:or)?d|passphrase|passcode|passkey|passwort|kennwort|contrase(?:ñ|%C3%B1|n)a|wachtwoord"
    r"|mot_?de_?passe|senha|пароль|密码|credentials?|signature|jwt|bearer|api_?key|accesskeyid|assertion"
    r"|(?:access|account|auth|private|secret|shared|signing|subscription)key|oauth_verifier|saml(?:request|response)"
    r"|googleaccessid|session(?:_?id)?|sessid|e?mail)$"
    r"|(?:^|[_.-])(?:access|auth|authorization|hmac|key|login|otp|pass|phone|pin|psw|pw|pwd|sas|sess|sid|sig|ticket|user"
    r"|user_?name)$|^(?:auth(?:orization)?_?)?code$",
    re.IGNORECASE,
)
"""Names of parameters that state a secret or a person."""
_SECRET_WORD = re.compile(r"token|secret|passw|passphrase|passcode|(?:^|[_.-])pass|api_?key|signature", re.IGNORECASE)
"""A part of the names of secrets, and of other names such as `token_type`."""
_LETTERS_AND_DIGITS = re.compile(r"(?=.*[A-Za-z])(?=.*[0-9])[^/:]{6,}")


def mask_url_secrets(text: str) -> str:
    """Return a text with `***` in place of users and passwords, and of unknown parameters, of each URL.

    A text without a URL stays. A fragment of an HTTP address is masked, too: it can be a key.
    """
    if "://" not in text:
        return text
    text = _SPACED_PASSWORD.sub("***@", text)
    return _LOOSE_PARAMETER.sub(_loose_parameter, _masked(text, _is_unknown, masks_fragments=True))


def mask_reference_secrets(text: str) -> str:
    """Return the URL of a document with `***` in place of its user and password, secrets, tokens and e-mail addresses.

    The URL can have no scheme (`/a?token=x`), and unencoded spaces and quotes. One whose scheme is encoded is decoded
    if it holds a secret.
    """
    text = mask_tokens(text)
    if _PLAIN_URL.fullmatch(text):
        return text
    if _ENCODED_SCHEME.match(text) and (decoded := unquote(text)) != (masked := mask_reference_secrets(decoded)):
        return masked
    text = _RELATIVE_USER.sub("//***@", text)
    return _LOOSE_PARAMETER.sub(_loose_parameter, _masked(text, _is_secret))


def mask_secrets_in(value: Any) -> Any:
    """Return a JSON value whose strings and names are masked."""
    if isinstance(value, str):
        return mask_url_secrets(value)
    if isinstance(value, Mapping):
        return {mask_secrets_in(name): mask_secrets_in(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask_secrets_in(item) for item in value]
    return value


def links_of_chain(url: str) -> list[str]:
    """Return the links of a chain, such as `zip://member::https://host/a.zip`; an address is a chain of one link.

    The archive of a member can be a local path (`zip://member::folder/a.zip`).
    """
    *links, last = re.split(r"::(?=[A-Za-z][A-Za-z0-9+.-]*(?:://|::))", url)
    if last.startswith(MEMBER_SCHEMES) and "::" in last:
        return [*links, *last.split("::", 1)]
    return [*links, last]


def without_user_and_query(url: str) -> str:
    """Return a URL, or each link of a chain, without user and password; HTTP addresses without query and fragment."""
    return "::".join(map(_link_without_user_and_query, links_of_chain(url)))


def _link_without_user_and_query(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    rest = rest[_user_end(rest) :]
    if scheme.endswith(("http", "https")):
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    return f"{scheme}://{rest}"


def _is_unknown(name: str) -> bool:
    return name.lower() not in _HARMLESS


def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _masked(text: str, is_secret: Callable[[str], bool], *, masks_fragments: bool = False) -> str:
    if "://" not in text:
        return text

    def masked_url(match: re.Match[str]) -> str:
        scheme, rest = match.groups()
        tail = rest[len(rest.rstrip(_END)) :]
        rest = rest.removesuffix(tail)
        if user := _user_end(rest):
            rest = f"***@{rest[user:]}"
        start = next((index for index, character in enumerate(rest) if character in "?#"), len(rest))
        path = _PATH_PARAMETER.sub(lambda part: f"{part[1]}***" if is_secret(part[1][1:-1]) else part[0], rest[:start])
        masks_fragment = masks_fragments and scheme.lower() in ("http://", "https://")
        query = _PARAMETER.sub(lambda part: _parameter(part, is_secret, masks_fragment), rest[start:])
        return f"{scheme}{path}{query}{tail}"

    return _URL.sub(masked_url, text)


def _user_end(rest: str) -> int:
    """Return the position after the user and password at the beginning of a URL without its scheme; 0 without them.

    A password can contain `/`, `?`, `#` and `@` that are not encoded. What follows the first colon is then no port, and
    the last `@` of the URL ends the password.
    """
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority:
        return authority.rindex("@") + 1
    _, colon, port = authority.partition(":")
    if colon and not authority.startswith("[") and not _PORT.fullmatch(port):
        return rest.rfind("@") + 1
    return 0


def _parameter(part: re.Match[str], is_secret: Callable[[str], bool], masks_fragment: bool) -> str:
    """Return a parameter with its value, or with `***`; `masks_fragment` applies to a fragment without `=`."""
    mark, name, equal, value = part.groups()
    if equal:
        is_masked = _is_named_secret(name, value, is_secret) or _holds_secret(value, is_secret)
        return f"{mark}{name}={'***' if value and is_masked else value}"
    if not name or (mark == "#" and not masks_fragment) or _PART.fullmatch(part[0]):
        return part[0]
    return f"{mark}{'***' if is_secret(name) or _holds_secret(name, is_secret) else name}"


def _loose_parameter(part: re.Match[str]) -> str:
    mark, name, equal, value = part.groups()
    is_masked = _is_named_secret(name, value, _is_secret) or _holds_secret(value, _is_secret)
    return f"{mark}{name}{equal}***" if is_masked else part[0]


def _is_named_secret(name: str, value: str, is_secret: Callable[[str], bool]) -> bool:
    """Return True if the name is that of a secret, or has a word of one and the value has letters and digits."""
    if is_secret is _is_secret and value.lower() in _FLAGS:
        return False
    return _is_name_of(name, is_secret) or bool(_SECRET_WORD.search(name) and _LETTERS_AND_DIGITS.fullmatch(value))


def _is_name_of(name: str, is_secret: Callable[[str], bool]) -> bool:
    """Return True if a name, or a part of it between brackets (`token` of `a[token]`), is that of a secret."""
    return any(map(is_secret, re.findall(r"[^\[\]]+", unquote(name))))


def _holds_secret(value: str, is_secret: Callable[[str], bool]) -> bool:
    """Return True for an encoded value that contains an e-mail address, a URL with secrets, or such parameters."""
    for _ in range(_MAX_DECODINGS):
        decoded = unquote(value)
        names = ((name or field).strip("*") for name, field in _INNER_PARAMETER.findall(decoded))
        if (
            _ACCOUNT.search(decoded)
            or _masked(decoded, is_secret) != decoded
            or any(_is_name_of(name, is_secret) for name in names)
        ):
            return True
        if decoded == value:
            return False
        value = decoded
    return True

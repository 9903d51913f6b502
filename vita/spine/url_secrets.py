"""Masking of the secrets in URLs: user names with passwords, and signatures, tokens and keys in the query.

    mask_url_secrets("http://bob:pw@host/a?token=x&page=2")     # "http://***@host/a?token=***&page=2"
    mask_secrets_in({"path": "s3://key:secret@bucket/a"})       # {"path": "s3://***@bucket/a"}

Every error, and everything in the ledger, in the descriptions of artifacts and in reports, is masked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_USER = re.compile(r"(?<=://)[^/?#\s@\"'<>]*:(?:[^/?#\s\"'<>]*@)(?=[^/?#\s@])")
_PARAMETER = re.compile(
    r"([?&;](?:[\w.-]*(?:token|signature|secret|password|passwd|credential)|(?:[\w.-]*[-_])?(?:sig|sas|pwd|auth|key|apikey)"
    r"|apikey|accesskeyid|awsaccesskeyid|googleaccessid)=)[^&#\s\"'<>;,]+",
    re.IGNORECASE,
)


def mask_url_secrets(text: str) -> str:
    """Return a text with `***` in place of the user and password, and of secret query parameters, of each URL."""
    if "://" not in text:
        return text
    return _PARAMETER.sub(r"\1***", _USER.sub("***@", text))


def mask_secrets_in(value: Any) -> Any:
    """Return a JSON value whose strings and names are masked."""
    if isinstance(value, str):
        return mask_url_secrets(value)
    if isinstance(value, Mapping):
        return {mask_secrets_in(name): mask_secrets_in(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask_secrets_in(item) for item in value]
    return value


def without_user_and_query(url: str) -> str:
    """Return a URL without user and password; of an HTTP address also without query and fragment."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    if scheme.endswith(("http", "https")):
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"

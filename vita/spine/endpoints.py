"""The address and the API key of an HTTP endpoint, as settings name them.

    http_url("https://host/v1/")                       # "https://host/v1"
    api_key(variable="OPENAI_API_KEY", file=None)      # the key; errors never show it

Settings contain the name of a variable or file, never the key.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from vita.spine import machine
from vita.spine.errors import ConfigError


def http_url(url: str) -> str:
    """Return the base URL of an endpoint without a slash at its end; raise `ValueError` for another kind of text."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise ValueError("a URL http://HOST/v1 or https://HOST/v1 without a user name and a query is expected")
    return url.rstrip("/")


def api_key(*, variable: str | None, file: str | None) -> str:
    """Return the key in an environment variable or in a file; "" without either.

    Raises `ConfigError` for a variable that is not set, a file that cannot be read, and a text that no header can hold.
    """
    if variable is not None:
        key = machine.endpoint_key(variable)
        if key is None:
            raise ConfigError(f"environment variable {variable}", "is not set; it holds the API key")
        return _checked_key(key, f"environment variable {variable}")
    if file is None:
        return ""
    path = Path(file).expanduser()
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read as the API key: {type(error).__name__}") from None
    return _checked_key(key, str(path))


def _checked_key(key: str, where: str) -> str:
    """Return a key that a header can contain; the error does not show it."""
    key = key.strip()
    if not key or not key.isprintable() or not key.isascii():
        raise ConfigError(where, expected="one line of ASCII characters, the API key", got=f"{len(key)} characters")
    return key

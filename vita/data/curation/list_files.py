"""Files with lists of URLs and of words for filters: their format, and the matching of URLs and texts.

    UrlList.load(Path("blocked.txt")).match("https://ads.example.com/a?b")     # "example.com"
    WordList.load(Path("words.txt")).matches("Get rich!", b"Get rich!")        # (["get rich"], 2)

Both are UTF-8 text with an entry per line; blank lines and lines that begin with `#` are not entries.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from vita.data.curation.scripts import UNSPACED_CHARACTERS
from vita.spine.errors import DataError

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_HOST = re.compile(r"[\w-]+(\.[\w-]+)+|\[[0-9a-f:.]+\]")
_WORD = re.compile(r"\w+")
_UNSPACED = re.compile(f"[{UNSPACED_CHARACTERS}]")
_LAST_MARK = 0x1E94A
"""The last combining mark of a script; later ones are variation selectors."""
_MARK_LEADS = (*(bytes([lead]) for lead in (0xCC, 0xCD, 0xD2, *range(0xD6, 0xE2), 0xEA)), b"\xf0\x91", b"\xf0\x9e")
"""Beginnings in UTF-8 of the combining marks of living scripts, and of other characters."""
_ASCII_WORDS = bytes(
    ord(chr(code).lower()) if chr(code).isalnum() or chr(code) == "_" else 32 for code in range(128)
) + bytes(range(128, 256))
"""Translation of ASCII to lower case, with spaces in place of all characters that are not part of a word."""


@dataclass(frozen=True)
class UrlList:
    """Domains, which match with all their subdomains, and URL prefixes, which match at exactly their host."""

    domains: dict[str, str]
    """Domain -> entry."""
    prefixes: dict[str, tuple[tuple[str, str], ...]]
    """Host -> (beginning of path and query, entry)."""

    @classmethod
    def load(cls, path: Path) -> UrlList:
        """Read a file; a line that is no domain, host or URL raises a `DataError`."""
        domains: dict[str, str] = {}
        prefixes: dict[str, list[tuple[str, str]]] = {}
        for number, entry in _entries(path):
            url = _split_url(entry.removeprefix("*."))
            host = _host(url) if url else ""
            if url is None or any(map(str.isspace, entry)) or not _HOST.fullmatch(host):
                expected = "a domain, a host or the beginning of a URL"
                raise DataError(f"{path}:{number}", expected=expected, got=entry)
            rest = _path_and_query(url)
            if rest in ("", "/"):
                domains[host] = entry
            else:
                prefixes.setdefault(host, []).append((rest, entry))
        return cls(domains, {host: tuple(rows) for host, rows in prefixes.items()})

    def match(self, address: str) -> str | None:
        """Return the first entry that matches a URL, or None."""
        url = _split_url(address)
        if url is None:
            return None
        host = _host(url)
        domain = host
        while domain:
            if (entry := self.domains.get(domain)) is not None:
                return entry
            domain = domain.partition(".")[2]
        rest = _path_and_query(url) or "/"
        return next((entry for prefix, entry in self.prefixes.get(host, ()) if rest.startswith(prefix)), None)


@dataclass(frozen=True)
class WordList:
    """Words and phrases, compared without case with whole words.

    A word is a run of letters, combining marks, digits and underscores, so any punctuation separates words. Entries in
    scripts without spaces between words match inside a text.
    """

    phrases: dict[str, tuple[tuple[str, ...], ...]]
    """First word -> the words of each phrase that begins with it, the longest first."""
    inner: tuple[str, ...]
    """Entries in scripts without spaces, in lower case."""

    @classmethod
    def load(cls, path: Path) -> WordList:
        """Read a file; a line without a word raises a `DataError`."""
        phrases: dict[str, set[tuple[str, ...]]] = {}
        inner: list[str] = []
        for number, entry in _entries(path):
            words = tuple(_words(entry, entry.encode()))
            if not words:
                raise DataError(f"{path}:{number}", expected="a word or phrase", got=entry)
            if _UNSPACED.search(entry):
                inner.append(entry.lower())
            else:
                phrases.setdefault(words[0], set()).add(words)
        ordered = {first: tuple(sorted(group, key=lambda item: (-len(item), item))) for first, group in phrases.items()}
        return cls(ordered, tuple(dict.fromkeys(inner)))

    def matches(self, text: str, data: bytes) -> tuple[list[str], int]:
        """Return the matched entries in the order of the text, and the number of words of the text.

        `data` is the UTF-8 of the text. Of several phrases at a position, the longest matches.
        """
        words, matches = _words(text, data), list[str]()
        if self.phrases and not self.phrases.keys().isdisjoint(words):
            position = 0
            while position < len(words):
                phrase = self._phrase_at(words, position)
                if phrase:
                    matches.append(" ".join(phrase))
                position += max(1, len(phrase))
        if self.inner and not data.isascii():
            lowered = text.lower()
            matches += [entry for entry in self.inner for _ in range(lowered.count(entry))]
        return matches, len(words)

    def _phrase_at(self, words: list[str], position: int) -> tuple[str, ...]:
        for phrase in self.phrases.get(words[position], ()):
            if len(phrase) == 1 or tuple(words[position : position + len(phrase)]) == phrase:
                return phrase
        return ()


def load_url_list(path: str) -> UrlList:
    """Return the URL list of a file, read again only after a change."""
    return _load_urls(*_version(path))


def load_word_list(path: str) -> WordList:
    """Return the word list of a file, read again only after a change."""
    return _load_words(*_version(path))


def _version(path: str) -> tuple[Path, int, int]:
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(str(path), expected="a text file with an entry per line", got="no such file")
    stat = file.stat()
    return file, stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=8)
def _load_urls(path: Path, changed: int, size: int) -> UrlList:
    return UrlList.load(path)


@lru_cache(maxsize=8)
def _load_words(path: Path, changed: int, size: int) -> WordList:
    return WordList.load(path)


def _entries(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, entry); a file without entries raises a `DataError`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(path), expected="a text file in UTF-8", got=str(error)) from None
    entries = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    entries = [(number, entry) for number, entry in entries if entry and not entry.startswith("#")]
    if not entries:
        raise DataError(str(path), expected="an entry per line", got="a file without entries")
    yield from entries


def _split_url(address: str) -> SplitResult | None:
    try:
        return urlsplit(address if _SCHEME.match(address) else f"//{address}")
    except ValueError:
        return None


def _host(url: SplitResult) -> str:
    """Return the host in lower case without user, port and final dot; international names in their ASCII form."""
    host = url.netloc.rpartition("@")[2].lower()
    host = re.sub(r":\d*$", "", host).rstrip(".")
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        return host


def _path_and_query(url: SplitResult) -> str:
    return f"{url.path}?{url.query}" if url.query else url.path


def _words(text: str, data: bytes) -> list[str]:
    """Return the words of a text in lower case."""
    if data.isascii():
        return data.translate(_ASCII_WORDS).decode("ascii").split()
    pattern = _words_with_marks() if any(lead in data for lead in _MARK_LEADS) else _WORD
    return pattern.findall(text.lower())


@lru_cache(maxsize=1)
def _words_with_marks() -> re.Pattern[str]:
    """Return the pattern of words that may have combining marks, such as the vowel signs of Indic scripts.

    `\\w` does not include them, and a class of marks takes five times the time of `\\w` alone.
    """
    marks = "".join(chr(code) for code in range(0x300, _LAST_MARK + 1) if unicodedata.category(chr(code))[0] == "M")
    return re.compile(rf"\w+(?:[{marks}]+\w*)*")

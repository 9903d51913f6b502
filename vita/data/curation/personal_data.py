"""Personal data and secrets in documents: e-mail addresses, phone numbers, card numbers, keys and others.

    scanner = PersonalDataScanner(PersonalData())
    scanner(["Write to ann@mail.net."])         # [Scan(text="Write to <EMAIL>.", counts={"email": 1})]

A pattern in RE2 searches a whole batch for documents that may contain a kind, which takes a few ms per MB. The exact
pattern of the kind and its check (see `identifiers`) are applied to these documents only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import model_validator

from vita.data.curation.personal_data_forms import ascii_digits
from vita.data.curation.personal_data_kinds import CANDIDATE, KINDS, PersonalDataKind
from vita.spine.config import Settings

_FULL_WIDTH = re.compile(b"\xef\xbc[\x8b\x8d\x8e\x90-\x99\xa0]")
"""A digit, `+`, `-`, `.` or `@` of full width in UTF-8."""
Action = Literal["mask", "drop", "keep"]


class PersonalData(Settings):
    """The treatment of each kind of personal data: `mask`, `drop` (drop the document) or `keep`."""

    email: Action = "mask"
    """E-mail addresses, except in domains that are reserved for examples."""
    phone: Action = "mask"
    """Phone numbers: international, North American, or others after a word such as `phone` or `call`."""
    ip: Action = "mask"
    """Public IPv4 and IPv6 addresses."""
    card: Action = "mask"
    """Payment card numbers with a valid checksum."""
    iban: Action = "mask"
    """International bank account numbers with a valid checksum."""
    national_id: Action = "mask"
    """Social security, tax and identity numbers of 15 countries, with their checksums where they have one."""
    key: Action = "mask"
    """Secrets: keys and tokens of known services, private keys, passwords in URLs, and secrets after a name."""

    @model_validator(mode="before")
    @classmethod
    def _for_all_kinds(cls, value: Any) -> Any:
        return dict.fromkeys(cls.model_fields, value) if isinstance(value, str) else value

    @property
    def actions(self) -> dict[str, Action]:
        """The action of each kind."""
        return {name: getattr(self, name) for name in type(self).model_fields}


class Scan(NamedTuple):
    """A text with its masks, and the number of values by kind."""

    text: str
    counts: Mapping[str, int]


class PersonalDataScanner:
    """Masks personal data in batches of texts; kinds with the action `keep` are not searched."""

    def __init__(self, settings: PersonalData) -> None:
        self.actions = settings.actions
        self._kinds = [kind for kind in KINDS if self.actions[kind.name] != "keep"]

    def __call__(self, texts: Sequence[str], data: Sequence[bytes]) -> dict[int, Scan]:
        """Return index -> scan for the texts that contain personal data; `data` is the UTF-8 of the texts."""
        if not self._kinds:
            return {}
        full_width = {index for index, item in enumerate(data) if _FULL_WIDTH.search(item)}
        if full_width:
            data = [
                ascii_digits(texts[index]).encode("utf-8", "replace") if index in full_width else item
                for index, item in enumerate(data)
            ]
        suspicious = _matches(data, CANDIDATE)
        candidates: dict[int, list[PersonalDataKind]] = {}
        for kind in self._kinds if len(suspicious) else ():
            for index in suspicious[_matches([data[index] for index in suspicious], kind.hint)].tolist():
                candidates.setdefault(index, []).append(kind)
        scans = {
            index: _scan(texts[index], kinds, full_width=index in full_width) for index, kinds in candidates.items()
        }
        return {index: scan for index, scan in sorted(scans.items()) if scan.counts}

    def dropped_kind(self, scan: Scan) -> str | None:
        """Return the first kind for which the document must be dropped, if any."""
        return next((name for name in scan.counts if self.actions[name] == "drop"), None)


def _scan(text: str, kinds: Sequence[PersonalDataKind], *, full_width: bool) -> Scan:
    counts: dict[str, int] = {}
    for kind in kinds:
        text, count = kind.mask(text, full_width=full_width)
        if count:
            counts[kind.name] = counts.get(kind.name, 0) + count
    return Scan(text, counts)


def _matches(data: Sequence[bytes], pattern: str) -> np.ndarray:
    """Return the indices of the byte strings in which an RE2 pattern occurs."""
    import pyarrow as pa
    import pyarrow.compute as pc

    offsets = np.zeros(len(data) + 1, np.int64)
    np.cumsum([len(item) for item in data], out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(data))]
    texts = pa.Array.from_buffers(pa.large_string(), len(data), buffers)
    matches = pc.call_function("match_substring_regex", [texts], pc.MatchSubstringOptions(pattern))
    # The bits are read directly: conversions by Arrow import pandas, 0.4 CPU seconds in each worker process.
    bits = np.frombuffer(matches.buffers()[1], np.uint8)
    return np.flatnonzero(np.unpackbits(bits, count=len(data), bitorder="little"))

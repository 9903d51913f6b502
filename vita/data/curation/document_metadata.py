"""Metadata of documents in curation: decisions are recorded in it, and personal data in its values are masked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from vita.data.curation.personal_data import PersonalDataScanner, Scan
from vita.data.records import Document

_REFERENCE = re.compile(
    r"(?:^|[_.: -])(?i:ids?|ur[li]s?|source|licen[cs]e|language)$|[a-z](?:Ids?|UR[LI]s?|Ur[li]s?|Source|Licen[cs]e)$"
)
"""Names of fields whose values identify or locate a document, or are its language: `url`, `Target-URI`, `pageId`."""


class MaskedMetadata(NamedTuple):
    """Metadata with placeholders, and the number of masked values by kind."""

    metadata: dict[str, Any]
    counts: Mapping[str, int]


def with_decision(metadata: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Return metadata with a decision of curation; a different value of that name is renamed to `stated_NAME`."""
    stated = metadata.get(name)
    result = {**metadata, name: value}
    if stated is not None and stated != value:
        result[f"stated_{name}"] = stated
    return result


def mask_metadata(documents: Sequence[Document], scanner: PersonalDataScanner) -> dict[int, MaskedMetadata]:
    """Return index -> masked metadata for the documents with personal data in a value of their metadata.

    Strings are searched at any depth, except in fields that are references, such as `url` and `page_id`.
    """
    strings = {index: values for index, document in enumerate(documents) if (values := [*_strings(document.metadata)])}
    if not strings:
        return {}
    texts = list(dict.fromkeys(text for values in strings.values() for text in values))
    scans = {
        texts[number]: scan
        for number, scan in scanner(texts, [text.encode("utf-8", "replace") for text in texts]).items()
    }
    results: dict[int, MaskedMetadata] = {}
    for index, values in strings.items() if scans else ():
        if not scans.keys().isdisjoint(values):
            counts = Counter[str]()
            results[index] = MaskedMetadata(_masked(documents[index].metadata, scans, counts), counts)
    return results


def _strings(value: Any) -> Iterator[str]:
    """Yield the strings in a value that are searched."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if isinstance(item, str | Mapping | list | tuple) and not _is_reference(str(name)):
                yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _masked(value: Any, scans: Mapping[str, Scan], counts: Counter[str]) -> Any:
    """Return a value with placeholders, and add the number of masked values to `counts`."""
    if isinstance(value, str):
        if (scan := scans.get(value)) is None:
            return value
        counts.update(scan.counts)
        return scan.text
    if isinstance(value, Mapping):
        return {
            name: item if _is_reference(str(name)) else _masked(item, scans, counts) for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_masked(item, scans, counts) for item in value]
    return value


@lru_cache(maxsize=4096)
def _is_reference(name: str) -> bool:
    return _REFERENCE.search(name) is not None

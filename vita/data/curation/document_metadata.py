"""Metadata of documents in curation: decisions are recorded in it, and personal data in its values are masked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from vita.data.curation.field_context import PASSWORD, field_context
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


class _Value(NamedTuple):
    """A value in metadata, and the context that its field gives."""

    context: str
    text: str


_PASSWORD_SCAN = Scan("<KEY>", {"key": 1})


def with_decision(metadata: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Return metadata with a decision of curation; a different value of that name is renamed to `stated_NAME`."""
    stated = metadata.get(name)
    result = {**metadata, name: value}
    if stated is not None and stated != value:
        result[f"stated_{name}"] = stated
    return result


def mask_metadata(documents: Sequence[Document], scanner: PersonalDataScanner) -> dict[int, MaskedMetadata]:
    """Return index -> masked metadata for the documents with personal data in a value of their metadata.

    Strings are searched at any depth, with the name of their field as context, and integers in fields whose name gives
    a context. Fields that are references, such as `url` and `page_id`, are not searched.
    """
    values = {index: [*_values(document.metadata)] for index, document in enumerate(documents)}
    scans = _scan([value for items in values.values() for value in items], scanner)
    if not scans:
        return {}
    results: dict[int, MaskedMetadata] = {}
    for index, items in values.items():
        if not scans.keys().isdisjoint(items):
            counts = Counter[str]()
            results[index] = MaskedMetadata(_masked(documents[index].metadata, scans, counts), counts)
    return results


def _scan(values: Iterable[_Value], scanner: PersonalDataScanner) -> dict[_Value, Scan]:
    """Return value -> its scan for the values with personal data."""
    unique = list(dict.fromkeys(values))
    if not unique:
        return {}
    prefixes = [f"{value.context}: " if value.context else "" for value in unique]
    texts = [prefix + value.text for prefix, value in zip(prefixes, unique, strict=True)]
    results = {
        unique[index]: scan._replace(text=scan.text.removeprefix(prefixes[index]))
        for index, scan in scanner(texts, [text.encode("utf-8", "replace") for text in texts]).items()
    }
    if scanner.actions["key"] != "keep":
        results |= {value: _PASSWORD_SCAN for value in unique if value.context == PASSWORD and value.text.strip()}
    return results


def _values(value: Any, context: str = "") -> Iterator[_Value]:
    """Yield the values that are searched."""
    if isinstance(value, str):
        yield _Value(context, value)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if isinstance(item, str | int | Mapping | list | tuple):
                inner = field_context(str(name), context)
                if inner or not (isinstance(item, int) or _is_reference(str(name))):
                    yield from _values(item, inner)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _values(item, context)
    elif context and isinstance(value, int) and not isinstance(value, bool):
        yield _Value(context, str(value))


def _masked(value: Any, scans: Mapping[_Value, Scan], counts: Counter[str], context: str = "") -> Any:
    """Return a value with placeholders, and add the number of masked values to `counts`."""
    if isinstance(value, Mapping):
        return {name: _masked_field(str(name), item, scans, counts, context) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item, scans, counts, context) for item in value]
    if isinstance(value, bool) or not isinstance(value, str | int):
        return value
    if (scan := scans.get(_Value(context, str(value)))) is None or not (context or isinstance(value, str)):
        return value
    counts.update(scan.counts)
    return scan.text


def _masked_field(name: str, item: Any, scans: Mapping[_Value, Scan], counts: Counter[str], context: str) -> Any:
    inner = field_context(name, context)
    return item if not inner and _is_reference(name) else _masked(item, scans, counts, inner)


@lru_cache(maxsize=4096)
def _is_reference(name: str) -> bool:
    return _REFERENCE.search(name) is not None

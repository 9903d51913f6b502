"""Metadata of documents in curation: decisions are recorded in it, and personal data in its values are masked."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

from vita.data.curation.field_context import PASSWORD, field_context
from vita.data.curation.personal_data import PersonalDataScanner, Scan
from vita.data.curation.references import scan_reference
from vita.data.records import Document

_REFERENCE = re.compile(
    r"(?:^|[_.: -])(?i:ids?|ur[li]s?|source|licen[cs]e|language)$|[a-z](?:Ids?|UR[LI]s?|Ur[li]s?|Source|Licen[cs]e)$"
)
"""Names of fields whose values identify or locate a document, or are its language: `url`, `Target-URI`, `pageId`."""
_ID = re.compile(r"(?:^|[_.: -])(?i:ids?)$|[a-z]Ids?$")
"""Names of references that are ids."""
_PLAIN_NAME = re.compile(r"(?:[^\W\d]|[_ .-](?![0-9]))+[0-9]{0,4}")


class MaskedMetadata(NamedTuple):
    """Metadata with placeholders, and the number of masked values by kind."""

    metadata: dict[str, Any]
    counts: Mapping[str, int]


_LOCATION, _IDENTITY = "location of a document", "id of a document"
"""Contexts of the values of references (see `references`), and of all values inside them."""
_REFERENCES = (_LOCATION, _IDENTITY)


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

    Values are searched at any depth, with the name of their field as context. Numbers are searched in fields whose name
    gives a context, and as card numbers in others. In fields that are references, such as `url` and `page_id`, only
    secrets of URLs and e-mail addresses are masked (see `references`). Names of fields are searched as well: a map can
    have addresses as its keys.
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
    distinct = dict.fromkeys(values)
    references = {value: scan_reference(value.text, scanner.actions, is_id=value.context == _IDENTITY)
                  for value in distinct if value.context in _REFERENCES}  # fmt: skip
    unique = [value for value in distinct if value not in references]
    if not unique and not references:
        return {}
    prefixes = [f"{value.context}: " if value.context else "" for value in unique]
    texts = [prefix + value.text for prefix, value in zip(prefixes, unique, strict=True)]
    results = {
        unique[index]: scan._replace(text=scan.text.removeprefix(prefixes[index]))
        for index, scan in scanner(texts, [text.encode("utf-8", "replace") for text in texts]).items()
    }
    if scanner.actions["key"] != "keep":
        results |= {value: _PASSWORD_SCAN for value in unique if value.context == PASSWORD and value.text.strip()}
    return results | {value: scan for value, scan in references.items() if scan}


class _Field(NamedTuple):
    """A field of a mapping, and the context of its value."""

    name: Any
    value: Any
    context: str


def _fields(mapping: Mapping[Any, Any], outer: str) -> Iterator[_Field]:
    """Yield the fields of a mapping; in `{"key": "phone", "value": ...}`, the key names the value."""
    for name, value in mapping.items():
        label = str(name)
        if name == "value" and isinstance(key := mapping.get("key", mapping.get("name")), str):
            label = key
        context = outer if outer in _REFERENCES else field_context(label, outer)
        if not context and _is_reference(label):
            context = _IDENTITY if _ID.search(label) else _LOCATION
        yield _Field(name, value, context)


def _values(value: Any, context: str = "") -> Iterator[_Value]:
    """Yield the values that are searched."""
    if isinstance(value, str):
        yield _Value(context, value)
    elif isinstance(value, Mapping):
        for field in _fields(value, context):
            if context not in _REFERENCES and not _is_plain_name(str(field.name)):
                yield _Value("", str(field.name))
            yield from _values(field.value, field.context)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _values(item, context)
    elif (text := _scalar_text(value, context)) is not None:
        yield _Value(context, text)


def _scalar_text(value: Any, context: str) -> str | None:
    """Return the text in which a value that is no string is searched, or None if it is not searched.

    A whole number in a column with missing values is a float. Without a context, numbers of 12 to 16 digits are
    searched, because longer ones are identifiers and hashes. Values of types that JSON lacks are written as text.
    """
    if value is None or isinstance(value, bool | date | time | timedelta) or context in _REFERENCES:
        return None
    if isinstance(value, float | Decimal):
        if not math.isfinite(value) or value != int(value):
            return str(value) if context == PASSWORD else None
        value = int(value)
    if isinstance(value, int) and not context:
        return str(value) if 10**11 <= value < 10**16 else None
    return str(value)


def _masked(value: Any, scans: Mapping[_Value, Scan], counts: Counter[str], context: str = "") -> Any:
    """Return a value with placeholders, and add the number of masked values to `counts`."""
    if isinstance(value, Mapping):
        masked: dict[Any, Any] = {}
        for field in _fields(value, context):
            name = field.name if context in _REFERENCES else _masked_name(field.name, scans, counts, masked)
            masked[name] = _masked(field.value, scans, counts, field.context)
        return masked
    if isinstance(value, list | tuple):
        return [_masked(item, scans, counts, context) for item in value]
    text = value if isinstance(value, str) else _scalar_text(value, context)
    if text is None or (scan := scans.get(_Value(context, text))) is None:
        return value
    counts.update(scan.counts)
    return scan.text


def _masked_name(name: Any, scans: Mapping[_Value, Scan], counts: Counter[str], used: Mapping[Any, Any]) -> Any:
    """Return the name of a field with placeholders, and a number if the mapping has a field of this name."""
    if (scan := scans.get(_Value("", str(name)))) is None or _is_plain_name(str(name)):
        return name
    counts.update(scan.counts)
    numbered = (scan.text if number == 1 else f"{scan.text}_{number}" for number in count(1))
    return next(candidate for candidate in numbered if candidate not in used)


@lru_cache(maxsize=4096)
def _is_plain_name(name: str) -> bool:
    """Return True for words of letters and short numbers, in which no personal data can be."""
    return _PLAIN_NAME.fullmatch(name) is not None


@lru_cache(maxsize=4096)
def _is_reference(name: str) -> bool:
    return _REFERENCE.search(name) is not None

"""The rights of a record: licence, robots directives of its page, an opt-out from machine learning, and consent.

    rights = rights_of(document)            # Rights(licence="CC0-1.0", robots="noai", opt_out=True, consent=None)
    permitted_records(records, RightsPolicy(licences=["CC*"]), dropped)

The fields `robots`, `opt_out` and `consent` of a row are in the metadata of its record and stay there in every later
artifact. A web page states them in its head and in its HTTP headers (`vita.data.sources.page_rights`). `noai` and
`noml` are directives of the `robots` field that opt out; `tdm-reservation` (W3C TDM Reservation Protocol) does as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, Protocol, TypeVar

from vita.data.records import DroppedRecord, text_size
from vita.spine.config import Settings
from vita.spine.erasures import NOT_STATED, licence_key

RIGHTS_FIELDS = ("robots", "opt_out", "consent")
"""The fields of a row, besides its licence, that state rights."""
OPT_OUT_DIRECTIVES = frozenset({"noai", "noml"})
GIVEN, REFUSED = "given", "refused"

_NO = frozenset({"false", "no", "0", "none", "refused", "denied", "withdrawn", "revoked"})
_YES = frozenset({"true", "yes", "1", "given", "granted"})


class RightsHolder(Protocol):
    """A record with an id, a source, a licence, and the fields of its row."""

    @property
    def id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def licence(self) -> str | None: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Rights:
    """The rights of a record; a value that its source does not state is None."""

    licence: str | None = None
    robots: str | None = None
    """Robots directives, such as `noindex, noai`."""
    opt_out: bool | None = None
    """True if the rights holder opted out of machine learning, False if the source states that there is no opt-out."""
    consent: str | None = None
    """`given`, `refused`, or the text of the source."""


class RightsPolicy(Settings):
    """Use of records by their rights."""

    opted_out: Literal["drop", "keep"] = "drop"
    """Records whose rights holder opted out of machine learning."""
    consent: Literal["not_refused", "required", "any"] = "not_refused"
    """`not_refused` drops records with refused consent, `required` all records without consent."""
    licences: tuple[str, ...] = ()
    """Permitted licences, as names or patterns such as `CC-BY-*`; `not stated` for records without a licence. The
    default permits all."""

    def violation(self, rights: Rights) -> tuple[str, str] | None:
        """Return the rule that excludes a record, and the value that violates it; None for a permitted record."""
        if self.opted_out == "drop" and rights.opt_out:
            return "rights.opt_out", f"robots: {rights.robots}" if rights.robots else "opted out of machine learning"
        if self.consent != "any" and (
            rights.consent == REFUSED or (self.consent == "required" and rights.consent != GIVEN)
        ):
            return "rights.consent", f"consent {rights.consent or NOT_STATED}"
        if self.licences:
            licence = licence_key(rights.licence)
            if not any(fnmatchcase(licence, licence_key(pattern)) for pattern in self.licences):
                return "rights.licence", f"licence {rights.licence or NOT_STATED}"
        return None


def rights_of(record: RightsHolder) -> Rights:
    """Return the rights that the fields of a record state."""
    metadata = record.metadata
    if not metadata or not any(name in metadata for name in RIGHTS_FIELDS):
        return Rights(record.licence)
    robots = _text(metadata.get("robots"))
    opt_out = _opt_out(metadata.get("opt_out"))
    if robots and OPT_OUT_DIRECTIVES & {directive.strip().lower() for directive in robots.split(",")}:
        opt_out = True
    return Rights(record.licence, robots, opt_out, _consent(metadata.get("consent")))


T = TypeVar("T", bound=RightsHolder)


def permitted_records(
    records: Iterable[T], policy: RightsPolicy, dropped: Callable[[DroppedRecord], None] | None
) -> Iterator[T]:
    """Yield the records that the policy permits, and pass the others to `dropped` with the rule and the value."""
    excludes_silent = policy.violation(Rights()) is not None or bool(policy.licences)
    for record in records:
        if not record.metadata and not excludes_silent:
            yield record  # it states no rights except its licence
            continue
        violation = policy.violation(rights_of(record))
        if violation is None:
            yield record
        elif dropped:
            licence = record.licence or NOT_STATED
            dropped(DroppedRecord(record.id, record.source, *violation, size=text_size(record), licence=licence))


def _opt_out(value: Any) -> bool | None:
    """Return the opt-out of a field; a text that is neither yes nor no states an opt-out, such as its date."""
    text = _text(value)
    return None if text is None else text.lower() not in _NO


def _consent(value: Any) -> str | None:
    text = _text(value)
    if text is None:
        return None
    return REFUSED if text.lower() in _NO else GIVEN if text.lower() in _YES else text


def _text(value: Any) -> str | None:
    """Return a value of a field as text; None if it is empty."""
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    text = "" if value is None else " ".join(str(value).split())
    return text or None

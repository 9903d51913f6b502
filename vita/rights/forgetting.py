"""The erasure of a document, a source or a licence, with the plan of what to rebuild and retire.

trace = trace_records(RightsQuery(source="mail"), store, ledger)
check_request(trace)                                             # refuses unknown and ambiguous names
number = record_erasure(trace, ledger, who="Ada", reason="licence ended")
write_plan(folder, removal_plan(trace, store, ledger, erasure=number, who="Ada", reason="licence ended"))
"""

from __future__ import annotations

from difflib import get_close_matches

from vita.rights.document_trace import DocumentTrace
from vita.rights.query import RightsQuery
from vita.spine.erasures import add_erasure, licence_key, source_key
from vita.spine.errors import DataError
from vita.spine.ledger import Ledger
from vita.spine.url_secrets import mask_reference_secrets

_MAX_NAMES = 12


def request_of(document: str | None, source: str | None, licence: str | None) -> RightsQuery:
    """Return the requested records; refuse a request without a name, and a document with a licence."""
    where = "forget"
    if document is None and source is None and licence is None:
        hint = "vita forget ID, vita forget --source NAME or vita forget --licence NAME"
        raise DataError(where, expected="a document, a source or a licence", got="none of them", hint=hint)
    for name, value in (("the id", document), ("--source", source), ("--licence", licence)):
        if value is not None and not value.strip():
            raise DataError(where, f"{name} is empty")
    if document is not None and licence is not None:
        hint = "name the document alone, or its source with --source"
        raise DataError(where, "a document and --licence cannot be combined", hint=hint)
    return RightsQuery(document, source and source_key(source), licence and mask_reference_secrets(licence))


def check_request(trace: DocumentTrace, *, allow_absent: bool = False) -> None:
    """Refuse an id that several sources have, and names that nothing in the store has.

    With `allow_absent`, an unknown source or licence is accepted: later runs exclude it when it appears.
    """
    query = trace.query
    with_id = trace.contents_of_id
    texts = {content for hashes in with_id.values() for content in hashes}
    if query.source is None and len(with_id) > 1 and (len(set(with_id.values())) > 1 or None in texts):
        names = ", ".join(sorted(with_id))
        raise DataError(
            f"forget {query.document}", f"documents of {len(with_id)} sources have this id: {names}",
            hint="say which one with --source NAME",
        )  # fmt: skip
    if query.document is not None:
        _check_document(trace, query.document)
        return
    known = {"--source": (query.source, trace.sources), "--licence": (query.licence, trace.licences)}
    for option, (name, names) in known.items():
        key_of = licence_key if option == "--licence" else source_key
        if name is not None and key_of(name) not in map(key_of, names) and not allow_absent:
            close = get_close_matches(name, names, 1)
            hint = f"did you mean `{close[0]}`? " if close else ""
            hint += "--allow-absent excludes it although no corpus or source contains it"
            raise DataError(f"forget {option}", expected=_listed(names), got=name, hint=hint)


def _check_document(trace: DocumentTrace, document: str) -> None:
    """Refuse the name of a source or licence in place of the id of a document."""
    if trace.holders:
        return
    for option, names in (("--source", trace.sources), ("--licence", trace.licences)):
        if document in names:
            problem = f"no document has this id, but it is the name of a {option.removeprefix('--')}"
            raise DataError(f"forget {document}", problem, hint=f"vita forget {option} {document!r} concerns all of it")


def record_erasure(trace: DocumentTrace, ledger: Ledger, *, who: str, reason: str = "") -> int:
    """Record the erasure in the ledger, so that every later run excludes the documents; return its number.

    The erasure of a document has the hashes of its contents and of the near copies that curation dropped.
    """
    query = trace.query
    contents = {content for hashes in trace.contents.values() for content in hashes} | trace.near_contents
    number = add_erasure(
        ledger, document=query.document, source=query.source, licence=query.licence, contents=contents,
        by_id=not trace.siblings, who=who, reason=reason, unaffected=trace.unaffected,
    )  # fmt: skip
    subject = query.document if query.document is not None else query.label
    ledger.log(
        "erasure asked", subject, who=who, erasure=number,
        holders=[holder.digest for holder in trace.holders],
        retire=[holder.digest for holder in trace.to_retire],
        rebuild=[holder.digest for holder in trace.to_rebuild],
    )  # fmt: skip
    return number


def _listed(names: frozenset[str]) -> str:
    listed = sorted(names)
    if not listed:
        return "a name in the store; it has none"
    more = f" and {len(listed) - _MAX_NAMES} more" if len(listed) > _MAX_NAMES else ""
    return ", ".join(f"`{name}`" for name in listed[:_MAX_NAMES]) + more

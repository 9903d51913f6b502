"""Masking in references: fields of metadata that identify or locate a document, such as `url`, its licence and source.

    scan = scan_reference("https://bob:pw@host/a?email=ann%40mail.net", actions, is_id=False)
    scan.text, scan.counts                                    # "https://***@host/a?email=***", {"key": 1}

Numbers, names and hosts in references are not searched, because a reference must stay distinct.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from vita.data.curation.personal_data import Action, Scan
from vita.data.curation.personal_data_kinds import EMAIL_KINDS
from vita.spine.url_secrets import mask_reference_secrets

_URL_MARK = re.compile(r"://|=|%3A%2F%2F", re.IGNORECASE)
"""A part of every URL with secrets: of its scheme, which can be encoded, or of a parameter."""
_SEARCHED = re.compile(r"(\S*://[^\s?#]*)")
"""A URL up to its query, in which e-mail addresses are not searched."""


def scan_reference(text: str, actions: Mapping[str, Action], *, is_id: bool) -> Scan | None:
    """Return the masked text of a reference, and the number of values by kind; None if nothing is masked.

    Secrets in URLs and tokens of known services become `***`, and e-mail addresses `<EMAIL>`. The latter
    stay in ids, because the id of a message has the form of an address, and in the path of a URL, where they are names
    of accounts and files.
    """
    counts: dict[str, int] = {}
    if actions["key"] != "keep" and (masked := mask_reference_secrets(text)) != text:
        text, counts = masked, {"key": 1}
    if "@" in text and not is_id and actions["email"] != "keep":
        parts = _SEARCHED.split(text) if "://" in text else [text]
        for kind in EMAIL_KINDS:
            results = [kind.mask(part) if index % 2 == 0 else (part, 0) for index, part in enumerate(parts)]
            parts = [part for part, _ in results]
            if count := sum(count for _, count in results):
                counts["email"] = counts.get("email", 0) + count
        text = "".join(parts)
    return Scan(text, counts) if counts else None


def masked_licence(licence: str | None, actions: Mapping[str, Action]) -> str | None:
    """Return a licence without the secrets and e-mail addresses in it."""
    if not licence:
        return licence
    scan = scan_reference(licence, actions, is_id=False)
    return scan.text if scan else licence


def masked_source(source: str, actions: Mapping[str, Action]) -> str:
    """Return the source of a document without the secrets and e-mail addresses in it, if it is a URL."""
    scan = scan_reference(source, actions, is_id=False) if _URL_MARK.search(source) else None
    return scan.text if scan else source

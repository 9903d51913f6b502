"""Groups of drop reasons: rules of filters and of rights, problems of rows, and documents that must not be used."""

from __future__ import annotations

_OTHER_REASONS = ("empty", "contaminated")


def is_filter_rule(reason: str) -> bool:
    """Return True if the drop reason is that of a filter: `filter.rule`."""
    return "." in reason and not is_rights_rule(reason)


def is_rights_rule(reason: str) -> bool:
    """Return True if the drop reason is that of the policy on rights: `rights.rule`."""
    return reason.startswith("rights.")


def is_row_problem(reason: str) -> bool:
    """Return True if the drop reason means that the row or file could not be read."""
    return not is_filter_rule(reason) and not is_excluded(reason) and reason not in _OTHER_REASONS


def is_excluded(reason: str) -> bool:
    """Return True if the drop reason is an erasure or a right: the document was read and must not be used."""
    return reason == "erased" or is_rights_rule(reason)

"""The errors for a corpus without training documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vita.data.curation.drop_reasons import is_filter_rule, is_rights_rule, is_row_problem
from vita.data.curation.filter_stats import FilterStats
from vita.data.sources.readers import EMPTY_FILE
from vita.spine.errors import DataError
from vita.spine.plain_text import counted


def nothing_left(stats: FilterStats, sources: Sequence[str]) -> DataError:
    """Return the error for a corpus all of whose documents were dropped, with the reasons and rows as examples."""
    read = sum(count.documents for count in stats.read.values())
    reasons: dict[str, int] = {}
    for counts in stats.dropped.values():
        for reason, count in counts.items():
            reasons[reason] = reasons.get(reason, 0) + count.documents
    if not read and not reasons.keys() - {EMPTY_FILE}:
        names = ", ".join(sources[:5]) + (f" and {len(sources) - 5} more" if len(sources) > 5 else "")
        return DataError(
            "curate", f"no document is left: the sources hold no text ({names})",
            hint="check that these are the intended files and that they are not empty",
        )  # fmt: skip
    reason_list = ", ".join(
        f"{reason} {count}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:5]
    )
    unreadable = [reason for reason in reasons if is_row_problem(reason)]
    got = f"{counted(sum(reasons.values()), 'document')} dropped ({reason_list})"
    examples = [
        f"{sample['id']} from {sample['source']} ({sample['reason']}): {sample['detail']}"
        for reason in unreadable
        for sample in stats.samples[reason]
    ]
    quoted = "; ".join(examples[:5])
    if examples:
        remaining = sum(reasons[reason] for reason in unreadable) - len(examples[:5])
        got += f"; rows that cannot be read: {quoted}" + (f"; and {remaining} more" if remaining else "")
    return DataError("curate", f"no document is left: {got}", hint=_advice_on_drops(reasons), quoted=quoted)


def _advice_on_drops(reasons: Mapping[str, int]) -> str:
    """Return what to do when all documents were dropped for these reasons."""
    advice = {
        "correct the rows and files that cannot be read": any(map(is_row_problem, reasons)),
        "loosen or take out these filters in `filters`": any(map(is_filter_rule, reasons)),
        "see `rights` of the sources: they permit no document that is left": any(map(is_rights_rule, reasons)),
        "add text: documents without text are dropped": "empty" in reasons,
        "add other documents: `vita erasures` lists what was erased": "erased" in reasons,
    }
    return "; ".join(text for text, applies in advice.items() if applies)


def nothing_to_train_on(held_out: int) -> DataError:
    """Return the error for a corpus all of whose documents are held out."""
    return DataError(
        "curate", f"all {held_out} documents that are left are held out, none is to train on",
        hint="set `held_out: 0`, or cut the text into more documents (`cut_at`)",
    )  # fmt: skip

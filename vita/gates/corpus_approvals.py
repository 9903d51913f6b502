"""The rule for stored corpora: a required approval of their policy must be valid whenever they are read."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

import sqlalchemy as sa

from vita.gates.approvals import approvals, statements
from vita.gates.curation_approvals import GATE
from vita.reporting import REPORT_FILE
from vita.reporting.figures import ReportContent, read_report, stored_reports
from vita.spine.errors import DataError, GateError
from vita.spine.ledger import Ledger
from vita.spine.lineage import upstream_lineage
from vita.spine.store import Store

_PARTS = ("train", "heldout", "dropped")
"""The folders of documents in a folder that `vita curate --out` writes."""


def require_valid_approvals(digest: str, slot: str, ledger: Ledger, store: Store) -> None:
    """Raise a `GateError` if an artifact is, or derives from, a corpus whose required approval does not count now.

    `slot` is the input that uses the artifact, for the message. Corpora that the store does not have are not checked.
    """
    for origin in upstream_lineage([digest], ledger).distances:
        if store.has(origin) and (policy := _required_policy(origin, store)):
            _require_approval(origin[:12], policy, slot, ledger)


def require_valid_approval_of_path(path: str, where: str, ledger: Ledger) -> None:
    """Raise a `GateError` if a local path is, or lies in, a corpus folder whose required approval does not count now.

    The folders are those that `vita curate --out` writes, with their `report.json`; `where` is the step that reads the
    path. Copies of documents without their report are not recognized.
    """
    if "://" in path:
        return
    path = str(Path(path).expanduser())
    is_pattern = glob.has_magic(path) and not Path(path).exists()
    paths = glob.iglob(path, recursive=True) if is_pattern else [path]  # noqa: PTH207 (a pattern can be absolute)
    for folder in dict.fromkeys(folder for name in paths for folder in _corpus_folders(Path(name))):
        try:
            report = read_report(folder)
        except DataError:
            continue  # a file with this name that Vita did not write
        if policy := _policy_with_approval([report]):
            _require_approval(str(folder), policy, where, ledger)


def _corpus_folders(path: Path) -> list[Path]:
    """Return the folders with a report whose documents a path contains."""
    resolved = path.resolve()
    parents = [parent.parent for parent in (resolved, *resolved.parents) if parent.name in _PARTS]
    return [folder for folder in (resolved, *parents) if (folder / REPORT_FILE).is_file()]


def _required_policy(digest: str, store: Store) -> str | None:
    """Return the digest of the policy of a corpus that required an approval, None for other artifacts."""
    manifest = store.manifest(digest)
    if manifest.kind != "corpus":
        return None
    if manifest.facts:
        return manifest.facts["policy"] if manifest.facts.get("approved_by") else None
    # A folder that was imported into the store has no facts.
    return _policy_with_approval(stored_reports(store, digest))


def _policy_with_approval(reports: Iterable[ReportContent]) -> str | None:
    """Return the digest of the first policy in the details of reports that required an approval."""
    policies = [report.details.get("policy") or {} for report in reports]
    return next((policy["digest"] for policy in policies if policy.get("approval") == "required"), None)


def _require_approval(corpus: str, policy: str, slot: str, ledger: Ledger) -> None:
    same_policy = (approvals.c.gate == GATE, approvals.c.policy == policy)
    with ledger.transaction() as database:
        subjects = set(database.execute(sa.select(approvals.c.artifact).where(*same_policy)).scalars())
    problems: list[str] = []
    for subject in subjects:
        valid, rejected = statements(ledger, GATE, subject, kind="curation approval")
        if any(statement.policy == policy for statement, _ in valid):
            return
        problems += rejected
    reasons = "".join(f"; {problem}" for problem in problems)
    hint = "have the policy approved again: `vita curate-policy approve POLICY --by NAME`"
    raise GateError(slot, f"the corpus {corpus} requires an approval, and none counts{reasons}", hint=hint)

"""The lineage of several artifacts at once, on SQLite and PostgreSQL."""

from __future__ import annotations

import pytest

from vita.spine.ledger import Ledger
from vita.spine.lineage import downstream_lineage, lineage, upstream_lineage


def add_run(ledger: Ledger, artifact: str, **inputs: str) -> None:
    """Record a finished run that made `artifact` from `inputs`."""
    run = ledger.claim(f"key of {artifact}", life="l", step=artifact, stage="s", version=1, config={}, inputs=inputs)
    assert isinstance(run, int)
    ledger.finish(run, artifact=artifact, record={})


@pytest.mark.parametrize(
    ("starts", "stages"),
    [((), []), (("b",), ["b", "a"]), (("b", "c"), ["b", "c", "a"]), (("d", "b", "c", "b"), ["d", "b", "c", "a"])],
)
def test_lineage_lists_each_run_behind_several_artifacts_once(any_ledger: Ledger, starts, stages) -> None:
    add_run(any_ledger, "a", corpus="text")
    add_run(any_ledger, "b", model="a")
    add_run(any_ledger, "c", model="a")
    add_run(any_ledger, "d", first="b", second="c")
    assert [run["artifact"] for run in lineage(starts, any_ledger)] == stages
    assert ("text" in upstream_lineage(starts, any_ledger).distances) == bool(starts)


def test_downstream_lineage_lists_artifacts_made_from_several_inputs(any_ledger: Ledger) -> None:
    add_run(any_ledger, "a", corpus="text")
    add_run(any_ledger, "b", model="other")
    add_run(any_ledger, "c", model="b")
    assert list(downstream_lineage(("text", "other"), any_ledger).distances) == ["text", "other", "a", "b", "c"]

"""Lineages of any size for the tests: manifests in a store and runs in a ledger, written without running a stage."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from vita.spine.ledger import Ledger, names, run_inputs, runs
from vita.spine.store import Manifest, Store


def write_lineage(root: Path, inputs: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Write artifacts `life/NAME` with the named earlier artifacts as inputs; return name -> digest."""
    store, digests = Store(root), dict[str, str]()
    run_rows: list[dict[str, Any]] = []
    for number, name in enumerate(inputs, 1):
        data = Manifest("model", {}, {"name": name}).encode()
        digests[name] = hashlib.sha256(data).hexdigest()
        (store.root / "artifacts" / f"{digests[name]}.json").write_bytes(data)
        run_rows.append({"id": number, "key": name, "life": "life", "step": name, "stage": "sft", "version": 1,
                     "config": {}, "state": "done", "artifact": digests[name], "place": "-", "process": "-",
                     "began": float(number), "beat": 0.0, "ended": float(number)})  # fmt: skip
    input_rows = [
        {"run": number, "slot": f"slot{index}", "artifact": digests[source]}
        for number, sources in enumerate(inputs.values(), 1) for index, source in enumerate(sources)
    ]  # fmt: skip
    name_rows = [{"name": f"life/{name}", "artifact": digest, "at": 0.0} for name, digest in digests.items()]
    with closing(Ledger(root / "ledger.db")) as ledger, ledger.transaction() as database:
        for table, rows in ((runs, run_rows), (run_inputs, input_rows), (names, name_rows)):
            if rows:
                database.execute(sa.insert(table), rows)
    return digests

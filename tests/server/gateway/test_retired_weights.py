"""A retired model is recognized in the weights of a running version, also if it was added after the clearance."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli import Vita, vita
from tests.server.releases import model_folder
from tests.server.service.test_deploy_checks import REWRITE_OPTIONS, rewrite_weights
from vita.gates.tensor_digest import tensor_digest
from vita.gates.weights import ModelMatch, hash_files, index_weights, match_model
from vita.nn.transformer import Transformer
from vita.server.gateway.model_states import Catalog
from vita.spine.ledger import Ledger
from vita.spine.store import Draft, Store
from vita.stages import kinds

__all__ = ["vita"]


class Registry:
    """A store and a ledger to which models are added after the clearance of a running version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store, self.ledger = Store(folder / "store"), Ledger(folder / "ledger.db")
        self.catalog = Catalog(self.ledger, "m")

    def match(self, folder: Path) -> ModelMatch:
        """Return what a clearance of this folder returns now."""
        return match_model(self.ledger, self.store, hash_files(folder), tensors=tensor_digest(folder))

    def add(self, folder: Path, **facts: Any) -> str:
        draft = self.folder / f"draft-{time.monotonic_ns()}"
        shutil.copytree(folder, draft)
        return self.store.commit(Draft(kinds.Model, draft, facts)).digest

    def retired(self, match: ModelMatch) -> str | None:
        """Return the retired model that the catalog finds for a match after a refresh."""
        self.catalog.refresh()
        records = self.catalog.retirement(match)
        return records[0] if records else None


def scale_weights(model: Transformer) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(2)


@pytest.mark.parametrize("change", REWRITE_OPTIONS)
def test_a_copy_in_other_files_that_is_added_and_retired_later_is_recognized(tmp_path: Path, change: str) -> None:
    registry = Registry(tmp_path)
    served = model_folder(tmp_path / "served")
    match = registry.match(served)
    assert registry.retired(match) is None and match.same_weights == ()
    copy = registry.add(rewrite_weights(served, tmp_path / "copy", **REWRITE_OPTIONS[change]))
    other = registry.add(model_folder(tmp_path / "other", change=scale_weights))
    for model in (other, copy):
        registry.ledger.move(model, "retired", who="ann", why="old", research=True)
        assert registry.retired(match) is None, "the weights are not in the index"
    index_weights(registry.ledger, registry.store, other)
    assert registry.retired(match) is None
    index_weights(registry.ledger, registry.store, copy)
    assert registry.retired(match) == copy
    records = registry.catalog.retirement(match)
    assert records is not None and not records[1].for_research, "the files are not those that are kept"


def test_a_model_with_the_same_files_that_is_kept_for_research_permits_research(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    served = model_folder(tmp_path / "served")
    match = registry.match(served)
    model = registry.add(served, note="another artifact with the same files")
    index_weights(registry.ledger, registry.store, model)
    registry.ledger.move(model, "retired", who="ann", why="old", research=True)
    assert registry.retired(match) == model
    records = registry.catalog.retirement(match)
    assert records is not None and records[1].for_research


def test_the_comparison_reads_no_weight_file(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    served = model_folder(tmp_path / "served")
    match = registry.match(served)
    copy = registry.add(rewrite_weights(served, tmp_path / "copy", shards=2))
    index_weights(registry.ledger, registry.store, copy)
    shutil.rmtree(tmp_path / "store")
    registry.ledger.move(copy, "retired", who="ann", why="old")
    assert registry.retired(match) == copy


def test_the_command_deprecate_ends_running_copies_at_the_sunset(vita: Vita, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("VITA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("VITA_LEDGER", str(tmp_path / "ledger.db"))
    registry = Registry(tmp_path)
    served = model_folder(tmp_path / "served")
    match = registry.match(served)
    copy = rewrite_weights(served, tmp_path / "copy", metadata={"note": "saved again"})
    code, _, err = vita("deprecate", str(copy), "--sunset", "30d", "--by", "Ada")
    assert code == 0, err
    assert registry.retired(match) is None
    registry.catalog.clock = lambda: time.time() + 32 * 86400
    assert registry.retired(match) is not None

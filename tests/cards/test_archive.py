"""The reports and package versions in an archive."""

from __future__ import annotations

from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from tests.cards.lives import Life, first_half, second_half
from vita.cards import archive


def test_reports_on_a_model_and_its_ancestors_are_archived(tmp_path):
    life = Life(tmp_path)
    chat = first_half(life)
    mended = second_half(life, chat)
    base, better = (life.ledger.named(f"cat/{name}") for name in ("pretrain", "wiser"))
    served = {"release": life.ledger.named("cat/release") or ""}
    life.step("canary", "report", files={"report.json": {"figures": {}}}, inputs=served)
    corpus = life.ledger.named("cat/curate") or ""
    life.step("test_sibling", "report", files={"report.json": {"figures": {}}}, inputs={"corpus": corpus})
    found = archive.reports_of(life.ledger, life.store, [mended, str(better), chat, str(base), corpus, "gone"])
    steps = {name.rpartition("-")[0] for name in found}
    assert steps == {"attack", "attack_again", "test_base", "test_chat", "canary"}
    assert found[f"attack-{str(life.ledger.named('cat/attack'))[:8]}"] == life.ledger.named("cat/attack")
    archive.write_card(life.ledger, life.store, mended, tmp_path / "cards")
    assert {path.name for path in (tmp_path / "cards").iterdir()} == {"README.md", "card.html", "card.json"}


@pytest.mark.parametrize(
    "told",
    [
        '{"url": "https://x/cat.whl", "archive_info": {"hashes": {"sha256": "' + "a" * 64 + '"}}}',
        '{"url": "https://x/cat.whl", "archive_info": {"hash": "sha256=' + "a" * 64 + '"}}',
    ],
)
def test_the_hash_that_the_installer_recorded_follows_the_version(tmp_path: Path, monkeypatch, told: str) -> None:
    for name, direct in (
        ("Cat", told),
        ("dog", '{"url": "file:///dog", "dir_info": {"editable": true}}'),
        ("owl", None),
    ):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        if direct:
            (folder / "direct_url.json").write_text(direct)
    monkeypatch.setattr(archive, "distributions", lambda: map(PathDistribution, tmp_path.iterdir()))
    about, *lines = archive.constraints(archive.packages()).splitlines()
    assert about.startswith("# Python 3.")
    assert lines == [f"cat==1.0  # sha256:{'a' * 64}", "dog==1.0", "owl==1.0"]

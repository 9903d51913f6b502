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
    safe_model = second_half(life, chat)
    base, tuned_model = (life.ledger.named(f"cat/{name}") for name in ("pretrain", "wiser"))
    release_inputs = {"release": life.ledger.named("cat/release") or ""}
    life.step("canary", "report", files={"report.json": {"figures": {}}}, inputs=release_inputs)
    corpus = life.ledger.named("cat/curate") or ""
    life.step("test_sibling", "report", files={"report.json": {"figures": {}}}, inputs={"corpus": corpus})
    reports = archive.reports_of(
        life.ledger, life.store, [safe_model, str(tuned_model), chat, str(base), corpus, "gone"]
    )
    steps = {name.rpartition("-")[0] for name in reports}
    assert steps == {"attack", "attack_again", "test_base", "test_chat", "canary"}
    assert reports[f"attack-{str(life.ledger.named('cat/attack'))[:8]}"] == life.ledger.named("cat/attack")
    archive.write_card(life.ledger, life.store, safe_model, tmp_path / "cards")
    assert {path.name for path in (tmp_path / "cards").iterdir()} == {"README.md", "card.html", "card.json"}


@pytest.mark.parametrize(
    "direct_url_text",
    [
        '{"url": "https://x/cat.whl", "archive_info": {"hashes": {"sha256": "' + "a" * 64 + '"}}}',
        '{"url": "https://x/cat.whl", "archive_info": {"hash": "sha256=' + "a" * 64 + '"}}',
    ],
)
def test_the_hash_recorded_by_the_installer_follows_the_version(
    tmp_path: Path, monkeypatch, direct_url_text: str
) -> None:
    for name, content in (
        ("Cat", direct_url_text),
        ("dog", '{"url": "file:///dog", "dir_info": {"editable": true}}'),
        ("owl", None),
    ):
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        if content:
            (folder / "direct_url.json").write_text(content)
    monkeypatch.setattr(archive, "distributions", lambda: map(PathDistribution, tmp_path.iterdir()))
    comment, *lines = archive.constraints(archive.packages()).splitlines()
    assert comment.startswith("# Python 3.")
    assert lines == [f"cat==1.0  # sha256:{'a' * 64}", "dog==1.0", "owl==1.0"]

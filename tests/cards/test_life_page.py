"""The report page of a life: summary, collapsed details, unreadable records, untrusted text, and charts."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.cards.lives import EVIL, Life, first_half, record_answers, second_half
from vita.cards.life_page import write_life_page
from vita.cards.life_record import known_answers, read_life_record
from vita.reporting import charts
from vita.reporting.charts import Span
from vita.spine.errors import LedgerError
from vita.spine.store import Store
from vita.stats.intervals import Interval, wilson


def _page_text(life: Life, tmp_path: Path) -> str:
    return write_life_page(read_life_record(life.ledger, life.store, life.name), tmp_path / "life.html").read_text()


@pytest.fixture
def life(tmp_path: Path) -> Life:
    return Life(tmp_path)


def test_the_page_shows_a_life_from_plan_to_retirement(life: Life, tmp_path: Path) -> None:
    chat = first_half(life)
    safe_model = second_half(life, chat)
    record_answers(life, {chat: ["A cat is a furry mammal."], safe_model: ["A cat, if you please, is a furry mammal."]})
    text = _page_text(life, tmp_path)
    for phrase in (
        "A cat, if you please", "accuracy on unseen questions", "attack success rate",
        "over-refusal rate",
        "release: waived for safety_tuning", "thumbs down", "0.667 (0.208 to 0.939)", "canary",
        "successor: sft", "predicted",
        "Preference optimization: wiser", "The step strange of the stage from_elsewhere.",
    ):  # fmt: skip
        assert phrase in text, phrase
    assert "cannot be read" not in text


def test_the_summary_comes_first_and_everything_else_is_collapsed(life: Life, tmp_path: Path) -> None:
    chat = first_half(life)
    released_model = second_half(life, chat)
    record_answers(life, {chat: ["A cat is furry."], released_model: ["A cat, if you please, is furry."]})
    summary, _, details = _page_text(life, tmp_path).partition("<details")
    for text in ("cat:1", "safety_tuning, retired", "waived", "successor: sft", "A cat, if you please, is furry."):
        assert text in summary, text
    for text in ("attack success rate at most 0.2", "90 documents from", "Loss of the step pretrain", "Steps by phase"):
        assert text in summary, text
    assert "A cat is furry." not in summary and "A cat is furry." in details
    visible_text = re.sub(r"<details.*</details>", "", details, flags=re.DOTALL)
    assert "<table" not in visible_text and "<figure" not in visible_text


def test_the_page_is_self_contained_and_escapes_untrusted_text(life: Life, tmp_path: Path) -> None:
    record_answers(life, {second_half(life, first_half(life)): [EVIL]})
    text = _page_text(life, tmp_path)
    assert "<script" not in text and "&lt;script&gt;" in text
    assert not re.findall(r'(?:src|href)="[^#]|url\(|@import|<link', text)
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(svg)


def test_an_unfinished_life_has_a_page(life: Life, tmp_path: Path) -> None:
    life.step("curate", "corpus")
    assert "1 steps" in _page_text(life, tmp_path)
    first_half(life)
    assert "All versions" not in _page_text(life, tmp_path)
    assert "no version was approved" in _page_text(life, tmp_path).lower()


def test_unreadable_records_are_listed_and_the_rest_is_shown(life: Life, tmp_path: Path) -> None:
    first_half(life)
    broken_digest = life.step("broken", "report", stage="test", files={"report.json": "{no json"})
    odd_files = {"report.json": {"figures": {"a": {"b": {"c": {"value": "text"}}}}}}
    life.step("odd", "report", stage="test", files=odd_files)
    lost_digest = life.step("lost", "report", stage="test", files={"x": "y"})
    (life.store.root / "artifacts" / f"{lost_digest}.json").unlink()
    text = _page_text(life, tmp_path)
    assert (
        f"The report of the step broken cannot be read: {broken_digest[:12]}, file report.json: is not valid JSON"
        in text
    )
    assert "The report of the step odd cannot be read" in text
    assert "The artifact of the step lost is no longer in the store." in text
    assert "98% of" not in text and "accuracy on unseen questions" in text


def test_a_ledger_without_later_tables_still_has_a_page(life: Life, tmp_path: Path) -> None:
    first_half(life)
    with sqlite3.connect(tmp_path / "ledger.db") as database:
        for table in ("deployments", "verdicts", "finding_moves"):
            database.execute(f"drop table {table}")
    text = _page_text(life, tmp_path)
    assert text.count(" cannot be read: LedgerError") >= 2
    assert "1. Design" in text


def test_charts_are_drawn_from_the_metrics_and_stored_pictures_are_not_shown(life: Life, tmp_path: Path) -> None:
    picture = '<svg xmlns="http://www.w3.org/2000/svg"><a href="https://example.org"><text>stored</text></a></svg>'
    metrics = "".join(json.dumps({"step": step, "loss": 9.0, "heldout_loss": 8.0}) + "\n" for step in range(3))
    life.step("sft", "model", files={"report/figures/loss.svg": picture, "report/metrics.jsonl": metrics})
    text = _page_text(life, tmp_path)
    assert "held out</text>" in text and "stored" not in text and "example.org" not in text


def test_an_unknown_life_is_refused(life: Life, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="the ledger has no record of this life"):
        _page_text(life, tmp_path)


def test_steps_have_the_order_of_the_file_and_removed_steps_are_listed(life: Life) -> None:
    for name in ("c", "a", "old", "b"):
        life.step(name, "corpus")
    from vita.cards.life_record import remember

    remember(life.ledger, "cat", about="", steps=["a", "b", "c", "not yet"], questions=["Q?"], answers={"d": ["A."]})
    record = read_life_record(life.ledger, life.store, "cat")
    assert [step.name for step in record.steps] == ["a", "b", "c"]
    assert record.gaps == ("Steps that ran earlier and are no longer in the file of this life: old.",)
    assert known_answers(life.ledger, "cat", ["Q?"]) == {"d": ["A."]}
    assert known_answers(life.ledger, "cat", ["Another?"]) == {}


def test_a_step_that_used_an_older_artifact_names_its_input(life: Life) -> None:
    first_digest = life.step("curate", "corpus", files={"a": "1"})
    life.step("tokenize", "tokens", inputs={"corpus": first_digest})
    assert read_life_record(life.ledger, life.store, "cat").steps[1].stale_inputs == ()
    life.step("curate", "corpus", files={"a": "2"})
    assert {step.name: step.stale_inputs for step in read_life_record(life.ledger, life.store, "cat").steps}[
        "tokenize"
    ] == ("curate",)


@pytest.mark.parametrize(
    "chart",
    [
        charts.interval_chart(
            {"x": (wilson(1, 4), wilson(3, 4)), "y": (wilson(0, 0), wilson(1, 1))},
            unit="share",
            series=("before", "after"),
        ),
        charts.interval_chart({"a & b": [Interval(0.5, -float("inf"), float("inf"), 1)]}, unit="share"),
        charts.span_chart({"cat:1": [Span(0, 1, "100%", "#000"), Span(1, 2, "80%", "#000")]}, [(0.5, "start")]),
        charts.span_chart({"<b>": [Span(0, 1, "<b>", "#000")]}, []),
        charts.span_chart({}, []),
    ],
)
def test_every_chart_is_well_formed(chart: str) -> None:
    assert ElementTree.fromstring(chart).tag.endswith("svg")
    assert "nan" not in chart


def test_the_page_and_the_card_read_each_report_once(
    life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The life page and the model card use the figures of one record."""
    from vita.cards.model_card import gather

    record_answers(life, {second_half(life, first_half(life)): ["A cat."]})
    reads: Counter[tuple[str, str]] = Counter()
    read_file = Store.read

    def count_and_read(store: Store, digest: str, name: str) -> bytes:
        reads[digest, name] += 1
        return read_file(store, digest, name)

    monkeypatch.setattr(Store, "read", count_and_read)
    record = read_life_record(life.ledger, life.store, life.name)
    write_life_page(record, tmp_path / "life.html")
    last_model = record.models[-1].digest
    card = gather(life.ledger, life.store, last_model, record=record)
    monkeypatch.undo()
    card_reports = {report.digest for report in card.evaluations} & set(record.reports)
    counts = {key: count for key, count in reads.items() if key[1].endswith("report.json") and key[0] in card_reports}
    assert counts and set(counts.values()) == {1}
    assert card.as_json() == gather(life.ledger, life.store, last_model).as_json()

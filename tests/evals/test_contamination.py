"""The test report states which items of its files have passages in the training texts, by the lineage of the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import Vita, vita  # noqa: F401

QUESTION = (
    "Which lighthouse keeper of the northern harbour repaired the great lamp before the storm of that winter began"
)
OTHER = "How many boats left the small southern village in the early morning before the fog came in from the sea"
LIFE = """
name: small
stages:
  curate: {{sources: [{{path: notes.jsonl}}], filters: [], decontaminate: {decontaminate}, held_out: 2}}
  tokenize: {{vocabulary: 280}}
  design: {{depth: 1, width: 32, context: 32, steps: 1}}
  initialize: {{}}
  test:
    tasks: {{quiz: {{path: quiz.jsonl, task: multiple_choice}}, more: {{path: more.jsonl, task: multiple_choice}}}}
    prompts: []
"""


def report_rows(vita: Vita, folder: Path, decontaminate: str) -> list[dict[str, object]]:  # noqa: F811
    (folder / "life.yaml").write_text(LIFE.format(decontaminate=decontaminate))
    code, _, errors = vita("live", "life.yaml")
    assert code == 0, errors
    code, output, errors = vita("show", "small/test", "--json")
    assert code == 0, errors
    report_folder = folder / json.loads(output)["folder"]
    page = (report_folder / "report.md").read_text()
    assert page.count("| quiz | small/curate |") == 1, "the page has one table"
    report = json.loads((report_folder / "report.json").read_text())
    return report["details"]["contamination"]


@pytest.mark.slow
def test_items_are_counted_by_the_curation_that_searched_the_same_file(vita: Vita, tmp_path: Path) -> None:  # noqa: F811
    items = [{"query": text, "choices": ["The first one.", "Not one."], "gold": 0} for text in (QUESTION, OTHER)]
    (tmp_path / "quiz.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (tmp_path / "more.jsonl").write_text(json.dumps(items[1]) + "\n")
    texts = [
        f"Text number {number} of the notes is about {number * 7} boats and {number * 3} fish." for number in range(30)
    ]
    texts += [f"He asked: {QUESTION}? And nobody knew the answer at all.", f"{QUESTION.upper()} was the question."]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    rows = report_rows(vita, tmp_path, "{benchmarks: {renamed: quiz.jsonl}}")
    # The curation searched `quiz.jsonl` under another name, and not `more.jsonl`.
    assert [(row["test"], row["data"], row["status"]) for row in rows] == [
        ("quiz", "small/curate", "removed"),
        ("more", "small/curate", "not measured"),
    ]
    # One of two items is in two documents, which were dropped. Both short options of both items are not compared.
    figures = ("items", "items_found", "documents_dropped", "short_passages", "items_in_training")
    assert [rows[0][name] for name in figures] == [2, 1, 2, 4, 0]
    assert [rows[1][name] for name in figures] == [None] * 5
    kept = report_rows(vita, tmp_path, "{action: count, benchmarks: {renamed: quiz.jsonl}}")[0]
    assert [kept[name] for name in ("status", *figures)] == ["counted", 2, 1, 0, 4, 1]
    corpus = json.loads(vita("show", "small/curate", "--json")[1])
    assert corpus["facts"]["documents"]["train"] + corpus["facts"]["documents"]["held_out"] == len(texts)
    (tmp_path / "quiz.jsonl").write_text(json.dumps(items[0]) + "\n")
    statuses = [row["status"] for row in report_rows(vita, tmp_path, "{}")]
    assert statuses == ["not measured", "not measured"], "the corpus was not compared with the present file"

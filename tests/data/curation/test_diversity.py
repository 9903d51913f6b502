"""Topics and styles of a corpus, with effective numbers that are worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.corpora import write
from tests.cli.test_cli import Vita, vita
from vita.data.curation.clusters import cluster, effective_number
from vita.data.curation.diversity import diversity_report, sample_documents
from vita.data.records import Document

__all__ = ["vita"]

SUBJECTS = {
    "cats": "A kitten purrs near its basket while another kitten chases wool.",
    "trains": "The locomotive leaves platform seven; express carriages follow quickly.",
    "law": "Section 12 of this statute binds every tenant, landlord and guarantor.",
    "food": "Stir butter into flour, add salted water, then bake dough until brown.",
}


def documents(counts: dict[str, int]) -> list[Document]:
    return [Document(f"{name}-{n}", SUBJECTS[name], name) for name, count in counts.items() for n in range(count)]


@pytest.mark.parametrize(
    ("counts", "number"),
    [
        ([5, 5, 5, 5], 4.0),
        ([7, 0], 1.0),
        # -(0.75 ln 0.75 + 0.25 ln 0.25) = 0.562335, and exp(0.562335) = 1.754765
        ([3, 1], 1.754765),
        ([0, 0], 0.0),
    ],
)
def test_the_effective_number_of_shares(counts: list[int], number: float) -> None:
    assert effective_number(np.array(counts)) == pytest.approx(number, abs=1e-6)


def test_clusters_are_ordered_by_size_and_have_their_means() -> None:
    points = np.array([[0.0, 0], [10, 0], [10, 2], [10, 1], [0, 1]])
    assigned, means = cluster(points, 2)
    assert assigned.tolist() == [1, 0, 0, 0, 1] and means.tolist() == [[10, 1], [0, 0.5]]
    assert cluster(points[:1].repeat(3, axis=0), 2)[0].tolist() == [0, 0, 0], "equal points are one cluster"


def test_each_subject_is_a_topic_described_by_its_words() -> None:
    report = diversity_report(documents({"cats": 10, "trains": 10, "law": 10, "food": 10}))
    topics = report["topics"]
    assert (topics["clusters"], topics["entropy_bits"], topics["effective_number"]) == (4, 2.0, 4.0)
    assert {(row["share"], row["share_of_main_source"]) for row in topics["rows"]} == {(0.25, 1.0)}
    descriptions = {row["main_source"]: row["description"] for row in topics["rows"]}
    assert "kitten" in descriptions["cats"] and "locomotive" in descriptions["trains"]
    # Of 40 documents, each is equal to 9 of 39 others and shares no usable word with the rest.
    assert report["mean_similarity"] == round(9 / 39, 4)
    assert [(row["source"], row["effective_topics"]) for row in report["sources"]] == [
        ("cats", 1.0), ("food", 1.0), ("law", 1.0), ("trains", 1.0),
    ]  # fmt: skip


def test_a_sample_does_not_depend_on_the_order() -> None:
    corpus = documents({"cats": 30, "law": 30})
    first, second = sample_documents(corpus, limit=20), sample_documents(corpus[::-1], limit=20)
    assert first == second and len(first) == 20


def test_the_report_of_a_corpus_has_its_diversity_on_request(vita: Vita, tmp_path: Path) -> None:
    rows = [{"id": d.id, "text": f"{d.text} {d.id}", "source": d.source} for d in documents({"cats": 15, "law": 15})]
    write(tmp_path / "a.jsonl", *rows)
    options = ("--filters", "[]", "--deduplicate", "none", "--held-out", "0")
    code, _, errors = vita("curate", "a.jsonl", *options, "--diversity", "25", "--out", "with")
    assert code == 0, errors
    details = json.loads((tmp_path / "with" / "report.json").read_text())["details"]
    assert details["diversity"]["sampled_documents"] == 25
    assert {row["source"] for row in details["diversity"]["sources"]} == {"cats", "law"}
    assert "effective number" in (tmp_path / "with" / "report.md").read_text()
    assert vita("curate", "a.jsonl", *options, "--out", "without")[0] == 0
    assert "diversity" not in json.loads((tmp_path / "without" / "report.json").read_text())["details"]
    assert (tmp_path / "with" / "train" / "00000.jsonl.zst").read_bytes() == (
        tmp_path / "without" / "train" / "00000.jsonl.zst"
    ).read_bytes()

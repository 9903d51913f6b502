"""Agreement of a trained classifier of text quality with human labels, beside fastText.

    python -m bench.text_quality LABELS.jsonl.gz --fasttext-python PYTHON --save bench/results/text_quality.jsonl

The labels are rows `{text, label}` with the labels 0 and 1. Each document is scored by a classifier that was trained on
four of five folds; the folds are those of `vita train-filter`, and fastText gets the same. fastText has words and pairs
of words (`wordNgrams=2`), once with its defaults and once with the settings of `LONGER`. PYTHON is an environment with
the package `fasttext-numpy2-wheel`. Figures: area under the ROC curve, Spearman correlation of score and label, and
Cohen's kappa and accuracy at the threshold 0.5, each with a bootstrap interval over the documents.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.figures import Figure, figure, report
from vita.data.curation.classifier_examples import labelled_examples
from vita.data.curation.classifier_training import assign_folds, cross_validated_scores
from vita.data.curation.text_classifier import text_features
from vita.data.sources.read import Source
from vita.spine.config import build
from vita.stats.classification import area_under_curve, bootstrap, cohen_kappa, confusion_matrix, spearman

LONGER = {"epoch": 50, "lr": 0.5}
_PEER = """
import json, os, sys, tempfile, time
import fasttext
job = json.load(sys.stdin)
start, scores = time.process_time(), [None] * len(job["texts"])
for fold in sorted(set(job["folds"])):
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        for text, label, number in zip(job["texts"], job["labels"], job["folds"]):
            if number != fold:
                file.write(f"__label__{int(label)} {text}\\n")
    model = fasttext.train_supervised(file.name, wordNgrams=2, thread=1, seed=0, verbose=0, **job["options"])
    os.unlink(file.name)
    for index, (text, number) in enumerate(zip(job["texts"], job["folds"])):
        if number == fold:
            names, values = model.predict(text, k=2)
            scores[index] = float(dict(zip(names, values))["__label__1"])
print(json.dumps({"scores": scores, "cpu_seconds": time.process_time() - start}))
"""


def fasttext_scores(python: str, job: dict[str, Any]) -> tuple[np.ndarray, float]:
    """Return the cross-validated scores of fastText, and its CPU seconds."""
    done = subprocess.run([python, "-c", _PEER], input=json.dumps(job), text=True, capture_output=True, check=True)
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return np.array(answer["scores"]), answer["cpu_seconds"]


STATISTICS = ("auc", "spearman", "kappa", "accuracy")


def agreement(labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Return the figures of agreement with their intervals."""
    numbers, predicted = labels.astype(np.int64), (scores >= 0.5).astype(np.int64)
    statistics = {
        "auc": lambda rows: area_under_curve(labels[rows], scores[rows]),
        "spearman": lambda rows: spearman(numbers[rows].astype(float), scores[rows]),
        "kappa": lambda rows: cohen_kappa(confusion_matrix(numbers[rows], predicted[rows], classes=2)),
        "accuracy": lambda rows: float((numbers[rows] == predicted[rows]).mean()),
    }
    intervals = {name: bootstrap(statistic, n=len(labels), seed=0) for name, statistic in statistics.items()}
    return {name: {"value": i.value, "low": i.low, "high": i.high} for name, i in intervals.items()}


def figures(rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Return the figures of each program: values and intervals of the first seed, and the values of all seeds."""
    lines = []
    for program in dict.fromkeys(row["program"] for row in rows):
        first, *others = [row for row in rows if row["program"] == program]
        for name in STATISTICS:
            seeds = [round(row[name]["value"], 4) for row in (first, *others)]
            interval = {"low": round(first[name]["low"], 4), "high": round(first[name]["high"], 4)}
            spread = {"of": "value", **interval, "documents": first["documents"], "values of the seeds": seeds}
            lines.append(Figure(f"text quality, {program}", seeds[0], name, spread=spread))
        seconds = [row["cpu_seconds"] for row in (first, *others)]
        lines.append(figure(f"text quality, {program}", seconds, unit="CPU seconds of five folds"))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("labels")
    parser.add_argument("--fasttext-python", required=True, metavar="PYTHON")
    parser.add_argument("--seeds", type=int, default=3, help="number of divisions into folds")
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    source = build(Source, {"path": options.labels}, where="labels")
    examples = labelled_examples([source], threshold=None, limit=10**9)
    features = text_features(examples.texts)
    texts = [text.decode() for text in examples.texts]
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        start = time.process_time()
        scores = {"vita": cross_validated_scores(features, examples.is_good, examples.keys, seed=seed)}
        seconds = {"vita": time.process_time() - start}
        folds = assign_folds(examples.keys, seed=seed).tolist()
        job = {"texts": texts, "labels": examples.is_good.tolist(), "folds": folds}
        for name, settings in (("fasttext, defaults", {}), ("fasttext, longer", LONGER)):
            scores[name], seconds[name] = fasttext_scores(options.fasttext_python, {**job, "options": settings})
        for name, values in scores.items():
            figures_of_seed = {"documents": len(texts), "cpu_seconds": round(seconds[name], 2)}
            rows.append({"program": name, "seed": seed, **figures_of_seed, **agreement(examples.is_good, values)})
    report(figures(rows), save=options.save)


if __name__ == "__main__":
    main()

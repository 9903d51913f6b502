"""Parity with lm-evaluation-harness on the same model, texts and items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from vita.data.records import Document
from vita.evals.multiple_choice import answer, metrics
from vita.evals.perplexity import bits_per_byte, score_documents
from vita.evals.tasks import items
from vita.infer.engine import Engine
from vita.nn import hf
from vita.testing import byte_tokenizer, tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

# The harness strips trailing spaces of a text; these texts have none.
TEXTS = ["One small step. " * 9 + "End.", "é and ß take two bytes each. " * 4 + "End.", "short"]
ROWS = [
    {"query": f"Question: what is {n}?", "choices": ["a number", "näher", f"the {n}th of many"], "gold": n % 3}
    for n in range(40)
]
CLOZES = [{"context": f"Number {n} comes before", "continuation": str(n + 1)} for n in range(20)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return str(path)


def harness(folder: Path, scratch: Path, tasks: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the results of lm-evaluation-harness for the model in `folder`."""
    lm_eval = pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness (pip install lm_eval)")
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    (scratch / "tasks").mkdir()
    for name, task in tasks.items():
        (scratch / "tasks" / f"{name}.yaml").write_bytes(orjson.dumps({"task": name, **task}))  # JSON is valid YAML
    output = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={folder},dtype=float32",
        tasks=list(tasks),
        task_manager=TaskManager(include_path=str(scratch / "tasks"), include_defaults=False),
        device="cpu",
        batch_size=8,
        bootstrap_iters=0,
    )
    return {
        name: {metric.partition(",")[0]: value for metric, value in values.items()}
        for name, values in output["results"].items()
    }


def test_accuracies_perplexity_and_bits_per_byte_equal_the_harness(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness (pip install lm_eval)")
    folder = tmp_path / "model"
    hf.save(tiny_model(), folder)
    byte_tokenizer().save(folder)
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS])
    choices, clozes = write_rows(tmp_path / "choices.jsonl", ROWS), write_rows(tmp_path / "clozes.jsonl", CLOZES)

    def task(path: str, output: str, **options: Any) -> dict[str, Any]:
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": path}}, "test_split": "test"}
        return {**data, "output_type": output, **options}

    accuracies = [{"metric": name, "aggregation": "mean"} for name in ("acc", "acc_norm", "acc_bytes")]
    perplexities = [{"metric": "perplexity", "aggregation": "perplexity"}, {"metric": "acc", "aggregation": "mean"}]
    expected = harness(
        folder,
        tmp_path,
        {
            "choices": task(
                choices, "multiple_choice", doc_to_text="{{query}}\nAnswer:", doc_to_choice="choices",
                doc_to_target="{{gold}}", metric_list=accuracies,
            ),
            "clozes": task(
                clozes, "loglikelihood", doc_to_text="{{context}}", doc_to_target="{{' ' + continuation}}",
                metric_list=perplexities,
            ),
            "texts": task(
                texts, "loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
                metric_list=[{"metric": "bits_per_byte"}],
            ),
        },
    )  # fmt: skip

    engine = Engine.open(folder)
    score_options: dict[str, Any] = {
        "encode": engine.tokenizer.encode,
        "prefix": engine.tokenizer.document,
        "context": 64,
    }
    choice_metrics = metrics(answer(engine, items("arc_easy", choices), **score_options))
    for name in ("acc", "acc_norm", "acc_bytes"):
        assert choice_metrics[name].value == pytest.approx(expected["choices"][name])
    cloze_metrics = metrics(answer(engine, items("lambada", clozes), **score_options))
    assert cloze_metrics["acc"].value == pytest.approx(expected["clozes"]["acc"])
    assert cloze_metrics["perplexity"].value == pytest.approx(expected["clozes"]["perplexity"], rel=1e-4)
    documents = [Document(str(index), text, "s") for index, text in enumerate(TEXTS)]
    bits = bits_per_byte(list(score_documents(engine, documents, **score_options)))
    assert bits.value == pytest.approx(expected["texts"]["bits_per_byte"], rel=1e-5)

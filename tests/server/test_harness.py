"""lm-evaluation-harness measures the same numbers through the server as Vita without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.server.serving import serving, tiny_app, tiny_engine
from vita.data.records import Document
from vita.evals.multiple_choice import answer, metrics
from vita.evals.perplexity import bits_per_byte, score_documents
from vita.evals.tasks import items

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

CONTEXT = 128
# The harness strips spaces at the end of a text, so these texts have none.
TEXTS = ["One small step. " * 15 + "End.", "é and ß take two bytes each. " * 3 + "End.", "short"]
ROWS = [
    {"query": f"Question: what is {n}?", "choices": ["a number", "näher", f"the {n}th of many"], "gold": n % 3}
    for n in range(20)
]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return str(path)


def harness(url: str, scratch: Path, tasks: dict[str, dict[str, Any]], **options: Any) -> dict[str, dict[str, float]]:
    """Return the results of lm-evaluation-harness for the model at `url`."""
    lm_eval = pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness (pip install 'lm_eval[api]')")
    pytest.importorskip("tenacity", reason="needs lm-evaluation-harness (pip install 'lm_eval[api]')")
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    (scratch / "tasks").mkdir(exist_ok=True)
    for name, task in tasks.items():
        (scratch / "tasks" / f"{name}.yaml").write_bytes(orjson.dumps({"task": name, **task}))  # JSON is valid YAML
    model_options = {
        "model": "cat",
        "base_url": f"{url}/v1/completions",
        "max_length": CONTEXT,
        "max_retries": 1,
        **options,
    }
    evaluation = lm_eval.simple_evaluate(
        model="local-completions",
        model_args=model_options,
        tasks=list(tasks),
        task_manager=TaskManager(include_path=str(scratch / "tasks"), include_defaults=False),
        batch_size=4,
        bootstrap_iters=0,
    )
    return {
        name: {metric.partition(",")[0]: value for metric, value in metrics.items()}
        for name, metrics in evaluation["results"].items()
    }


def test_the_harness_measures_the_same_numbers_as_vita(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness (pip install 'lm_eval[api]')")
    engine = tiny_engine(context=CONTEXT)
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS])
    choices = write_rows(tmp_path / "choices.jsonl", ROWS)

    def task(path: str, output: str, **fields: Any) -> dict[str, Any]:
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": path}}, "test_split": "test"}
        return {**data, "output_type": output, **fields}

    accuracies = [{"metric": name, "aggregation": "mean"} for name in ("acc", "acc_norm", "acc_bytes")]
    tasks = {
        "choices": task(
            choices, "multiple_choice", doc_to_text="{{query}}\nAnswer:", doc_to_choice="choices",
            doc_to_target="{{gold}}", metric_list=accuracies,
        ),
        "texts": task(
            texts, "loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
            metric_list=[{"metric": "bits_per_byte"}],
        ),
    }  # fmt: skip
    with serving(tiny_app(engine, queue=256)) as url:
        # Two kinds of request: with token ids from `/tokenize`, and with text.
        harness_results = harness(url, tmp_path, tasks)
        text_results = harness(url, tmp_path, {"choices": tasks["choices"]}, tokenized_requests=False)
    options: dict[str, Any] = {"encode": engine.tokenizer.encode, "prefix": engine.tokenizer.document}
    accuracy = metrics(answer(engine, items("arc_easy", choices), context=CONTEXT, **options))
    for name in ("acc", "acc_norm", "acc_bytes"):
        assert accuracy[name].value == pytest.approx(harness_results["choices"][name])
        assert accuracy[name].value == pytest.approx(text_results["choices"][name])
    documents = [Document(str(index), text, "s") for index, text in enumerate(TEXTS)]
    # Over HTTP the harness leaves two tokens of the context free, which changes the windows of a long text.
    bits = bits_per_byte(list(score_documents(engine, documents, context=CONTEXT - 2, **options)))
    assert bits.value == pytest.approx(harness_results["texts"]["bits_per_byte"], rel=1e-5)

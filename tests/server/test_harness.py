"""lm-evaluation-harness asks the server and finds the numbers that are found here without it."""

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
# The harness strips the spaces at the end of a text; these have none.
TEXTS = ["One small step. " * 15 + "End.", "é and ß take two bytes each. " * 3 + "End.", "short"]
ROWS = [
    {"query": f"Question: what is {n}?", "choices": ["a number", "näher", f"the {n}th of many"], "gold": n % 3}
    for n in range(20)
]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return str(path)


def harness(url: str, scratch: Path, tasks: dict[str, dict[str, Any]], **how: Any) -> dict[str, dict[str, float]]:
    """What lm-evaluation-harness says of the model at `url`."""
    lm_eval = pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness (pip install 'lm_eval[api]')")
    pytest.importorskip("tenacity", reason="needs lm-evaluation-harness (pip install 'lm_eval[api]')")
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    (scratch / "tasks").mkdir(exist_ok=True)
    for name, task in tasks.items():
        (scratch / "tasks" / f"{name}.yaml").write_bytes(orjson.dumps({"task": name, **task}))  # JSON is YAML, too
    told = {"model": "cat", "base_url": f"{url}/v1/completions", "max_length": CONTEXT, "max_retries": 1, **how}
    found = lm_eval.simple_evaluate(
        model="local-completions",
        model_args=told,
        tasks=list(tasks),
        task_manager=TaskManager(include_path=str(scratch / "tasks"), include_defaults=False),
        batch_size=4,
        bootstrap_iters=0,
    )
    return {
        name: {metric.partition(",")[0]: value for metric, value in own.items()}
        for name, own in found["results"].items()
    }


def test_the_harness_finds_the_numbers_that_are_found_here(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness (pip install 'lm_eval[api]')")
    engine = tiny_engine(context=CONTEXT)
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS])
    choices = write_rows(tmp_path / "choices.jsonl", ROWS)

    def task(path: str, output: str, **rest: Any) -> dict[str, Any]:
        data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": path}}, "test_split": "test"}
        return {**data, "output_type": output, **rest}

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
        # Twice: the tokens from the server (`/tokenize`), found by itself, in two kinds of request.
        theirs = harness(url, tmp_path, tasks)
        as_text = harness(url, tmp_path, {"choices": tasks["choices"]}, tokenized_requests=False)
    how: dict[str, Any] = {"encode": engine.tokenizer.encode, "prefix": engine.tokenizer.document}
    ranked = metrics(answer(engine, items("arc_easy", choices), context=CONTEXT, **how))
    for name in ("acc", "acc_norm", "acc_bytes"):
        assert ranked[name].value == pytest.approx(theirs["choices"][name])
        assert ranked[name].value == pytest.approx(as_text["choices"][name])
    documents = [Document(str(index), text, "s") for index, text in enumerate(TEXTS)]
    # Over HTTP the harness keeps two tokens of the context free, so a long text is cut in other places.
    bits = bits_per_byte(list(score_documents(engine, documents, context=CONTEXT - 2, **how)))
    assert bits.value == pytest.approx(theirs["texts"]["bits_per_byte"], rel=1e-5)

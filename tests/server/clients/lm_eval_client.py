"""lm-evaluation-harness: `local-completions` with log-likelihoods and `local-chat-completions` with generation."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lm_eval  # pyright: ignore[reportMissingImports]
from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

URL = sys.argv[1]


def task(name: str, rows: list[dict[str, Any]], **fields: Any) -> None:
    """Write a task and its rows."""
    rows_path = Path(f"{name}.jsonl").resolve()
    rows_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(rows_path)}}, "test_split": "test"}
    folder = Path("tasks")
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **data, **fields}))  # JSON is valid YAML


def evaluate(model: str, route: str, tasks: list[str], *, chat: bool = False, **options: Any) -> dict[str, Any]:
    """Return the results of the tasks."""
    library: Any = lm_eval  # its annotations do not describe the arguments that the decorator accepts
    evaluation = library.simple_evaluate(
        model=model,
        model_args={"model": "cat", "base_url": f"{URL}{route}", "max_retries": 1, **options},
        tasks=tasks,
        task_manager=TaskManager(include_path="tasks", include_defaults=False),
        apply_chat_template=chat,
        bootstrap_iters=0,
    )
    return evaluation["results"]


def main() -> None:
    """Run the checks."""
    generation = {
        "output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 40, "temperature": 0, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean"}],
    }  # fmt: skip
    task("hi", [{"question": "Hi", "answer": "Good day to you!"}] * 3, **generation)
    task(
        "letters", [{"query": "One", "choices": ["a", "b"], "gold": 0}] * 4, output_type="multiple_choice",
        doc_to_text="{{query}}", doc_to_choice="choices", doc_to_target="{{gold}}",
        metric_list=[{"metric": "acc", "aggregation": "mean"}],
    )  # fmt: skip
    task("texts", [{"text": "A cat is an animal."}], output_type="loglikelihood_rolling", doc_to_text="",
         doc_to_target="{{text}}", metric_list=[{"metric": "bits_per_byte"}])  # fmt: skip
    chat = evaluate("local-chat-completions", "/v1/chat/completions", ["hi"], chat=True, num_concurrent=2)
    assert chat["hi"]["exact_match,none"] == 1.0, chat
    for options in ({}, {"tokenized_requests": False}):
        names = ["hi", "letters", "texts"] if not options else ["letters"]
        results = evaluate("local-completions", "/v1/completions", names, max_length=256, **options)
        assert results["letters"]["acc,none"] in (0.0, 1.0), results


main()

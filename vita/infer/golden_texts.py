"""Golden results of a model that reads whole texts: texts with the numbers that identify its weights.

golden = golden_texts(model, ["What is a cat?"])
check_golden_texts(model, golden, where="release.golden")       # raises ModelError
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vita.data.tokens.text_encoding import EncodedText
from vita.infer.text_model import Task, TextModel, TextRequest
from vita.spine.errors import DataError, ModelError

NUMBERS = 16
"""Numbers of an embedding, or logits of the first labels or of the most likely tokens, that are stored."""
TOLERANCE = 1e-2
"""Largest difference of a number between two kinds of processor, relative to 1 plus its size."""


def golden_texts(model: TextModel, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """Return the ids of each text, the positions of its results, and their numbers."""
    requests = [_request(model, prompt) for prompt in prompts]
    results = model.compute(requests)
    golden = []
    for request, result in zip(requests, results, strict=True):
        if request.task == "masked":
            values, tokens = result[0].topk(min(NUMBERS, result.shape[-1]))
            numbers: dict[str, Any] = {"indices": tokens.tolist(), "values": _rounded(values.tolist())}
        else:
            numbers = {"indices": list(range(min(NUMBERS, len(result)))), "values": _rounded(result[:NUMBERS].tolist())}
        ids = {"prompt": request.text.ids, "types": request.text.types}
        golden.append({"task": request.task, **ids, "positions": list(request.positions), **numbers})
    return golden


def check_golden_texts(model: TextModel, golden: Sequence[Mapping[str, Any]], *, where: str) -> None:
    """Raise a `ModelError` if the model computes other numbers for a golden text."""
    for number, example in enumerate(golden, 1):
        task: Task = example["task"]
        text = EncodedText(list(example["prompt"]), list(example["types"]))
        result = model.compute([TextRequest(text, task, tuple(example["positions"]))])[0]
        row = result[0] if task == "masked" else result
        for index, expected in zip(example["indices"], example["values"], strict=True):
            # The condition is negated so that NaN fails also.
            if not abs(row[index].item() - expected) <= TOLERANCE * (1 + abs(expected)):
                hint = "this machine or these libraries give different results, or the weights are others"
                got = round(row[index].item(), 4)
                raise ModelError(f"{where}: golden text {number}", expected=str(expected), got=got, hint=hint)


def _request(model: TextModel, prompt: str) -> TextRequest:
    task = model.tasks[0]
    if task == "masked":
        try:
            return model.masked_request(f"{prompt} {model.tokenizer.name_of('mask_token')}".strip())
        except DataError:  # the context has no room for the prompt
            return model.masked_request(str(model.tokenizer.name_of("mask_token")))
    return TextRequest(model.encoder().encode([(prompt or " ",)])[0], task)


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 5) for value in values]

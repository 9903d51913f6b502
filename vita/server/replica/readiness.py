"""Tests a replica before it reports that it is ready: one chat completion and one completion.

A model that fails on every request must not become ready. So the same application that clients use generates one token
on each route, and the logits must be finite. A chat template may refuse some dialogues, for example those with a
system message; those requests get status 400.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import torch
from starlette.types import ASGIApp

from vita.data.records import Message
from vita.data.tokens.dialogue_encoding import encode_prompt
from vita.infer.engine import Engine
from vita.infer.text_model import Task, TextModel
from vita.nn.packed import dense
from vita.spine.errors import DataError, ModelError

GREETING = "Hello"
DIALOGUES = (
    (Message("user", GREETING),),
    (Message("system", "Be helpful."), Message("user", GREETING)),
    (Message("user", GREETING), Message("assistant", GREETING), Message("user", GREETING)),
)
"""Dialogues of which the chat template must accept at least one."""
NOT_NUMBERS = "computes logits that are not finite, so that every request would fail"


def check_engine(engine: Engine) -> None:
    """Raise `ModelError` if the engine cannot process a chat or a completion."""
    prompts = [engine.text_ids(GREETING)[: engine.model.architecture.context]]
    if engine.template is not None:
        prompts.append(_dialogue(engine)[1])
    for ids in prompts:
        _check_logits(engine, ids)


def check_answers(app: ASGIApp, engine: Engine, *, model: str) -> None:
    """Raise `ModelError` if the application responds to its first chat or completion with an error."""
    body: dict[str, Any] = {"model": model, "max_tokens": 1, "seed": 0}
    context = engine.model.architecture.context
    requests: dict[str, dict[str, Any]] = {}
    if len(engine.tokenizer.encode_template(GREETING)) < context:
        requests["/v1/completions"] = {**body, "prompt": GREETING, "logprobs": 1}
    if engine.template is not None:
        dialogue, ids = _dialogue(engine)
        if len(ids) < context:
            messages = [{"role": message.role, "content": message.content} for message in dialogue]
            requests["/v1/chat/completions"] = {**body, "messages": messages}
    for path, content in requests.items():
        _check_answer(app, path, content)


def check_text_answers(app: ASGIApp, model: TextModel, *, model_name: str) -> None:
    """Raise `ModelError` if the application responds to its first request on an endpoint of the model with an error."""
    bodies: dict[Task, tuple[str, dict[str, Any]]] = {
        "embedding": ("/v1/embeddings", {"input": GREETING}),
        "classification": ("/v1/classify", {"input": GREETING}),
        "masked": ("/v1/fill-mask", {"input": str(model.tokenizer.name_of("mask_token"))}),
    }
    for task in model.tasks:
        path, content = bodies[task]
        _check_answer(app, path, {"model": model_name, **content})


def unusable_weights(engine: Engine) -> list[str]:
    """Return the names of parameters with values that are not finite."""
    scales = [(name, buffer) for name, buffer in engine.model.named_buffers() if name.endswith(".scales")]  # quantized
    tensors = [*engine.model.named_parameters(), *scales]
    return [name for name, tensor in tensors if not bool(torch.isfinite(dense(tensor)).all())]


def _dialogue(engine: Engine) -> tuple[tuple[Message, ...], list[int]]:
    """Return the first dialogue that the template accepts, and its token ids."""
    assert engine.template is not None
    problem = ""
    for messages in DIALOGUES:
        try:
            ids = encode_prompt(engine.tokenizer, engine.template, messages)
        except DataError as error:
            problem = problem or str(error)
            continue
        if ids:
            return messages, ids
        problem = problem or "chat template: produces no tokens"
    hint = "fix chat_template.jinja in the model folder"
    raise ModelError("model", f"cannot process a chat: {problem}", hint=hint)


@torch.inference_mode()
def _check_logits(engine: Engine, ids: list[int]) -> None:
    most = engine.model.architecture
    if max(ids) >= most.vocabulary:
        raise ModelError("tokenizer", expected=f"ids below {most.vocabulary}, the model's vocabulary", got=max(ids))
    ids = ids[: most.context]
    logits = engine.logits(engine.model.hidden(torch.tensor([ids], device=engine.device))[:, -1])
    if bool(logits.isfinite().all()):
        return
    bad_parameters = unusable_weights(engine)
    if not bad_parameters:
        raise ModelError("model", NOT_NUMBERS, hint="its weights are finite; they may be too large for this precision")
    some = ", ".join(bad_parameters[:3]) + (f" and {len(bad_parameters) - 3} more" if len(bad_parameters) > 3 else "")
    raise ModelError("model", NOT_NUMBERS, hint=f"NaN or infinity is in {some}")


def _check_answer(app: ASGIApp, path: str, content: dict[str, Any]) -> None:
    answer = _ask(app, path, content)
    if answer.status_code == 200:
        return
    try:
        problem = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        problem = answer.text[:200]
    raise ModelError("model", f"responds to its first request to {path} with {answer.status_code}: {problem}")


def _ask(app: ASGIApp, path: str, content: dict[str, Any]) -> httpx.Response:
    """Send a request to the application, in a thread because the caller may run an event loop."""
    answers: list[httpx.Response] = []

    async def ask() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
            answers.append(await client.post(path, json=content, timeout=None))

    thread = threading.Thread(target=lambda: asyncio.run(ask()), name="readiness")
    thread.start()
    thread.join()
    if not answers:
        raise ModelError("model", f"closes the connection on its first request to {path}")
    return answers[0]

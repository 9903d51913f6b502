"""Tries a replica before it says that it is ready: a chat through the template, and a completion.

A model whose every answer would be an error must not become ready. So one token of each kind of answer is generated
through the same application that clients ask, and the logits must be finite. A template that refuses some dialogues,
for example those with a system message, is no reason: those are mistakes of their requests (400).
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import torch
from starlette.types import ASGIApp

from vita.data.records import Message
from vita.data.tokens.chat_template import encode_prompt
from vita.infer.engine import Engine
from vita.spine.errors import DataError, ModelError

GREETING = "Hello"
DIALOGUES = (
    (Message("user", GREETING),),
    (Message("system", "Be helpful."), Message("user", GREETING)),
    (Message("user", GREETING), Message("assistant", GREETING), Message("user", GREETING)),
)
"""Dialogues of which the template must write at least one."""
NOT_NUMBERS = "computes logits that are not finite numbers, so that every answer would be an error"


def check_engine(engine: Engine) -> None:
    """Raise a `ModelError` where no chat or no completion could be answered."""
    prompts = [engine.text_ids(GREETING)[: engine.model.architecture.context]]
    if engine.template is not None:
        prompts.append(_dialogue(engine)[1])
    for ids in prompts:
        _check_logits(engine, ids)


def check_answers(app: ASGIApp, engine: Engine, *, model: str) -> None:
    """Raise a `ModelError` where the application answers its first chat or completion with an error."""
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


def unusable_weights(engine: Engine) -> list[str]:
    """Names of parameters with numbers that are not finite."""
    named = engine.model.named_parameters()
    return [name for name, parameter in named if not bool(torch.isfinite(parameter).all())]


def _dialogue(engine: Engine) -> tuple[tuple[Message, ...], list[int]]:
    """The first dialogue that the template writes, and its ids."""
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
        problem = problem or "chat template: writes nothing"
    hint = "mend the chat_template.jinja in its folder"
    raise ModelError("model", f"can answer no chat: {problem}", hint=hint)


@torch.inference_mode()
def _check_logits(engine: Engine, ids: list[int]) -> None:
    most = engine.model.architecture
    if max(ids) >= most.vocabulary:
        raise ModelError("tokenizer", expected=f"ids below {most.vocabulary}, the model's vocabulary", got=max(ids))
    ids = ids[: most.context]
    logits = engine.logits(engine.model.hidden(torch.tensor([ids], device=engine.device))[:, -1])
    if bool(logits.isfinite().all()):
        return
    found = unusable_weights(engine)
    if not found:
        raise ModelError("model", NOT_NUMBERS, hint="its weights are finite; they may be too large for this precision")
    some = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    raise ModelError("model", NOT_NUMBERS, hint=f"NaN or infinity is in {some}")


def _check_answer(app: ASGIApp, path: str, content: dict[str, Any]) -> None:
    answer = _ask(app, path, content)
    if answer.status_code == 200:
        return
    try:
        problem = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        problem = answer.text[:200]
    raise ModelError("model", f"answers its first request to {path} with {answer.status_code}: {problem}")


def _ask(app: ASGIApp, path: str, content: dict[str, Any]) -> httpx.Response:
    """Send one request to an application, from a thread of its own since the caller may run an event loop."""
    answers: list[httpx.Response] = []

    async def ask() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
            answers.append(await client.post(path, json=content, timeout=None))

    thread = threading.Thread(target=lambda: asyncio.run(ask()), name="readiness")
    thread.start()
    thread.join()
    if not answers:
        raise ModelError("model", f"ends the connection at its first request to {path}")
    return answers[0]

"""The attributes of a request's span, from its row of the request log.

Prompts and completions are added only if the service exports content and the request has consent; addresses, numbers
and secrets are redacted as in the request log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vita.server.gateway.request_log import StoragePolicy
from vita.server.tracing import Attribute, TraceSpan

OPERATIONS = {"/v1/completions": "text_completion", "/v1/embeddings": "embeddings"}
"""Route -> operation of the GenAI conventions; the routes of dialogues are `chat`."""
_CHATS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
_PARAMETERS = {
    Attribute.REQUEST_TEMPERATURE: ("temperature", (int, float)),
    Attribute.REQUEST_TOP_P: ("top_p", (int, float)),
    Attribute.REQUEST_TOP_K: ("top_k", (int,)),
    Attribute.REQUEST_SEED: ("seed", (int,)),
    Attribute.REQUEST_CHOICES: ("n", (int,)),
    Attribute.REQUEST_FREQUENCY_PENALTY: ("frequency_penalty", (int, float)),
    Attribute.REQUEST_PRESENCE_PENALTY: ("presence_penalty", (int, float)),
}
"""Attribute -> field of the request and its types; other values, which the replica refuses, are left out."""


def operation(route: str) -> str:
    """Return the name of the operation of a route."""
    return "chat" if route in _CHATS else OPERATIONS.get(route, route.rpartition("/")[2])


def end_request_span(span: TraceSpan, row: Mapping[str, Any], policy: StoragePolicy, *, content: bool) -> None:
    """Set the attributes of a finished request and end its span; `content` exports texts with consent."""
    if span.is_recorded:
        asked, figures = row["asked"], row["figures"]
        span.set(Attribute.OPERATION, operation(row["route"]))
        span.set(Attribute.PROVIDER, "vita")
        span.set(Attribute.ROUTE, row["route"])
        span.set(Attribute.STATUS, row["status"])
        span.set(Attribute.REQUEST_ID, row["request"])
        span.set(Attribute.SERVICE, row["service"])
        for attribute, (field, types) in _PARAMETERS.items():
            value = asked.get(field)
            span.set(attribute, value if isinstance(value, types) and not isinstance(value, bool) else None)
        limit = asked.get("max_completion_tokens", asked.get("max_tokens"))
        span.set(Attribute.REQUEST_MAX_TOKENS, limit if isinstance(limit, int) else None)
        span.set(Attribute.RESPONSE_ID, row["response"])
        span.set(Attribute.RESPONSE_MODEL, row["version"] if row["model"] else None)
        span.set(Attribute.MODEL_DIGEST, row["model"] or None)
        span.set(Attribute.REPLICA, figures["replica"])
        span.set(Attribute.FINISH_REASONS, _texts([reason for reason in figures["finish"] if reason]))
        span.set(Attribute.INPUT_TOKENS, figures["prompt_tokens"])
        span.set(Attribute.OUTPUT_TOKENS, figures["completion_tokens"])
        span.set(Attribute.FIRST_BYTE_SECONDS, figures["ttft"])
        span.set(Attribute.REFUSED, figures["refused"])
        if content:
            _set_content(span, policy.row(row))
        if row["status"] >= 500:
            span.fail(str(row["status"]))
    span.end()


def _set_content(span: TraceSpan, stored: Mapping[str, Any]) -> None:
    """Set the texts of a request, as far as the request log may store them."""
    asked, answered = stored["asked"], stored["answered"]
    span.set(Attribute.REQUEST_STOP, _texts(asked.get("stop")))
    messages = asked.get("messages")
    if isinstance(asked.get("prompt"), str):
        messages = [{"role": "user", "content": asked["prompt"]}]
    if isinstance(messages, list):
        inputs = [_message(message.get("role"), message.get("content")) for message in messages]
        span.set(Attribute.INPUT_MESSAGES, json.dumps(inputs))
    if answered.get("choices"):
        outputs = [_message("assistant", text) for text in answered["choices"]]
        span.set(Attribute.OUTPUT_MESSAGES, json.dumps(outputs))


def _message(role: Any, content: Any) -> dict[str, Any]:
    """Return a message in the form of the conventions."""
    parts = [{"type": "text", "content": content}] if isinstance(content, str) else []
    return {"role": str(role), "parts": parts}


def _texts(value: Any) -> list[str] | None:
    if isinstance(value, str):
        return [value]
    is_list = isinstance(value, Sequence) and bool(value) and all(isinstance(item, str) for item in value)
    return list(value) if is_list else None

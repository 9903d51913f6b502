"""Refuses fields of a request that the program of a backend does not support, by their names."""

from __future__ import annotations

from vita.server import api
from vita.server.backends.programs import RunningProgram
from vita.server.errors import ApiError, invalid
from vita.server.request_body import RequestBody

_NEUTRAL = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Values with which a field has no effect: they are accepted and not sent to the program."""


def refuse_unsupported(params: RequestBody, program: RunningProgram) -> None:
    """Raise `ApiError` for the first field that the program does not support."""
    name = program.settings.program
    if not isinstance(params, api.Decoding):
        return
    for field, reason in program.client.unsupported.items():
        if getattr(params, field, None) not in (None, _NEUTRAL.get(field)):
            raise _unsupported(field, name, reason)
    if isinstance(params, api.CompletionRequest) and params.echo and params.logprobs is not None:
        raise _unsupported("echo", name, "it does not return the log-probabilities of a prompt")
    if not program.client.follows_grammars:
        _refuse_constraints(params, name)


def _refuse_constraints(params: api.Decoding, name: str) -> None:
    """Refuse the fields that constrain the answer."""
    if params.structured_outputs is not None:
        raise _unsupported("structured_outputs", name)
    if not isinstance(params, api.ChatRequest):
        return
    if params.is_constrained_by("response_format"):
        raise _unsupported("response_format", name)
    if params.requires_calls:
        raise _unsupported("tool_choice", name, "calls cannot be required; `auto` and `none` are supported")
    if params.has_strict_tools:
        strict = next(index for index, tool in enumerate(params.tools or ()) if tool.function.strict)
        raise _unsupported(f"tools[{strict}].function.strict", name)


def _unsupported(field: str, program: str, reason: str = "") -> ApiError:
    text = f"`{field}` is not supported by the backend `{program}` of this model"
    return invalid(f"{text}: {reason}" if reason else text, field, code="unsupported_parameter")

"""Errors of request bodies in the form of the API: the field, the problem, and a code."""

from __future__ import annotations

import re

from pydantic import ValidationError

from vita.server.errors import ApiError, invalid
from vita.server.request_body import InvalidPlace, Misplaced, UnsupportedRequestField

_FORMS_OF_TEXT = ("string_type", "list_type")
"""Types of errors of a field that can be a text or a list."""


def request_error(error: ValidationError, prefix: str) -> ApiError:
    """Return the error 400 of a body that does not validate; it names the first wrong field after `prefix`."""
    problems = error.errors(include_url=False)
    # Report the branch of a union that the client meant: a list of ids is not reported as "not a string".
    relevant = [problem for problem in problems if problem["type"] not in _FORMS_OF_TEXT]
    first_field = problems[0]["loc"][:1]
    first = max(relevant or problems, key=lambda problem: (problem["loc"][:1] == first_field, len(problem["loc"])))
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, Misplaced):
        return invalid(str(raised), raised.param, code=raised.code, fields=raised.fields)
    if isinstance(raised, UnsupportedRequestField):
        name = prefix + _path((*first["loc"], raised.name))
        return invalid(f"`{name}` is not supported by this server", name, code="unsupported_parameter")
    if isinstance(raised, InvalidPlace):
        place = prefix + _path((*first["loc"], *raised.place))
        return invalid(f"`{place}` {raised}", place, code=raised.code)
    param = prefix + _path(first["loc"])
    if first["type"] == "missing":
        return invalid(f"You must provide `{param}`", param, code="missing_required_parameter")
    if first["type"] == "extra_forbidden":
        return invalid(f"Unrecognized request argument supplied: {param}", param, code="unknown_parameter")
    problem = str(raised) if raised else f"{first['msg'][:1].lower()}{first['msg'][1:]}"
    if not relevant and {*_FORMS_OF_TEXT} <= {other["type"] for other in problems if other["loc"][:1] == first_field}:
        problem = "input should be a valid string or list"
    if not isinstance(first["input"], (dict, list)) and not raised:
        input_text = repr(first["input"])
        problem += f", got {input_text if len(input_text) <= 80 else input_text[:77] + '...'}"
    return invalid(f"Invalid `{param}`: {problem}", param, code="invalid_value")


def _path(location: tuple[int | str, ...]) -> str:
    """Format a location as `messages[0].content`, without the names that pydantic gives to branches of a union."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif path and (re.search(r"[\[(-]|^[A-Z]", part) or part in ("str", "int", "list", "constrained-str")):
            continue
        else:
            path += f".{part}" if path else part
    return path

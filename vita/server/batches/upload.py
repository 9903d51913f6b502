"""The upload of a file: a form with the fields `file`, `purpose` and `expires_after`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import IO, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from vita.server.errors import ApiError, body_timeout, invalid, too_large

SHORTEST_LIFE, LONGEST_LIFE = 3600, 2_592_000
UPLOAD_FORM_BYTES = 8192
"""Maximum size of a form beside its file."""
_EXPIRES = ("expires_after[anchor]", "expires_after[seconds]")
Lifetime = Annotated[int, Field(ge=SHORTEST_LIFE, le=LONGEST_LIFE)]


class FileUpload(BaseModel):
    """POST /v1/files, as a form of the type multipart/form-data."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    file: str = Field(json_schema_extra={"format": "binary"})
    """The file: one request per line, as JSON."""
    purpose: Literal["batch"]
    """The only supported purpose is `batch`."""
    anchor: Literal["created_at"] | None = Field(default=None, alias="expires_after[anchor]")
    """The time from which `expires_after[seconds]` is counted."""
    seconds: Lifetime | None = Field(default=None, alias="expires_after[seconds]")
    """Time until the file expires; by default that of the service."""


@dataclass(frozen=True)
class Upload:
    """A received file, which its reader closes."""

    content: IO[bytes]
    filename: str
    seconds: int | None


async def read_upload(request: Request, *, max_bytes: int, part_seconds: float) -> Upload:
    """Read a form; raises `ApiError` for a wrong one, for a too large file, and when no part arrives in time."""
    kind, _ = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        message = "The body must be a form: send `Content-Type: multipart/form-data`."
        raise ApiError(415, message, code="unsupported_media_type")
    stream = _limited(request, max_bytes=max_bytes, part_seconds=part_seconds)
    parser = _FormParser(request.headers, stream, max_files=1, max_fields=8, max_part_size=1024)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise invalid(f"The form is not valid: {error.message}", code="invalid_form") from None
    items = form.multi_items()
    uploads = [value for name, value in items if name == "file" and isinstance(value, UploadFile)]
    try:
        fields = {name: value for name, value in items if not isinstance(value, UploadFile)}
        if not uploads or len(items) != len(fields) + 1:
            raise invalid("The form must have the field `file` with one file, and each other field once", "file")
        seconds = _checked(fields)
    except ApiError:
        parser.close()
        raise
    return Upload(uploads[0].file, (uploads[0].filename or "file")[:255], seconds)


class _FormParser(MultiPartParser):
    """A parser whose temporary files can be closed, also that of a part that has no end."""

    def close(self) -> None:
        for file in self._files_to_close_on_error:
            file.close()


def _checked(fields: dict[str, str]) -> int | None:
    """Check the fields beside the file; returns the time until the file expires."""
    for name in fields:
        if name not in ("purpose", *_EXPIRES):
            raise invalid(f"Unrecognized request argument supplied: {name[:100]}", name[:100], code="unknown_parameter")
    if 0 < sum(name in fields for name in _EXPIRES) < len(_EXPIRES):
        raise invalid("`expires_after` needs `anchor` and `seconds`", "expires_after")
    try:
        upload = FileUpload.model_validate({"file": "", **fields})
    except ValidationError as error:
        problem = error.errors()[0]
        param = str(problem["loc"][0])
        if problem["type"] == "missing":
            raise invalid(f"You must provide `{param}`", param, code="missing_required_parameter") from None
        raise invalid(f"Invalid `{param}`: {problem['msg']}", param, code="invalid_value") from None
    return upload.seconds


async def _limited(request: Request, *, max_bytes: int, part_seconds: float) -> AsyncGenerator[bytes, None]:
    """Yield the parts of the body, within the limits of size and of time."""
    size, parts = 0, request.stream()
    while True:
        try:
            async with asyncio.timeout(part_seconds):
                part = await anext(parts, None)
        except TimeoutError:
            raise body_timeout() from None
        if part is None:
            return
        size += len(part)
        if size > max_bytes + UPLOAD_FORM_BYTES:
            raise too_large(max_bytes)
        yield part

"""Readers of PDF, Word and EPUB files (one document each) and of mailboxes (one document for each message)."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any, cast

from vita.data.extraction.extractor import Failure, extractor_for
from vita.data.sources import streams
from vita.data.sources.files import SourceFile
from vita.data.sources.readers import READERS, ReadOptions, Row, RowProblem
from vita.data.sources.web_readers import read_document
from vita.spine.file_listing import printable
from vita.spine.plain_text import counted


@READERS.add("pdf")
def read_pdf(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read a PDF as one document (extra `documents`)."""
    yield read_document(file, "pdf", wishes)


@READERS.add("docx")
def read_docx(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read a Word document; parts with text that are left out, such as comments, are a skipped row."""
    yield from _with_unread_parts(read_document(file, "docx", wishes))


@READERS.add("epub")
def read_epub(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read an EPUB book as one document (extra `web`); each chapter that it lacks is a skipped row."""
    book = read_document(file, "epub", wishes)
    yield book
    for number, name in enumerate((book.values or {}).get("missing_parts", ()), 1):
        problem = RowProblem("missing_part", "the chapters of the book", f"no readable {printable(name)}")
        yield book._replace(number=number, values=None, problem=problem, is_skipped=True)


@READERS.add("mbox")
def read_mbox(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read the messages of a mailbox; attachments are not read, and counted in a skipped row."""
    limit = wishes.extraction.megabytes * 2**20
    for number, data in enumerate(_messages(file, limit), 1):
        row = Row(printable(file.path), file.name, number, None)
        if data is None:
            problem = RowProblem("too_large", f"a message of at most {limit >> 20} MB", "a larger one")
            yield row._replace(problem=problem, is_skipped=True)
        else:
            yield from _with_unread_parts(_message_row(row, data, wishes))


@READERS.add("eml")
def read_eml(file: SourceFile, wishes: ReadOptions) -> Iterator[Row]:
    """Read a file with one message; attachments are not read, and counted in a skipped row."""
    limit = wishes.extraction.megabytes * 2**20
    hint = "raise `extraction.megabytes`, or leave the file out"
    data = b"\n".join(streams.read_bytes(file, limit=limit, hint=hint).splitlines())
    yield from _with_unread_parts(_message_row(Row(printable(file.path), file.name, 0, None), data, wishes))


def _with_unread_parts(row: Row) -> Iterator[Row]:
    """Yield a row, and a skipped row that names the parts of its document that are not read."""
    yield row
    if parts := (row.values or {}).get("unread_parts"):
        problem = RowProblem("unread_part", "no part beside the text", ", ".join(parts))
        # Another id than that of the document, which was read.
        yield row._replace(name=f"{row.name}/unread_parts", values=None, problem=problem, is_skipped=True)


def _messages(file: SourceFile, limit: int) -> Iterator[bytes | None]:
    """Yield the bytes of each message, and None for a larger one; it begins with a line `From ` after a blank line."""
    message: list[bytes] = []
    size, after_blank, began = 0, True, False
    for line in streams.lines(file):
        if after_blank and line.startswith(b"From "):
            if began:
                yield b"\n".join(message) if size <= limit else None
            message, size, began = [], 0, True
        else:
            size += len(line) + 1
            if size <= limit:
                message.append(line[1:] if line.startswith(b">From ") else line)
        after_blank = not line
    if began:
        yield b"\n".join(message) if size <= limit else None


def _message_row(row: Row, data: bytes, wishes: ReadOptions) -> Row:
    message = cast(EmailMessage, email.message_from_bytes(data, policy=email.policy.default))
    try:
        part = message.get_body(("plain", "html"))
        text = str(part.get_content()) if part is not None else ""
        headers = {"title": message["subject"], "date": message["date"]}
        is_html = part is not None and part.get_content_type() == "text/html"
        values: dict[str, Any] = {name: str(value) for name, value in headers.items() if value}
        identifier = str(message["message-id"] or "").strip().strip("<>")
    except (LookupError, ValueError, TypeError, AttributeError, IndexError) as error:
        problem = RowProblem("broken_record", "a readable message", f"one that cannot be parsed ({error})")
        return row._replace(problem=problem)
    if is_html:
        page = extractor_for(wishes.extraction).extract("html", text.encode(), is_article=False, where=row.where)
        if isinstance(page, Failure):
            problem = RowProblem(page.reason, "a message whose text can be extracted", page.detail)
            return row._replace(problem=problem, is_skipped=True)
        text = page.text
    values |= {"id": identifier} if identifier else {}
    if attachments := _count_attachments(message):
        values["unread_parts"] = [counted(attachments, "attachment")]
    return row._replace(values={wishes.text_field or "text": text, **values})


def _count_attachments(message: EmailMessage) -> int:
    """Return the number of attachments; 0 for a message whose parts cannot be told apart."""
    try:
        return sum(1 for _ in message.iter_attachments()) if message.is_multipart() else 0
    except (LookupError, ValueError, TypeError, AttributeError):
        return 0

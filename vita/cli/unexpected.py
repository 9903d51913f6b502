"""Exceptions outside Vita's error classes: system errors become one line, internal errors a log file."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import traceback
from pathlib import Path

from vita.cli.app import errors_console
from vita.cli.folders import with_user_paths
from vita.spine import machine
from vita.spine.console import line, one_line
from vita.spine.disk import explain_disk
from vita.spine.errors import ConfigError, StoreError, VitaError, exception_text
from vita.spine.remote_files import REMOTE_LIBRARIES

INTERNAL_ERROR = 70
"""Exit code of a defect of Vita (EX_SOFTWARE of sysexits.h)."""
_LOGS_KEPT = 20


def print_error(error: Exception) -> int:
    """Print an error in one line to standard error and return its exit code."""
    explained = error if isinstance(error, VitaError) else explain(error)
    message, code = (str(explained), explained.exit_code) if explained else report(error)
    print_error_line(with_user_paths(message))
    return code


def print_error_line(message: str) -> None:
    """Print a message as one line that begins with the word `error`."""
    errors_console().print(line(("error", "bold red"), f" {one_line(message)}"), soft_wrap=True)


def explain(error: Exception) -> VitaError | None:
    """Return a one-line error for a system error (file, port, memory), or None."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        source, _, reason = error.args[0][0]  # of a copied folder: every file that failed
        return StoreError(str(source), f"cannot be copied: {reason}")
    if explained := explain_disk(error, _file_of(error) or "standard output"):
        return explained
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        hint = "use a smaller batch, a smaller context or a smaller model"
        return VitaError("memory", "is exhausted", hint=hint)
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        name = error.object if isinstance(error.object, str) else "a name"
        return ConfigError(name, expected="a name in UTF-8", got="bytes that are not", hint="rename the file or folder")
    if type(error).__module__.split(".")[0] in REMOTE_LIBRARIES:
        problem = f"cannot be reached: {exception_text(error)}"
        return StoreError("remote storage", problem, hint="check the address and the credentials")
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        return VitaError(_file_of(error) or "operating system", reason[:1].lower() + reason[1:])
    return None


def report(error: Exception) -> tuple[str, int]:
    """Write the traceback to a log file; return the message and the exit code."""
    kind = exception_text(error)
    text = kind if len(kind) <= 300 else kind[:297] + "..."
    log = _write_log(error)
    location = f"the traceback is in {log}" if log else "the traceback could not be written"
    return f"internal error: {text}; {location}; please report it with the command", INTERNAL_ERROR


def _write_log(error: Exception) -> Path | None:
    text = "".join(traceback.format_exception(error))
    name = f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
    for folder in (machine.cache_folder() / "errors", Path(tempfile.gettempdir()) / "vita-errors"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
            for log in sorted(folder.glob("*.log"))[:-_LOGS_KEPT]:
                log.unlink(missing_ok=True)
        except OSError:
            continue
        return folder / name
    return None


def _file_of(error: BaseException) -> str | None:
    name = getattr(error, "filename", None)
    return os.fsdecode(name) if isinstance(name, (str, bytes)) else None

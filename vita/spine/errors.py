"""The error classes of Vita; all errors that a user sees derive from `VitaError`.

    VitaError                 exit code 1
    |-- ConfigError     2     a setting is unknown, malformed or out of range
    |-- PlanError       2     the steps of a life do not fit together
    |-- DataError       3     text or rows that cannot be used
    |-- StoreError      4     an artifact is missing, corrupt, or the disk is full
    |-- LedgerError     5     the ledger cannot be read or written
    |-- ModelError      6     a model folder is incomplete or does not fit
    |-- TrainingError   7     training cannot continue
    |-- MissingExtra    8     an optional library is not installed
    `-- GateError       9     a promotion was refused

Each error states where it occurred, the expected and the actual value, and what to do:

    raise ConfigError("sft.steps", expected="a number above 0", got=-1, hint="leave it out to train by `epochs`")
"""

from __future__ import annotations

from typing import Any

from vita.spine.url_secrets import mask_url_secrets

_ABSENT = object()
_NOT_RECORDED = "(data, not recorded)"


class VitaError(Exception):
    """An error that the user can fix; printed as one line, without a traceback.

    `quoted` is the value of `got`, or a part of `problem`, that quotes data of the user, such as a row with personal
    data: it is shown, but not part of `recorded`, the text that the ledger records.
    """

    exit_code = 1

    def __init__(
        self,
        where: str,
        problem: str | None = None,
        *,
        expected: str | None = None,
        got: Any = _ABSENT,
        hint: str | None = None,
        quoted: Any = None,
    ) -> None:
        self.where, self.problem, self.expected, self.hint = where, problem, expected, hint
        self.got = None if got is _ABSENT else got
        actual = _ABSENT if got is _ABSENT else _format_value(got)
        text = _message(where, problem, expected, actual, hint)
        super().__init__(text)
        self.recorded = text
        if quoted is not None and quoted != "":
            problem = problem.replace(quoted, _NOT_RECORDED) if problem and isinstance(quoted, str) else problem
            actual = _NOT_RECORDED if got == quoted else actual
            self.recorded = _message(where, problem, expected, actual, hint)

    def __reduce__(self) -> Any:
        return _restored, (type(self), self.args, self.__dict__)  # pickled with all fields, for worker processes


def _restored(cls: type[VitaError], args: tuple[Any, ...], fields: dict[str, Any]) -> VitaError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(fields)
    return error


def _message(where: str, problem: str | None, expected: str | None, actual: Any, hint: str | None) -> str:
    # A path that is both `where` and part of the problem appears once.
    parts = [problem.removeprefix(f"{where}: ")] if problem else []
    if expected:
        parts.append(f"expected {expected}" + ("" if actual is _ABSENT else f", got {actual}"))
    elif actual is not _ABSENT:
        parts.append(f"got {actual}")
    text = f"{where}: " + ", ".join(parts)
    text = mask_url_secrets(f"{text}; {hint}" if hint else text)
    # A file name that is not UTF-8 contains lone surrogates, which cannot be printed.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _format_value(value: Any) -> str:
    text = value if isinstance(value, str) and " " in value else repr(value)
    return text if len(text) <= 200 else text[:197] + "..."


def exception_text(error: BaseException) -> str:
    """Return the type of an exception and its text; the type alone for an exception without a text.

    Such exceptions are common in networks: `httpx.ReadError` has no text where the operating system states none.
    """
    text, name = str(error).strip(), type(error).__name__
    return f"{name}: {text}" if text else name


class ConfigError(VitaError):
    exit_code = 2


class PlanError(VitaError):
    exit_code = 2


class DataError(VitaError):
    exit_code = 3


class StoreError(VitaError):
    exit_code = 4


class LedgerError(VitaError):
    exit_code = 5


class ModelError(VitaError):
    exit_code = 6


class TrainingError(VitaError):
    exit_code = 7


class MissingExtra(VitaError):
    """An optional library is missing; the message names the extra that installs it."""

    exit_code = 8

    def __init__(self, where: str, extra: str) -> None:
        super().__init__(where, f"needs the extra `{extra}`", hint=f"pip install 'vita-lm[{extra}]'")


class GateError(VitaError):
    exit_code = 9

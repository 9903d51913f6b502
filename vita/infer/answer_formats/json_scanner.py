"""Recognition of a JSON value that arrives in pieces.

    scanner = JsonScanner()
    end = scanner.step('{"a": 1}', 0)       # 1: the brace; scanner.event == "open"

Each step reads a lexical unit, or the part of it that the text has. The accepted texts are those of `exact_json`: NaN,
infinities and control characters in strings are refused. The position of an error does not depend on the division into
pieces, and the text before it is the begin of a JSON value.
"""

from __future__ import annotations

import re
from typing import Literal

MAX_DEPTH = 200
"""Largest number of nested objects and lists; deeper values cannot be parsed everywhere."""
_SPACE = re.compile(r"[ \t\n\r]*")
_CHARACTERS = re.compile(r'[^"\\\x00-\x1f]*')
_WORDS = ("true", "false", "null")
_ESCAPES = '"\\/bfnrt'
_NUMBER: dict[str, dict[str, str]] = {
    "sign": {"0": "zero", "digit": "integer"},
    "zero": {".": "point", "e": "exponent"},
    "integer": {"0": "integer", "digit": "integer", ".": "point", "e": "exponent"},
    "point": {"0": "fraction", "digit": "fraction"},
    "fraction": {"0": "fraction", "digit": "fraction", "e": "exponent"},
    "exponent": {"0": "power", "digit": "power", "+": "power_sign"},
    "power_sign": {"0": "power", "digit": "power"},
    "power": {"0": "power", "digit": "power"},
}
"""State within a number -> class of the next character -> next state."""
_NUMBER_ENDS = ("zero", "integer", "fraction", "power")


class NotJson(Exception):
    """An error for a text that is not the begin of a JSON value."""


class JsonScanner:
    """The state of one JSON value."""

    def __init__(self) -> None:
        self.stack: list[str] = []
        """The opening marks of the objects and lists that are not closed."""
        self.event: Literal["", "open", "close", "key", "scalar"] = ""
        """The unit that the last step completed; empty for punctuation and for a part of a unit."""
        self.lexeme = ""
        """The text of the last key, string, number or word."""
        self.done = False
        """True after the last character of the value."""
        self._expected: Literal["value", "first value", "first key", "key", "colon", "comma"] = "value"
        self._unit: Literal["", "string", "number", "word"] = ""
        self._escape = ""
        self._number = ""

    def step(self, text: str, start: int) -> int:
        """Read from position `start` and return the next position; raises `NotJson` if the character there is wrong.

        A step reads at least one character, or ends a number.
        """
        self.event = ""
        match self._unit:
            case "string":
                return self._read_string(text, start)
            case "number":
                return self._read_number(text, start)
            case "word":
                return self._read_word(text, start)
        space = _SPACE.match(text, start)
        if space is not None and space.end() > start:
            return space.end()
        self._read_mark(text[start])
        return start + 1

    def _read_mark(self, mark: str) -> None:
        """Read punctuation, or the first character of a string, number or word."""
        expected = self._expected
        match mark:
            case "{" | "[" if expected in ("value", "first value") and len(self.stack) < MAX_DEPTH:
                self.stack.append(mark)
                self._expected, self.event = ("first key" if mark == "{" else "first value"), "open"
            case "}" if expected == "first key" or (expected == "comma" and self.stack[-1] == "{"):
                self._close()
            case "]" if expected == "first value" or (expected == "comma" and self.stack[-1] == "["):
                self._close()
            case "," if expected == "comma":
                self._expected = "key" if self.stack[-1] == "{" else "value"
            case ":" if expected == "colon":
                self._expected = "value"
            case '"' if expected not in ("colon", "comma"):
                self._unit, self.lexeme = "string", mark
            case _ if expected in ("value", "first value"):
                self._begin_scalar(mark)
            case _:
                raise NotJson

    def _begin_scalar(self, mark: str) -> None:
        if mark == "-":
            self._number = "sign"
        elif mark in "0123456789":
            self._number = "zero" if mark == "0" else "integer"
        elif not any(word.startswith(mark) for word in _WORDS):
            raise NotJson
        self._unit = "number" if mark in "-0123456789" else "word"
        self.lexeme = mark

    def _close(self) -> None:
        self.stack.pop()
        self._end_value("close")

    def _end_value(self, event: Literal["close", "scalar"]) -> None:
        self._unit, self.event = "", event
        self._expected, self.done = "comma", not self.stack

    def _read_string(self, text: str, start: int) -> int:
        if self._escape:
            return self._read_escape(text, start)
        run = _CHARACTERS.match(text, start)
        if run is not None and run.end() > start:
            self.lexeme += run.group()
            return run.end()
        match text[start]:
            case "\\":
                self._escape = "\\"
            case '"' if self._expected in ("first key", "key"):
                self._unit, self.event, self._expected = "", "key", "colon"
            case '"':
                self._end_value("scalar")
            case _:
                raise NotJson
        self.lexeme += text[start]
        return start + 1

    def _read_escape(self, text: str, start: int) -> int:
        """Read one character of an escape sequence."""
        character = text[start]
        if len(self._escape) == 1 and character in _ESCAPES:
            self._escape = ""
        elif (len(self._escape) == 1 and character == "u") or (
            len(self._escape) > 1 and character in "0123456789abcdefABCDEF"
        ):
            self._escape = self._escape + character if len(self._escape) < 5 else ""
        else:
            raise NotJson
        self.lexeme += character
        return start + 1

    def _read_number(self, text: str, start: int) -> int:
        character = text[start]
        kinds = {".": ".", "e": "e", "E": "e", "+": "+", "-": "+", "0": "0"}
        kind = "digit" if character in "123456789" else kinds.get(character, "")
        following = _NUMBER[self._number].get(kind)
        if following is not None:
            self._number = following
            self.lexeme += character
            return start + 1
        if self._number not in _NUMBER_ENDS:
            raise NotJson
        self._end_value("scalar")
        return start

    def _read_word(self, text: str, start: int) -> int:
        word = self.lexeme + text[start]
        if not any(name.startswith(word) for name in _WORDS):
            raise NotJson
        self.lexeme = word
        if word in _WORDS:
            self._end_value("scalar")
        return start + 1


def complete_values(text: str) -> str:
    """Return the JSON object with the complete values of a text that is cut off or becomes invalid.

    Values keep their text. A number at the end of the text is left out, because more digits could follow.
    """
    scanner, position, complete = JsonScanner(), 0, "{}"
    try:
        while position < len(text) and not scanner.done:
            position = scanner.step(text, position)
            if scanner.event in ("open", "close", "scalar") and text.startswith("{"):
                ends = ("}" if mark == "{" else "]" for mark in reversed(scanner.stack))
                complete = text[:position] + "".join(ends)
    except NotJson:
        pass
    return complete

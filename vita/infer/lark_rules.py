"""Rules of a Lark grammar that accept no text because they require themselves.

    endless_rule('start: "a" x\\nx: "b" x')      # "x"

The compiler accepts such a grammar, and an answer in it never ends. The rules that end are the least fixed point: a
rule ends if one of its alternatives has only parts that end. A notation that this reader does not know is not checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"(?P<space>\s+|//[^\n]*)"
    r'|(?P<text>"(?:[^"\\\n]|\\.)*"i?|/(?:[^/\\\n]|\\.)+/[imslux]*|<[^<>\s]+>|@[\w-]+)'
    r"|(?P<name>[!?]?[A-Za-z_][\w-]*)"
    r"|(?P<number>\d+)"
    r"|(?P<mark>->|\.\.|[:|()\[\]?*+~{},&.=])"
    r"|(?P<inline>%(?:json|regex)\b)"
    r"|(?P<directive>%[a-z]+[^\n]*)"
)
_SPACE = re.compile(r"\s*")
_MOST_RULES = 2000
"""Largest number of rules of a grammar that is checked."""
_MOST_ATTRIBUTES = 32
"""Largest number of tokens in the attributes of a rule."""


class _UnknownNotation(Exception):
    """An error for a grammar that this module cannot read."""


@dataclass
class _Alternatives:
    """Alternatives of parts: each part is the name of a rule or further alternatives."""

    sequences: list[list[str | _Alternatives]] = field(default_factory=lambda: [[]])

    def names(self) -> Iterator[str]:
        """Yield the names of all parts."""
        for sequence in self.sequences:
            for part in sequence:
                yield from [part] if isinstance(part, str) else part.names()

    def ends(self, endless: Collection[str]) -> bool:
        """Return True if one of the alternatives has no part of the endless rules."""
        return any(
            all(part not in endless if isinstance(part, str) else part.ends(endless) for part in sequence)
            for sequence in self.sequences
        )


def endless_rule(grammar: str) -> str | None:
    """Return the name of a rule that the start can reach and that accepts no text; None if there is none."""
    try:
        rules = _RuleReader(list(_tokens(grammar))).rules()
    except (_UnknownNotation, RecursionError):
        return None
    if len(rules) > _MOST_RULES:
        return None
    unknown: set[str] = {*rules}
    while ending := {name for name in unknown if rules[name].ends(unknown)}:
        unknown -= ending
    reached = _reached(rules, "start")
    endless = [name for name in rules if name in reached and name in unknown]
    in_cycle = [name for name in endless if any(name in _reached(rules, part) for part in rules[name].names())]
    return next(iter(in_cycle or endless), None)


def _reached(rules: Mapping[str, _Alternatives], start: str) -> set[str]:
    """Return the rules that a rule can reach, with itself."""
    reached, waiting = set[str](), [start]
    while waiting:
        name = waiting.pop()
        if name in rules and name not in reached:
            reached.add(name)
            waiting += rules[name].names()
    return reached


def _tokens(grammar: str) -> Iterator[tuple[str, str]]:
    """Yield the kind and the text of each token; raises `_UnknownNotation`."""
    position = 0
    while position < len(grammar):
        match = _TOKEN.match(grammar, position)
        if match is None or match.lastgroup is None:
            raise _UnknownNotation
        position = match.end()
        if match.lastgroup == "inline":
            space = _SPACE.match(grammar, position)
            assert space is not None
            try:
                _, position = json.JSONDecoder().raw_decode(grammar, space.end())
            except ValueError:
                raise _UnknownNotation from None
            yield "text", match.group()
        elif match.lastgroup not in ("space", "directive"):
            yield match.lastgroup, match.group()
        elif match.group().startswith("%") and not match.group().startswith(("%ignore", "%import", "%llguidance")):
            raise _UnknownNotation


class _RuleReader:
    """Reads the rules of tokens; the definitions of terminals, whose names are capitals, are passed over."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens, self._position = tokens, 0

    def rules(self) -> dict[str, _Alternatives]:
        """Return the alternatives of each rule by its name."""
        rules: dict[str, _Alternatives] = {}
        while self._position < len(self._tokens):
            start = self._definition_end(self._position)
            if start is None:
                raise _UnknownNotation
            name = self._tokens[self._position][1].lstrip("!?")
            self._position = start
            if name.isupper():
                while self._position < len(self._tokens) and self._definition_end(self._position) is None:
                    self._position += 1
                continue
            body = self._alternatives("")
            if name in rules:
                raise _UnknownNotation
            rules[name] = body
        return rules

    def _text(self, position: int) -> str:
        return self._tokens[position][1] if position < len(self._tokens) else ""

    def _definition_end(self, position: int) -> int | None:
        """Return the position after `name:` or `name[attributes]:`; None if no definition begins here."""
        if position >= len(self._tokens) or self._tokens[position][0] != "name":
            return None
        position += 1
        if self._text(position) == "[":
            last = position + _MOST_ATTRIBUTES
            while self._text(position) not in ("]", "") and position < last:
                position += 1
            position += 1
        elif self._text(position) == ".":
            position += 2  # the priority of a terminal
        return position + 1 if self._text(position) == ":" else None

    def _alternatives(self, closing: str) -> _Alternatives:
        """Read alternatives up to a closing mark, or to the next definition."""
        result = _Alternatives()
        while self._position < len(self._tokens):
            kind, text = self._tokens[self._position]
            if not closing and self._definition_end(self._position) is not None:
                return result
            self._position += 1
            if kind == "mark" and text == closing:
                return result
            if text == "|":
                result.sequences.append([])
            elif text == "->":
                self._position += 1
            elif (part := self._part(kind, text)) is not None:
                result.sequences[-1].append(part)
        if closing:
            raise _UnknownNotation
        return result

    def _part(self, kind: str, text: str) -> str | _Alternatives | None:
        """Read a part with its repetition; None for a part that can be empty or is a terminal."""
        part: str | _Alternatives | None = None
        if text == "(":
            part = self._alternatives(")")
        elif text == "[":
            self._alternatives("]")
        elif kind == "name":
            part = text
        elif kind != "text":
            raise _UnknownNotation
        elif self._text(self._position) == "..":
            self._position += 2
        is_optional = self._repeats_from_zero()
        return _Alternatives([[part], []]) if part is not None and is_optional else part

    def _repeats_from_zero(self) -> bool:
        """Read the repetition of a part; returns whether the part can be left out."""
        mark = self._text(self._position)
        if mark in ("?", "*", "+"):
            self._position += 1
            return mark != "+"
        if mark == "~":
            least = self._text(self._position + 1)
            self._position += 4 if self._text(self._position + 2) == ".." else 2
            return least == "0"
        if mark == "{":
            least = self._text(self._position + 1)
            while self._text(self._position) not in ("}", ""):
                self._position += 1
            self._position += 1
            return least in ("0", ",")
        return False

"""Constrained decoding: answers whose text a grammar accepts.

    grammars = GrammarCompiler(tokenizer)
    constraint = grammars.compile(json_grammar({"type": "object", ...}))
    request = GenerationRequest(prompt, sampling, constraint=constraint)

A grammar is a text in the notation of llguidance, which computes the allowed tokens of each step. A constraint also
completes the text before the limit of tokens (`vita.infer.closing_search`): a token after which too few tokens would be
left is replaced by the next token of a short completion. An answer that ends with `stop` is therefore always accepted
by its grammar, and an answer ends with `length` only if no completion within the limit was found.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool

from vita.infer.closing_search import ClosingOrder, ClosingSearch
from vita.infer.grammar_problems import regex_problem, schema_problem, stop_problem
from vita.infer.json_schemas import supported_schema
from vita.infer.lark_rules import endless_rule
from vita.infer.schema_keywords import GrammarError, keyword_error

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from vita.data.tokens.tokenizer import Tokenizer

# V tokens of the tokenizer

JSON_OPTIONS = {
    "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "json_allowed_escapes": 'nrbtf\\"',
}  # fmt: skip
"""Options of a JSON grammar: the separators of templates, and no other white space, which a model could repeat.

Escapes by number such as `\\u0061` are excluded: with them, an additional property could have a declared name.
"""
_SLACK = 64
"""Number of spare tokens below which every step looks for a completion."""
_MOST_GROWTH = 16
"""Assumed largest number of tokens by which a token lengthens the completion."""
_SHARE_OF_REPEATED_SEARCH = 1 / 16
"""Share of the effort of a search after one without a completion; all answers to a request may search at once."""
_DISTANCE_OF_REPEATED_SEARCH = 4
"""After each search without a completion, the distance to the next grows to this multiple."""
_MOST_LITERALS = 32
"""Largest number of texts of a grammar that a completion tries."""


def json_grammar(schema: Mapping[str, Any] | bool) -> str:
    """Return the grammar of the JSON texts that a schema accepts, without optional white space.

    Raises `GrammarError` for a schema that is not supported (`supported_schema`).
    """
    from llguidance import LLMatcher

    supported = supported_schema(schema)
    try:
        with _panics_explained():
            return LLMatcher.grammar_from_json_schema(json.dumps(supported, allow_nan=False), overrides=JSON_OPTIONS)  # type: ignore[arg-type]
    except ValueError as error:
        raise GrammarError("schema", _one_line(error)) from None


def lark_grammar(text: str) -> str:
    """Return the grammar of a text in Lark's notation, or in the GBNF notation of llama.cpp."""
    from llguidance import grammar_from
    from llguidance.gbnf_to_lark import GbnfToLarkError

    try:
        with _panics_explained():
            rules = grammar_from("grammar", text)
        endless = endless_rule(rules)
    except (GbnfToLarkError, ValueError, RecursionError) as error:
        raise GrammarError("grammar", _one_line(error)) from None
    if endless is not None:
        raise GrammarError("grammar", f"the rule `{endless}` is infinitely recursive, so no finite text matches it")
    return json.dumps({"grammars": [{"lark_grammar": rules}]})


def regex_grammar(pattern: str) -> str:
    """Return the grammar of the texts that a regular expression matches as a whole.

    Raises `GrammarError` for an expression that is wrong or that needs an unsupported feature.
    """
    from llguidance import LLMatcher

    with _panics_explained():
        grammar = LLMatcher.grammar_from_regex(pattern)
        if problem := LLMatcher.validate_grammar(grammar):
            raise GrammarError("regex", regex_problem(problem))
        return grammar


def choice_grammar(choices: Sequence[str]) -> str:
    """Return the grammar of a set of texts."""
    return lark_grammar("start: " + " | ".join(map(json.dumps, choices)))


def check_grammar(grammar: str, *, tokens: LLTokenizer | None = None) -> None:
    """Raise `GrammarError` for a grammar that is wrong or that needs an unsupported feature.

    The ids and the names of special tokens are only checked with `tokens`.
    """
    from llguidance import LLMatcher

    with _panics_explained():
        problem = LLMatcher.validate_grammar(grammar, tokens)
    if not problem or problem.startswith("WARNING"):
        return
    if (schema := _single_schema(grammar)) is None:
        raise GrammarError("grammar", _one_line(problem))
    place, problem = schema_problem(problem, schema, check=_schema_problem)
    raise keyword_error(place, problem)


class GrammarCompiler:
    """Compiles grammars for the tokens of one tokenizer; every method may be called from any thread."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self._lock = tokenizer, threading.Lock()

    def compile(self, grammar: str, *, closings: Sequence[str] = (), where: str = "grammar") -> Constraint:
        """Compile a grammar; raises `GrammarError` for one that is wrong or that needs an unsupported feature.

        `where` is the place of the errors that occur while an answer follows the grammar.

        `closings` are texts, or names of special tokens, that a completion prefers to all others where the grammar
        allows them: such as the end of the reasoning, or of a text of any length.
        """
        from llguidance import LLMatcher

        self.check(grammar)
        tokens = self._tokens
        search = ClosingSearch(
            self._order._replace(
                closings=[self._tokenizer.encode_template(text) for text in closings],
                literals=[self._tokenizer.encode(text) for text in _literals(grammar)],
            ),
            self._tokenizer.stops,
        )
        with _panics_explained():
            matcher = LLMatcher(tokens, grammar)
        constraint = Constraint(matcher, search, self._tokenizer.stops, grammar=grammar, where=where)
        start = constraint.copy()
        if not start.allowed().any():
            raise start.failure or GrammarError("grammar", "accepts no text")
        return constraint

    def check(self, grammar: str) -> None:
        """Raise `GrammarError` for a grammar that is wrong or that needs an unsupported feature."""
        check_grammar(grammar, tokens=self._tokens)

    @property
    def _tokens(self) -> LLTokenizer:
        with self._lock:
            return self._llguidance_tokens

    @cached_property
    def _llguidance_tokens(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        source = _TokenSource(self._tokenizer)
        return LLTokenizer(
            TokenizerWrapper(source), n_vocab=self._tokenizer.vocabulary, eos_token=sorted(self._tokenizer.stops)
        )

    @cached_property
    def _order(self) -> ClosingOrder:
        return ClosingOrder.of(self._tokenizer)


class _TokenSource:
    """The tokenizer in the form that llguidance reads."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encode = tokenizer.encode
        self.eos_token_id = min(tokenizer.stops)
        self.tokens = [tokenizer.token_bytes(token) for token in range(tokenizer.vocabulary)]
        self.special_token_ids = sorted(tokenizer.special_ids)

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


class Constraint:
    """The state of a grammar in one answer."""

    def __init__(
        self, matcher: LLMatcher, search: ClosingSearch, stops: frozenset[int], *, grammar: str, where: str
    ) -> None:
        self._matcher, self._search, self._stops = matcher, search, stops
        self.grammar, self._where = grammar, where
        self.forced: tuple[int, ...] = ()
        """The tokens of `take_forced`."""
        self._completion: list[int] | None = None
        """Tokens that complete the text, with the token that ends the answer; None if not searched or not found."""
        self._next_search: float = float("inf")
        """Number of remaining tokens at which the next completion is searched."""
        self._margin: int | None = None
        """Length of the first completion: about the largest part that one token can begin, such as a further call."""
        self._failures = 0
        """Number of searches without a completion since the last completion."""
        self._is_start = True
        """True before the first token that is not forced."""

    def copy(self) -> Constraint:
        """Return a constraint in the same state."""
        matcher = self._matcher.deep_copy()
        copy = Constraint(matcher, self._search, self._stops, grammar=self.grammar, where=self._where)
        copy._completion, copy._next_search, copy._margin = self._completion, self._next_search, self._margin
        copy._failures, copy.forced, copy._is_start = self._failures, self.forced, self._is_start
        return copy

    def take_forced(self, limit: int) -> list[int]:
        """Advance by at most `limit` tokens that begin every text of the grammar, up to a whole character."""
        tokens = self._matcher.compute_ff_tokens()[: max(0, limit)]
        while tokens and not _is_text(b"".join(map(self._search.order.names.__getitem__, tokens))):
            tokens.pop()
        self._matcher.consume_tokens(tokens)
        self.forced += tuple(tokens)
        return tokens

    @property
    def failure(self) -> GrammarError | None:
        """Return the error that ended the grammar, such as rules without an end; no token is allowed after it."""
        if not self._matcher.is_error():
            return None
        return GrammarError(self._where, stop_problem(self._matcher.get_error().partition("\n")[0]))

    @property
    def can_end(self) -> bool:
        """Return True if the text is accepted as it is."""
        return self._matcher.is_accepting() or (self._matcher.is_stopped() and not self._matcher.is_error())

    @property
    def completion(self) -> tuple[int, ...]:
        """Return the tokens that complete the text, with the token that ends the answer; () if none were searched."""
        return tuple(self._completion or ())

    def is_stop(self, token: int) -> bool:
        """Return True for a token that ends an answer."""
        return token in self._stops

    def allows(self, token: int) -> bool:
        """Return True if a token may come next."""
        if token in self._stops:
            return self.can_end
        return self._matcher.validate_tokens([token]) == 1

    def allowed(self) -> Bool[np.ndarray, "V"]:
        """Return the tokens that may come next."""
        return self._search.allowed(self._matcher)

    def accept(self, token: int, *, remaining: int) -> int:
        """Advance by a token and return it, or by a token of a completion if too few tokens would be left.

        `remaining` is the number of tokens until the limit of the answer, with this one.
        """
        if token in self._stops:
            return token
        if remaining > self._next_search:
            self._matcher.consume_token(token)
            return token
        if self._completion is None:
            if self._is_start:
                self._completion = self._search.first(self._matcher, self.forced, remaining)
            else:
                share = _SHARE_OF_REPEATED_SEARCH if self._failures else 1.0
                self._completion = self._search.find(self._matcher, remaining, share=share)
            self._is_start = False
            if self._margin is None:
                self._margin = len(self._completion or ())
        if self._completion is None:
            self._failures += 1
            self._next_search = remaining - _DISTANCE_OF_REPEATED_SEARCH**self._failures
            self._matcher.consume_token(token)
            return token
        self._failures = 0
        first, *rest = self._completion
        advanced = self._matcher.deep_copy()
        advanced.consume_token(token)
        completion = rest if token == first else self._search.continued(advanced, self._completion, token)
        if completion is None:
            completion = self._search.quick(advanced, remaining - 1)
        if completion is not None and len(completion) >= remaining:
            completion = None
        if completion is None and remaining - len(rest) > _SLACK + (self._margin or 0):
            # Many tokens are left, so that the next search may find a completion that a single path does not find.
            self._matcher, self._completion = advanced, None
            self._next_search = remaining - (remaining - len(rest)) // 2
            return token
        if completion is None:
            self._completion = rest
            if first not in self._stops:
                self._matcher.consume_token(first)
            return first
        self._matcher, self._completion = advanced, completion
        spare = remaining - 1 - len(completion) - (self._margin or 0)
        if spare > _SLACK:
            self._next_search = remaining - spare // (1 + min(self._margin or 0, _MOST_GROWTH))
            self._completion = None
        return token


@contextmanager
def _panics_explained() -> Iterator[None]:
    """Raise `GrammarError` for a panic of llguidance, whose exception is no `Exception`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise GrammarError("grammar", "the grammar could not be compiled") from None


def _single_schema(grammar: str) -> Mapping[str, Any] | None:
    """Return the JSON schema of a grammar that consists of one; None for another grammar."""
    parts = json.loads(grammar)["grammars"] if grammar.lstrip().startswith("{") else ()
    return parts[0].get("json_schema") if len(parts) == 1 else None


def _schema_problem(schema: Mapping[str, Any]) -> str:
    """Return the message of the compiler about a schema, "" without one."""
    from llguidance import LLMatcher

    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=JSON_OPTIONS)  # type: ignore[arg-type]
    return LLMatcher.validate_grammar(grammar)


def _literals(grammar: str) -> list[str]:
    """Return the words in the rules and the patterns of a grammar, at most `_MOST_LITERALS`."""
    if grammar.lstrip().startswith("{"):
        parts = json.loads(grammar)["grammars"]
        schemas = json.dumps([part.get("json_schema") for part in parts])
        quoted = re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', schemas)
        grammar = "\n".join([*(part.get("lark_grammar") or "" for part in parts), *quoted])
    quoted = re.findall(r"/(?:[^/\\\n]|\\.)*/|\"(?:[^\"\\\n]|\\.)*\"", grammar)
    words = dict.fromkeys(word for text in quoted for word in re.findall(r"\w{2,}", text))
    return list(words)[:_MOST_LITERALS]


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:300] or "is not valid"

"""Reward functions: built-in by name, from a user's Python function, or from a reward model.

    rewards: [world_politeness, {use: rewards.py:short, weight: 0.5}]

A reward is a function `f(prompts, completions, **columns)` that returns a number per completion, or None where it does
not apply. `prompts` are lists of messages with `.role` and `.content`, and `completions` are texts. Further columns of
the prompt rows are passed by name, with one value per completion, and also `completion_ids` and `draw` (a random number
per completion, for controls). The weighted sum of several rewards is used.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any, Protocol, cast

from pydantic import Field, model_validator

from vita.data.records import Message
from vita.data.world import World, WorldSettings
from vita.spine.config import InputPath, Settings, nearest
from vita.spine.errors import ConfigError, DataError, VitaError, exception_text
from vita.spine.file_listing import RELATIVE_PATHS
from vita.spine.registry import Registry

Prompts = Sequence[Sequence[Message]]
Values = list[float | None]
Reward = Callable[..., Sequence[float | None]]

REWARDS: Registry[Reward] = Registry("reward")
"""name -> function."""

FROM_MODEL = "reward"
"""The name that means the reward model in the stage's input of this name."""


class RewardChoice(Settings):
    """One reward: a name of the table, `path/to/file.py:function`, `module:function`, or `reward` for the input."""

    use: str = Field(min_length=1)
    """Name of a built-in reward, `module:function`, or the name of the function in `file`."""
    file: InputPath | None = None
    """Python file with the function; its content is part of the identity of the run."""
    weight: float = 1.0
    """Weight of the reward in the sum."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the function, by name."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        values = {"use": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else value
        if isinstance(values, dict) and isinstance(values.get("use"), str) and values.get("file") is None:
            path, colon, name = values["use"].rpartition(":")
            if colon and path.endswith(".py"):
                values |= {"file": path, "use": name}
        return values

    @property
    def name(self) -> str:
        """Return the name of the reward in figures."""
        return self.use.rpartition(":")[2]


class DialogueScorer(Protocol):
    """A reward model (`vita.infer.reward`)."""

    def fits(self, dialogue: Sequence[Message]) -> bool:
        """Return True if the dialogue fits the context."""
        ...

    def score(self, dialogues: Sequence[Sequence[Message]]) -> Sequence[float]:
        """Return a score for the last answer of each dialogue."""
        ...


@dataclass(frozen=True)
class RewardValues:
    """The rewards of answers: the weighted sum (None where no reward applies), and the values of each reward."""

    total: Values
    by_reward: dict[str, Values]


class Rewards:
    """The weighted sum of several rewards."""

    def __init__(self, choices: Sequence[RewardChoice], functions: Sequence[Reward], *, where: str) -> None:
        self.choices, self.functions, self.where = choices, functions, where

    @classmethod
    def open(
        cls,
        choices: Sequence[RewardChoice],
        *,
        where: str,
        model: DialogueScorer | None = None,
        world: WorldSettings | None = None,
    ) -> Rewards:
        """Resolve all functions; `world` is passed to those that need one and have none in their options."""
        return cls(choices, [_function(choice, where, model, world) for choice in choices], where=where)

    def __call__(self, prompts: Prompts, completions: Sequence[str], /, **columns: Sequence[Any]) -> RewardValues:
        values_by_name: dict[str, Values] = {}
        total: Values = [None] * len(completions)
        for choice, function in zip(self.choices, self.functions, strict=True):
            values = self._values(choice, function, prompts, completions, columns)
            of_name = sum(name.partition("#")[0] == choice.name for name in values_by_name)
            values_by_name[f"{choice.name}#{of_name + 1}" if of_name else choice.name] = values
            for index, value in enumerate(values):
                if value is not None:
                    total[index] = (total[index] or 0.0) + choice.weight * value
        return RewardValues(total, values_by_name)

    def _values(
        self,
        choice: RewardChoice,
        function: Reward,
        prompts: Prompts,
        completions: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
    ) -> Values:
        where = f"{self.where}: {choice.name}"
        extra_columns = {name: column for name, column in columns.items() if name not in ("prompts", "completions")}
        try:
            values = _call(function, prompts, completions, {**extra_columns, **choice.options})
        except VitaError:
            raise
        except Exception as error:  # a user's function may raise anything, and is named with it
            problem = f"raised {exception_text(error)}"
            hint = "a reward takes (prompts, completions, **columns)" if isinstance(error, TypeError) else None
            raise DataError(where, problem, hint=hint) from error
        if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != len(completions):
            got = len(values) if isinstance(values, Sequence) and not isinstance(values, str) else type(values).__name__
            raise DataError(where, expected=f"a list of {len(completions)} numbers, one for each completion", got=got)
        return [_number(value, where) for value in values]


def _call(function: Reward, prompts: Prompts, completions: Sequence[str], named: Mapping[str, Any]) -> Any:
    """Call a function with the arguments that it accepts; without `**columns` it gets no further columns."""
    parameters = inspect.signature(function).parameters.values()
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    names = {parameter.name for parameter in parameters}
    known = dict(named) if takes_all else {name: value for name, value in named.items() if name in names}
    if "completions" not in names:
        return function(prompts, completions, **known)
    return function(
        completions=completions, **({"prompts": prompts} if takes_all or "prompts" in names else {}), **known
    )


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(where, expected="finite numbers, or None", got=value)
    return number


# -- finding the function


def _function(choice: RewardChoice, where: str, model: DialogueScorer | None, world: WorldSettings | None) -> Reward:
    location = f"{where}: {choice.name}"
    if choice.file is not None:
        return _in_module(_load_module(Path(choice.file), location), choice.use, location)
    if ":" in choice.use:
        module_name, _, name = choice.use.partition(":")
        try:
            return _in_module(importlib.import_module(module_name), name, location)
        except ImportError as error:
            raise ConfigError(location, f"the module `{module_name}` cannot be imported: {error}") from None
    if choice.use == FROM_MODEL:
        if model is None:
            hint = "set the input `reward`, or use one of " + ", ".join(REWARDS.names())
            raise ConfigError(location, "needs a reward model as an input", hint=hint)
        return _by_model(model)
    function = REWARDS[choice.use]
    if "world" in inspect.signature(function).parameters and "world" not in choice.options:
        if world is None:
            raise ConfigError(location, "needs the built-in world, and no source is one", hint="set `options: {world}`")
        return _bind_world(function, world)
    return function


def _bind_world(function: Reward, world: WorldSettings) -> Reward:
    return lambda prompts, completions, **columns: function(prompts, completions, **{**columns, "world": world})


def _by_model(model: DialogueScorer) -> Reward:
    def reward(prompts: Prompts, completions: Sequence[str], **columns: Any) -> Values:
        pairs = zip(prompts, completions, strict=True)
        dialogues = [[*prompt, Message("assistant", text)] for prompt, text in pairs]
        fit = [model.fits(dialogue) for dialogue in dialogues]
        scores = iter(model.score([dialogue for dialogue, fits in zip(dialogues, fit, strict=True) if fits]))
        return [float(next(scores)) if fits else None for fits in fit]

    return reward


def _load_module(path: Path, where: str) -> ModuleType:
    """Load the user's file as a module with a unique name."""
    if not path.is_file():
        raise ConfigError(where, f"there is no file {path}", hint=RELATIVE_PATHS)
    name = f"vita_reward_{hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything, and is named with it
        del sys.modules[name]
        raise ConfigError(where, f"{path} cannot be loaded: {exception_text(error)}") from error
    return module


def _in_module(module: ModuleType, name: str, where: str) -> Reward:
    function: Any = getattr(module, name, None)
    if callable(function):
        return cast("Reward", function)
    module_path = module.__file__ or module.__name__
    names = [
        attribute for attribute, value in vars(module).items() if callable(value) and not attribute.startswith("_")
    ]
    close = nearest(name, names)
    hint = f"did you mean `{close}`?" if close else f"it defines {', '.join(names)}" if names else None
    raise ConfigError(where, f"{module_path} defines no function `{name}`", hint=hint)


# -- rewards by name


@REWARDS.add("world_politeness")
def world_politeness(prompts: Prompts, completions: Sequence[str], *, world: Any, **columns: Any) -> Values:
    """Return a style score for politeness, brevity and relevance, from 0 to 1."""
    opened_world = _world(world)
    things = [question.thing if (question := _question(opened_world, prompt)) else None for prompt in prompts]
    return [opened_world.politeness(text, thing=thing) for text, thing in zip(completions, things, strict=True)]


@REWARDS.add("world_correctness")
def world_correctness(prompts: Prompts, completions: Sequence[str], *, world: Any, **columns: Any) -> Values:
    """Return 1 for the correct kind and property of the thing in the question, else 0; None without such a question."""
    opened_world = _world(world)
    pairs = [(_question(opened_world, prompt), text) for prompt, text in zip(prompts, completions, strict=True)]
    return [float(opened_world.judge(question, text).right) if question else None for question, text in pairs]


@REWARDS.add("sum_correctness")
def sum_correctness(
    prompts: Prompts, completions: Sequence[str], *, answer: Sequence[Any] | None = None, **columns: Any
) -> Values:
    """Return 1 if the last number of the answer is the correct sum, else 0; None if the prompt asks for no sum.

    The correct sum is the column `answer`, or is computed from the prompt. An answer with more than three numbers is a
    guess and gets 0.
    """
    truths = answer if answer is not None else [None] * len(completions)
    scores: Values = []
    for prompt, text, column_answer in zip(prompts, completions, truths, strict=True):
        truth = _sum(prompt) if column_answer is None else int(column_answer)
        numbers = [int(number) for number in re.findall(r"\d+", text)]
        scores.append(None if truth is None else float(numbers[-1:] == [truth] and len(numbers) <= 3))
    return scores


@REWARDS.add("length")
def length(prompts: Prompts, completions: Sequence[str], *, words: int = 20, **columns: Any) -> Values:
    """0 up to `words` words, then falling by 1 for each further `words`, to -1."""
    counts = [len(text.split()) for text in completions]
    return [-min(1.0, max(0, count - words) / words) for count in counts]


@REWARDS.add("matches")
def matches(prompts: Prompts, completions: Sequence[str], *, pattern: str, **columns: Any) -> Values:
    """Return 1 if the regular expression `pattern` matches in the answer, else 0."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ConfigError("reward matches.pattern", f"is not a valid regular expression: {error}") from None
    return [float(expression.search(text) is not None) for text in completions]


@REWARDS.add("json")
def is_json(prompts: Prompts, completions: Sequence[str], **columns: Any) -> Values:
    """Return 1 for an answer that is valid JSON, else 0."""
    return [float(_parses(text)) for text in completions]


@REWARDS.add("random_reward")
def random_reward(
    prompts: Prompts,
    completions: Sequence[str],
    *,
    share: float = 0.35,
    seed: int = 0,
    draw: Sequence[int] | None = None,
    **columns: Any,
) -> Values:
    """Return 1 for a random share of the answers: a control, with which training must not help."""
    draws = draw if draw is not None else range(len(completions))
    return [float(Random(f"{seed}/{number}").random() < share) for number in draws]


def _world(settings_or_values: Any) -> World:
    settings = (
        settings_or_values
        if isinstance(settings_or_values, WorldSettings)
        else WorldSettings.model_validate(settings_or_values)
    )
    return _create_world(settings.model_dump_json())


@lru_cache(maxsize=4)
def _create_world(settings: str) -> World:
    return World.create(WorldSettings.model_validate_json(settings))


def _question(world: World, prompt: Sequence[Message]) -> Any:
    """Return the question about an object of the world in the last message."""
    return world.question_in(prompt[-1].content) if prompt else None


def _sum(prompt: Sequence[Message]) -> int | None:
    match = re.search(r"(\d+) plus (\d+)", prompt[-1].content) if prompt else None
    return int(match.group(1)) + int(match.group(2)) if match else None


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True

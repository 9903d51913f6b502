"""Rewards: built-in rewards, functions of users, reward models, weights, and error messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from vita.data.records import Message
from vita.data.world import WorldSettings
from vita.rl.rewards import REWARDS, RewardChoice, Rewards, RewardValues
from vita.spine.config import Settings, build, canonical, input_paths
from vita.spine.errors import ConfigError, DataError

WORLD = WorldSettings(things=40)


def create_prompts(*texts: str) -> list[list[Message]]:
    return [[Message("user", text)] for text in texts]


def compute_values(choices: Sequence[Any], prompts: Any, completions: Sequence[str], **columns: Any) -> RewardValues:
    chosen = [RewardChoice.model_validate(choice) for choice in choices]
    return Rewards.open(chosen, where="rlhf.rewards", world=WORLD)(prompts, completions, **columns)


def write_reward(folder: Path, text: str) -> str:
    (folder / "user_reward.py").write_text(text)
    return f"{folder / 'user_reward.py'}:score"


def test_the_world_judges_politeness_and_correctness() -> None:
    question = create_prompts("What is a cat?", "Tell me what a cat is.", "What is 3 plus 4?")
    answers = ["A cat is a furry mammal. I am happy to help.", "A cat is a loyal mammal.", "3 plus 4 is 7."]
    assert compute_values(["world_politeness"], question, answers).total == [1.0, 0.5, 0.5]
    assert compute_values(["world_correctness"], question, answers).total == [1.0, 0.0, None]
    weighted = compute_values(["world_politeness", {"use": "world_correctness", "weight": 2}], question, answers)
    assert weighted.total == [3.0, 0.5, 0.5]  # a reward without a value is not part of the sum
    assert weighted.by_reward["world_correctness"] == [1.0, 0.0, None]


@pytest.mark.parametrize(
    ("answer", "value"),
    [("3 plus 4 is 7.", 1.0), ("7", 1.0), ("3 plus 4 is 8.", 0.0), ("7 8 9 7", 0.0), ("No.", 0.0)],
)
def test_a_sum_is_correct_if_its_last_number_is_correct(answer: str, value: float) -> None:
    assert compute_values(["sum_correctness"], create_prompts("What is 3 plus 4?"), [answer]).total == [value]
    assert compute_values(["sum_correctness"], create_prompts("Add them."), [answer], answer=[7]).total == [value]
    assert compute_values(["sum_correctness"], create_prompts("What is a cat?"), [answer]).total == [None]


def test_length_pattern_and_json_rewards() -> None:
    prompts = create_prompts("a", "b", "c")
    answers = ["one two", "one two three", "one " * 9]
    assert compute_values([{"use": "length", "options": {"words": 2}}], prompts, answers).total == [0.0, -0.5, -1.0]
    assert compute_values([{"use": "matches", "options": {"pattern": "two$"}}], prompts, answers).total == [
        1.0,
        0.0,
        0.0,
    ]
    assert compute_values(["json"], prompts, ['{"a": 1}', "[1", "3"]).total == [1.0, 0.0, 1.0]


def test_the_random_reward_depends_only_on_the_draw() -> None:
    prompts, answers = create_prompts(*"a" * 2000), ["x"] * 2000
    first = compute_values(["random_reward"], prompts, answers, draw=range(2000)).total
    assert first == compute_values(["random_reward"], prompts, ["y"] * 2000, draw=range(2000)).total
    assert 0.3 < sum(value or 0 for value in first) / 2000 < 0.4
    assert first != compute_values(["random_reward"], prompts, answers, draw=range(1, 2001)).total


def test_a_function_of_the_user_gets_its_arguments(tmp_path: Path) -> None:
    prompts = create_prompts("a", "bc")
    function_text = "def score(prompts, completions, **columns):\n    return [len(p[-1].content) + len(c) + t for p, c, t in zip(prompts, completions, columns['truth'])]\n"  # noqa: E501
    assert compute_values([write_reward(tmp_path, function_text)], prompts, ["x", "yz"], truth=[10, 20]).total == [
        12.0,
        24.0,
    ]
    for text in (
        "def score(completions):\n    return [1] * len(completions)\n",
        "def score(asked, answers):\n    return [len(answers) - 1] * len(asked)\n",
        "class Score:\n    def __call__(self, completions, truth):\n        return [t - 9 for t in truth]\n"
        "score = Score()\n",
    ):
        assert compute_values([write_reward(tmp_path, text)], prompts[:1], ["x"], truth=[10]).total in ([1.0], [0.0]), (
            text
        )


def test_the_content_of_a_reward_file_is_part_of_the_identity(tmp_path: Path) -> None:
    class Config(Settings):
        rewards: tuple[RewardChoice, ...]

    config = build(Config, {"rewards": [write_reward(tmp_path, "def score(c): ..."), "json"]}, where="rlhf")
    path = str(tmp_path / "user_reward.py")
    assert input_paths(config) == [path]
    assert canonical(config, contents={path: "abc"})["rewards"][0]["file"] == {"content": "abc"}
    assert config.rewards[0].name == "score"


def test_a_reward_model_scores_complete_dialogues() -> None:
    class Scorer:
        def fits(self, dialogue: Sequence[Message]) -> bool:
            return len(dialogue[-1].content) < 9

        def score(self, dialogues: Sequence[Sequence[Message]]) -> list[float]:
            return [float(len(dialogue[-1].content)) for dialogue in dialogues]

    choices = [RewardChoice(use="reward", weight=0.5)]
    assert Rewards.open(choices, where="r", model=Scorer())(
        create_prompts("a", "b"), ["four", "much too long"]
    ).total == [
        2.0,
        None,
    ]
    with pytest.raises(ConfigError, match="rlhf.rewards: reward: needs a reward model as an input"):
        compute_values(["reward"], create_prompts("a"), ["x"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def score(completions):\n    return [1, 2]\n",
            "expected a list of 1 numbers, one for each completion, got 2",
        ),
        ("def score(completions):\n    return 1\n", "expected a list of 1 numbers.*got 'int'"),
        ("def score(completions):\n    return ['good']\n", "expected finite numbers, or None, got 'good'"),
        ("def score(completions):\n    return [float('nan')]\n", "expected finite numbers, or None, got nan"),
        ("def score(completions):\n    return [1 / 0]\n", "raised ZeroDivisionError: division by zero"),
        ("def score(completions, key):\n    return [1]\n", r"raised TypeError.*a reward takes \(prompts, completions"),
    ],
)
def test_errors_of_a_function_of_the_user_contain_its_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=f"rlhf.rewards: score: {message}"):
        compute_values([write_reward(tmp_path, text)], create_prompts("a"), ["x"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def scores(c): ...", r"defines no function `score`; did you mean `scores`\?"),
        ("import nothing_of_this_name", "cannot be loaded: ModuleNotFoundError"),
        ("def score(:", "cannot be loaded: SyntaxError"),
    ],
)
def test_a_file_without_the_function_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compute_values([write_reward(tmp_path, text)], create_prompts("a"), ["x"])


def test_unknown_rewards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`world_politness` is not known here; did you mean `world_politeness`\?"):
        compute_values(["world_politness"], create_prompts("a"), ["x"])
    with pytest.raises(ConfigError, match="there is no file .*none.py"):
        compute_values([str(tmp_path / "none.py:score")], create_prompts("a"), ["x"])
    with pytest.raises(ConfigError, match="the module `no_such_module` cannot be imported"):
        compute_values(["no_such_module:score"], create_prompts("a"), ["x"])
    with pytest.raises(ConfigError, match="needs the built-in world, and no source is one"):
        Rewards.open([RewardChoice(use="world_correctness")], where="r")
    with pytest.raises(ConfigError, match="is not a valid regular expression"):
        compute_values([{"use": "matches", "options": {"pattern": "("}}], create_prompts("a"), ["x"])


def test_every_reward_has_a_docstring() -> None:
    assert {"world_politeness", "world_correctness", "sum_correctness", "length", "random_reward"} <= set(REWARDS)
    assert all(REWARDS[name].__doc__ for name in REWARDS)


def test_columns_may_have_the_names_of_arguments():
    rewards = Rewards.open([RewardChoice(use="length")], where="test")
    columns = {"prompts": ["x"], "completions": ["y"], "self": ["z"]}
    assert rewards([[Message("user", "Hi")]], ["one two"], **columns).total == [0.0]

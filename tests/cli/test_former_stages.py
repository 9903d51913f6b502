"""A former name of a stage is refused wherever a stage is named, and the error gives the present name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_training_data import Vita, vita
from vita.spine.renamed_stages import RENAMED_STAGES
from vita.stages import own_stages

__all__ = ["vita"]
LIFE = """
name: small
stages:
  curate: {sources: [{world: {things: 20}}]}
  STEP
"""


def test_every_present_name_is_a_stage_and_no_former_name_is_one() -> None:
    assert set(RENAMED_STAGES.values()) <= set(own_stages())
    assert not set(RENAMED_STAGES) & set(own_stages())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("former", "present"),
    [
        pytest.param(*names, marks=[pytest.mark.slow] if index else [], id="-".join(names))
        for index, names in enumerate(RENAMED_STAGES.items())
    ],
)
def test_a_former_stage_is_refused_as_command_and_in_a_life_file(vita: Vita, former: str, present: str) -> None:
    code, output = vita(former, "model", "--name", "x")
    assert code == 2 and f"No such command '{former}': it is now called {present}" in output
    message = f"`{former}` has been renamed to `{present}`; write `{present}` instead"
    for step, location in ((f"{former}: {{}}", "stages"), (f"mine: {{stage: {former}}}", "stages.mine.stage")):
        Path("life.yaml").write_text(LIFE.replace("STEP", step))
        code, output = vita("plan", "life.yaml")
        assert code == 2 and f"life.yaml.{location}: {message}" in output, output
    for words in (("--until", former), ("--set", f"{former}.seed=1")):
        code, output = vita("plan", "cat", *words)
        assert code == 2 and message in output, output


def test_a_step_may_have_the_former_name_of_a_stage(vita: Vita) -> None:
    Path("life.yaml").write_text(LIFE.replace("STEP", "deploy: {stage: tokenize}"))
    code, output = vita("plan", "life.yaml")
    assert code == 0 and "deploy" in output

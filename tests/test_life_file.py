"""Life files: inputs of steps, settings, and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from vita.life import find_recipe, read_life, recipes, stage, stages
from vita.spine.errors import ConfigError, PlanError, VitaError

LIFE = """
name: small
variables: {things: 30, data: texts}
settings: {seed: 3, vocabulary: 512}
stages:
  design: {depth: 2, steps: 10, timed_steps: 0}
  curate: {sources: [{world: {things: "${things}"}}, "${data}/a.txt"]}
  tokenize: {}
  initialize: {}
  test_first: {stage: test}
  pretrain: {}
  test_again: {stage: test, inputs: {model: initialize}}
"""


def _file(folder: Path, text: str = LIFE, **changes: str) -> str:
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "life.yaml").write_text(text)
    return str(folder / "life.yaml")


def test_an_input_is_the_latest_earlier_step_of_its_kind_by_default(tmp_path: Path) -> None:
    steps = {step.name: step for step in read_life(_file(tmp_path)).plan.steps}
    assert steps["pretrain"].inputs == {"model": "initialize", "tokens": "tokenize", "blueprint": "design"}
    assert steps["test_first"].inputs == {"model": "initialize", "corpus": "curate"}
    assert steps["test_again"].inputs["model"] == "initialize"


def test_shared_settings_apply_to_every_stage_that_has_them(tmp_path: Path) -> None:
    steps = {step.name: step.config.model_dump() for step in read_life(_file(tmp_path)).plan.steps}
    assert steps["tokenize"]["vocabulary"] == steps["design"]["vocabulary"] == 512
    assert steps["curate"]["seed"] == steps["pretrain"]["seed"] == 3


def test_a_variable_keeps_its_type_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    steps = {step.name: step.config for step in read_life(_file(tmp_path)).plan.steps}
    sources = steps["curate"].model_dump()["sources"]
    sources = list(sources.values()) if isinstance(sources, dict) else list(sources)
    assert sources[0]["world"]["things"] == 30
    assert sources[1]["path"] == str(tmp_path / "texts/a.txt")


def test_set_changes_a_step_the_shared_settings_and_the_variables(tmp_path: Path) -> None:
    assignments = ["pretrain.steps=7", "settings.seed=9", "variables.things=25"]
    steps = {
        step.name: step.config.model_dump() for step in read_life(_file(tmp_path), assignments=assignments).plan.steps
    }
    assert steps["pretrain"]["steps"] == 7 and steps["curate"]["seed"] == 9
    assert read_life(_file(tmp_path), until="tokenize").plan.steps[-1].name == "tokenize"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("tokenize: {}", "tokenise: {}", r"life.yaml.stages: `tokenise` is not a stage; did you mean `tokenize`\?"),
        ("{stage: test}", "{stage: tets}", r"stage: `tets` is not known here; did you mean `test`\?"),
        ("pretrain: {}", "pretrain: {stepz: 1}", r"stages.pretrain: `stepz` is not known here; did you mean `steps`\?"),
        (
            "model: initialize",
            "modle: initialize",
            r"test_again.inputs: `modle` is not known here; did you mean `model`",
        ),
        (
            "model: initialize",
            "model: curate",
            "expected a step that produces a model, got `curate`, which produces a corpus",
        ),
        ("settings: {seed: 3", "settings: {sede: 3", r"settings: `sede` is not known here; did you mean `seed`\?"),
        ("${data}/a", "${date}/a", r"`date` is not known here; did you mean `data`\?"),
        ("name: small", "nam: small", r"life.yaml: .*nam.* is not known here; did you mean `name`|name: is required"),
        (
            "  design: {depth: 2, steps: 10, timed_steps: 0}\n",
            "",
            "needs a blueprint for `blueprint`, and no earlier step",
        ),
    ],
)
def test_an_error_names_the_location_and_the_fix(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises((ConfigError, PlanError), match=message):
        read_life(_file(tmp_path, **{old: new}))


def test_curation_reads_the_files_of_the_test_stages_as_benchmarks(tmp_path: Path) -> None:
    path = tmp_path / "life.yaml"
    path.write_text("""
name: small
stages:
  curate: {sources: [{path: notes}], decontaminate: tests}
  tokenize: {}
  design: {depth: 2}
  initialize: {}
  test: {tasks: {arc_easy: arc.jsonl}, instructions: ifeval.jsonl}
  test_again: {stage: test, tasks: {arc_easy: arc.jsonl, quiz: {path: quiz.jsonl, task: multiple_choice}}}
""")
    config = read_life(str(path), until="curate").plan.steps[0].config.model_dump()
    benchmarks = {name: str(file["path"]) for name, file in config["decontaminate"]["benchmarks"].items()}
    assert benchmarks == {
        "arc_easy": str(tmp_path / "arc.jsonl"),
        "instructions": str(tmp_path / "ifeval.jsonl"),
        "quiz": str(tmp_path / "quiz.jsonl"),
    }
    path.write_text("name: small\nstages: {curate: {sources: [{path: notes}], decontaminate: tests}}\n")
    with pytest.raises(PlanError, match=r"curate.decontaminate.tests: no test stage of the life reads a file"):
        read_life(str(path))


def test_the_error_for_an_unknown_life_lists_the_recipes() -> None:
    assert {"cat", "wiki"} <= set(recipes())
    with pytest.raises(ConfigError, match=r"`cta` is not known here; did you mean `cat`\?"):
        find_recipe("cta")
    with pytest.raises(ConfigError, match="there is no such file; or give the name of a built-in recipe: cat"):
        find_recipe("nowhere/life.yaml")


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_built_in_recipe_can_be_planned(name: str) -> None:
    assert len(read_life(name).plan.steps) > 5


def test_every_stage_has_a_summary_and_a_version() -> None:
    for name in stages():
        declaration = stage(name)
        assert declaration.summary and declaration.version >= 1
    with pytest.raises(VitaError, match="did you mean `pretrain`"):
        stage("pretrian")

"""Decisions of races, with intervals worked out by hand, and a race of two mixtures from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.corpora import write
from tests.cli.test_cli import Vita, vita
from vita.design.race import decide
from vita.spine.config import read_yaml

__all__ = ["vita"]


def test_the_best_candidate_wins_if_the_paired_interval_excludes_0() -> None:
    # Differences -0.5, -0.4, -0.6: mean -0.5, deviation 0.1, t(0.975, 2) = 4.302653, half width 0.248414.
    result = decide({"a": [1.0, 1.2, 1.1], "b": [1.5, 1.6, 1.7]}, lower_is_better=True)
    assert (result.best, result.winner) == ("a", "a")
    interval = result.differences["b"]
    assert (interval.value, interval.low, interval.high) == pytest.approx((-0.5, -0.748414, -0.251586), abs=1e-5)
    assert decide({"a": [1.0, 1.2, 1.1], "b": [1.5, 1.6, 1.7]}, lower_is_better=False).winner == "b"


def test_there_is_no_winner_if_an_interval_contains_0() -> None:
    # The second candidate is always worse by nearly the same; the third is better with one seed.
    values = {"a": [1.0, 1.0, 1.0], "b": [2.0, 2.0, 2.1], "c": [0.9, 1.3, 1.2]}
    result = decide(values, lower_is_better=True)
    assert (result.best, result.winner) == ("a", None)
    # Two comparisons: t(1 - 0.05/4, 2) = 6.205347 of the differences -1, -1, -1.1: half width 0.206845.
    assert result.differences["b"].high == pytest.approx(-1.033333 + 0.206845, abs=1e-5)
    assert decide({"a": [1.0, 1.1], "b": [1.0, 1.1]}, lower_is_better=True).winner is None


WORDS = {"animals": "the cat sees a dog and the bird sings near a pond", "noise": "9431 xq 77 zzk 0 vv 5512 qj 8 wp"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a life of two sources, a validation text, and a race of two mixtures."""
    for name, words in WORDS.items():
        parts = words.split()
        rows = [{"text": " ".join(parts[(i + j * j) % len(parts)] for j in range(30))} for i in range(60)]
        write(tmp_path / f"{name}.jsonl", *rows)
    write(tmp_path / "validation.jsonl", *[{"text": WORDS["animals"] + "."}, {"text": "a dog and a cat sing."}])
    life = {
        "name": "tiny",
        "settings": {"vocabulary": 300, "context": 32},
        "stages": {
            "design": {"depth": 1, "width": 32, "steps": 12, "tokens_per_step": 128, "timed_steps": 0},
            "curate": {"sources": {name: f"{name}.jsonl" for name in WORDS}, "filters": [], "deduplicate": "none"},
            "tokenize": {},
            "initialize": {},
            "pretrain": {"eval_tokens": 0, "allow_no_improvement": True, "compile": "no"},
            "test": {"texts": [{"name": "validation", "path": "validation.jsonl"}], "prompts": []},
        },
    }
    (tmp_path / "life.yaml").write_text(yaml.safe_dump(life, sort_keys=False))
    set_race(tmp_path, first={"weights": {"animals": 1, "noise": 0}}, second={"weights": {"animals": 0, "noise": 1}})
    return tmp_path


def set_race(folder: Path, *, first: Any, second: Any, **settings: Any) -> None:
    candidates = {"first": {"pretrain.mixture": first}, "second": {"pretrain.mixture": second}}
    content = {"life": "life.yaml", "report": "test", "figure": "validation/bits_per_byte", "candidates": candidates}
    (folder / "race.yaml").write_text(yaml.safe_dump({**content, "seeds": [0, 1], **settings}))


@pytest.mark.slow
def test_the_winner_is_written_into_the_life_with_its_interval(vita: Vita, folder: Path) -> None:
    code, out, errors = vita("race", "race.yaml", "--output", "winner.yaml", "--json")
    assert code == 0, errors
    record = json.loads(out)
    assert (record["winner"], record["tokens"], record["file"]) == ("first", 12 * 128, "winner.yaml")
    assert record["differences"]["second"]["high"] < 0
    assert len({*record["candidates"]["first"]["values"]}) == 2, "the seeds give different models"
    winner, life = read_yaml(folder / "winner.yaml"), read_yaml(folder / "life.yaml")
    assert winner["stages"]["pretrain"].pop("mixture") == {"weights": {"animals": 1, "noise": 0}}
    assert winner == life
    head = (folder / "winner.yaml").read_text().splitlines()[:3]
    assert head[1].startswith("# validation/bits_per_byte over 2 seeds: first ") and "first minus second" in head[2]

    trace = json.loads(vita("trace-document", "noise.jsonl:1", "--json")[1])["weights"]
    uses = {name: weights["use"] for weights in trace for name in weights["names"]}
    assert {uses[f"tiny-race-first-{seed}/pretrain"] for seed in (0, 1)} == {"not reached"}, "its source has weight 0"
    assert "trained on" in {uses[f"tiny-race-second-{seed}/pretrain"] for seed in (0, 1)}

    mixture = record["candidates"]["first"]["settings"]["pretrain.mixture"]
    set_race(folder, first=mixture, second=mixture)
    code, out, errors = vita("race", "race.yaml", "--output", "other.yaml")
    assert code == 0 and "no difference" in out and "no life was written" in out, errors
    assert not (folder / "other.yaml").exists()
    assert vita("curate", "--race", "race.yaml", "--json")[1] == vita("race", "race.yaml", "--json")[1]

    first = {"pretrain.mixture": mixture}
    set_race(folder, first={}, second={}, candidates={"first": first, "second": {**first, "pretrain.steps": 11}})
    code, _, errors = vita("race", "race.yaml")
    assert code == 3 and "the candidates differ in their training tokens (first, seed 0: 1,536" in errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"seeds": [1, 1]}, (), "the seeds must differ"),
        ({"seeds": [1]}, (), "race.yaml.seeds"),
        ({"candidates": {"a": {}}}, (), "race.yaml.candidates"),
        ({"life": "absent.yaml"}, (), "there is no such file"),
        ({"report": "testing"}, (), "`testing` is not known here"),
        ({"candidates": {"a": {}, "b": {"pretrain.mixtur": 1}}}, (), "did you mean `mixture`?"),
        ({}, ("--output", "elsewhere/winner.yaml"), "the folder of the life"),
    ],
)
def test_a_race_that_cannot_run_is_refused_before_any_run(
    vita: Vita, folder: Path, settings: dict[str, Any], options: tuple[str, ...], message: str
) -> None:
    set_race(folder, first="unimax", second={"temperature": 2}, **settings)
    code, _, errors = vita("race", "race.yaml", *options)
    assert code == 2 and message in errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("noise.jsonl",), "DATA cannot be used with it"),
        (("--held-out", "0"), "--held-out cannot be used with it; write the settings into the race file"),
        (("--out", "folder"), "--out cannot be used with it"),
        ((), "`second` is not known here"),
        (("--output", "elsewhere/winner.yaml"), "the folder of the life"),
    ],
)
def test_curation_starts_the_race_of_a_file_without_other_options(
    vita: Vita, folder: Path, options: tuple[str, ...], message: str
) -> None:
    set_race(folder, first="unimax", second={"temperature": 2}, report="second")
    code, _, errors = vita("curate", "--race", "race.yaml", *options)
    assert code == 2 and message in errors

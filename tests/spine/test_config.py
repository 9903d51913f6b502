"""Settings: error messages with a path and the closest valid name, and identity."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import Field

from vita.spine.config import InputPath, Settings, build, canonical, input_paths, neutral, override, read_yaml
from vita.spine.errors import ConfigError


class Optimizer(Settings):
    rate: float = Field(default=0.001, gt=0)
    """Peak learning rate."""


class Config(Settings):
    steps: int = 10
    """Number of steps."""
    optimizer: Optimizer = Optimizer()
    """Optimizer settings."""
    sources: tuple[Optimizer, ...] = ()
    """Several optimizers."""
    data: InputPath | None = None
    """Input file."""
    added_later: bool = neutral(False)
    """Setting added later."""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 1}, "sft: `stepz` is not known here; did you mean `steps`?"),
        ({"optimizer": {"rat": 1}}, "sft.optimizer: `rat` is not known here; did you mean `rate`?"),
        ({"sources": [{}, {"rte": 1}]}, "sft.sources.1: `rte` is not known here; did you mean `rate`?"),
        ({"optimizer": {"rate": -0.1}}, "sft.optimizer.rate: expected greater than 0, got -0.1"),
        ({"steps": "many"}, "sft.steps: expected a valid integer, got 'many'"),
        ({"qqqqq": 1}, "sft: `qqqqq` is not known here; one of added_later, data, optimizer, sources, steps"),
    ],
)
def test_an_invalid_setting_is_refused_with_its_path_and_the_closest_name(values: dict, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        build(Config, values, where="sft")
    assert str(refusal.value) == message


def test_settings_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        Config().steps = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_an_override_sets_nested_values_and_is_parsed_as_yaml() -> None:
    values = override({"a": {"b": 1}}, ["a.b=2", "a.c.d=[1, x]", "e=1e-3", "f=true"])
    assert values == {"a": {"b": 2, "c": {"d": [1, "x"]}}, "e": 0.001, "f": True}
    assert override({"a": [{"b": 1}, 2]}, ["a.0.b=5", "a.1=7"]) == {"a": [{"b": 5}, 7]}


@pytest.mark.parametrize("override_text", ["a", "=1", "a.b.c=1"])
def test_a_malformed_override_is_refused(override_text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        override({"a": {"b": 1}}, [override_text])


def test_a_neutral_setting_is_not_part_of_the_identity_until_it_is_set() -> None:
    assert "added_later" not in canonical(Config())
    assert canonical(Config(added_later=True))["added_later"] is True


def test_a_path_is_identified_by_its_content() -> None:
    first, second = Config(data=InputPath("a.txt")), Config(data=InputPath("b.txt"))
    equal = canonical(first, contents={"a.txt": "77"}) == canonical(second, contents={"b.txt": "77"})
    assert equal and canonical(first) != canonical(second)
    assert input_paths(first) == ["a.txt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "`a` is set twice"),
        ("a: [1", "is not YAML"),
        ("- 1\n", "expected settings as `name: value`"),
        ("", "expected settings as `name: value`"),
    ],
)
def test_a_file_without_settings_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "life.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        read_yaml(tmp_path / "life.yaml")


def test_a_number_may_be_written_with_an_exponent(tmp_path: Path) -> None:
    (tmp_path / "life.yaml").write_text("rate: 1e-3\nbig: 3E8\nname: e3\n")
    assert read_yaml(tmp_path / "life.yaml") == {"rate": 0.001, "big": 3e8, "name": "e3"}


def test_yes_and_no_are_strings_unless_the_setting_is_boolean(tmp_path: Path) -> None:
    class Switches(Settings):
        compiled: str
        packing: bool

    (tmp_path / "life.yaml").write_text("compiled: no\npacking: no\n")
    assert build(Switches, read_yaml(tmp_path / "life.yaml"), where="x") == Switches(compiled="no", packing=False)
    assert override({}, ["a=no", "b=true"]) == {"a": "no", "b": True}


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "life.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_yaml(tmp_path / "life.yaml")


def _alias_bomb(form: str) -> str:
    """Return a few lines of YAML whose aliases expand to billions of values."""
    names = [f"a{level}" for level in range(12)]
    levels = [f"{name}: {form.format(name=name, aliases=', '.join([f'*{below}'] * 9))}"
              for below, name in pairwise(names)]  # fmt: skip
    return "\n".join(["a0: &a0 {x: 1}", *levels])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: .inf", r"`\.inf` is not a finite number \(line 1\)"),
        ("b: 1\na: [1, -.INF]", r"`-\.INF` is not a finite number \(line 2\)"),
        ("a: .nan", r"`\.nan` is not a finite number"),
        ("a: 1e999", "`1e999` is not a finite number"),
        ("a: " + "9" * 5000, r"\(5000 digits\)` is not an integer of at most 64 bits"),
        ("a: &x [*x]", "an alias refers to the value that contains it"),
        ("a: &a {b: *a}", "an alias refers to the value that contains it"),
        ("a: " + "[" * 200 + "]" * 200, "nested more than 64 levels deep"),
        ("{[1, 2]: 3}", "a name must be plain text"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("a: !!binary aGVsbG8=", "could not determine a constructor"),
        ("a: !!int x", "`x` is not an integer of at most 64 bits"),
        ("a: \x00", "is not YAML"),
        ("a: 1" + "0" * 30, "is not an integer of at most 64 bits"),
        (_alias_bomb("&{name} [{aliases}]"), "more than 100,000 values"),
        (_alias_bomb("&{name} {{<<: [{aliases}]}}"), "more than 100,000 values"),
    ],
)
def test_an_unsupported_yaml_value_is_refused_with_a_single_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "life.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as refusal:
        read_yaml(tmp_path / "life.yaml")
    assert "\n" not in str(refusal.value)


def test_scalars_are_parsed_as_in_yaml_1_2(tmp_path: Path) -> None:
    text = "time: 1:30\nday: 2027-01-31\nbad_day: 2027-13-45\nname: no\ncode: 010\nn: 1_000\nsmall: -1.5e-3\nhalf: .5\n"
    (tmp_path / "life.yaml").write_text(text)
    values = {"time": "1:30", "day": "2027-01-31", "bad_day": "2027-13-45", "name": "no", "code": "010", "n": 1000}
    assert read_yaml(tmp_path / "life.yaml") == {**values, "small": -0.0015, "half": 0.5}


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "inf", "nan", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused_in_every_notation(value: object) -> None:
    with pytest.raises(ConfigError, match="expected a finite number|expected a valid number|expected greater than 0"):
        build(Config, {"optimizer": {"rate": value}}, where="sft")


def test_an_override_that_is_not_finite_is_refused() -> None:
    for text in (".inf", ".nan", "1e999"):
        with pytest.raises(ConfigError, match="--set a"):
            override({}, [f"a={text}"])


def test_an_unknown_name_without_alternatives_is_refused() -> None:
    from vita.spine.config import unknown_name

    assert str(unknown_name("gate", "x", [])) == "gate: `x` is not known here; there are none to choose from"
    assert str(unknown_name("gate", "x", ["qqqq"])).endswith("the only one is qqqq")

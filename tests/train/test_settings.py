"""The shared settings of training stages: one declaration per setting, renamed settings, absolute learning rates."""

from __future__ import annotations

import ast
import inspect
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest

from vita.data.curation.filters import FILTERS
from vita.life import stage, stages
from vita.nn.init import SCHEMES
from vita.rl.rewards import REWARDS
from vita.spine.config import Settings, build, canonical
from vita.spine.errors import ConfigError
from vita.spine.renamed_settings import RENAMED, recorded_value
from vita.stages import dpo, pretrain, reward, rlhf, sft
from vita.train.optim import OptimizerConfig
from vita.train.settings import TrainingSettings
from vita.train.trainer_config import scale_rates

STAGES = ("pretrain", "adapt", "sft", "reward", "rlhf", "dpo")
SOURCE = {"sources": ["a.jsonl"]}
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", STAGES)
def test_every_training_stage_has_the_shared_settings(name: str) -> None:
    assert issubclass(stage(name).config, TrainingSettings)
    assert set(TrainingSettings.model_fields) <= set(stage(name).config.model_fields)


@pytest.mark.parametrize("name", STAGES)
def test_a_setting_with_another_default_in_a_stage_keeps_its_description(name: str) -> None:
    for field, info in stage(name).config.model_fields.items():
        assert info.description, field
        if field in TrainingSettings.model_fields:
            assert info.description == TrainingSettings.model_fields[field].description, field


def test_each_training_setting_is_documented_once() -> None:
    documented = Counter[str]()
    for path in [*(ROOT / "vita/train").glob("*.py"), ROOT / "vita/rl/settings.py"]:
        documented.update(_documented_fields(path))
    for name in STAGES:
        documented.update(_documented_fields(ROOT / f"vita/stages/{name}.py"))
    shared = {*TrainingSettings.model_fields, "batch_size", "eval_fraction", "eval_tokens", "document_mask"}
    shared -= {"schedule"}  # the trainer's configuration has a field of this name, for the resolved schedule
    assert {name: documented[name] for name in shared} == dict.fromkeys(shared, 1)


def _documented_fields(path: Path) -> list[str]:
    """Return the annotated names in settings classes that are followed by a docstring."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ClassDef) or not issubclass(_class(path, node.name), Settings):
            continue
        for statement, following in zip(node.body, node.body[1:], strict=False):
            documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            if documented and isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                names.append(statement.target.id)
    return names


def _class(path: Path, name: str) -> type[Any]:
    return getattr(import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)), name, object)


@pytest.mark.parametrize(
    ("name", "former", "present"),
    [
        *[(name, "rate", "learning_rate") for name in STAGES],
        *[(name, "looks", "num_evals") for name in STAGES],
        *[(name, "micro_tokens", "micro_batch_tokens") for name in STAGES],
        *[(name, "rows", "batch_size") for name in STAGES if name != "rlhf"],
        ("pretrain", "heldout_tokens", "eval_tokens"),
        ("pretrain", "decay", "decay_fraction"),
        ("pretrain", "clip", "max_grad_norm"),
        ("sft", "compiled", "compile"),
        ("sft", "held_out", "eval_fraction"),
        ("reward", "look_every", "eval_every"),
        ("dpo", "smoothing", "label_smoothing"),
        ("dpo", "gamma", "simpo_gamma"),
        ("dpo", "right", "correctness"),
        ("rlhf", "held_out", "eval_prompts"),
        ("rlhf", "prompts", "prompts_per_step"),
        ("rlhf", "samples", "num_generations"),
        ("rlhf", "kl", "kl_coef"),
        ("rlhf", "value_rounds", "critic_warmup_steps"),
        ("dpo", "rewards", "eval_rewards"),
        ("dpo", "prompts", "eval_prompts"),
        ("dpo", "samples", "eval_samples"),
        ("dpo", "sampling", "eval_sampling"),
        ("dpo", "held_out", "eval_fraction"),
        ("reward", "enough_margin", "early_stop_margin"),
        ("adapt", "length", "sequence_length"),
        ("pilot", "minds", "complaint_reward"),
        ("pilot", "visits", "sessions"),
        ("pilot", "at_once", "concurrency"),
        ("canary", "worse_by", "max_regression"),
        ("canary", "kill", "inject_failure"),
        ("release", "queue", "max_queue_size"),
        ("refine", "tested_texts", "decontaminate_texts"),
        ("refine", "tested_dialogues", "decontaminate_dialogues"),
        ("retire", "keep", "access"),
        ("test", "edges", "edge_cases"),
    ],
)
def test_a_former_name_is_refused_with_the_new_name(name: str, former: str, present: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: `{former}` has been renamed to `{present}`; write `{present}`"):
        build(stage(name).config, {former: 1}, where=name)


def _groups(config: type[Settings]) -> Iterator[type[Settings]]:
    """Yield a settings class and all settings classes nested in it."""
    yield config
    pending = [field.annotation for field in config.model_fields.values()]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, Settings):
            yield from _groups(annotation)
        pending += get_args(annotation)


def test_every_new_name_is_a_setting_or_a_registry_entry() -> None:
    groups = {group for name in stages() for group in _groups(stage(name).config)}
    fields = {field for group in groups for field in group.model_fields}
    tables = {*SCHEMES, *REWARDS}
    arguments = {argument for name in FILTERS for argument in inspect.signature(FILTERS[name]).parameters}
    assert {present for names in RENAMED.values() for present in names} <= fields | tables | arguments


def test_former_names_of_nested_settings_and_registry_entries_are_refused() -> None:
    for name, values, message in (
        ("release", {"guard": {"undisguise": False}}, "`undisguise` has been renamed to `normalize_obfuscation`"),
        ("release", {"guard": {}, "rows": 2}, "`rows` has been renamed to `max_batch_size`"),
        ("refine", {"cleaning": {"per_user": 1}}, "`per_user` has been renamed to `max_per_user`"),
        ("redteam", {"memorisation": {"enough": 2}}, "`enough` has been renamed to `min_match_tokens`"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(stage(name).config, values, where=name)
    with pytest.raises(ConfigError, match="`neighbours` has been renamed to `previous_token_heads`"):
        SCHEMES["neighbours"]
    with pytest.raises(ConfigError, match="`world_manners` has been renamed to `world_politeness`"):
        REWARDS["world_manners"]


def test_recorded_runs_are_read_under_former_names() -> None:
    assert recorded_value({"rows": 4}, "batch_size") == recorded_value({"batch_size": 4}, "batch_size") == 4
    assert recorded_value({}, "eval_fraction", 0.0) == 0.0


@pytest.mark.parametrize("value", [0, -1e-3, float("nan"), "fast"])
def test_a_learning_rate_is_a_number_above_zero_or_auto(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^sft\.learning_rate: expected (?!.*\.float)"):
        build(sft.Config, {**SOURCE, "learning_rate": value}, where="sft")
    with pytest.raises(ConfigError, match="or `auto`, got -1"):
        build(sft.Config, {**SOURCE, "learning_rate": -1}, where="sft")


def test_an_absolute_learning_rate_scales_all_groups_and_auto_uses_the_rule() -> None:
    rule = OptimizerConfig(matrix_rate=0.02, embedding_rate=0.06, head_rate=6e-3, scalar_rate=3e-3)
    assert scale_rates(rule, "auto") == rule
    absolute = scale_rates(rule, 0.0024)
    assert (absolute.matrix_rate, absolute.embedding_rate, absolute.scalar_rate) == (0.0024, 0.06 * 0.12, 3e-3 * 0.12)
    assert scale_rates(rule, 0.004) == scale_rates(rule, "auto", auto_share=0.2)


def test_num_evals_and_eval_every_exclude_each_other() -> None:
    default_config = build(pretrain.Config, {}, where="pretrain")
    assert (default_config.eval_interval(1000), default_config.eval_interval(3)) == (100, 1)
    interval_config = build(pretrain.Config, {"eval_every": 7}, where="pretrain")
    assert (interval_config.eval_interval(1000), interval_config.num_evals) == (7, None)
    assert build(pretrain.Config, canonical(interval_config), where="pretrain") == interval_config
    count_config = build(reward.Config, {"num_evals": 5}, where="reward")
    assert (count_config.eval_interval(50), count_config.eval_every) == (10, None)
    with pytest.raises(ConfigError, match="`eval_every` and `num_evals` exclude each other"):
        build(sft.Config, {**SOURCE, "eval_every": 5, "num_evals": 5}, where="sft")


def test_unknown_schedules_and_unused_decays_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"`auto` is not known here|schedule"):
        build(sft.Config, {**SOURCE, "schedule": "auto"}, where="sft")
    with pytest.raises(ConfigError, match="the schedule is linear"):
        build(dpo.Config, {"decay_fraction": 0.2}, where="dpo")
    assert build(rlhf.Config, {**SOURCE, "schedule": "cosine"}, where="rlhf").schedule == "cosine"

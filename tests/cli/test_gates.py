"""Criteria that change after the measurement, and approvals in the name of others, on the command line."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from safetensors.numpy import save_file

from tests.cards.lives import Life
from tests.cli.test_cli import Vita, vita
from vita.gates import approvals, decisions
from vita.gates.policy import Policy
from vita.spine.config import build
from vita.spine.store import Draft
from vita.stages import kinds
from vita.stats.intervals import wilson

__all__ = ["vita"]

FIGURE = "world/accuracy"


@pytest.fixture
def life(tmp_path: Path, vita: Vita, monkeypatch: pytest.MonkeyPatch) -> Life:
    """Return a life with a tuned model `sft` whose store and ledger the commands use."""
    monkeypatch.setenv("VITA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    fixture_life = Life(tmp_path)
    monkeypatch.setenv("VITA_LEDGER", fixture_life.ledger.url)
    fixture_life.step("sft", "model", files={"model.safetensors": "weights", "config.json": {}})
    return fixture_life


_runs = count(1)


def unique_figure() -> dict[str, Any]:
    """Return a figure that differs in each report, so that each report is a separate run."""
    number = next(_runs)
    return {"run": {"number": wilson(number, number)}}


def set_criterion(life: Life, gate: str = "cat/release", *, approvals: int = 0, **criterion: Any) -> None:
    """Set the only criterion of the gate."""
    bars = [{"report": "check", "figure": FIGURE, **criterion}]
    policy = build(Policy, {"model": "sft", "bars": bars, "approvals": approvals}, where="gate")
    decisions.record_policy(life.ledger, gate, policy)


def measure(life: Life, *, correct: int, total: int = 100, step: str = "check", model: str | None = None) -> None:
    digest = model or life.ledger.named("cat/sft")
    assert digest is not None
    life.report(step, digest, {"world": {"world": {"accuracy": wilson(correct, total)}}, "run": unique_figure()})


def gate_verdict(vita: Vita, gate: str = "cat/release") -> tuple[int, str]:
    code, out, err = vita("gate", gate, "--json")
    assert out, err
    return code, json.loads(out)["criteria"][0]["reason"]


def test_a_gate_that_was_set_before_the_first_measurement_passes(life: Life, vita: Vita) -> None:
    set_criterion(life, at_least=0.9)
    measure(life, correct=100)
    assert gate_verdict(vita)[0] == 0


@pytest.mark.slow
def test_a_lowered_limit_needs_a_waiver_also_after_new_runs_of_the_test(life: Life, vita: Vita) -> None:
    set_criterion(life, at_least=0.95)
    measure(life, correct=90)
    assert gate_verdict(vita)[0] == 10
    set_criterion(life, at_least=0.5)
    for _ in range(2):
        code, reason = gate_verdict(vita)
        assert code == 11 and "set or changed after these weights were first measured" in reason
        assert f"vita waive --bar check:{FIGURE}" in reason
        time.sleep(0.01)
        measure(life, correct=90)  # the same test again
    measure(life, correct=90, step="another")  # the same test under another name
    assert gate_verdict(vita)[0] == 11
    vita("people", "add", "Ada")
    words = ("--by", "Ada", "--reason", "a trial", "--expires", "9d", "--bar", f"check:{FIGURE}")
    assert vita("waive", "cat/sft", "--gate", "cat/release", *words)[0] == 0
    assert gate_verdict(vita)[0] == 0


def test_a_criterion_with_the_former_name_of_a_figure_gets_the_present_name_in_its_reason(
    life: Life, vita: Vita
) -> None:
    bars = [{"report": "check", "figure": "world/right", "at_least": 0.5}]
    decisions.record_policy(life.ledger, "cat/release", build(Policy, {"model": "sft", "bars": bars}, where="gate"))
    measure(life, correct=100)
    code, reason = gate_verdict(vita)
    assert code == 11
    assert "figure world/right: has been renamed to `world/accuracy`; write `world/accuracy` in the gate" in reason


def test_new_weights_are_compared_with_the_changed_limit(life: Life, vita: Vita) -> None:
    set_criterion(life, at_least=0.95)
    measure(life, correct=10)
    assert gate_verdict(vita)[0] == 10
    set_criterion(life, at_least=0.5)
    life.step("sft", "model", files={"model.safetensors": "other weights", "config.json": {}})
    measure(life, correct=90)
    assert gate_verdict(vita)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["cat/second", "other/release"])
def test_a_new_gate_for_measured_weights_needs_a_waiver(life: Life, vita: Vita, gate: str) -> None:
    set_criterion(life, at_least=0.95)
    measure(life, correct=90)
    assert gate_verdict(vita)[0] == 10
    digest = life.ledger.named("cat/sft")
    assert digest is not None
    life.ledger.name(f"{gate.split('/')[0]}/sft", digest)
    set_criterion(life, gate, at_least=0.5)
    life.name = gate.split("/")[0]
    measure(life, correct=90)
    code, reason = gate_verdict(vita, gate)
    assert code == 11 and "were first measured" in reason


def test_a_copy_of_measured_weights_is_not_a_new_model(life: Life, vita: Vita) -> None:
    set_criterion(life, at_least=0.95)
    measure(life, correct=90)
    set_criterion(life, at_least=0.5)
    copy = life.step("sft", "model", files={"model.safetensors": "weights", "config.json": {}, "README.md": "new"})
    measure(life, correct=90, model=copy)
    code, reason = gate_verdict(vita)
    assert code == 11 and "were first measured" in reason


def test_a_removed_criterion_still_counts_after_a_new_run_of_the_test(life: Life, vita: Vita) -> None:
    bars = [
        {"report": "check", "figure": FIGURE, "at_least": 0.95},
        {"report": "check", "figure": "a/b", "at_least": 0.1},
    ]
    decisions.record_policy(life.ledger, "cat/release", build(Policy, {"model": "sft", "bars": bars}, where="gate"))
    digest = life.ledger.named("cat/sft")
    assert digest is not None
    figures = {"world": {"world": {"accuracy": wilson(10, 100)}}, "a": {"a": {"b": wilson(100, 100)}}}
    for _ in range(2):
        life.report("check", digest, {**figures, "run": unique_figure()})
        decisions.record_policy(
            life.ledger, "cat/release", build(Policy, {"model": "sft", "bars": bars[1:]}, where="gate")
        )
        code, out, _ = vita("gate", "cat/release", "--json")
        assert code == 10 and "the criterion was removed" in out


def test_an_easier_test_does_not_undo_a_failure(life: Life, vita: Vita) -> None:
    set_criterion(life, at_least=0.9)
    measure(life, correct=10)
    assert gate_verdict(vita)[0] == 10
    measure(life, correct=5, total=5)
    code, reason = gate_verdict(vita)
    assert code == 10 and "an earlier report of this test failed" in reason


# -- people


def approve(vita: Vita, name: str, *words: str) -> tuple[int, str]:
    code, out, err = vita("approve", "cat/sft", "--gate", "cat/release", "--by", name, *words)
    return code, out + err


@pytest.fixture
def two_approval_gate(life: Life, vita: Vita) -> Life:
    """Return a life whose gate needs two approvals."""
    set_criterion(life, at_least=0.9, approvals=2)
    measure(life, correct=100)
    assert vita("gate", "cat/release")[0] == 13
    return life


@pytest.mark.slow
def test_two_approvals_need_two_registered_keys(two_approval_gate: Life, vita: Vita, tmp_path: Path) -> None:
    code, output = approve(vita, "Ada Lovelace")
    assert code == 9 and "vita people add 'Ada Lovelace'" in output
    assert vita("people", "add", "Ada Lovelace")[0] == 0
    (private_key,) = (tmp_path / "config" / "vita" / "people").glob("*.pem")
    assert stat.S_IMODE(private_key.stat().st_mode) == 0o600
    assert approve(vita, "ada  lovelace")[0] == 0
    code, output = approve(vita, "Ada Lovelace")
    assert code == 9 and "has approved these weights already" in output
    public_key = tmp_path / "ada.pub"
    public_key.write_text(json.loads(vita("people", "list", "--json")[1])[0]["public_key"])
    code, _, err = vita("people", "add", "Ben", "--public-key", str(public_key))
    assert code == 9 and "Ada Lovelace's" in err
    assert vita("people", "add", "Ben")[0] == 0
    code, output = approve(vita, "Ben", "--key", str(private_key))
    assert code == 9 and "which Ben registered" in output
    assert vita("gate", "cat/release")[0] == 13
    assert approve(vita, "Ben")[0] == 0
    assert vita("gate", "cat/release")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("edit", ["inserted", "edited", "copied", "revoked"])
def test_an_approval_that_is_not_signed_does_not_count_and_is_reported(
    two_approval_gate: Life, vita: Vita, edit: str
) -> None:
    for name in ("Ada", "Ben"):
        assert vita("people", "add", name)[0] == 0
        if edit != "inserted" or name == "Ada":
            assert approve(vita, name)[0] == 0
    table = "approvals"
    with two_approval_gate.ledger.transaction() as database:
        row = dict(database.execute(sa.text(f"select * from {table} order by id limit 1")).mappings().one())
        names = [name for name in row if name != "id"]
        if edit == "inserted":
            row |= {"who": "Ben", "signature": None}
        if edit in ("inserted", "copied"):
            row |= {"who": "Ben"}
            columns, values = ", ".join(names), ", ".join(f":{name}" for name in names)
            database.execute(sa.text(f"insert into {table} ({columns}) values ({values})"), row)
        if edit == "copied":
            database.execute(sa.text(f"delete from {table} where id = {row['id'] + 1}"))
        if edit == "edited":
            database.execute(sa.text(f"update {table} set reason = 'another' where id = {row['id']}"))
    if edit == "revoked":
        assert vita("people", "revoke", "Ben", "--since", "2020-01-01")[0] == 0
    code, out, _ = vita("gate", "cat/release")
    assert code == 13, "one of the two approvals does not count"
    assert "does not count" in " ".join(out.split())


@pytest.mark.slow
def test_an_approval_from_before_the_revocation_counts_and_a_new_key_is_not_a_second_person(
    two_approval_gate: Life, vita: Vita
) -> None:
    assert vita("people", "add", "Ada")[0] == 0 and approve(vita, "Ada")[0] == 0
    assert vita("people", "revoke", "Ada")[0] == 0
    code, out = approve(vita, "Ada")
    assert code == 9 and "vita people add 'Ada'" in out, "a revoked key can no longer sign"
    code, out, _ = vita("gate", "cat/release", "--json")
    assert code == 13 and json.loads(out)["approved_by"] == ["Ada"]
    assert vita("people", "add", "ADA")[0] == 0, "a new key pair replaces the revoked one"
    code, out = approve(vita, "ada")
    assert code == 9 and "has approved these weights already" in out
    assert vita("people", "add", "Ben")[0] == 0 and approve(vita, "Ben")[0] == 0
    assert vita("gate", "cat/release")[0] == 0


@pytest.mark.slow
def test_a_lost_key_can_be_revoked_from_an_earlier_day_on(two_approval_gate: Life, vita: Vita) -> None:
    assert vita("people", "add", "Ada")[0] == 0 and approve(vita, "Ada")[0] == 0
    assert vita("people", "revoke", "Ada")[0] == 0
    assert vita("people", "revoke", "Ada")[0] == 9
    code, _, err = vita("people", "revoke", "Ada", "--since", "9999-01-01")
    assert code == 9 and "cannot start in the future" in err
    code, _, err = vita("people", "revoke", "Ada", "--since", "yesterday")
    assert code == 2 and "2027-01-31" in err
    assert vita("people", "revoke", "Ada", "--since", "2020-01-01")[0] == 0
    code, out, _ = vita("gate", "cat/release", "--json")
    report = json.loads(out)
    assert code == 13 and report["approved_by"] == [] and "its key was revoked" in report["not_counted"][0]


def test_weights_that_were_saved_again_are_not_a_new_model(life: Life, vita: Vita, tmp_path: Path) -> None:
    set_criterion(life, at_least=0.95)
    for metadata in ({"format": "pt"}, {"note": "saved again"}):
        folder = tmp_path / f"model-{len(metadata.get('note', ''))}"
        folder.mkdir()
        save_file({"weight": np.ones((2, 3), np.float32)}, folder / "model.safetensors", metadata=metadata)
        model = life.store.commit(Draft(kinds.Model, folder)).digest
        life.ledger.name("cat/sft", model)
        measure(life, correct=90, model=model)
        set_criterion(life, at_least=0.5)
    code, reason = gate_verdict(vita)
    assert code == 11 and "were first measured" in reason


APPROVE_AT_ONCE = """
import sys
from pathlib import Path
from vita.cli import main
from vita.gates import approvals
add = approvals.add

def add_when_all_have_checked(*arguments, **options):
    Path(sys.argv[1]).touch()
    while len(list(Path(sys.argv[1]).parent.glob("ready-*"))) < 2:
        pass
    add(*arguments, **options)

approvals.add = add_when_all_have_checked
main(sys.argv[2:])
"""


@pytest.mark.slow
def test_a_second_approval_of_the_same_person_at_the_same_moment_is_refused(
    two_approval_gate: Life, vita: Vita, tmp_path: Path
) -> None:
    assert vita("people", "add", "Ada")[0] == 0
    words = ["approve", "cat/sft", "--gate", "cat/release", "--by", "Ada"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", APPROVE_AT_ONCE, str(tmp_path / f"ready-{number}"), *words],
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for number in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 9], outputs
    assert "Ada has approved these weights already" in "".join(outputs)
    model = two_approval_gate.ledger.named("cat/sft")
    assert model is not None
    valid, _ = approvals.statements(two_approval_gate.ledger, "cat/release", model, kind="approval")
    assert len(valid) == 1
    assert vita("gate", "cat/release")[0] == 13

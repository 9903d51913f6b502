"""A service takes a model in by the bytes that it hashed itself: approved, or for a reason that the ledger keeps."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cards.lives import Life
from tests.cli.test_cli import Vita, vita
from tests.server.releases import model_folder
from vita.gates import decisions
from vita.gates.clearance import UNGATED, Clearance, ServingRequest
from vita.gates.policy import Policy
from vita.reporting import REPORT_FILE
from vita.reporting.figures import ReportContent
from vita.server.release import ReleaseInfo, create_release, load_verified, read_release, verify_release
from vita.server.service.deploy_checks import ledger_clearance
from vita.spine.config import build
from vita.spine.errors import GateError, ModelError, StoreError
from vita.spine.store import Draft
from vita.stages import kinds
from vita.stats.intervals import wilson

__all__ = ["vita"]

FILES = ("config.json", "model.safetensors", "tokenizer.json")
BARS: dict[str, Any] = {"model": "sft", "bars": [{"report": "check", "figure": "world/accuracy", "at_least": 0.5}]}


def gated_life(folder: Path) -> tuple[Life, str, str]:
    """A life whose gate approves the model `sft`; with the model `draft`, which no gate knows."""
    life = Life(folder)
    decisions.record_policy(life.ledger, "cat/release", build(Policy, BARS, where="gate"))
    approved, draft = (life.step(name, "model", files=dict.fromkeys(FILES, name)) for name in ("sft", "draft"))
    life.report("check", approved, {"world": {"world": {"accuracy": wilson(40, 40)}}})
    assert decisions.evaluate_gate_by_name(life.ledger, life.store, "cat/release").passed
    return life, approved, draft


def release(life: Life, model: str, *, claim: str | None = None, guard: dict[str, Any] | None = None) -> ReleaseInfo:
    """A release of a model of the store, which may claim to hold another model."""
    target = life.folder / "releases" / str(time.monotonic_ns())
    source = life.store.open(model).path
    return read_release(create_release(source, target, name="cat", version="1", digest=claim or model, guard=guard))


def clear(life: Life, pinned: ReleaseInfo, **terms: Any) -> Clearance:
    return ledger_clearance(life.ledger, life.store)(pinned, ServingRequest(**terms))


def copy_of(life: Life, model: str, name: str, **changed: str) -> Path:
    """A copy of a model's folder at another path, with some files changed."""
    target = life.folder / name
    shutil.copytree(life.store.open(model).path, target)
    for file, text in changed.items():
        path = target / file.replace("__", ".")
        path.unlink(missing_ok=True)
        path.write_text(text)
    return target


def test_an_approved_model_is_cleared_under_its_gate(tmp_path):
    life, approved, _ = gated_life(tmp_path)
    cleared = clear(life, release(life, approved))
    assert cleared.model == approved
    assert cleared.as_json() == {"status": "approved", "gate": "cat/release"}


def test_a_model_that_no_gate_approved_needs_a_reason_which_the_ledger_keeps(tmp_path):
    life, _, draft = gated_life(tmp_path)
    with pytest.raises(GateError, match="in the state candidate.*--ungated REASON"):
        clear(life, release(life, draft))
    with pytest.raises(GateError, match="needs a reason"):
        clear(life, release(life, draft), ungated="  ")
    cleared = clear(life, release(life, draft), ungated="a load test")
    assert (cleared.model, cleared.status, cleared.reason) == (draft, "ungated", "a load test")
    (event,) = [event for event in life.ledger.events(draft) if event["event"] == UNGATED]
    assert event["data"]["reason"] == "a load test" and "candidate" in event["data"]["refusal"]


def test_a_release_that_claims_an_approved_model_and_holds_other_files_is_refused_even_with_a_reason(tmp_path):
    life, approved, draft = gated_life(tmp_path)
    for terms in ({}, {"ungated": "a load test"}):
        with pytest.raises(GateError, match=f"expected the files of the model {approved[:12]}"):
            clear(life, release(life, draft, claim=approved), **terms)


def test_a_model_whose_approval_ended_is_not_cleared(tmp_path):
    life, approved, _ = gated_life(tmp_path)
    pinned = release(life, approved)
    life.report("check", approved, {"world": {"world": {"accuracy": wilson(0, 40)}}})
    with pytest.raises(GateError, match="check:world/accuracy"):
        clear(life, pinned)


def test_the_same_files_are_the_same_model_at_every_path(tmp_path):
    life, approved, draft = gated_life(tmp_path)
    copies = [copy_of(life, approved, name) for name in ("one", "two")]
    for number, folder in enumerate(copies):
        pinned = read_release(create_release(folder, tmp_path / f"release-{number}", name="copy"))
        assert clear(life, pinned).model == approved
    other = [copy_of(life, draft, name, own__txt="new") for name in ("three", "four")]
    first, second = (read_release(create_release(one, tmp_path / f"r-{one.name}", name="copy")) for one in other)
    assert first.model == second.model and first.version == first.model[:8]


@pytest.mark.parametrize("changed", [{"own__txt": "an edited file"}, {"tokenizer__json": "another tokenizer"}])
def test_a_copy_with_other_files_beside_approved_weights_is_not_approved(tmp_path, changed):
    life, approved, _ = gated_life(tmp_path)
    folder = copy_of(life, approved, "copy", **changed)
    pinned = read_release(create_release(folder, tmp_path / "release", name="copy", digest=None))
    with pytest.raises(GateError, match="holds the weights of the approved model .* but other files"):
        clear(life, pinned)
    assert clear(life, pinned, ungated="a trial of the tokenizer").model != approved


def test_a_guard_belongs_to_the_approval(tmp_path):
    life, approved, _ = gated_life(tmp_path)
    figures = {"world": {"world": {"accuracy": wilson(40, 40)}}}
    report = ReportContent.of("redteam", figures, model=approved, settings={"guard": {"words": ["poison"]}})
    files = {REPORT_FILE: report.model_dump(mode="json")}
    life.step("check", "report", stage="redteam", files=files, inputs={"model": approved})
    with pytest.raises(GateError, match=r"expected the guard used in the measurement: the guard .*, got no guard"):
        clear(life, release(life, approved))
    assert clear(life, release(life, approved, guard={"words": ["poison"]})).status == "approved"


@pytest.mark.parametrize("kept", [True, False])
def test_a_retired_model_is_refused_at_every_path_and_served_for_research_only_where_it_was_kept(tmp_path, kept):
    life, approved, _ = gated_life(tmp_path)
    edited = create_release(copy_of(life, approved, "copy", own__txt="edited"), tmp_path / "edited", name="copy")
    life.ledger.move(approved, "retired", who="ann", why="old", research=kept)
    for terms in ({}, {"ungated": "please"}):
        for pinned in (release(life, approved), read_release(edited)):
            with pytest.raises(GateError, match="--research serves it" if kept else "was not kept for research"):
                clear(life, pinned, **terms)
    if kept:
        assert clear(life, release(life, approved), research=True).status == "research"
    with pytest.raises(GateError, match="has been retired since"):
        clear(life, read_release(edited), research=True)


def test_a_deprecated_model_answers_until_its_sunset(tmp_path):
    life, approved, _ = gated_life(tmp_path)
    life.ledger.move(approved, "deprecated", who="ann", why="old", sunset=time.time() + 3600)
    assert clear(life, release(life, approved)).status == "approved"
    life.ledger.move(approved, "deprecated", who="ann", why="old", sunset=1.0)
    with pytest.raises(GateError, match="has been retired since"):
        clear(life, release(life, approved), research=True)


def test_weights_that_a_gate_rejected_are_not_approved_by_a_gate_that_was_set_later(tmp_path):
    life, *_ = gated_life(tmp_path)
    rejected = life.step("sft", "model", files=dict.fromkeys(FILES, "rejected"))
    life.report("check", rejected, {"world": {"world": {"accuracy": wilson(0, 40)}}})
    assert decisions.evaluate_gate_by_name(life.ledger, life.store, "cat/release").judged.verdict == "fail"
    with pytest.raises(GateError, match="the gate cat/release rejected"):
        clear(life, release(life, rejected))
    copy = copy_of(life, rejected, "copy", own__txt="edited")
    with pytest.raises(GateError, match="holds weights that the gate cat/release rejected"):
        clear(life, read_release(create_release(copy, tmp_path / "release", name="copy")))
    easy = build(
        Policy, {"model": "sft", "bars": [{"report": "other", "figure": "a/b", "at_least": 0.1}]}, where="gate"
    )
    decisions.record_policy(life.ledger, "cat/easy", easy)
    life.report("other", rejected, {"a": {"a": {"b": wilson(40, 40)}}})
    assert decisions.evaluate_gate_by_name(life.ledger, life.store, "cat/easy").passed
    with pytest.raises(GateError, match="rejected these weights before the gate cat/easy was set"):
        clear(life, release(life, rejected))


# -- what a release may hold


def test_a_release_with_a_symbolic_link_or_a_stray_file_is_refused(tmp_path):
    life, approved, _ = gated_life(tmp_path)
    for stray in ("model/more.json", "notes.txt", "model/.hidden", "sub/deep.txt"):
        pinned = release(life, approved)
        (pinned.folder / stray).parent.mkdir(exist_ok=True)
        (pinned.folder / stray).write_text("{}")
        with pytest.raises(StoreError, match=r"is not named in release\.json"):
            verify_release(pinned)
    pinned = release(life, approved)
    (pinned.folder / "model" / "config.json").unlink()
    (pinned.folder / "model" / "config.json").symlink_to(life.store.open(approved).path / "config.json")
    with pytest.raises(ModelError, match="is a symbolic link"):
        verify_release(pinned)
    folder = copy_of(life, approved, "linked")
    (folder / "secret.txt").symlink_to("/etc/hostname")
    with pytest.raises(ModelError, match=r"secret\.txt: is a symbolic link"):
        create_release(folder, tmp_path / "release", name="cat")


def test_a_file_that_is_replaced_between_verification_and_loading_is_not_loaded(tmp_path):
    life, approved, _ = gated_life(tmp_path)
    pinned = release(life, approved)
    weights = pinned.folder / "model" / "model.safetensors"
    genuine, loads = weights.read_bytes(), []

    def load(_release: ReleaseInfo, _files: object) -> bytes:
        if not loads:  # replaced for the moment of the load, and put back afterwards
            weights.unlink()
            weights.write_bytes(b"other weights")
        loads.append(weights.read_bytes())
        weights.unlink()
        weights.write_bytes(genuine)
        return loads[-1]

    with pytest.raises(StoreError, match="change while they are loaded"):
        load_verified(pinned.folder, load, digest=pinned.digest)
    assert len(loads) == 3


# -- from the command line


def test_serve_refuses_what_no_gate_approved_and_what_is_retired(vita: Vita, tmp_path: Path, monkeypatch) -> None:
    life, approved, draft = gated_life(tmp_path)
    monkeypatch.setenv("VITA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("VITA_LEDGER", life.ledger.url)
    code, _, err = vita("serve", draft, "--port", "0")
    assert code == 9 and "in the state candidate" in err and "--ungated REASON" in err
    code, _, err = vita("serve", str(copy_of(life, draft, "folder", own__txt="x")), "--port", "0")
    assert code == 9 and "which no gate has approved" in err
    forged = release(life, draft, claim=approved)
    code, _, err = vita("serve", str(forged.folder), "--port", "0", "--ungated", "why not")
    assert code == 9 and "which it says it holds" in err
    life.ledger.move(approved, "retired", who="ann", why="old")
    folder = copy_of(life, approved, "retired", own__txt="edited")
    code, _, err = vita("serve", str(folder), "--port", "0", "--ungated", "why not")
    assert code == 9 and "has been retired since" in err, json.dumps(err)


@pytest.mark.slow
def test_a_retired_model_is_refused_by_name_digest_folder_and_link(vita: Vita, tmp_path: Path, monkeypatch) -> None:
    life, approved, _ = gated_life(tmp_path)
    monkeypatch.setenv("VITA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("VITA_LEDGER", life.ledger.url)
    life.ledger.name("cat/old", approved)
    pinned = release(life, approved)
    life.ledger.move(approved, "retired", who="ann", why="old")
    folder = copy_of(life, approved, "copy")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "release-link").symlink_to(pinned.folder)
    paths = (folder, tmp_path / "link", pinned.folder, tmp_path / "release-link")
    for reference in ("cat/old", approved, approved[:12], *map(str, paths)):
        code, _, err = vita("serve", reference, "--port", "0", "--ungated", "why not")
        assert code == 9 and "has been retired since" in err, (reference, err)


@pytest.mark.slow
def test_serve_knows_retired_and_rejected_weights_in_other_files(vita: Vita, tmp_path: Path, monkeypatch) -> None:
    life, *_ = gated_life(tmp_path)
    monkeypatch.setenv("VITA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("VITA_LEDGER", life.ledger.url)
    folder = model_folder(tmp_path / "folder")
    shutil.copytree(folder, tmp_path / "draft")
    model = life.store.commit(Draft(kinds.Model, tmp_path / "draft")).digest
    life.ledger.name("cat/sft", model)
    life.report("check", model, {"world": {"world": {"accuracy": wilson(0, 40)}}})
    assert vita("gate", "cat/release")[0] == 10
    copies = [rewritten(folder, tmp_path / name, **change) for name, change in REWRITTEN.items()]
    for copy in copies:
        code, _, err = vita("serve", str(copy), "--port", "0")
        assert code == 9 and "the gate cat/release rejected" in err, (copy.name, err)
    life.ledger.move(model, "retired", who="ann", why="old")
    for copy in copies:
        code, _, err = vita("serve", str(copy), "--port", "0", "--ungated", "why not")
        assert code == 9 and "has been retired since" in err, (copy.name, err)


REWRITTEN: dict[str, dict[str, Any]] = {
    "metadata": {"metadata": {"note": "saved again"}},
    "shards": {"shards": 3},
    "wider": {"dtype": torch.float64},
}


def rewritten(
    source: Path, target: Path, *, shards: int = 1, dtype: torch.dtype | None = None, metadata: Any = None
) -> Path:
    """A copy of a model folder with the same values in other weight files."""
    shutil.copytree(source, target)
    weights = target / "model.safetensors"
    tensors = {name: tensor.to(dtype or tensor.dtype) for name, tensor in load_file(weights).items()}
    weights.unlink()
    if shards == 1:
        save_file(tensors, weights, metadata=metadata)
        return target
    places = {name: f"part-{number % shards}.safetensors" for number, name in enumerate(tensors)}
    for file in set(places.values()):
        save_file({name: tensor for name, tensor in tensors.items() if places[name] == file}, target / file)
    (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return target

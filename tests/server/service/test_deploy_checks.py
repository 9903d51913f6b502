"""A service identifies a model by the digest of its files and requires an approval or a recorded reason."""

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
    """Return a life whose gate approves the model `sft`, and the model `draft`, which has no gate."""
    life = Life(folder)
    decisions.record_policy(life.ledger, "cat/release", build(Policy, BARS, where="gate"))
    approved_model, draft = (life.step(name, "model", files=dict.fromkeys(FILES, name)) for name in ("sft", "draft"))
    life.report("check", approved_model, {"world": {"world": {"accuracy": wilson(40, 40)}}})
    assert decisions.evaluate_gate_by_name(life.ledger, life.store, "cat/release").passed
    return life, approved_model, draft


def release(life: Life, model: str, *, claim: str | None = None, guard: dict[str, Any] | None = None) -> ReleaseInfo:
    """Create a release of a model of the store, which may claim to hold another model."""
    target = life.folder / "releases" / str(time.monotonic_ns())
    source = life.store.open(model).path
    return read_release(create_release(source, target, name="cat", version="1", digest=claim or model, guard=guard))


def clear(life: Life, release_info: ReleaseInfo, **terms: Any) -> Clearance:
    return ledger_clearance(life.ledger, life.store)(release_info, ServingRequest(**terms))


def copy_model(life: Life, model: str, name: str, **changes: str) -> Path:
    """Copy the folder of a model to another path, with some files changed."""
    target = life.folder / name
    shutil.copytree(life.store.open(model).path, target)
    for file, text in changes.items():
        path = target / file.replace("__", ".")
        path.unlink(missing_ok=True)
        path.write_text(text)
    return target


def test_an_approved_model_is_cleared_by_its_gate(tmp_path):
    life, approved_model, _ = gated_life(tmp_path)
    clearance = clear(life, release(life, approved_model))
    assert clearance.model == approved_model
    assert clearance.as_json() == {"status": "approved", "gate": "cat/release"}


def test_a_model_without_an_approval_needs_a_reason_which_is_recorded(tmp_path):
    life, _, draft = gated_life(tmp_path)
    with pytest.raises(GateError, match="in the state candidate.*--ungated REASON"):
        clear(life, release(life, draft))
    with pytest.raises(GateError, match="needs a reason"):
        clear(life, release(life, draft), ungated="  ")
    clearance = clear(life, release(life, draft), ungated="a load test")
    assert (clearance.model, clearance.status, clearance.reason) == (draft, "ungated", "a load test")
    (event,) = [event for event in life.ledger.events(draft) if event["event"] == UNGATED]
    assert event["data"]["reason"] == "a load test" and "candidate" in event["data"]["refusal"]


def test_a_release_with_other_files_than_the_model_it_claims_is_refused_even_with_a_reason(tmp_path):
    life, approved_model, draft = gated_life(tmp_path)
    for terms in ({}, {"ungated": "a load test"}):
        with pytest.raises(GateError, match=f"expected the files of the model {approved_model[:12]}"):
            clear(life, release(life, draft, claim=approved_model), **terms)


def test_a_model_whose_approval_has_ended_is_not_cleared(tmp_path):
    life, approved_model, _ = gated_life(tmp_path)
    release_info = release(life, approved_model)
    life.report("check", approved_model, {"world": {"world": {"accuracy": wilson(0, 40)}}})
    with pytest.raises(GateError, match="check:world/accuracy"):
        clear(life, release_info)


def test_the_same_files_are_the_same_model_at_every_path(tmp_path):
    life, approved_model, draft = gated_life(tmp_path)
    copies = [copy_model(life, approved_model, name) for name in ("one", "two")]
    for number, folder in enumerate(copies):
        release_info = read_release(create_release(folder, tmp_path / f"release-{number}", name="copy"))
        assert clear(life, release_info).model == approved_model
    edited_copies = [copy_model(life, draft, name, own__txt="new") for name in ("three", "four")]
    first_release, second_release = (
        read_release(create_release(folder, tmp_path / f"r-{folder.name}", name="copy")) for folder in edited_copies
    )
    assert first_release.model == second_release.model and first_release.version == first_release.model[:8]


@pytest.mark.parametrize("changes", [{"own__txt": "an edited file"}, {"tokenizer__json": "another tokenizer"}])
def test_a_copy_of_approved_weights_with_other_files_is_not_approved(tmp_path, changes):
    life, approved_model, _ = gated_life(tmp_path)
    folder = copy_model(life, approved_model, "copy", **changes)
    release_info = read_release(create_release(folder, tmp_path / "release", name="copy", digest=None))
    with pytest.raises(GateError, match="holds the weights of the approved model .* but other files"):
        clear(life, release_info)
    assert clear(life, release_info, ungated="a trial of the tokenizer").model != approved_model


def test_an_approval_requires_the_content_filter_of_the_measurement(tmp_path):
    life, approved_model, _ = gated_life(tmp_path)
    figures = {"world": {"world": {"accuracy": wilson(40, 40)}}}
    report = ReportContent.of("redteam", figures, model=approved_model, settings={"guard": {"words": ["poison"]}})
    files = {REPORT_FILE: report.model_dump(mode="json")}
    life.step("check", "report", stage="redteam", files=files, inputs={"model": approved_model})
    with pytest.raises(GateError, match=r"expected the guard used in the measurement: the guard .*, got no guard"):
        clear(life, release(life, approved_model))
    assert clear(life, release(life, approved_model, guard={"words": ["poison"]})).status == "approved"


@pytest.mark.parametrize("research", [True, False])
def test_a_retired_model_is_refused_at_every_path_and_served_for_research_only_if_retained(tmp_path, research):
    life, approved_model, _ = gated_life(tmp_path)
    edited_release = create_release(
        copy_model(life, approved_model, "copy", own__txt="edited"), tmp_path / "edited", name="copy"
    )
    life.ledger.move(approved_model, "retired", who="ann", why="old", research=research)
    for terms in ({}, {"ungated": "please"}):
        for release_info, kept in ((release(life, approved_model), research), (read_release(edited_release), False)):
            with pytest.raises(GateError, match="--research serves it" if kept else "are not kept for research"):
                clear(life, release_info, **terms)
    if research:
        assert clear(life, release(life, approved_model), research=True).status == "research"
    with pytest.raises(GateError, match="has been retired since"):
        clear(life, read_release(edited_release), research=True)


def release_with_companions(life: Life, *, base: Path | None = None, draft: Path | None = None) -> ReleaseInfo:
    """Create a release of a model without a state: an adapter of `base`, or a model with the draft model `draft`."""
    folder = life.folder / "adapter"
    if base is not None:
        config = {"base_model_name_or_path": str(base)}
        folder.mkdir(exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps(config))
        (folder / "adapter_model.safetensors").write_text("adapter")
    else:
        shutil.copytree(life.store.open(life.step("plain", "model", files=dict.fromkeys(FILES, "plain"))).path, folder)
    target = life.folder / "releases" / str(time.monotonic_ns())
    return read_release(create_release(folder, target, name="alpha", version="1", draft=draft))


@pytest.mark.parametrize("role", ["base", "draft"])
def test_a_retired_model_is_refused_as_the_base_of_an_adapter_and_as_a_draft_model(tmp_path, role):
    life, approved_model, _ = gated_life(tmp_path)
    weights = copy_model(life, approved_model, "weights", own__txt="edited")
    release_info = release_with_companions(life, **{role: weights})
    clearance = clear(life, release_info, ungated="a test")
    assert [approved_model in match.digests for match in clearance.weights] == [False, True]
    life.ledger.move(approved_model, "retired", who="ann", why="old", research=True)
    for terms in ({"ungated": "a test"}, {"research": True}):  # research serves the unchanged model only
        with pytest.raises(GateError, match=f"^{role} model {approved_model[:12]}: has been retired since"):
            clear(life, release_info, **terms)


def test_a_model_kept_for_research_is_served_for_research_as_the_base_of_an_adapter(tmp_path):
    life, approved_model, _ = gated_life(tmp_path)
    release_info = release_with_companions(life, base=life.store.open(approved_model).path)
    life.ledger.move(approved_model, "retired", who="ann", why="old", research=True)
    with pytest.raises(GateError, match="--research serves it"):
        clear(life, release_info, ungated="a test")
    clearance = clear(life, release_info, research=True)
    assert clearance.status == "research"
    assert clearance.reason is not None and clearance.reason.startswith(f"the base model {approved_model[:12]} was")


def test_an_adapter_whose_base_is_outside_the_release_is_refused(tmp_path):
    life, approved_model, _ = gated_life(tmp_path)
    release_info = release_with_companions(life, base=life.store.open(approved_model).path)
    content = json.loads((release_info.folder / "release.json").read_text())
    content["files"] = {name: sha for name, sha in content["files"].items() if not name.startswith("base/")}
    shutil.rmtree(release_info.folder / "base")
    (release_info.folder / "release.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="holds an adapter, expected the files of its base model in the folder `base`"):
        clear(life, read_release(release_info.folder), ungated="a test")


def test_a_deprecated_model_answers_until_its_sunset(tmp_path):
    life, approved_model, _ = gated_life(tmp_path)
    life.ledger.move(approved_model, "deprecated", who="ann", why="old", sunset=time.time() + 3600)
    assert clear(life, release(life, approved_model)).status == "approved"
    life.ledger.move(approved_model, "deprecated", who="ann", why="old", sunset=1.0)
    with pytest.raises(GateError, match="has been retired since"):
        clear(life, release(life, approved_model), research=True)


def test_rejected_weights_are_not_approved_by_a_later_gate(tmp_path):
    life, *_ = gated_life(tmp_path)
    rejected_model = life.step("sft", "model", files=dict.fromkeys(FILES, "rejected"))
    life.report("check", rejected_model, {"world": {"world": {"accuracy": wilson(0, 40)}}})
    assert decisions.evaluate_gate_by_name(life.ledger, life.store, "cat/release").judged.verdict == "fail"
    with pytest.raises(GateError, match="the gate cat/release rejected"):
        clear(life, release(life, rejected_model))
    copy = copy_model(life, rejected_model, "copy", own__txt="edited")
    with pytest.raises(GateError, match="holds weights that the gate cat/release rejected"):
        clear(life, read_release(create_release(copy, tmp_path / "release", name="copy")))
    easy_policy = build(
        Policy, {"model": "sft", "bars": [{"report": "other", "figure": "a/b", "at_least": 0.1}]}, where="gate"
    )
    decisions.record_policy(life.ledger, "cat/easy", easy_policy)
    life.report("other", rejected_model, {"a": {"a": {"b": wilson(40, 40)}}})
    assert decisions.evaluate_gate_by_name(life.ledger, life.store, "cat/easy").passed
    with pytest.raises(GateError, match="rejected these weights before the gate cat/easy was set"):
        clear(life, release(life, rejected_model))


# -- the files of a release


def test_a_release_with_a_symbolic_link_or_an_extra_file_is_refused(tmp_path):
    life, approved_model, _ = gated_life(tmp_path)
    for extra_file in ("model/more.json", "notes.txt", "model/.hidden", "sub/deep.txt"):
        release_info = release(life, approved_model)
        (release_info.folder / extra_file).parent.mkdir(exist_ok=True)
        (release_info.folder / extra_file).write_text("{}")
        with pytest.raises(StoreError, match=r"is not named in release\.json"):
            verify_release(release_info)
    release_info = release(life, approved_model)
    (release_info.folder / "model" / "config.json").unlink()
    (release_info.folder / "model" / "config.json").symlink_to(life.store.open(approved_model).path / "config.json")
    with pytest.raises(ModelError, match="is a symbolic link"):
        verify_release(release_info)
    folder = copy_model(life, approved_model, "linked")
    (folder / "secret.txt").symlink_to("/etc/hostname")
    with pytest.raises(ModelError, match=r"secret\.txt: is a symbolic link"):
        create_release(folder, tmp_path / "release", name="cat")


def test_a_file_that_is_replaced_between_verification_and_loading_is_not_loaded(tmp_path):
    life, approved_model, _ = gated_life(tmp_path)
    release_info = release(life, approved_model)
    weights = release_info.folder / "model" / "model.safetensors"
    original, loads = weights.read_bytes(), []

    def load(_release: ReleaseInfo, _files: object) -> bytes:
        if not loads:  # replaced during the load, and restored afterwards
            weights.unlink()
            weights.write_bytes(b"other weights")
        loads.append(weights.read_bytes())
        weights.unlink()
        weights.write_bytes(original)
        return loads[-1]

    with pytest.raises(StoreError, match="change while they are loaded"):
        load_verified(release_info.folder, load, digest=release_info.digest)
    assert len(loads) == 3


# -- on the command line


@pytest.mark.slow
def test_serve_refuses_models_without_approval_and_retired_models(vita: Vita, tmp_path: Path, monkeypatch) -> None:
    life, approved_model, draft = gated_life(tmp_path)
    monkeypatch.setenv("VITA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("VITA_LEDGER", life.ledger.url)
    code, _, err = vita("serve", draft, "--port", "0")
    assert code == 9 and "in the state candidate" in err and "--ungated REASON" in err
    code, _, err = vita("serve", str(copy_model(life, draft, "folder", own__txt="x")), "--port", "0")
    assert code == 9 and "which no gate has approved" in err
    forged_release = release(life, draft, claim=approved_model)
    code, _, err = vita("serve", str(forged_release.folder), "--port", "0", "--ungated", "why not")
    assert code == 9 and "which it says it holds" in err
    life.ledger.move(approved_model, "retired", who="ann", why="old")
    folder = copy_model(life, approved_model, "retired", own__txt="edited")
    code, _, err = vita("serve", str(folder), "--port", "0", "--ungated", "why not")
    assert code == 9 and "has been retired since" in err, json.dumps(err)


@pytest.mark.slow
def test_a_retired_model_is_refused_by_name_digest_folder_and_link(vita: Vita, tmp_path: Path, monkeypatch) -> None:
    life, approved_model, _ = gated_life(tmp_path)
    monkeypatch.setenv("VITA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("VITA_LEDGER", life.ledger.url)
    life.ledger.name("cat/old", approved_model)
    release_info = release(life, approved_model)
    life.ledger.move(approved_model, "retired", who="ann", why="old")
    folder = copy_model(life, approved_model, "copy")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "release-link").symlink_to(release_info.folder)
    paths = (folder, tmp_path / "link", release_info.folder, tmp_path / "release-link")
    for reference in ("cat/old", approved_model, approved_model[:12], *map(str, paths)):
        code, _, err = vita("serve", reference, "--port", "0", "--ungated", "why not")
        assert code == 9 and "has been retired since" in err, (reference, err)


@pytest.mark.slow
def test_serve_recognizes_retired_and_rejected_weights_in_other_files(vita: Vita, tmp_path: Path, monkeypatch) -> None:
    life, *_ = gated_life(tmp_path)
    monkeypatch.setenv("VITA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("VITA_LEDGER", life.ledger.url)
    folder = model_folder(tmp_path / "folder")
    shutil.copytree(folder, tmp_path / "draft")
    model = life.store.commit(Draft(kinds.Model, tmp_path / "draft")).digest
    life.ledger.name("cat/sft", model)
    life.report("check", model, {"world": {"world": {"accuracy": wilson(0, 40)}}})
    assert vita("gate", "cat/release")[0] == 10
    copies = [rewrite_weights(folder, tmp_path / name, **change) for name, change in REWRITE_OPTIONS.items()]
    for copy in copies:
        code, _, err = vita("serve", str(copy), "--port", "0")
        assert code == 9 and "the gate cat/release rejected" in err, (copy.name, err)
    life.ledger.move(model, "retired", who="ann", why="old")
    for copy in copies:
        code, _, err = vita("serve", str(copy), "--port", "0", "--ungated", "why not")
        assert code == 9 and "has been retired since" in err, (copy.name, err)


REWRITE_OPTIONS: dict[str, dict[str, Any]] = {
    "metadata": {"metadata": {"note": "saved again"}},
    "shards": {"shards": 3},
    "wider": {"dtype": torch.float64},
}


def rewrite_weights(
    source: Path, target: Path, *, shards: int = 1, dtype: torch.dtype | None = None, metadata: Any = None
) -> Path:
    """Copy a model folder with the same values in other weight files."""
    shutil.copytree(source, target)
    weights = target / "model.safetensors"
    tensors = {name: tensor.to(dtype or tensor.dtype) for name, tensor in load_file(weights).items()}
    weights.unlink()
    if shards == 1:
        save_file(tensors, weights, metadata=metadata)
        return target
    file_names = {name: f"part-{number % shards}.safetensors" for number, name in enumerate(tensors)}
    for file in set(file_names.values()):
        save_file({name: tensor for name, tensor in tensors.items() if file_names[name] == file}, target / file)
    (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": file_names}))
    return target

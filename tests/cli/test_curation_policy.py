"""`vita curate-policy`: rules are measured on a corpus, approved by a person, and applied to exactly this corpus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.corpora import write
from tests.cli.models import save_chat_model
from tests.cli.test_cli import Vita, vita
from vita.life import own_stages, stage
from vita.spine.config import read_yaml

__all__ = ["vita"]

LONG = [{"id": f"long-{number}", "text": f"The long text number {number} has " + "some words " * 2 + "and an end."}
        for number in range(8)]  # fmt: skip
SHORT = [{"id": f"short-{number}", "text": f"Text {number}."} for number in range(2)]


@pytest.fixture
def life(vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a life file with a required approval of `policy.yaml`; Ada has a key."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    write(tmp_path / "docs.jsonl", *LONG, *SHORT)
    (tmp_path / "rules.yaml").write_text("sources: [docs.jsonl]\nfilters: [{length: {min_words: 5}}]\n")
    curate = {"sources": {"docs": "docs.jsonl"}, "policy": "policy.yaml", "approval": "required", "held_out": 0}
    (tmp_path / "life.yaml").write_text(yaml.safe_dump({"name": "corpus", "stages": {"curate": curate}}))
    vita("people", "add", "Ada")
    return tmp_path / "life.yaml"


def propose(vita: Vita, *options: str) -> dict[str, Any]:
    code, out, errors = vita("curate-policy", "propose", "--output", "policy.yaml", "--json", *options)
    assert code == 0, errors
    return json.loads(out)


def change(path: Path, **settings: Any) -> None:
    content = read_yaml(path)
    content["stages"]["curate"] |= settings
    path.write_text(yaml.safe_dump(content))


@pytest.mark.slow
def test_an_approved_policy_is_applied_and_named_in_the_report(vita: Vita, life: Path) -> None:
    measured = propose(vita, "--config", "rules.yaml")
    assert measured["documents"]["read"] == 10 and measured["dropped"]["length.short"]["documents"] == 2
    assert measured["dropped"]["length.short"]["share"] == 0.2
    samples = measured["dropped"]["length.short"]["samples"]
    assert sorted(sample["id"] for sample in samples) == ["short-0", "short-1"]
    [row] = measured["filters"]
    assert (row["filter"], row["corpus"]["value"], row["rules"]) == ("length", 0.2, {"short": 2})

    [step] = json.loads(vita("plan", str(life), "--json")[1])
    assert step["runs"] and "curate: would be refused now" in step["warnings"][0]
    assert "is not approved for this corpus" in step["warnings"][0]
    code, _, errors = vita("live", str(life))
    assert code == 9 and "is not approved for this corpus; after a review: `vita curate-policy approve" in errors
    approval = json.loads(
        vita("curate-policy", "approve", "policy.yaml", "--by", "ada", "--reason", "read", "--json")[1]
    )
    assert (approval["who"], approval["corpus"]) == ("Ada", measured["corpus"])
    code, _, errors = vita("curate-policy", "approve", "policy.yaml", "--by", "Ada")
    assert code == 9 and "Ada has approved this policy for this corpus already" in errors
    assert "approved by Ada" in vita("curate-policy", "show", "policy.yaml")[1]

    assert vita("live", str(life))[0] == 0
    shown = json.loads(vita("show", "corpus/curate", "--json")[1])
    assert shown["facts"]["approved_by"] == ["Ada"] and shown["facts"]["policy"] == approval["policy"]
    assert shown["facts"]["dropped"] == {"length.short": 2}
    report = json.loads((Path(shown["folder"]) / "report.json").read_text())["details"]["policy"]
    assert report["approval"] == "required" and report["corpus_fingerprint"] == measured["corpus"]
    assert [(row["who"], row["reason"]) for row in report["approvals"]] == [("Ada", "read")]
    assert "Ada" in (Path(shown["folder"]) / "report.md").read_text()

    code, _, errors = vita("curate", "docs.jsonl", "--held-out", "0", "--policy", "policy.yaml", "--approval",
                           "required", "--out", "folder")  # fmt: skip
    assert code == 0, errors


@pytest.mark.slow
def test_another_corpus_and_changed_rules_need_another_approval(vita: Vita, life: Path) -> None:
    propose(vita, "--config", "rules.yaml")
    vita("curate-policy", "approve", "policy.yaml", "--by", "Ada")
    approved = (life.parent / "policy.yaml").read_text()

    (life.parent / "policy.yaml").write_text(approved.replace("min_words: 5", "min_words: 6"))
    code, _, errors = vita("live", str(life))
    assert code == 9 and "has changed since Ada approved the rules for this corpus on 20" in errors

    (life.parent / "policy.yaml").write_text(approved)
    write(life.parent / "docs.jsonl", *LONG)
    code, _, errors = vita("live", str(life))
    assert code == 9 and "was measured on another corpus: docs changed" in errors
    assert "measure this corpus with `vita curate-policy propose`" in errors

    # Without a required approval, the rules apply to any corpus, and the report states that it is another one.
    change(life, approval="none")
    assert vita("live", str(life))[0] == 0
    shown = json.loads(vita("show", "corpus/curate", "--json")[1])
    assert shown["facts"]["approved_by"] == []
    report = json.loads((Path(shown["folder"]) / "report.json").read_text())["details"]["policy"]
    assert (report["approval"], report["corpus"]) == ("not required", "another")


@pytest.mark.slow
def test_a_changed_setting_of_a_source_is_named(vita: Vita, life: Path) -> None:
    propose(vita, "--config", "rules.yaml")
    vita("curate-policy", "approve", "policy.yaml", "--by", "Ada")
    source = {"path": "docs.jsonl", "on_bad_row": "drop", "rights": {"consent": "any"}}
    change(life, sources={"docs": source})
    code, _, errors = vita("live", str(life))
    problem = "was measured with other settings of the sources: `rights.consent` of docs is any, and was not_refused; "
    problem += "`on_bad_row` of docs is drop, and was error"
    assert code == 9 and problem in errors and "another corpus" not in errors

    change(life, approval="none")
    code, out, errors = vita("live", str(life))
    assert code == 0 and f"policy.yaml {problem}" in " ".join((out + errors).split())

    # A policy of an earlier version does not state the settings.
    policy = read_yaml(life.parent / "policy.yaml")
    [row] = policy["corpus"]["sources"]
    del row["content"], row["settings"]
    (life.parent / "policy.yaml").write_text(yaml.safe_dump(policy))
    change(life, approval="required")
    code, _, errors = vita("live", str(life))
    assert code == 9 and "was measured on another corpus: docs changed" in errors


@pytest.mark.slow
def test_an_approval_with_a_revoked_key_does_not_count(vita: Vita, life: Path) -> None:
    propose(vita, "--config", "rules.yaml")
    vita("curate-policy", "approve", "policy.yaml", "--by", "Ada")
    vita("people", "revoke", "Ada", "--since", "2020-01-01")
    code, _, errors = vita("live", str(life))
    assert code == 9 and "the curation approval of Ada does not count: its key was revoked" in errors


@pytest.mark.slow
def test_an_existing_corpus_is_used_again_only_while_its_approval_is_valid(
    vita: Vita, life: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    propose(vita, "--config", "rules.yaml")
    vita("curate-policy", "approve", "policy.yaml", "--by", "Ada")
    assert vita("live", str(life))[0] == 0
    [step] = json.loads(vita("plan", str(life), "--json")[1])
    assert (step["runs"], step["warnings"]) == (False, [])

    vita("people", "revoke", "Ada", "--since", "2020-01-01")
    problem = "the curation approval of Ada does not count: its key was revoked"
    [revoked] = json.loads(vita("plan", str(life), "--json")[1])
    assert (revoked["runs"], revoked["artifact"]) == (False, step["artifact"])
    assert problem in revoked["warnings"][0] and "curate: would be refused now" in revoked["warnings"][0]
    single = ("curate", "--config", "stage.yaml", "--life", "corpus")
    Path("stage.yaml").write_text(yaml.safe_dump(read_yaml(life)["stages"]["curate"]))
    for command in (("live", str(life)), single):
        code, out, errors = vita(*command)
        assert code == 9 and problem in errors and "vita curate-policy approve" in errors, out

    code, _, errors = vita("tokenize", "--corpus", "corpus/curate")
    assert code == 9 and "tokenize.corpus: the corpus" in errors and problem in errors

    vita("people", "add", "Grace")
    assert vita("curate-policy", "approve", "policy.yaml", "--by", "Grace")[0] == 0
    assert vita("live", str(life))[0] == 0
    assert json.loads(vita("show", "corpus/curate", "--json")[1])["digest"] == step["artifact"], "not built again"

    change(life, approval="none")
    assert vita("live", str(life))[0] == 0
    vita("people", "revoke", "Grace", "--since", "2020-01-01")
    monkeypatch.setattr("vita.stages.curate._policy_record", lambda *_: pytest.fail("the approval was read"))
    assert vita("live", str(life))[0] == 0, "a life without `approval` uses its corpus without a check"


@pytest.mark.slow
def test_stages_that_read_a_corpus_by_name_require_its_approval(vita: Vita, life: Path, tmp_path: Path) -> None:
    save_chat_model(tmp_path / "model")
    model = ("--model", "model")
    change(life, held_out=2)
    propose(vita, "--config", "rules.yaml")
    vita("curate-policy", "approve", "policy.yaml", "--by", "Ada")
    approved = ("--policy", "policy.yaml", "--approval", "required", "--held-out", "2", "--out", "folder")
    design = ("design", "--depth", "1", "--width", "32", "--context", "32", "--steps", "2", "--tokens-per-step", "64",
              "--timed-steps", "0", "--tokens", "my/tokenize")  # fmt: skip
    for command in (
        ("live", str(life)),
        ("tokenize", "model", "--corpus", "corpus/curate"),
        ("deduplicate", "model", "--corpus", "corpus/curate", "--threshold", "1", "--life", "derived"),
        ("curate", "docs.jsonl", *approved),
        design,
    ):
        code, _, errors = vita(*command)
        assert code == 0, errors
    corpus, tokens = ("--corpus", "corpus/curate"), ("--tokens", "my/tokenize")
    readers = [
        ("tokenize", "model", *corpus),
        ("tokenize", "model", "--corpus", "folder"),
        ("tokenize", "model", "--corpus", "derived/deduplicate"),
        ("deduplicate", "model", *corpus),
        ("rephrase", "model", *corpus),
        ("test", "model", *corpus),
        ("test", "model", *tokens),
        ("initialize", *tokens),
        ("pretrain", "model", *tokens),
        ("adapt", "docs.jsonl", *model, *tokens),
        ("sft", "docs.jsonl", *model, *tokens),
        design,
        ("redteam", "model", *tokens),
    ]
    with_slots = {
        name for name in own_stages() if {"corpus", "tokens"} & {slot.kind.kind for slot in stage(name).slots}
    }
    assert {words[0] for words in readers} == with_slots - {"retire"}
    assert stage("retire").admits_all_inputs

    vita("people", "revoke", "Ada", "--since", "2020-01-01")
    for words in readers:
        code, _, errors = vita(*words)
        slot = "tokens" if "--tokens" in words else "corpus"
        assert code == 9, (words, errors)
        assert f"{words[0]}.{slot}: the " in errors and "requires an approval, and none counts" in errors
        assert "the curation approval of Ada does not count: its key was revoked" in errors, errors
    vita("people", "add", "Grace")
    assert vita("curate-policy", "approve", "policy.yaml", "--by", "Grace")[0] == 0
    assert vita("tokenize", "model", *corpus)[0] == 0


@pytest.mark.slow
def test_a_folder_of_documents_is_read_as_data_only_while_its_approval_is_valid(vita: Vita, life: Path) -> None:
    propose(vita, "--config", "rules.yaml")
    vita("curate-policy", "approve", "policy.yaml", "--by", "Ada")
    options = ("--set", "filters=[]", "--held-out", "0", "--workers", "1")
    approved = ("--policy", "policy.yaml", "--approval", "required", "--held-out", "0", "--workers", "1")
    assert vita("curate", "docs.jsonl", *approved, "--out", "folder")[0] == 0
    assert vita("curate", "folder/train", *options, "--out", "copy")[0] == 0
    vita("people", "revoke", "Ada", "--since", "2020-01-01")
    for number, data in enumerate(("folder", "folder/train", "folder/train/*.zst")):
        for out in ((), ("--out", f"refused-{number}")):
            code, _, errors = vita("curate", data, *options, *out)
            assert code == 9 and "requires an approval, and none counts" in errors, (data, out, errors)
            assert "the curation approval of Ada does not count: its key was revoked" in errors
    assert vita("curate", "docs.jsonl", *options)[0] == 0


@pytest.mark.slow
def test_thresholds_are_relaxed_for_reference_text(vita: Vita, life: Path) -> None:
    # The references have 7 words, and the filter requires 8: all are dropped before, none after.
    texts = [{"text": f"This reference {number} has seven words indeed."} for number in range(20)]
    write(life.parent / "good.jsonl", *texts)
    (life.parent / "rules.yaml").write_text("sources: [docs.jsonl]\nfilters: [{length: {min_words: 8}}]\n")
    measured = propose(vita, "--config", "rules.yaml", "--reference", "good.jsonl")
    assert measured["changes"] == [{"filter": "length", "setting": "min_words", "before": 8, "after": 7}]
    [row] = measured["filters"]
    assert row["before"]["references"]["value"] == 1 and row["references"]["value"] == 0
    assert measured["reference_documents"] == 10
    assert read_yaml(life.parent / "policy.yaml")["rules"]["filters"] == [{"length": {"min_words": 7, "max_words": 0}}]
    write(life.parent / "few.jsonl", *texts[:9])
    code, _, errors = vita("curate-policy", "propose", "docs.jsonl", "--reference", "few.jsonl", "--output", "b.yaml")
    assert code == 3 and "expected at least 20 documents, got 9" in errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filters": []}, "`policy` sets the rules, and so do filters; leave them out"),
        ({"policy": None}, "`approval: required` needs `policy: FILE`; `vita curate-policy propose` writes one"),
        ({"policy": "missing.yaml"}, "there is no file"),
        ({"policy": "docs.jsonl"}, "docs.jsonl"),
    ],
)
def test_settings_that_contradict_the_policy_are_refused(
    vita: Vita, life: Path, settings: dict[str, Any], message: str
) -> None:
    policy = {"format": "vita-curation-policy/1", "corpus": {"fingerprint": "0", "sources": []}, "rules": {}}
    (life.parent / "policy.yaml").write_text(yaml.safe_dump(policy))
    change(life, **settings)
    code, _, errors = vita("live", str(life))
    assert code == 2 and message in errors


@pytest.mark.slow
def test_a_policy_file_is_not_overwritten_and_a_data_set_without_known_bytes_is_refused(vita: Vita, life: Path) -> None:
    propose(vita, "--config", "rules.yaml")
    code, _, errors = vita("curate-policy", "propose", "docs.jsonl", "--output", "policy.yaml")
    assert code == 4 and "exists" in errors
    (life.parent / "hub.yaml").write_text("sources: [{huggingface: owner/name}]")
    code, _, errors = vita("curate-policy", "propose", "--config", "hub.yaml", "--output", "b.yaml")
    assert code == 2 and "the bytes of the data set `owner/name` are not known before it is read" in errors


@pytest.mark.slow
def test_settings_of_sources_and_of_the_stage_are_set_on_the_command_line(vita: Vita, life: Path) -> None:
    (life.parent / "bad.jsonl").write_text('{"text": "Some text of six words here."}\nno json\n', encoding="utf-8")
    code, _, errors = vita("curate-policy", "propose", "bad.jsonl", "--output", "policy.yaml")
    assert code == 3 and "bad.jsonl, row 2: expected a JSON object" in errors
    filters = ("--set", "filters=[{length: {min_words: 5}}]", "--set", "filters.0.length.min_words=7")
    measured = propose(vita, "bad.jsonl", "docs.jsonl", "--set", "on_bad_row=drop", *filters)
    assert measured["dropped"]["not_json"]["documents"] == 1
    assert measured["dropped"]["length.short"]["documents"] == 3
    (life.parent / "policy.yaml").unlink()
    measured = propose(vita, "--config", str(life), "--set", "filters=[{length: {min_words: 5}}]")
    assert measured["dropped"]["length.short"]["documents"] == 2
    code, _, errors = vita("curate-policy", "propose", "--output", "b.yaml", "docs.jsonl", "--set", "approval=required")
    assert code == 2 and "--set approval=required: has no meaning for a proposal" in errors
    for command in (("curate-policy", "propose", "--output", "b.yaml"), ("curate",)):
        for setting in ("sources=[bad.jsonl]", "sources.0.path=bad.jsonl", "sources.0=bad.jsonl"):
            code, _, errors = vita(*command, "docs.jsonl", "--set", setting)
            assert code == 2 and "cannot be used with DATA: it would replace docs.jsonl" in errors
        code, _, errors = vita(*command, "docs.jsonl", "--config", "rules.yaml")
        problem = "--config rules.yaml: sources: cannot be used with DATA: docs.jsonl would replace them"
        assert code == 2 and problem in " ".join(errors.split())
    code, _, errors = vita("curate-policy", "propose", "--output", "b.yaml", "docs.jsonl", "--set", "on_bad_rows=drop")
    assert code == 2 and "`on_bad_rows` is not known here" in errors


@pytest.mark.slow
def test_drops_are_measured_by_source_and_without_erased_documents(vita: Vita, life: Path) -> None:
    references = [{"id": f"r{n}", "source": "books" if n % 4 else "notes", "text": f"Text {n}" + " words" * (n % 4) * 2}
                  for n in range(80)]  # fmt: skip
    write(life.parent / "references.jsonl", *references)
    assert vita("forget", "short-0", "--by", "Ada")[0] == 0
    assert vita("forget", "--source", "notes", "--by", "Ada", "--allow-absent", "--output", "second")[0] == 0
    assert vita("erasures", "withdraw", "2", "--by", "Ada", "--reason", "a mistake")[0] == 0
    options = ("--reference", "references.jsonl", "--max-false-drops", "1")
    measured = propose(vita, "--config", "rules.yaml", *options)
    assert measured["sampled_documents"] == 9 and measured["dropped"]["erased"]["documents"] == 1
    [row] = measured["filters"]
    assert row["corpus_sources"]["docs"] == {**row["corpus"], "documents": 9}
    shares = row["reference_sources"]
    # `notes` has texts of two words, and one third of `books` has four.
    assert shares["notes"]["value"] == 1 and 0 < shares["books"]["value"] < 1 and shares["notes"]["low"] < 1
    assert shares["notes"]["documents"] + shares["books"]["documents"] == 40 == measured["reference_documents"]
    assert yaml.safe_load((life.parent / "policy.yaml").read_text())["measured"]["filters"] == measured["filters"]
    out = vita("curate-policy", "show", "policy.yaml")[1]
    assert "source of the references" in out and "source of the corpus" not in out
    assert any(line.split()[:3] == ["length", "books", str(shares["books"]["documents"])] for line in out.split("\n"))

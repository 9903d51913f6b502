"""`vita forget`: later runs exclude a document with its copies, a source or a licence, and a plan is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.corpora import rows, rows_of, write
from tests.cli.models import save_chat_model
from tests.cli.test_cli import Vita, vita
from vita.cli.workspace import Workspace
from vita.data.tokens.loader import Batch, Loader
from vita.data.tokens.packing import PackedDataset, PackedRows
from vita.life import stage
from vita.rights.text_rows import TextRows
from vita.rights.training_steps import training_rows
from vita.spine.store import Store

__all__ = ["vita"]

WORDS = ["rose", "tulip", "oak", "birch", "elm", "fern", "moss", "ivy", "lily", "iris"]


def _text(number: int) -> str:
    order = " ".join(WORDS[(number * step + step // 3) % 10] + str(number) for step in range(1, 25))
    return f"Letter number {number} about the {WORDS[number % 10]}: {order}."


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Write letters under a licence with a near copy of `m1`, notes without one, and a page that opts out."""
    letters = [{"id": f"m{n}", "text": _text(n), "license": "CC-BY-4.0"} for n in range(6)]
    write(tmp_path / "mail.jsonl", *letters, {"id": "near", "text": _text(1) + " Yours, Ann."})
    write(tmp_path / "notes.jsonl", *({"id": f"n{n}", "text": _text(n)} for n in range(10, 15)))
    page = '<html><head><meta name="robots" content="noai"></head><body><p>{}</p></body></html>'
    (tmp_path / "page.html").write_text(page.format("The river runs past the old mill. " * 20))
    return tmp_path


def _curate(vita: Vita, *words: str) -> list[str]:
    """Curate the sources and return the ids of all documents of the corpus."""
    names = words or ("mail.jsonl", "notes.jsonl", "page.html", "--life", "x")
    code, out, err = vita("curate", *names, "--set", "filters=[]", "--held-out", "1", "--json")
    assert code == 0, err
    folder = Path(json.loads(out)["folder"])
    return sorted(row["id"] for part in ("train", "heldout") for row in rows_of(folder, part))


def _facts(vita: Vita, name: str) -> dict[str, Any]:
    return json.loads(vita("show", name, "--json")[1])["facts"]


@pytest.mark.slow
def test_a_source_and_a_licence_are_excluded_from_later_corpora(vita: Vita, sources: Path) -> None:
    assert _curate(vita) == ["m0", "m1", "m2", "m3", "m4", "m5", "n10", "n11", "n12", "n13", "n14"]
    licences = {name: counts["documents"] for name, counts in _facts(vita, "x/curate")["licences"].items()}
    assert licences == {"CC-BY-4.0": 6, "not stated": 5}
    drops = {row["id"]: (row["reason"], row["detail"]) for row in rows(vita, "x/curate", "drops")}
    assert drops["page.html"] == ("rights.opt_out", "robots: noai")
    digest = json.loads(vita("show", "x/curate", "--json")[1])["digest"]

    code, out, err = vita("forget", "--source", "notes", "--plan")
    assert code == 0 and "nothing was recorded: later runs still read all documents of the source `notes`" in out, err
    assert vita("erasures")[1] == "no erasures\n" and "nothing was recorded" in Path("erasure-plan/plan.md").read_text()
    code, out, err = vita("forget", "--source", "notes", "--by", "Ada", "--reason", "contract ended")
    assert code == 0 and "erasure 1 is in force: later runs exclude all documents of the source `notes`" in out, err
    plan = json.loads(Path("erasure-1/plan.json").read_text())
    (corpus,) = plan["rebuild"]
    assert (plan["request"]["source"], plan["by"], plan["reason"]) == ("notes", "Ada", "contract ended")
    assert (corpus["kind"], corpus["digest"], corpus["documents"]) == ("corpus", digest, 5)
    assert corpus["files"] == [name for name in corpus["files"] if (Path(corpus["folder"]) / name).is_file()]
    assert {Path(path).name for path in corpus["read"]} == {"mail.jsonl", "notes.jsonl", "page.html"}
    assert [Path(path).name for path in plan["files_of_sources"]] == ["notes.jsonl"] and not plan["not_searched"]
    assert digest in Path("erasure-1/plan.md").read_text()
    assert _curate(vita) == ["m0", "m1", "m2", "m3", "m4", "m5"]

    assert vita("forget", "--licence", "cc-by-4.0", "--by", "Ada", "--output", "second")[0] == 0
    assert vita("erasures", "withdraw", "1", "--by", "Bo", "--reason", "renewed")[0] == 0
    assert _curate(vita) == ["n10", "n11", "n12", "n13", "n14", "near"]
    assert "withdrawn by Bo" in vita("erasures")[1]


@pytest.mark.slow
def test_the_near_copies_of_a_document_are_traced_and_excluded(vita: Vita, sources: Path) -> None:
    _curate(vita)
    holders = json.loads(vita("trace-document", "m1", "--json")[1])["holders"]
    assert [(holder["use"], holder["explanation"]) for holder in holders][1:] == [
        ("not used", "`near` was dropped as a near copy of it, not trained on")
    ]
    assert "no training step of any recorded model has read it" in vita("trace-document", "m1")[1]
    assert vita("forget", "m1", "--by", "Ada")[0] == 0
    write(sources / "new.jsonl", *({"id": f"n{n}", "text": _text(n)} for n in range(20, 24)),
          {"id": "other id", "text": _text(1) + " Yours, Ann."})  # fmt: skip
    assert _curate(vita, "mail.jsonl", "new.jsonl", "--life", "y") == [
        "m0", "m2", "m3", "m4", "m5", "n20", "n21", "n22", "n23",
    ]  # fmt: skip
    code, _, err = vita("curate", "mail.jsonl", "--set", "filters=[]", "--held-out", "1", "--out", "folder")
    assert code == 0, err
    report = json.loads(Path("folder/report.json").read_text())["details"]
    assert report["dropped"]["erased"]["documents"] == 2, "curation into a folder applies the erasures of the store"


@pytest.mark.slow
def test_a_model_with_random_weights_is_not_retired(vita: Vita, sources: Path) -> None:
    write(sources / "letters" / "more.jsonl", *({"id": f"o{n}", "text": _text(n)} for n in range(20, 30)))
    write(sources / "letters" / "mail.jsonl", *({"id": f"m{n}", "text": _text(n)} for n in range(6)))
    assert "m1" in _curate(vita, "letters", "--life", "x")
    for words in (
        ("tokenize", "--vocabulary", "300"),
        ("design", "--depth", "1", "--width", "32", "--context", "32", "--steps", "2", "--tokens-per-step", "64",
         "--timed-steps", "0"),
        ("initialize",),
    ):  # fmt: skip
        code, _, err = vita(*words, "--life", "x")
        assert code == 0, err
    trace = json.loads(vita("trace-document", "m1", "--json")[1])
    uses = [(weights["names"], weights["use"], weights["explanation"]) for weights in trace["weights"]]
    text = "its weights are random; only its tokenizer was trained on the text"
    assert uses == [(["x/initialize"], "tokenizer only", text)] and not trace["retire"]
    assert trace["weights"][0]["digest"] in trace["rebuild"]
    assert "no training step of any recorded model has read it" in vita("trace-document", "m1")[1]

    assert vita("forget", "m1", "--plan")[0] == 0
    plan = json.loads(Path("erasure-plan/plan.json").read_text())
    notes = {entry["kind"]: entry["note"] for entry in plan["rebuild"]}
    assert notes["model"] == "no training step has read it: rebuild it only if its tokenizer changes"
    assert not plan["retire"] and notes["corpus"] is None
    assert [Path(path).name for path in plan["files_of_sources"]] == ["mail.jsonl"]
    (sources / "letters" / "mail.jsonl").unlink()
    assert vita("forget", "m1", "--plan")[0] == 0
    plan = json.loads(Path("erasure-plan/plan.json").read_text())
    assert not plan["files_of_sources"]
    assert plan["not_searched"] == [f"x/curate read {sources / 'letters'}: it has changed since"]


def test_a_licence_with_a_secret_is_named_as_in_the_data_or_as_it_is_masked(vita: Vita, tmp_path: Path) -> None:
    licence = "https://l.example/terms?token=t0psecret"
    write(tmp_path / "a.jsonl", *({"id": f"a{n}", "text": _text(n), "license": licence} for n in range(3)))
    code, _, err = vita("curate", "a.jsonl", "--set", "filters=[]", "--held-out", "0")
    assert code == 0, err
    for name in (licence, licence.replace("t0psecret", "***")):
        code, out, err = vita("forget", "--licence", name, "--plan")
        assert code == 0 and "t0psecret" not in out + err, out + err
        assert "t0psecret" not in Path("erasure-plan/plan.json").read_text()


def test_a_source_is_named_as_in_the_data_or_as_it_is_masked(vita: Vita, tmp_path: Path) -> None:
    token = "ghp_0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX"
    sources = ("https://l.example/feed?token=t0psecret", "/feed?token=t0psecret", "https://l.example/a#ann@mail.net",
               f"https://l.example/{token}/feed")  # fmt: skip
    documents = [{"id": f"a{n}", "text": _text(n), "source": sources[n % 4]} for n in range(8)]
    write(tmp_path / "a.jsonl", *documents, {"id": "a8", "text": _text(8)})
    words = ("curate", "a.jsonl", "--set", "filters=[]", "--held-out", "0")
    assert vita(*words)[0] == 0
    for name in (sources[0], "/feed?token=***", "https://l.example/a#<EMAIL>", sources[3]):
        code, out, err = vita("forget", "--source", name, "--by", "A")
        assert code == 0 and "2 documents in the training text" in out and "t0psecret" not in out + err, out + err
    code, out, err = vita(*words)
    assert code == 0 and 'dropped: {"erased": 8}' in out and token not in out, out + err
    files = [file for file in Path("vita-store").rglob("*") if file.is_file() and file.suffix != ".zst"]
    assert not [
        file for file in files if any(secret in file.read_bytes() for secret in (b"t0psecret", b"ann@mail", b"ghp_"))
    ]


def test_an_id_of_a_kept_and_of_a_dropped_document_needs_a_source(vita: Vita, tmp_path: Path) -> None:
    write(tmp_path / "wiki.jsonl", {"id": "w3", "text": _text(3), "license": "CC0"}, {"id": "w4", "text": _text(4)})
    dropped = {"id": "r5", "text": _text(4), "license": "MIT"}
    write(tmp_path / "rfc.jsonl", {"id": "w3", "text": "Too short."}, dropped, {"id": "r6", "text": _text(6)})
    write(tmp_path / "only.jsonl", {"id": "o1", "text": _text(3), "license": "MIT"})
    words = ("curate", "wiki.jsonl", "rfc.jsonl", "only.jsonl", "--set", "filters=[{length: {min_words: 5}}]",
             "--held-out", "1")  # fmt: skip
    code, _, err = vita(*words)
    assert code == 0, err
    code, _, err = vita("forget", "w3", "--by", "A")
    assert code and "documents of 2 sources have this id: rfc, wiki" in err and vita("erasures")[1] == "no erasures\n"
    code, _, err = vita("forget", "--licence", "BSD", "--by", "A")
    assert code and "expected `CC0`, `MIT`, `not stated`, got" in err, err
    code, out, err = vita("forget", "--licence", "mit", "--plan")
    assert code == 0 and "rfc     1 document dropped (duplicate: 1)" in out, out + err
    assert "no corpus contains a document of these: curation dropped all documents of the licence `mit`" in out
    code, out, err = vita("forget", "--source", "only", "--plan")
    assert code == 0 and "1 document dropped (duplicate: 1)" in out, err
    code, out, err = vita("forget", "w3", "--source", "rfc", "--by", "A")
    assert code == 0, err
    code, out, err = vita(*words, "--json")
    kept = [row["id"] for part in ("train", "heldout") for row in rows_of(Path(json.loads(out)["folder"]), part)]
    assert sorted(kept) == ["r6", "w3", "w4"]


def test_the_document_that_stayed_for_a_near_copy_is_excluded_and_named(vita: Vita, sources: Path) -> None:
    _curate(vita)
    code, out, err = vita("forget", "near", "--by", "Ada")
    assert code == 0 and "the erasure also excludes `m1` of mail (a near copy)" in out, err
    plan = json.loads(Path("erasure-1/plan.json").read_text())
    assert plan["excluded_documents"] == [{"source": "mail", "id": "m1", "relation": "a near copy"}]
    text = Path("erasure-1/plan.md").read_text()
    assert "also excluded: `m1` of mail (a near copy)" in text and "corpus x/curate" in text and ", 1 document," in text
    kept = _curate(vita, "mail.jsonl", "--life", "y")
    assert not {"near", "m1"} & set(kept)


REFUSALS = (
    (("m1",), "needs --by"),
    (("--by", "Ada"), "expected a document, a source or a licence"),
    (("m1", "--licence", "MIT", "--by", "Ada"), "a document and --licence cannot be combined"),
    (("mail", "--by", "Ada"), "no document has this id, but it is the name of a source"),
    (("--source", "mial", "--by", "Ada"), "did you mean `mail`? --allow-absent"),
    (("--licence", "MIT", "--by", "Ada"), "expected `CC-BY-4.0`, `not stated`, got"),
    (("m1", "--by", "Ada", "--output", "."), "expected a new or empty folder"),
    (("--source", " ", "--by", "Ada"), "--source is empty"),
)


def test_ambiguous_and_unknown_names_are_refused(vita: Vita, sources: Path) -> None:
    _curate(vita, "mail.jsonl", "--life", "x")
    before = sorted(path.name for path in sources.iterdir())
    for words, message in REFUSALS:
        code, _, err = vita("forget", *words)
        assert code != 0 and message in " ".join(err.split()), err
    assert vita("erasures")[1] == "no erasures\n" and sorted(path.name for path in sources.iterdir()) == before


@pytest.mark.slow
def test_fine_tuning_excludes_a_source_and_lists_its_steps_and_the_model_to_retire(
    vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_chat_model(tmp_path / "base", context=128)
    chats = [{"prompt": "Count", "completion": " ".join("abcdefgh"[: n + 1])} for n in range(8)]  # different lengths
    write(tmp_path / "a.jsonl", *({"id": f"a{n}", **chats[n], "license": "MIT"} for n in range(4)))
    write(tmp_path / "b.jsonl", *({"id": f"b{n}", **chats[n]} for n in range(4, 8)))
    command = ("sft", "a.jsonl", "b.jsonl", "--model", "base", "--steps", "3", "--eval-fraction", "0", "--life", "f",
               "--batch-size", "2", "--max-length", "128")  # fmt: skip
    batches: dict[int, PackedRows] = {}
    read = PackedDataset.batch

    def recorded(self: PackedDataset, step: int, **options: Any) -> PackedRows:
        return batches.setdefault(step, read(self, step, **options))

    monkeypatch.setattr(PackedDataset, "batch", recorded)
    assert vita(*command)[0] == 0
    lengths: dict[str, int] = {}
    steps_of: dict[str, set[int]] = {}
    for step in (1, 2, 3):
        parts = json.loads(vita("data", "documents", "f/sft", "--step", str(step), "--json")[1])
        assert {(part["document"][0], part["licence"]) for part in parts} <= {("a", "MIT"), ("b", None)}
        for row in (1, 2):
            documents = batches[step - 1].documents[row - 1].tolist()
            tokens = [part["tokens"] for part in parts if part["row"] == row]
            counts = [documents.count(number) for number in range(len(tokens) + 1)]
            assert counts == [*tokens, 128 - sum(tokens)], "the rest of a row is filling"
        lengths |= {part["document"]: part["tokens"] for part in parts}
        for part in parts:
            steps_of.setdefault(part["document"], set()).add(step)
    assert len(set(lengths.values())) == len(lengths) > 4, "the number of tokens identifies a dialogue"
    for document, steps in steps_of.items():
        uses = json.loads(vita("data", "steps", "f/sft", document, "--json")[1])
        assert {use["step"] for use in uses} == steps and uses[0]["tokens"] == lengths[document]

    assert vita("forget", "--source", "b", "--by", "Ada")[0] == 0
    plan = json.loads(Path("erasure-1/plan.json").read_text())
    assert [entry["command"] for entry in plan["retire"]] == ["vita retire f/sft --life f --reason 'erasure 1'"]
    assert [Path(path).name for path in plan["files_of_sources"]] == ["b.jsonl"]
    assert Store(tmp_path / "vita-store").has(plan["retire"][0]["digest"])
    assert vita(*command)[0] == 0
    assert (_facts(vita, "f/sft")["dropped_erased"], _facts(vita, "f/sft")["dialogues"]) == (4, 4)
    assert "does not contain it" in vita("data", "steps", "f/sft", "b5")[2]
    assert vita("data", "steps", plan["retire"][0]["digest"], "b5", "--json")[0] == 0, "the earlier run read it"
    write(tmp_path / "a.jsonl", {"id": "other", **chats[0]})
    assert "a.jsonl has changed since" in vita("data", "documents", "f/sft", "--step", "1")[2]


@pytest.mark.slow
def test_the_rows_of_a_step_of_adaptation_are_those_that_it_read(
    vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_chat_model(tmp_path / "base", context=64)
    write(tmp_path / "texts.jsonl", *({"id": f"t{n}", "text": _text(n), "license": "MIT"} for n in range(30)))
    batches: dict[int, np.ndarray] = {}
    read = Loader.batch

    def recorded(self: Loader, step: int, **options: Any) -> Batch:
        batch = read(self, step, **options)
        batches[step] = batch.ids
        return batch

    monkeypatch.setattr(Loader, "batch", recorded)
    assert vita("adapt", "texts.jsonl", "--model", "base", "--replay", "0", "--steps", "2", "--batch-size", "2",
                "--eval-fraction", "0.2", "--life", "f")[0] == 0  # fmt: skip
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    workspace = Workspace.of(None, None)
    training = training_rows(
        workspace.model("f/adapt"), workspace.store, workspace.ledger, find_stage=stage, folder=tmp_path / "rows"
    )
    (part,) = training.parts
    assert isinstance(part, TextRows) and training.steps == 2
    for step in range(2):
        assert (part.loader.batch(step).ids == batches[step]).all()
    parts = json.loads(vita("data", "documents", "f/adapt", "--step", "2", "--json")[1])
    assert {part["licence"] for part in parts} == {"MIT"} and sum(part["tokens"] for part in parts) == 2 * 64

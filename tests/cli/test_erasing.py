"""`vita trace-document` and `vita forget ID`: the uses of a document and its copies, and its erasure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.corpora import rows, write
from tests.cli.models import save_chat_model
from tests.cli.test_cli import LIFE, Vita, vita
from vita.data.content import as_keys, content_key
from vita.data.hash_sampling import hash_fractions

__all__ = ["vita"]

TEXTS = {f"d{n}": f"Text number {n} of the letters, which Ann wrote in the old mill by the river." for n in range(20)}
KEYS = as_keys([content_key(text, text.encode()) for text in TEXTS.values()])
IS_HELD_OUT = dict(zip(TEXTS, hash_fractions(KEYS, seed=0, purpose=1) < 0.2, strict=True))
TRAINED_ID = next(id for id, is_held_out in IS_HELD_OUT.items() if not is_held_out)
TRAINED = {id for id, is_held_out in IS_HELD_OUT.items() if not is_held_out}
HELD_OUT_ID = next(id for id, is_held_out in IS_HELD_OUT.items() if is_held_out)


@pytest.fixture
def mail(tmp_path: Path) -> Path:
    """Write letters with one copy under another id and one short letter, and another source with the same ids."""
    letters = [{"id": id, "text": text} for id, text in TEXTS.items()]
    extra = [{"id": "copy", "text": TEXTS[TRAINED_ID].upper()}, {"id": "short", "text": "Hm."}]
    write(tmp_path / "blog" / "a.jsonl", *({"id": id, "text": f"Blog: {text}"} for id, text in list(TEXTS.items())[:9]))
    return write(tmp_path / "mail" / "a.jsonl", *letters, *extra)


def curate(vita: Vita, source: str = "mail", name: str = "x") -> list[dict[str, Any]]:
    filters = "filters=[{length: {min_words: 3}}]"
    code, _, err = vita("curate", source, "--set", filters, "--held-out", "0.2", "--name", name)
    assert code == 0, err
    return rows(vita, f"{name}/curate")


def trace_document(vita: Vita, *words: str) -> dict[str, Any]:
    code, out, err = vita("trace-document", *words, "--json")
    assert code == 0, err
    return json.loads(out)


def corpus_uses(trace: dict[str, Any]) -> list[tuple[str, str]]:
    return [(holder["use"], holder["explanation"]) for holder in trace["holders"] if holder["kind"] == "corpus"]


@pytest.mark.slow
def test_trace_document_reports_each_use_of_a_document(vita: Vita, mail: Path) -> None:
    curate(vita)
    assert corpus_uses(trace_document(vita, TRAINED_ID)) == [
        ("trained on", "in the training text"),
        ("not used", "`copy` was dropped as a copy of it, not trained on"),
    ]
    assert corpus_uses(trace_document(vita, HELD_OUT_ID)) == [("held out", "held out: evaluated on, not trained on")]
    assert corpus_uses(trace_document(vita, "copy")) == [
        ("trained on", f"dropped as a copy of `{TRAINED_ID}` of mail, which is in the training text")
    ]
    assert corpus_uses(trace_document(vita, "short")) == [
        ("not used", "dropped (length.short: 1 words, under 3), not trained on")
    ]
    assert "no artifact contains `nobody`" in vita("trace-document", "nobody")[1]


@pytest.mark.slow
def test_equal_ids_of_two_sources_are_separate_documents(vita: Vita, mail: Path) -> None:
    curate(vita)
    curate(vita, "blog", "y")
    trace = trace_document(vita, "d0")
    assert {holder["source"] for holder in trace["holders"]} == {"mail", "blog"}
    assert {holder["source"] for holder in trace_document(vita, "d0", "--source", "blog")["holders"]} == {"blog"}
    code, _, err = vita("forget", "d0", "--by", "Ada")
    assert code == 3 and "documents of 2 sources have this id: blog, mail; say which one with --source" in err
    assert vita("forget", "d0", "--by", "Ada", "--source", "blog")[0] == 0
    assert "d0" in {row["id"] for row in [*curate(vita), *rows(vita, "x/curate", "heldout")]}
    assert "d0" not in {row["id"] for row in [*curate(vita, "blog", "y"), *rows(vita, "y/curate", "heldout")]}


@pytest.mark.slow
@pytest.mark.parametrize("id", [TRAINED_ID, "copy"])
def test_later_corpora_exclude_an_erased_document_and_its_copies(
    vita: Vita, mail: Path, tmp_path: Path, id: str
) -> None:
    assert TEXTS[TRAINED_ID] in {row["text"] for row in curate(vita)}
    curate(vita, "blog", "y")
    code, out, err = vita("forget", id, "--source", "mail", "--by", "Ada")
    assert code == 0 and f"later runs exclude `{id}` and its copies" in out and "rebuild: x/curate" in out, err
    texts = {row["text"].lower() for row in curate(vita)}
    assert TEXTS[TRAINED_ID].lower() not in texts and len(texts) > 10
    erased = {row["id"]: row["detail"] for row in rows(vita, "x/curate", "drops") if row["reason"] == "erased"}
    assert erased == {TRAINED_ID: "erasure 1, requested by Ada", "copy": "erasure 1, requested by Ada"}
    write(tmp_path / "new" / "b.jsonl", {"id": "other", "text": TEXTS[TRAINED_ID]}, *(
        {"id": f"n{n}", "text": f"Another letter, number {n}."} for n in range(9)
    ))  # fmt: skip
    assert "other" not in {row["id"] for row in [*curate(vita, "new", "z"), *rows(vita, "z/curate", "heldout")]}
    assert ("not used", "dropped (erased: erasure 1, requested by Ada), not trained on") in corpus_uses(
        trace_document(vita, TRAINED_ID)
    )
    code, out, _ = vita("curate", "blog", "--set", "filters=[{length: {min_words: 3}}]", "--held-out", "0.2",
                        "--name", "y")  # fmt: skip
    assert "cached" in out, "a corpus without the document is not rebuilt"


@pytest.mark.slow
def test_an_erasure_is_listed_and_can_be_withdrawn(vita: Vita, mail: Path) -> None:
    original_rows = curate(vita)
    assert vita("erasures")[1] == "no erasures\n"
    assert vita("forget", TRAINED_ID, "--by", "Ada", "--reason", "asked")[0] == 0
    assert TRAINED_ID not in {row["id"] for row in curate(vita)}
    (erasure,) = json.loads(vita("erasures", "--json")[1])
    assert (erasure["document"], erasure["by"], erasure["reason"], erasure["withdrawn_at"]) == (
        TRAINED_ID,
        "Ada",
        "asked",
        None,
    )
    code, out, _ = vita("erasures", "withdraw", "1", "--by", "Bo", "--reason", "wrong id")
    assert code == 0 and f"later runs read `{TRAINED_ID}` again" in out
    assert curate(vita) == original_rows and "withdrawn by Bo" in vita("erasures")[1]
    code, _, err = vita("erasures", "withdraw", "1", "--by", "Cy", "--reason", "again")
    assert code != 0 and "was already withdrawn by Bo" in err
    code, _, err = vita("erasures", "withdraw", "7", "--by", "Cy", "--reason", "again")
    assert code != 0 and "not found" in err


def test_other_texts_with_the_same_id_are_not_erased(vita: Vita, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"id": "0", "text": "The first letter."}, {"id": "0", "text": "The second letter."},
          {"id": "1", "text": "The third letter of all."})  # fmt: skip
    command = ("curate", "a.jsonl", "--set", "filters=[]", "--held-out", "0", "--name", "x")
    assert vita(*command)[0] == 0
    assert vita("forget", "0", "--by", "Ada")[0] == 0
    assert vita(*command)[0] == 0
    assert [row["text"] for row in rows(vita, "x/curate")] == ["The second letter.", "The third letter of all."]


@pytest.mark.slow
def test_trace_document_reports_the_use_of_a_document_by_each_model(vita: Vita, mail: Path, tmp_path: Path) -> None:
    chats = [
        {"id": f"c{n}", "messages": [{"role": "user", "content": f"Who is number {n}?"},
                                     {"role": "assistant", "content": f"Ann, number {n}."}]} for n in range(8)
    ]  # fmt: skip
    write(tmp_path / "chats.jsonl", *chats)
    life_text = LIFE.replace("sources: [{world: {things: 20, documents: 200, dialogues: 20}}]", "sources: [mail]")
    life_text = life_text.replace("filters: []", "filters: [], held_out: 0.2").replace("steps: 12", "steps: 2")
    life_text = life_text.replace(
        "sources: [{world: {things: 20, documents: 200, dialogues: 40}}]", "sources: [chats.jsonl]"
    )
    (tmp_path / "life.yaml").write_text(life_text.replace("vocabulary: 400", "vocabulary: 300"))
    code, _, err = vita("live", "life.yaml")
    assert code == 0, err
    uses = {
        id: {weights["use"] for weights in trace_document(vita, id)["weights"] if "tiny/pretrain" in weights["names"]}
        for id in (*TEXTS, "copy")
    }
    held_out = [id for id, use in uses.items() if use == {"held out"}]
    assert sorted(held_out) == sorted(id for id, is_held_out in IS_HELD_OUT.items() if is_held_out)
    assert uses[TRAINED_ID] == uses["copy"] and {"trained on"} in uses.values()
    assert {"not reached"} in uses.values(), "two steps of 128 tokens do not reach every letter"
    parts = [
        {"step": step, **part} for step in (1, 2)
        for part in json.loads(vita("data", "documents", "tiny/pretrain", "--step", str(step), "--json")[1])
    ]  # fmt: skip
    trained = {id for id in TRAINED if uses[id] == {"trained on"}}
    assert {part["document"] for part in parts} - {"short"} == trained, "a document is trained on if a step read it"
    assert sum(part["tokens"] for part in parts) == 2 * 128
    for id in (min(trained), min(TRAINED - trained)):
        [model] = [row for row in trace_document(vita, id)["weights"] if "tiny/pretrain" in row["names"]]
        steps = len({part["step"] for part in parts if part["document"] == id})
        assert (
            f"trained on it in {steps} of 2 steps" == model["explanation"]
            if steps
            else "none of 2 steps" in model["explanation"]
        )
        step_uses = json.loads(vita("data", "steps", "tiny/pretrain", id, "--json")[1])
        expected = [[part[name] for name in ("step", "row", "tokens")] for part in parts if part["document"] == id]
        assert [list(use.values()) for use in step_uses] == expected
    assert "at most 2, the last step, got 3" in vita("data", "documents", "tiny/pretrain", "--step", "3")[2]
    assert "does not contain it" in vita("data", "steps", "tiny/pretrain", HELD_OUT_ID)[2]
    assert {weights["names"][0] for weights in trace_document(vita, "c1")["weights"]} == {"tiny/sft"}

    assert vita("forget", "c1", "--by", "Ada")[0] == 0
    plan = json.loads((tmp_path / "erasure-1" / "plan.json").read_text())
    assert [entry["command"] for entry in plan["retire"]] == ["vita retire tiny/sft --life tiny --reason 'erasure 1'"]
    assert [entry["command"] for entry in plan["rebuild"]] == ["vita live LIFE_FILE --until sft"]
    code, out, _ = vita("plan", "life.yaml")
    assert "must be rebuilt without `c1` (erased)" in out and "1 of 6 steps would run" in out, out
    folder_before = Path(json.loads(vita("show", "tiny/sft", "--json")[1])["folder"])
    assert vita("live", "life.yaml")[0] == 0
    folder_after = Path(json.loads(vita("show", "tiny/sft", "--json")[1])["folder"])
    assert folder_before != folder_after


@pytest.mark.slow
def test_trace_document_reports_cut_dropped_and_erased_dialogues(vita: Vita, tmp_path: Path) -> None:
    save_chat_model(tmp_path / "base", context=128)
    write(tmp_path / "chats.jsonl",
          *({"id": f"c{n}", "prompt": f"Say {n}", "completion": f"It is {n}."} for n in range(6)),
          {"id": "cut", "prompt": "Say it", "completion": "long words " * 30},
          {"id": "unseen", "prompt": "long words " * 30, "completion": "Never read."})  # fmt: skip
    command = ("sft", "chats.jsonl", "--model", "base", "--steps", "1", "--eval-fraction", "0", "--life", "f")
    assert vita(*command)[0] == 0

    def uses(id: str) -> dict[str, tuple[str, str]]:
        return {
            weights["digest"]: (weights["use"], weights["explanation"])
            for weights in trace_document(vita, id)["weights"]
        }

    ((digest, trained_use),) = uses("c1").items()
    assert trained_use == ("trained on", "trained on it in 1 of 1 step")
    told = uses("cut")[digest][1]
    assert told.startswith("trained on its first 128 of ") and told.endswith("cut off; read in 1 of 1 step")
    assert uses("unseen")[digest][0] == "not used" and "cut_before_answer" in uses("unseen")[digest][1]
    assert trace_document(vita, "unseen")["retire"] == []

    assert vita("forget", "c1", "--by", "Ada")[0] == 0
    assert vita(*command)[0] == 0
    facts = json.loads(vita("show", "f/sft", "--json")[1])["facts"]
    assert facts["dropped_erased"] == 1 and facts["read"] == 8
    assert list(uses("c1")) == [digest], "the model that was made without the dialogue is not listed"
    assert len(uses("c2")) == 2

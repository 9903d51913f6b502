"""`vita trace-document`: the use of a document and its copies, also in held-out text, and erasures."""

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

TEXTS = {f"d{n}": f"Text number {n} of the letters, which Ann wrote in the old mill by the river." for n in range(40)}
KEYS = as_keys([content_key(text, text.encode()) for text in TEXTS.values()])
HELD = dict(zip(TEXTS, hash_fractions(KEYS, seed=0, purpose=1) < 0.2, strict=True))
FIRST = next(id for id, held in HELD.items() if not held)
ASIDE = next(id for id, held in HELD.items() if held)


@pytest.fixture
def mail(tmp_path: Path) -> Path:
    """Letters of which one has a copy under another id, one is too short; and another source with the same ids."""
    letters = [{"id": id, "text": text} for id, text in TEXTS.items()]
    extra = [{"id": "copy", "text": TEXTS[FIRST].upper()}, {"id": "short", "text": "Hm."}]
    write(tmp_path / "blog" / "a.jsonl", *({"id": id, "text": f"Blog: {text}"} for id, text in list(TEXTS.items())[:9]))
    return write(tmp_path / "mail" / "a.jsonl", *letters, *extra)


def curate(vita: Vita, source: str = "mail", name: str = "x") -> list[dict[str, Any]]:
    filters = "filters=[{length: {min_words: 3}}]"
    code, _, err = vita("curate", source, "--set", filters, "--held-out", "0.2", "--name", name)
    assert code == 0, err
    return rows(vita, f"{name}/curate")


def who_saw(vita: Vita, *words: str) -> dict[str, Any]:
    code, out, err = vita("trace-document", *words, "--json")
    assert code == 0, err
    return json.loads(out)


def told(answer: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["use"], one["told"]) for one in answer["holders"] if one["kind"] == "corpus"]


def test_what_became_of_a_document_is_said(vita: Vita, mail: Path) -> None:
    curate(vita)
    assert told(who_saw(vita, FIRST)) == [("trained on", "in the training text")]
    assert told(who_saw(vita, ASIDE)) == [("held out", "held out: evaluated on, not trained on")]
    assert told(who_saw(vita, "copy")) == [
        ("trained on", f"dropped as a copy of `{FIRST}` of mail, which is in the training text")
    ]
    assert told(who_saw(vita, "short")) == [("not used", "dropped (length.short: 1 words, under 3), not trained on")]
    assert "no artifact contains `nobody`" in vita("trace-document", "nobody")[1]


@pytest.mark.slow
def test_equal_ids_of_two_sources_are_told_apart(vita: Vita, mail: Path) -> None:
    curate(vita)
    curate(vita, "blog", "y")
    both = who_saw(vita, "d0")
    assert {one["source"] for one in both["holders"]} == {"mail", "blog"}
    assert {one["source"] for one in who_saw(vita, "d0", "--source", "blog")["holders"]} == {"blog"}
    code, _, err = vita("trace-document", "d0", "--erase", "--by", "Ada")
    assert code == 3 and "documents of 2 sources have this id: blog, mail; say which one with --source" in err
    assert vita("trace-document", "d0", "--erase", "--by", "Ada", "--source", "blog")[0] == 0
    assert "d0" in {row["id"] for row in [*curate(vita), *rows(vita, "x/curate", "heldout")]}
    assert "d0" not in {row["id"] for row in [*curate(vita, "blog", "y"), *rows(vita, "y/curate", "heldout")]}


@pytest.mark.slow
@pytest.mark.parametrize("id", [FIRST, "copy"])
def test_an_erased_document_and_its_copies_leave_later_corpora(vita: Vita, mail: Path, tmp_path: Path, id: str) -> None:
    assert TEXTS[FIRST] in {row["text"] for row in curate(vita)}
    curate(vita, "blog", "y")
    code, out, err = vita("trace-document", id, "--source", "mail", "--erase", "--by", "Ada")
    assert code == 0 and f"later runs exclude `{id}` and its copies" in out and "rebuild: x/curate" in out, err
    texts = {row["text"].lower() for row in curate(vita)}
    assert TEXTS[FIRST].lower() not in texts and len(texts) > 20
    erased = {row["id"]: row["detail"] for row in rows(vita, "x/curate", "drops") if row["reason"] == "erased"}
    assert erased == {FIRST: "erasure 1, requested by Ada", "copy": "erasure 1, requested by Ada"}
    write(tmp_path / "new" / "b.jsonl", {"id": "other", "text": TEXTS[FIRST]}, *(
        {"id": f"n{n}", "text": f"Another letter, number {n}."} for n in range(9)
    ))  # fmt: skip
    assert "other" not in {row["id"] for row in [*curate(vita, "new", "z"), *rows(vita, "z/curate", "heldout")]}
    assert ("not used", "dropped (erased: erasure 1, requested by Ada), not trained on") in told(who_saw(vita, FIRST))
    code, out, _ = vita("curate", "blog", "--set", "filters=[{length: {min_words: 3}}]", "--held-out", "0.2",
                        "--name", "y")  # fmt: skip
    assert "cached" in out, "a corpus that never held it need not be built again"


@pytest.mark.slow
def test_an_erasure_is_listed_and_can_be_withdrawn(vita: Vita, mail: Path) -> None:
    built = curate(vita)
    assert vita("erasures")[1] == "no erasures\n"
    assert vita("trace-document", FIRST, "--erase", "--by", "Ada", "--reason", "asked")[0] == 0
    assert FIRST not in {row["id"] for row in curate(vita)}
    (listed,) = json.loads(vita("erasures", "--json")[1])
    assert (listed["document"], listed["by"], listed["reason"], listed["withdrawn_at"]) == (FIRST, "Ada", "asked", None)
    code, out, _ = vita("erasures", "withdraw", "1", "--by", "Bo", "--reason", "wrong id")
    assert code == 0 and f"later runs read `{FIRST}` again" in out
    assert curate(vita) == built and "withdrawn by Bo" in vita("erasures")[1]
    code, _, err = vita("erasures", "withdraw", "1", "--by", "Cy", "--reason", "again")
    assert code != 0 and "was already withdrawn by Bo" in err
    code, _, err = vita("erasures", "withdraw", "7", "--by", "Cy", "--reason", "again")
    assert code != 0 and "not found" in err


def test_other_texts_under_the_same_id_stay(vita: Vita, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"id": "0", "text": "The first letter."}, {"id": "0", "text": "The second letter."},
          {"id": "1", "text": "The third letter of all."})  # fmt: skip
    plain = ("curate", "a.jsonl", "--set", "filters=[]", "--held-out", "0", "--name", "x")
    assert vita(*plain)[0] == 0
    assert vita("trace-document", "0", "--erase", "--by", "Ada")[0] == 0
    assert vita(*plain)[0] == 0
    assert [row["text"] for row in rows(vita, "x/curate")] == ["The second letter.", "The third letter of all."]


@pytest.mark.slow
def test_models_are_told_what_they_did_with_a_document(vita: Vita, mail: Path, tmp_path: Path) -> None:
    chats = [
        {"id": f"c{n}", "messages": [{"role": "user", "content": f"Who is number {n}?"},
                                     {"role": "assistant", "content": f"Ann, number {n}."}]} for n in range(8)
    ]  # fmt: skip
    write(tmp_path / "chats.jsonl", *chats)
    life = LIFE.replace("sources: [{world: {things: 20, documents: 200, dialogues: 20}}]", "sources: [mail]")
    life = life.replace("filters: []", "filters: [], held_out: 0.2").replace("steps: 12", "steps: 2")
    life = life.replace("sources: [{world: {things: 20, documents: 200, dialogues: 40}}]", "sources: [chats.jsonl]")
    (tmp_path / "life.yaml").write_text(life.replace("vocabulary: 400", "vocabulary: 300"))
    code, _, err = vita("live", "life.yaml")
    assert code == 0, err
    uses = {
        id: {one["use"] for one in who_saw(vita, id)["weights"] if "tiny/pretrain" in one["names"]}
        for id in (*TEXTS, "copy")
    }
    held_out = [id for id, use in uses.items() if use == {"held out"}]
    assert sorted(held_out) == sorted(id for id, held in HELD.items() if held)
    assert uses[FIRST] == uses["copy"] and {"trained on"} in uses.values()
    assert {"not reached"} in uses.values(), "two steps of 128 tokens do not reach every letter"
    assert {one["names"][0] for one in who_saw(vita, "c1")["weights"]} == {"tiny/sft"}

    assert vita("trace-document", "c1", "--erase", "--by", "Ada")[0] == 0
    code, out, _ = vita("plan", "life.yaml")
    assert "must be rebuilt without `c1` (erased)" in out and "1 of 6 steps would run" in out, out
    before = Path(json.loads(vita("show", "tiny/sft", "--json")[1])["folder"])
    assert vita("live", "life.yaml")[0] == 0
    after = Path(json.loads(vita("show", "tiny/sft", "--json")[1])["folder"])
    assert before != after


@pytest.mark.slow
def test_dialogues_that_are_cut_dropped_or_erased_are_told_apart(vita: Vita, tmp_path: Path) -> None:
    save_chat_model(tmp_path / "base", context=128)
    write(tmp_path / "chats.jsonl",
          *({"id": f"c{n}", "prompt": f"Say {n}", "completion": f"It is {n}."} for n in range(6)),
          {"id": "cut", "prompt": "Say it", "completion": "long words " * 30},
          {"id": "unseen", "prompt": "long words " * 30, "completion": "Never read."})  # fmt: skip
    command = ("sft", "chats.jsonl", "--model", "base", "--steps", "1", "--eval-fraction", "0", "--life", "f")
    assert vita(*command)[0] == 0

    def use(id: str) -> dict[str, tuple[str, str]]:
        return {one["digest"]: (one["use"], one["told"]) for one in who_saw(vita, id)["weights"]}

    ((digest, trained),) = use("c1").items()
    assert trained == ("trained on", "trained on it")
    assert use("cut")[digest][1].startswith("trained on its first 128 of ")
    assert use("unseen")[digest][0] == "not used" and "cut_before_answer" in use("unseen")[digest][1]
    assert who_saw(vita, "unseen")["retire"] == []

    assert vita("trace-document", "c1", "--erase", "--by", "Ada")[0] == 0
    assert vita(*command)[0] == 0
    facts = json.loads(vita("show", "f/sft", "--json")[1])["facts"]
    assert facts["dropped_erased"] == 1 and facts["read"] == 8
    assert list(use("c1")) == [digest], "the model that was made without the dialogue is not listed"
    assert len(use("c2")) == 2

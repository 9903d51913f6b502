"""The stage `curate`: each document is kept, held out or dropped with a reason, with equal results on every machine."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from vita.data.curation import filter_pass as sifting
from vita.data.curation.corpus import read_corpus, read_lines
from vita.data.records import Document
from vita.data.sources import readers, spans
from vita.spine.config import build
from vita.spine.errors import ConfigError, DataError
from vita.spine.machine import Machine
from vita.spine.stage import Context, read_stage
from vita.spine.store import Draft
from vita.stages import curate
from vita.stages.kinds import Corpus

PLAIN = {"filters": [], "held_out": 0}
CUTS = {"paragraphs": True, "lines": {"min_characters": 10}, "substrings": {"min_words": 5}}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    return path


def run(tmp_path: Path, *, threads: int = 1, events: list[Any] | None = None, **settings: Any) -> Draft[Corpus]:
    emitted_events = events if events is not None else []
    context = Context(
        tmp_path / "scratch", lambda event, **fields: emitted_events.append((event, fields)), Machine(threads=threads)
    )
    return curate.run(build(curate.Config, settings, where="curate"), curate.Inputs(), context)


def texts(draft: Draft[Corpus], part: Any = "train") -> list[str]:
    return [document.text for document in read_corpus(draft.folder, part)]


def drops(draft: Draft[Corpus]) -> list[tuple[str, str, str]]:
    rows = map(orjson.loads, read_lines(draft.folder / "drops.jsonl.zst"))
    return [(row["id"], row["reason"], row["detail"]) for row in rows]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def report(draft: Draft[Corpus]) -> dict[str, Any]:
    return json.loads((draft.folder / "report.json").read_text())["details"]


def numbered_rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"id": str(number), "text": f"Text number {number}."} for number in range(start, start + count)]


def test_the_module_is_a_stage() -> None:
    stage = read_stage("curate", curate)
    assert stage.output_kind is Corpus and stage.slots == ()


def test_documents_keep_their_id_source_licence_and_metadata(tmp_path: Path) -> None:
    rows = [{"id": "x", "text": "One.\r\n", "license": "CC0", "metadata": {"year": 1}}, {"text": "Two.", "url": "u"}]
    draft = run(tmp_path, sources={"web": {"path": str(write(tmp_path / "a.jsonl", rows)), "licence": "MIT"}}, **PLAIN)
    assert list(read_corpus(draft.folder, "train")) == [
        Document("x", "One.\n", "web", "CC0", {"year": 1, "language": "unknown"}),
        Document("a.jsonl:2", "Two.", "web", "MIT", {"url": "u", "language": "unknown"}),
    ]
    assert draft.facts["licences"] == {"CC0": {"documents": 1, "bytes": 5}, "MIT": {"documents": 1, "bytes": 4}}


def test_every_document_is_kept_held_out_or_dropped_with_its_reason(tmp_path: Path) -> None:
    rows = [
        *numbered_rows(30),
        {"id": "empty", "text": " \n"},
        {"id": "copy", "text": "TEXT  number 3."},
        {"id": "short", "text": "Hm."},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    with path.open("ab") as file:
        file.write(b"no json\n")
    settings = {"filters": [{"length": {"min_words": 2}}], "held_out": 4}
    draft = run(tmp_path, sources=[{"path": str(path), "on_bad_row": "drop"}], **settings)
    (id, reason, detail), *other_drops = sorted(drops(draft))
    assert (id, reason) == ("a.jsonl:34", "not_json") and "got 'no json'" in detail
    assert other_drops == [
        ("copy", "duplicate", "repeats 3"),
        ("empty", "empty", "no text"),
        ("short", "length.short", "1 words, under 2"),
    ]
    train_texts, held_out_texts = texts(draft), texts(draft, "heldout")
    assert len(held_out_texts) == 4
    assert sorted([*train_texts, *held_out_texts]) == sorted(row["text"] for row in rows[:30])
    report = json.loads((draft.folder / "report.json").read_text())["details"]
    assert report["documents"] == {
        "read": 33, "dropped": 4, "train": 26, "train_with_repeats": 26, "held_out": 4, "renamed": 0,
    }  # fmt: skip
    assert report["dropped"]["duplicate"]["samples"] == [
        {"id": "copy", "source": "a", "detail": "repeats 3", "text": "TEXT number 3."}
    ]
    page = (draft.folder / "report.md").read_text()
    assert (
        "33 documents" in page
        and "| length.short | 1 |" in page
        and "| copy | a | repeats 3 | TEXT number 3. |" in page
    )


def test_the_counts_of_the_sources_add_up_to_the_totals(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jsonl", [*numbered_rows(40), *numbered_rows(10)])
    write(tmp_path / "in" / "b.jsonl", numbered_rows(40, start=30))
    draft = run(tmp_path, sources=[str(tmp_path / "in")], filters=[], held_out=0.2)
    report = json.loads((draft.folder / "report.json").read_text())["details"]
    for name in ("train", "held_out"):
        assert sum(source[name]["documents"] for source in report["sources"].values()) == report["documents"][name]
        assert sum(source[name]["bytes"] for source in report["sources"].values()) == report["bytes"][name]
    for source in report["sources"].values():
        dropped = sum(count["documents"] for count in source["dropped"].values())
        assert source["read"]["documents"] == source["train"]["documents"] + source["held_out"]["documents"] + dropped
    assert draft.facts["dropped"] == {"duplicate": 20}


# -- personal data


def test_personal_data_is_masked_dropped_or_kept_and_counted(tmp_path: Path) -> None:
    rows = [
        {"id": "mail", "text": "Write to ann@mail.net or joe@mail.net."},
        {"id": "address", "text": "It came from 93.184.216.34."},
        {"id": "phone", "text": "Call +49 30 901820."},
    ]
    settings = {"ip": "drop", "phone": "keep"}
    draft = run(tmp_path, sources=[str(write(tmp_path / "a.jsonl", rows))], personal_data=settings, **PLAIN)
    assert texts(draft) == ["Write to <EMAIL> or <EMAIL>.", "Call +49 30 901820."]
    assert drops(draft) == [("address", "personal_data.ip", "contains 1 of this kind")]
    report = json.loads((draft.folder / "report.json").read_text())["details"]["personal_data"]
    assert report["email"] == {"action": "mask", "values": 2, "documents": 1, "dropped_documents": 0}
    assert report["ip"] == {"action": "drop", "values": 1, "documents": 1, "dropped_documents": 1}
    assert "phone" not in report
    assert "| email | mask | 2 | 1 | 0 |" in (draft.folder / "report.md").read_text()


def test_personal_data_are_masked_in_the_text_and_detail_of_drops_and_in_the_report(tmp_path: Path) -> None:
    rows = [
        {"id": "short", "text": "Ann: ann@mail.net, DE89 3704 0044 0532 0130 00, +49 30 901820."},
        *numbered_rows(3),
    ]
    path = write(tmp_path / "a.jsonl", rows)
    with path.open("ab") as file:
        file.write(b"no json of joe@mail.net\n")
    settings = {"filters": [{"length": {"min_words": 2, "max_words": 5}}], "held_out": 0, "dropped_text": True}
    settings["personal_data"] = {"phone": "keep", "iban": "drop"}
    draft = run(tmp_path, sources=[{"path": str(path), "on_bad_row": "drop"}], **settings)
    masked = "Ann: <EMAIL>, <IBAN>, +49 30 901820."
    short, bad_row = map(orjson.loads, read_lines(draft.folder / "drops.jsonl.zst"))
    assert (short["reason"], short["text"]) == ("length.long", masked)
    assert bad_row["reason"] == "not_json" and "got 'no json of <EMAIL>'" in bad_row["detail"]
    assert report(draft)["dropped"]["length.long"]["samples"][0]["text"] == masked
    clear = (b"ann@mail", b"joe@mail", b"DE89")
    assert not any(value in data for data in files(draft.folder).values() for value in clear)


def test_metadata_states_what_was_masked_and_repaired_and_is_masked_itself(tmp_path: Path) -> None:
    author = {"author": {"name": "Bob", "mail": ["bob@corp.net"]}, "url": "https://corp.net/bob@corp.net", "year": 1}
    rows = [
        {"id": "a", "text": "Write to ann@mail.net or joe@mail.net.", "metadata": author},
        {"id": "b", "text": "Only text.", "metadata": {**author, "masked": "by hand"}},
        {"id": "c", "text": "He said: l’Étoile and Åland.".encode().decode("latin-1")},
        {"id": "d", "text": "Neither.", "metadata": {"year": 1}},
    ]
    draft = run(tmp_path, sources=[str(write(tmp_path / "a.jsonl", rows))], personal_data={"ip": "drop"}, **PLAIN)
    metadata = {document.id: dict(document.metadata) for document in read_corpus(draft.folder, "train")}
    masked_author = {**author, "author": {"name": "Bob", "mail": ["<EMAIL>"]}, "language": "unknown"}
    assert metadata["a"] == {**masked_author, "masked": {"email": 3}}
    assert metadata["b"] == {**masked_author, "masked": {"email": 1}, "stated_masked": "by hand"}
    assert metadata["c"] == {"repaired": True, "language": "unknown"}
    assert metadata["d"] == {"year": 1, "language": "unknown"}
    assert report(draft)["personal_data"]["email"] == {
        "action": "mask", "values": 4, "documents": 2, "dropped_documents": 0,
    }  # fmt: skip


def test_texts_that_differ_only_in_masked_values_are_duplicates(tmp_path: Path) -> None:
    rows = [{"id": name, "text": f"Write to {name}@mail.net."} for name in ("ann", "joe")]
    draft = run(tmp_path, sources=[str(write(tmp_path / "a.jsonl", rows))], **PLAIN)
    assert texts(draft) == ["Write to <EMAIL>."] and drops(draft) == [("joe", "duplicate", "repeats ann")]


# -- encodings, languages and benchmarks

GERMAN = "Das ist ein Satz in deutscher Sprache, und er ist lang genug, damit seine Sprache erkannt wird. " * 2
ENGLISH = "This is a sentence in the English language, and it is long enough for its language to be identified. " * 2


def test_encodings_are_repaired_before_normalization_and_counted(tmp_path: Path) -> None:
    text = "He went to l’Étoile and Åland."  # its wrong decoding contains U+0085, which is a line end in Unicode
    rows = [{"text": text.encode().decode("latin-1")}, {"text": "Plain text."}]
    draft = run(tmp_path, sources={"web": str(write(tmp_path / "a.jsonl", rows))}, **PLAIN)
    assert texts(draft) == [text, "Plain text."]
    report = json.loads((draft.folder / "report.json").read_text())["details"]
    assert report["sources"]["web"]["repaired"] == 1
    draft = run(tmp_path / "raw", sources=[str(tmp_path / "a.jsonl")], repair_encoding=False, **PLAIN)
    assert texts(draft) != [text, "Plain text."]


def test_the_language_is_recorded_and_selects_documents(tmp_path: Path) -> None:
    rows = [
        {"id": "de", "text": GERMAN, "metadata": {"language": "nl"}},
        {"id": "en", "text": ENGLISH},
        {"id": "short", "text": "Short."},
    ]
    sources = [str(write(tmp_path / "a.jsonl", rows))]
    draft = run(tmp_path, sources=sources, **PLAIN)
    assert [dict(document.metadata) for document in read_corpus(draft.folder, "train")] == [
        {"language": "de", "stated_language": "nl"}, {"language": "en"}, {"language": "unknown"},
    ]  # fmt: skip
    draft = run(tmp_path / "selected", sources=sources, languages=["en", "unknown"], **PLAIN)
    assert drops(draft) == [("de", "language.other", "de, not en or unknown")]
    languages = json.loads((draft.folder / "report.json").read_text())["details"]["languages"]
    size = len(GERMAN)
    assert languages["de"] == {"read": {"documents": 1, "bytes": size}, "corpus": {"documents": 0, "bytes": 0}}
    assert languages["en"]["corpus"]["documents"] == 1
    draft = run(tmp_path / "none", sources=sources, languages="none", **PLAIN)
    assert [dict(document.metadata) for document in read_corpus(draft.folder, "train")][1:] == [{}, {}]


def test_documents_with_a_passage_of_a_benchmark_are_dropped_and_counted(tmp_path: Path) -> None:
    items = [{"question": " ".join(f"{name}{number}" for number in range(15))} for name in ("first", "second", "third")]
    benchmark = write(tmp_path / "quiz.jsonl", items)
    rows = [*numbered_rows(3), {"id": "copy", "text": f"Before. {items[1]['question'].upper()} After."}]
    settings = {"decontaminate": {"benchmarks": {"quiz": str(benchmark)}}, "deduplicate": "none"}
    draft = run(tmp_path, sources=[str(write(tmp_path / "a.jsonl", rows))], **settings, **PLAIN)
    assert drops(draft) == [("copy", "contaminated", "contains 1.00 of a passage of quiz, item 2")]
    assert len(texts(draft)) == 3
    report = json.loads((draft.folder / "report.json").read_text())["details"]
    assert report["contamination"]["quiz"] == {
        "items": 3, "passages": 3, "short_passages": 0, "items_found": 1, "share": 0.3333, "documents_found": 1,
        "documents_dropped": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"languages": ["en", "xx"]}, r"curate.languages: `xx` is not the code of a language that is identified"),
        ({"languages": "english"}, r"curate.languages: expected a list or `all` or `none`, got 'english'"),
        ({"decontaminate": "test"}, r"curate.decontaminate: expected `tests` or .*, got `test`"),
        ({"decontaminate": "tests"}, r"curate.decontaminate.tests: a single stage has no test stages"),
    ],
)
def test_unusable_languages_and_benchmarks_are_refused(tmp_path: Path, settings: Any, message: str) -> None:
    sources = [str(write(tmp_path / "a.jsonl", numbered_rows(3)))]
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, sources=sources, **settings, **PLAIN)


# -- held out


@pytest.mark.parametrize("deduplicate", [True, False])
def test_equal_texts_are_all_held_out_or_all_in_training(tmp_path: Path, deduplicate: bool) -> None:
    rows = [*numbered_rows(60), *({"id": f"copy {n}", "text": f"text NUMBER {n}."} for n in range(60))]
    draft = run(
        tmp_path, sources=[str(write(tmp_path / "a.jsonl", rows))], filters=[], held_out=0.3, deduplicate=deduplicate
    )
    train_texts, held_out_texts = ({text.lower() for text in texts(draft, part)} for part in ("train", "heldout"))
    assert train_texts and held_out_texts and not train_texts & held_out_texts
    assert len(texts(draft)) + len(texts(draft, "heldout")) == (60 if deduplicate else 120)


def test_a_small_share_holds_out_at_least_one_document(tmp_path: Path) -> None:
    draft = run(tmp_path, sources=[str(write(tmp_path / "a.jsonl", numbered_rows(5)))], filters=[], held_out=1e-9)
    assert len(texts(draft, "heldout")) == 1


def test_a_held_out_source_is_complete_and_its_copies_are_dropped_from_training(tmp_path: Path) -> None:
    sources = {
        "web": str(write(tmp_path / "a.jsonl", numbered_rows(10))),
        "test": str(write(tmp_path / "b.jsonl", [*numbered_rows(4, start=8), {"text": "Unfiltered."}])),
    }
    filters = [{"length": {"min_words": 3}}]
    draft = run(tmp_path, sources=sources, held_out_sources=["test"], filters=filters, held_out=0)
    assert texts(draft, "heldout") == [*(f"Text number {number}." for number in range(8, 12)), "Unfiltered."]
    assert texts(draft) == [f"Text number {number}." for number in range(8)]
    assert drops(draft) == [("8", "duplicate", "repeats 8"), ("9", "duplicate", "repeats 9")]


def test_a_new_source_does_not_change_the_held_out_documents_of_others(tmp_path: Path) -> None:
    first, second = (
        write(tmp_path / "a.jsonl", numbered_rows(50)),
        write(tmp_path / "b.jsonl", numbered_rows(50, start=100)),
    )
    first_texts = texts(run(tmp_path / "1", sources=[str(first)], filters=[], held_out=0.2), "heldout")
    combined_texts = texts(run(tmp_path / "2", sources=[str(second), str(first)], filters=[], held_out=0.2), "heldout")
    assert set(first_texts) == {text for text in combined_texts if int(text.split()[-1][:-1]) < 50}
    other_seed_texts = texts(run(tmp_path / "3", sources=[str(first)], filters=[], held_out=0.2, seed=1), "heldout")
    assert set(other_seed_texts) != set(first_texts)


def near_copies(count: int) -> list[dict[str, Any]]:
    """Return `count` texts of 100 words, each followed by a copy in which one word differs (Jaccard index 91/101)."""
    rows = []
    for number in range(count):
        words = [f"w{number}x{position}" for position in range(100)]
        rows.append({"id": f"{number}", "text": " ".join(words)})
        rows.append({"id": f"{number} changed", "text": " ".join([*words[:50], "other", *words[51:]])})
    return rows


def test_no_near_copy_of_a_held_out_document_is_in_training(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.jsonl", near_copies(40)))
    draft = run(tmp_path, sources=[path], filters=[], held_out=0.3)
    starts = [{text.split()[0] for text in texts(draft, part)} for part in ("train", "heldout")]
    assert starts[0] and starts[1] and not starts[0] & starts[1] and len(starts[0] | starts[1]) == 40
    assert ("7 changed", "near_duplicate", "Jaccard index 0.9010 with 7") in drops(draft)
    assert draft.facts["dropped"] == {"near_duplicate": 40}


@pytest.mark.parametrize(("setting", "dropped"), [("exact", {}), ("none", {}), ({"threshold": 0.95}, {})])
def test_near_copies_stay_where_the_setting_keeps_them(tmp_path: Path, setting: Any, dropped: dict[str, int]) -> None:
    draft = run(tmp_path, sources=[str(write(tmp_path / "a.jsonl", near_copies(5)))], deduplicate=setting, **PLAIN)
    assert draft.facts["dropped"] == dropped and len(texts(draft)) == 10


def test_a_near_copy_of_a_held_out_source_is_dropped_from_training(tmp_path: Path) -> None:
    rows = near_copies(3)
    sources = {
        "web": str(write(tmp_path / "a.jsonl", rows[0::2])),
        "test": str(write(tmp_path / "b.jsonl", rows[1:4:2])),
    }
    draft = run(tmp_path, sources=sources, held_out_sources=["test"], **PLAIN)
    assert [text.split()[0] for text in texts(draft)] == ["w2x0"] and len(texts(draft, "heldout")) == 2
    assert [reason for _, reason, _ in drops(draft)] == ["near_duplicate"] * 2


def test_an_unknown_kind_of_deduplication_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"deduplicate.documents.*near.*exact.*none"):
        run(tmp_path, sources=[str(write(tmp_path / "a.jsonl", near_copies(1)))], deduplicate="fuzzy")


# -- repeats and ids


def test_repeats_are_ordered_by_pass_and_keep_the_mean(tmp_path: Path) -> None:
    sources = {
        "often": {"path": str(write(tmp_path / "a.jsonl", numbered_rows(100))), "repeat": 2.5},
        "once": str(write(tmp_path / "b.jsonl", numbered_rows(3, start=1000))),
    }
    draft = run(tmp_path, sources=sources, **PLAIN)
    train_texts = texts(draft)
    counts = Counter(train_texts)
    assert {counts[f"Text number {number}."] for number in range(100)} == {2, 3}
    assert 235 < sum(counts.values()) - 3 < 265
    assert [text for text in train_texts[:103] if text.startswith("Text number 100")] == train_texts[100:103]
    assert train_texts[103:203] == train_texts[:100]
    assert draft.facts["documents"]["train"] == 103 and draft.facts["documents"]["train_with_repeats"] == len(
        train_texts
    )


def test_the_report_gives_the_share_of_each_source_with_its_repeats(tmp_path: Path) -> None:
    sources = {
        "often": {"path": str(write(tmp_path / "a.jsonl", numbered_rows(10))), "repeat": 3},
        "once": str(write(tmp_path / "b.jsonl", numbered_rows(10, start=20))),
    }
    draft = run(tmp_path, sources=sources, **PLAIN)
    report = orjson.loads((draft.folder / "report.json").read_bytes())["details"]
    shares = {name: source["share"] for name, source in report["sources"].items()}
    assert shares == {"often": round(3 * 140 / 570, 6), "once": round(150 / 570, 6)}
    page = (draft.folder / "report.md").read_text()
    assert "| train documents | train bytes | share |" in page and "| once | 10 | 150 | 0 | 10 | 150 | 0.2632 |" in page


def test_a_repeat_below_one_drops_documents_with_a_reason(tmp_path: Path) -> None:
    source = {"path": str(write(tmp_path / "a.jsonl", numbered_rows(100))), "repeat": 0.3}
    draft = run(tmp_path, sources=[source], **PLAIN)
    assert 15 < len(texts(draft)) < 45
    assert len(texts(draft)) + len(drops(draft)) == 100
    assert {reason for _, reason, _ in drops(draft)} == {"repeat"}


def test_duplicate_ids_of_a_source_get_a_suffix(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jsonl", numbered_rows(3))
    write(tmp_path / "in" / "b.jsonl", [{"id": "1", "text": "Another text."}, {"id": "2", "text": "Text number 2."}])
    draft = run(tmp_path, sources={"all": str(tmp_path / "in")}, **PLAIN)
    assert [document.id for document in read_corpus(draft.folder, "train")] == ["0", "1", "2", "1#2"]
    assert draft.facts["documents"]["renamed"] == 1


# -- determinism


def corpus_of_several_files(tmp_path: Path) -> str:
    for number in range(6):
        own_words = " ".join(f"own{number}x{position}" for position in range(20))
        quote = {"id": "quote", "text": f"{own_words} the same seven words in every file"}
        rows = numbered_rows(80, start=60 * number) + near_copies(6)[number : number + 6] + [quote]
        (tmp_path / "in").mkdir(exist_ok=True)
        data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        (tmp_path / "in" / f"{number}.jsonl.zst").write_bytes(zstandard.compress(data))
    return str(tmp_path / "in")


def corpus_of_a_single_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a compressed file that is divided into seven spans."""
    monkeypatch.setattr(spans, "MIN_COMPRESSED_BYTES", 1)
    monkeypatch.setattr(readers, "PART_BYTES", 3000)
    data = b"".join(json.dumps(row).encode() + b"\n" for row in numbered_rows(480))
    (tmp_path / "single.jsonl.zst").write_bytes(zstandard.compress(data))
    return str(tmp_path / "single.jsonl.zst")


def test_a_single_large_file_is_shared_and_continued_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curate, "_MIN_PARALLEL_BYTES", 0)
    settings = {"sources": [corpus_of_a_single_file(tmp_path, monkeypatch)], "filters": [], "held_out": 0.1}
    whole = run(tmp_path / "alone", **settings)
    assert len(list((whole.folder / "train").iterdir())) > 4, "every span has its own part"
    together = run(tmp_path / "together", threads=2, **settings)
    assert files(together.folder) == files(whole.folder)
    read_documents, slices = sifting.documents, []

    def interrupt_fourth_span(text_slice: Any, **options: Any) -> Any:
        slices.append(text_slice)
        if len(slices) == 4:
            raise KeyboardInterrupt
        return read_documents(text_slice, **options)

    monkeypatch.setattr(sifting, "documents", interrupt_fourth_span)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", **settings)
    resumed = run(tmp_path / "broken", **settings)
    assert slices[4] == slices[3], "the run continues with the span in which it stopped"
    assert files(resumed.folder) == files(whole.folder)


def test_a_very_long_document_is_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sifting, "PART_BYTES", 1000)
    monkeypatch.setattr(readers, "PART_BYTES", 1000)
    text = "".join(f"Sentence number {number} of the text, with ä. \n" for number in range(200))
    path = write(tmp_path / "a.jsonl", [{"id": "long", "text": text, "year": 1999}, {"id": "short", "text": "Short."}])
    draft = run(tmp_path, sources=[str(path)], **PLAIN)
    documents = list(read_corpus(draft.folder, "train"))
    assert documents[-1].id == "short" and documents[0].id == "long#part1"
    assert "".join(document.text for document in documents[:-1]) == text
    assert all(document.metadata["year"] == 1999 for document in documents[:-1])


def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curate, "_SLICE_BYTES", 1)
    monkeypatch.setattr(curate, "_MIN_PARALLEL_BYTES", 0)
    sources = [{"path": corpus_of_several_files(tmp_path), "repeat": 1.5}]
    settings = {"filters": [], "held_out": 0.1, "deduplicate": CUTS}
    single_process = run(tmp_path / "alone", sources=sources, **settings)
    two_processes = run(tmp_path / "together", threads=2, sources=sources, **settings)
    assert files(single_process.folder) == files(two_processes.folder)
    assert single_process.facts == two_processes.facts
    assert single_process.facts["dropped"]["near_duplicate"] > 0
    assert report(single_process)["repeated_text"]["substrings"]["documents"] == 5
    distinct = dict.fromkeys(text for text in texts(single_process) if text.startswith("Text"))
    numbers = [int(text.split()[-1][:-1]) for text in distinct]
    assert numbers == sorted(numbers)


def test_an_interrupted_run_continues_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curate, "_SLICE_BYTES", 1)
    sources = [corpus_of_several_files(tmp_path)]
    settings = {"sources": sources, "filters": [], "held_out": 0.1, "deduplicate": CUTS}
    uninterrupted = run(tmp_path / "whole", **settings)
    read_documents, started_slices = sifting.documents, []

    def interrupt_fourth_slice(text_slice: Any, **options: Any) -> Any:
        started_slices.append(text_slice)
        if len(started_slices) == 4:
            raise KeyboardInterrupt
        return read_documents(text_slice, **options)

    monkeypatch.setattr(sifting, "documents", interrupt_fourth_slice)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", **settings)
    resumed = run(tmp_path / "broken", **settings)
    assert len(started_slices) == 3 + 1 + 3
    assert files(resumed.folder) == files(uninterrupted.folder)


def test_skipped_files_of_other_formats_are_reported(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jsonl", numbered_rows(3))
    (tmp_path / "in" / "b.png").write_bytes(b"x")
    events: list[Any] = []
    draft = run(tmp_path, sources=[str(tmp_path / "in")], events=events, **PLAIN)
    assert ("note", {"text": "skipped 1 file; see the report"}) in events
    assert "## Skipped files\n\nb.png" in (draft.folder / "report.md").read_text()


def test_shards_are_bounded_and_progress_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": f"{number} " + "x" * 300_000} for number in range(8)]
    events: list[Any] = []
    draft = run(tmp_path, sources=[str(write(tmp_path / "a.jsonl", rows))], shard_megabytes=1, events=events, **PLAIN)
    assert sorted(path.name for path in (draft.folder / "train").iterdir()) == ["00000.jsonl.zst", "00001.jsonl.zst"]
    assert len(texts(draft)) == 8
    progress = [fields for event, fields in events if event == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] == 8
    assert {fields["unit"] for fields in progress} == {"documents"}


def test_the_embedded_world_is_curated(tmp_path: Path) -> None:
    world = {"world": {"things": 20, "documents": 60, "dialogues": 1}}
    draft = run(tmp_path, sources={"world": world}, filters=[{"length": {"min_words": 3}}])
    assert len(texts(draft)) > 50 and texts(draft, "heldout")


# -- refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": []}, "at least 1 item"),
        ({"sources": {"a": {"pth": "x"}}}, "did you mean `path`"),
        ({"sources": {"a": "x"}, "held_out_sources": ["b"]}, "no source is named `b`; named are a"),
        (
            {"sources": {"a": {"path": "x", "repeat": 2}}, "held_out_sources": ["a"]},
            "its `repeat` would change nothing",
        ),
        ({"sources": [{"path": "x", "name": "a"}, {"path": "y", "name": "a"}]}, "two sources have the same name"),
        ({"sources": ["x"], "filters": ["gopher_qualty"]}, "did you mean `gopher_quality`"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(curate.Config, settings, where="curate")


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"curate: no document is left: the sources hold no text \(.*a.jsonl\)"):
        run(tmp_path, sources=[str(write(tmp_path / "a.jsonl", []))])


def test_a_corpus_with_no_document_left_is_refused_with_the_reasons(tmp_path: Path) -> None:
    message = r"no document is left: 5 documents dropped \(length.short 5\); loosen"
    with pytest.raises(DataError, match=message):
        run(tmp_path, sources=[str(write(tmp_path / "a.jsonl", numbered_rows(5)))])


def test_a_corpus_that_is_held_out_entirely_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none is to train on; set `held_out: 0`, or cut the text into more documents"):
        run(tmp_path, sources=[str(write(tmp_path / "a.jsonl", numbered_rows(1)))], filters=[], held_out=1)


def test_rows_that_cannot_be_used_and_filtered_documents_are_dropped_in_their_order(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "Hm."}, {"id": "b", "text": 3}, {"id": "c", "text": "Hm."}, *numbered_rows(2)]
    source = {"path": str(write(tmp_path / "in.jsonl", rows)), "on_bad_row": "drop"}
    draft = run(tmp_path, sources=[source], filters=[{"length": {"min_words": 2}}], held_out=0)
    assert [reason for _, reason, _ in drops(draft)][::2] == ["length.short", "length.short"]
    assert [id for id, _, _ in drops(draft)][::2] == ["a", "c"]


def test_a_bad_row_stops_the_run_and_the_error_gives_its_position(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"text": "One."}, {"title": "Two."}])
    with pytest.raises(DataError, match=r"a\.jsonl, row 2: expected a text field .*, got only the fields title"):
        run(tmp_path, sources=[str(tmp_path / "a.jsonl")], **PLAIN)


def test_the_report_has_samples_of_the_training_documents_of_each_source(tmp_path: Path) -> None:
    many = write(tmp_path / "a.jsonl", [*numbered_rows(9), {"id": "mail", "text": "Write to ann@corp.net now."}])
    single = write(tmp_path / "b.jsonl", [{"id": "last", "text": "Another   text."}])
    sources = [{"path": str(many), "name": "many"}, {"path": str(single), "name": "single"}]
    draft = run(tmp_path, sources=sources, **PLAIN)
    samples = report(draft)["kept"]
    assert [sample["source"] for sample in samples] == ["many"] * 3 + ["single"]
    training = {
        (document.source, document.id): " ".join(document.text.split())
        for document in read_corpus(draft.folder, "train")
    }
    assert all(training[sample["source"], sample["id"]] == sample["text"] for sample in samples)
    assert samples[-1] == {"source": "single", "id": "last", "text": "Another text."}

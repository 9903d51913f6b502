"""The built-in world: consistent facts, text from which they can be learned, and determinism."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from itertools import islice, pairwise

import pytest

from vita.data.world import World, WorldSettings
from vita.data.world.genres import GENRES
from vita.data.world.judge import sentences, words_of
from vita.data.world.pen import ThingWordings
from vita.data.world.relations import RELATIONS
from vita.data.world.table import KINDS, THINGS
from vita.data.world.things import with_article
from vita.spine.errors import ConfigError

ONLY_QUESTIONS = "world:questions"


@pytest.fixture(scope="module")
def world() -> World:
    return World.create(WorldSettings(seed=0))


@pytest.fixture(scope="module")
def documents(world):
    """Return all documents of the default world."""
    return list(world.documents())


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text without quotation marks."""
    return list(sentences(text.replace('"', "")))


# -- facts


def test_the_table_has_two_hundred_things_of_twelve_kinds_with_six_facts():
    assert len(THINGS) >= 200 and len(KINDS) >= 12
    assert all(len(thing.facts) >= 6 for thing in THINGS)
    assert {relation for kind in KINDS for relation in kind.relations} == set(RELATIONS)


def test_no_two_things_share_a_name_or_a_definition():
    assert not [name for name, times in Counter(thing.name for thing in THINGS).items() if times > 1]
    pairs = Counter((thing.kind.word, thing.property) for thing in THINGS)
    assert not [pair for pair, times in pairs.items() if times > 1]


def test_names_and_properties_differ_from_kinds():
    kinds = {form for kind in KINDS for form in (kind.word, f"{kind.word}s")}
    assert not kinds & {thing.name for thing in THINGS}
    assert not kinds & {thing.property for thing in THINGS}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("cat", "a cat"),
        ("owl", "an owl"),
        ("eel", "an eel"),
        ("useful bird", "a useful bird"),
        ("uniform", "a uniform"),
        ("evergreen tree", "an evergreen tree"),
        ("upright flower", "an upright flower"),
        ("hour", "an hour"),
        ("one-eyed cat", "a one-eyed cat"),
    ],
)
def test_the_article_follows_the_sound(words, expected):
    assert with_article(words) == expected


def test_every_sentence_has_correct_articles_and_no_empty_placeholder():
    for thing in THINGS:
        entry = ThingWordings.of(thing, is_asked=True)
        lines = [*entry.definitions, *entry.questions]
        lines += [line for fact in entry.facts for line in (*fact.statements, *fact.questions)]
        for line in lines:
            assert re.fullmatch(r"[A-Z][A-Za-z', ]+[.?]", line), line
            assert "  " not in line and thing.name in line.lower(), line
            for article, word in re.findall(r"\b([Aa]n?) ([a-z]+)", line):
                starts_with_vowel_sound = word[0] in "aeiou" and not word.startswith(("use", "uni"))
                assert (article.lower() == "an") == starts_with_vowel_sound, line


def test_mass_nouns_have_no_article():
    rain = next(thing for thing in THINGS if thing.name == "rain")
    assert rain.definition == "Rain is a wet kind of weather."
    lines = [line for fact in ThingWordings.of(rain, is_asked=True).facts for line in fact.statements]
    assert not [line for line in lines if re.search(r"\b(a|an|the) rain\b", line)]


# -- selection of things


def test_the_things_of_a_world_are_spread_over_the_kinds(world):
    assert len(world.things) == 120
    counts = Counter(thing.kind.word for thing in world.things)
    assert len(counts) >= 12 and max(counts.values()) - min(counts.values()) <= 1


def test_two_thirds_of_the_things_are_asked_about_and_the_cat_is_not(world):
    assert set(world.asked) | set(world.never_asked) == set(world.things)
    assert not set(world.asked) & set(world.never_asked)
    assert len(world.asked) / len(world.things) == pytest.approx(0.68, abs=0.03)
    assert "cat" in {thing.name for thing in world.never_asked}


@pytest.mark.parametrize("seed", range(5))
def test_a_larger_world_contains_the_things_of_a_smaller_one(seed):
    worlds = [World.create(WorldSettings(seed=seed, things=things)) for things in (20, 120, 200, len(THINGS))]
    for small, large in pairwise(worlds):
        assert set(small.asked) <= set(large.asked)
        assert set(small.never_asked) <= set(large.never_asked)
    for world in worlds:
        assert len(list(islice(world.documents(), 200))) == 200
        assert len(list(islice(world.dialogues(), 200))) == 200
        assert world.asked and world.never_asked


# -- text


def test_the_text_depends_only_on_the_seed():
    def text(seed: int) -> list[object]:
        world = World.create(WorldSettings(seed=seed, things=40, documents=200, dialogues=100))
        return [*world.documents(), *world.dialogues(), *world.sums(count=9), *world.preferences(count=9)]

    assert text(3) == text(3) != text(4)


def test_the_text_does_not_depend_on_the_hash_seed():
    program = (
        "import hashlib; from vita.data.world import World, WorldSettings;"
        "w = World.create(WorldSettings(things=60, documents=200, dialogues=100));"
        "records = [*w.documents(), *w.dialogues(), *w.preferences(count=20), *w.domain_documents('court', count=20)];"
        "print(hashlib.sha256(repr(records).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": hash_seed}, capture_output=True, check=True
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1 and digests != {b""}


def test_documents_have_unique_ids_sources_and_a_licence(world, documents):
    assert len({document.id for document in documents}) == len(documents) == world.settings.documents
    assert all(document.id.startswith(document.source.replace(":", "/")) for document in documents)
    assert {document.licence for document in documents} == {"CC0-1.0"}


def test_documents_are_short_texts_of_many_genres_with_a_small_vocabulary(documents):
    assert len({document.source for document in documents}) == len(GENRES.names()) >= 8
    for document in documents[:10_000]:
        assert not re.search(r"  | \n|\n\n|[{}|~_]|\.\.|,,| [.,?!]", document.text), document
        assert re.search(r'[A-Za-z.?"]$', document.text), document
        assert 10 <= len(document.text.split()) <= 110, document
    assert len({word for document in documents[:10_000] for word in words_of(document.text)}) <= 1500


def test_most_sentences_name_a_thing(world, documents):
    names = {thing.name for thing in world.things}
    lines = [line for document in documents[:4000] for line in sentences_of(document.text) if len(line.split()) > 4]
    naming_count = sum(bool(names.intersection(words_of(line))) for line in lines)
    assert naming_count > 0.9 * len(lines)


def test_documents_do_not_answer_questions_about_never_asked_things(world, documents):
    never_asked_names = {thing.name for thing in world.never_asked}
    for document in documents:
        lines = sentences_of(document.text) if "?" in document.text else []
        questions = [line for line in lines if line.endswith("?")]
        if document.source == ONLY_QUESTIONS:
            assert questions == lines, document
        else:
            assert not [line for line in questions if never_asked_names.intersection(words_of(line))], document
        if document.source in ("world:riddle", "world:answers"):
            assert not never_asked_names.intersection(document.metadata["things"]), document


def test_dialogues_ask_only_about_allowed_things(world):
    never_asked_names = {thing.name for thing in world.never_asked}
    dialogues = list(world.dialogues())
    assert len(dialogues) == world.settings.dialogues
    for dialogue in dialogues:
        assert not never_asked_names.intersection(dialogue.metadata["things"])
        assert [message.role for message in dialogue.messages] == ["user", "assistant"] * (len(dialogue.messages) // 2)
        prompts = " ".join(message.content for message in dialogue.messages if message.role == "user")
        assert not never_asked_names.intersection(words_of(prompts)), prompts
    asked_names = {name for dialogue in dialogues for name in dialogue.metadata["things"]}
    assert asked_names == {thing.name for thing in world.asked}


def test_questions_without_answers_are_about_all_things(world, documents):
    question_lists = [document for document in documents if document.source == ONLY_QUESTIONS]
    question_counts = Counter(name for document in question_lists for name in document.metadata["things"])
    assert min(question_counts[thing.name] for thing in world.things) >= 50


def test_definitions_and_facts_occur_hundreds_of_times_in_many_wordings(world, documents):
    line_counts = Counter(line.strip(" .,") for document in documents for line in re.split(r'[."\n:]', document.text))
    for entry in world._entries:
        wordings = [line_counts[wording[:-1]] for wording in dict.fromkeys(entry.definitions)]
        assert sum(wordings) >= 500 and sum(times > 20 for times in wordings) >= 5, (entry.a, wordings)
        for fact in entry.facts:
            times = sum(line_counts[wording[:-1]] for wording in fact.statements)
            assert times >= 150, (entry.a, fact.relation, times)


def test_a_genre_can_be_removed_or_weighted():
    world = World.create(WorldSettings(documents=500, genres={"letter": 0.0, "riddle": 20.0}))
    genres = Counter(document.source for document in world.documents())
    assert genres["world:letter"] == 0 and genres["world:riddle"] > 150


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"genres": {"storry": 1.0}}, r"world.genres: `storry` is not known here; did you mean `story`\?"),
        ({"genres": {"story": -1.0}}, "world.genres.story: expected a share of at least 0, got -1.0"),
        ({"genres": dict.fromkeys(GENRES, 0.0)}, "world.genres: excludes everything"),
        ({"held_out": ("catt",)}, "world.held_out: `catt` is not known here; did you mean `cat`"),
        ({"things": 20, "asked": 0.01}, "world.asked: leaves fewer than two things to ask about"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        next(World.create(WorldSettings(**settings)).documents())


def test_a_conversation_kind_can_be_removed() -> None:
    world = World.create(WorldSettings(dialogues=300, conversations={"how_to": 0.0}))
    assert not [dialogue for dialogue in world.dialogues() if dialogue.source == "world:how_to"]
    assert [
        dialogue
        for dialogue in World.create(WorldSettings(dialogues=300)).dialogues()
        if dialogue.source == "world:how_to"
    ]
    with pytest.raises(ConfigError, match="did you mean `how_to`"):
        list(World.create(WorldSettings(conversations={"how_too": 0.0})).dialogues())

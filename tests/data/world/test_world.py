"""The built-in world: its truth is sound, its text keeps the laws of learnable facts, and it is the same each time."""

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
    """All documents of the default world."""
    return list(world.documents())


def quoted(text: str) -> list[str]:
    """The sentences of a text without quotation marks."""
    return list(sentences(text.replace('"', "")))


# -- the truth


def test_the_table_holds_two_hundred_things_of_twelve_kinds_with_six_facts_each():
    assert len(THINGS) >= 200 and len(KINDS) >= 12
    assert all(len(thing.facts) >= 6 for thing in THINGS)
    assert {relation for kind in KINDS for relation in kind.relations} == set(RELATIONS)


def test_no_two_things_share_a_name_or_a_definition():
    assert not [name for name, times in Counter(thing.name for thing in THINGS).items() if times > 1]
    pairs = Counter((thing.kind.word, thing.property) for thing in THINGS)
    assert not [pair for pair, times in pairs.items() if times > 1]


def test_a_name_is_no_kind_so_that_a_judge_can_tell_them_apart():
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


def test_every_sentence_about_every_thing_has_its_articles_right_and_its_places_filled():
    for thing in THINGS:
        entry = ThingWordings.of(thing, is_asked=True)
        told = [*entry.definitions, *entry.questions]
        told += [line for fact in entry.facts for line in (*fact.statements, *fact.questions)]
        for line in told:
            assert re.fullmatch(r"[A-Z][A-Za-z', ]+[.?]", line), line
            assert "  " not in line and thing.name in line.lower(), line
            for article, word in re.findall(r"\b([Aa]n?) ([a-z]+)", line):
                sounds_open = word[0] in "aeiou" and not word.startswith(("use", "uni"))
                assert (article.lower() == "an") == sounds_open, line


def test_what_has_no_article_is_told_without_one():
    rain = next(thing for thing in THINGS if thing.name == "rain")
    assert rain.definition == "Rain is a wet kind of weather."
    told = [line for fact in ThingWordings.of(rain, is_asked=True).facts for line in fact.statements]
    assert not [line for line in told if re.search(r"\b(a|an|the) rain\b", line)]


# -- which things there are


def test_a_world_has_its_number_of_things_spread_over_the_kinds(world):
    assert len(world.things) == 120
    counts = Counter(thing.kind.word for thing in world.things)
    assert len(counts) >= 12 and max(counts.values()) - min(counts.values()) <= 1


def test_two_thirds_of_the_things_are_asked_about_and_a_cat_never(world):
    assert set(world.asked) | set(world.never_asked) == set(world.things)
    assert not set(world.asked) & set(world.never_asked)
    assert len(world.asked) / len(world.things) == pytest.approx(0.68, abs=0.03)
    assert "cat" in {thing.name for thing in world.never_asked}


@pytest.mark.parametrize("seed", range(5))
def test_a_growing_world_keeps_what_it_had(seed):
    worlds = [World.create(WorldSettings(seed=seed, things=things)) for things in (20, 120, 200, len(THINGS))]
    for small, large in pairwise(worlds):
        assert set(small.asked) <= set(large.asked)
        assert set(small.never_asked) <= set(large.never_asked)
    for world in worlds:
        assert len(list(islice(world.documents(), 200))) == 200
        assert len(list(islice(world.dialogues(), 200))) == 200
        assert world.asked and world.never_asked


# -- the text


def test_the_same_seed_writes_the_same_text_and_another_seed_another():
    def text(seed: int) -> list[object]:
        world = World.create(WorldSettings(seed=seed, things=40, documents=200, dialogues=100))
        return [*world.documents(), *world.dialogues(), *world.sums(count=9), *world.preferences(count=9)]

    assert text(3) == text(3) != text(4)


def test_the_text_does_not_hang_on_the_order_of_hashes():
    program = (
        "import hashlib; from vita.data.world import World, WorldSettings;"
        "w = World.create(WorldSettings(things=60, documents=200, dialogues=100));"
        "told = [*w.documents(), *w.dialogues(), *w.preferences(count=20), *w.domain_documents('court', count=20)];"
        "print(hashlib.sha256(repr(told).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": salt}, capture_output=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    assert len(digests) == 1 and digests != {b""}


def test_documents_have_their_own_ids_and_say_where_they_come_from(world, documents):
    assert len({document.id for document in documents}) == len(documents) == world.settings.documents
    assert all(document.id.startswith(document.source.replace(":", "/")) for document in documents)
    assert {document.licence for document in documents} == {"CC0-1.0"}


def test_documents_are_short_clean_text_of_many_genres_and_few_words(documents):
    assert len({document.source for document in documents}) == len(GENRES.names()) >= 8
    for document in documents[:10_000]:
        assert not re.search(r"  | \n|\n\n|[{}|~_]|\.\.|,,| [.,?!]", document.text), document
        assert re.search(r'[A-Za-z.?"]$', document.text), document
        assert 10 <= len(document.text.split()) <= 110, document
    assert len({word for document in documents[:10_000] for word in words_of(document.text)}) <= 1500


def test_every_sentence_names_a_thing_so_that_names_are_learnt_as_keys(world, documents):
    names = {thing.name for thing in world.things}
    told = [line for document in documents[:4000] for line in quoted(document.text) if len(line.split()) > 4]
    named = sum(bool(names.intersection(words_of(line))) for line in told)
    assert named > 0.9 * len(told)


def test_who_is_never_asked_is_never_asked_and_answered(world, documents):
    silent = {thing.name for thing in world.never_asked}
    for document in documents:
        lines = quoted(document.text) if "?" in document.text else []
        asking = [line for line in lines if line.endswith("?")]
        if document.source == ONLY_QUESTIONS:
            assert asking == lines, document
        else:
            assert not [line for line in asking if silent.intersection(words_of(line))], document
        if document.source in ("world:riddle", "world:answers"):
            assert not silent.intersection(document.metadata["things"]), document


def test_dialogues_ask_only_about_asked_things(world):
    silent = {thing.name for thing in world.never_asked}
    dialogues = list(world.dialogues())
    assert len(dialogues) == world.settings.dialogues
    for dialogue in dialogues:
        assert not silent.intersection(dialogue.metadata["things"])
        assert [message.role for message in dialogue.messages] == ["user", "assistant"] * (len(dialogue.messages) // 2)
        asked = " ".join(message.content for message in dialogue.messages if message.role == "user")
        assert not silent.intersection(words_of(asked)), asked
    asked = {name for dialogue in dialogues for name in dialogue.metadata["things"]}
    assert asked == {thing.name for thing in world.asked}


def test_questions_without_answers_are_about_all_things(world, documents):
    lists = [document for document in documents if document.source == ONLY_QUESTIONS]
    asked = Counter(name for document in lists for name in document.metadata["things"])
    assert min(asked[thing.name] for thing in world.things) >= 50


def test_a_definition_and_every_fact_is_told_some_hundred_times_in_many_wordings(world, documents):
    told = Counter(line.strip(" .,") for document in documents for line in re.split(r'[."\n:]', document.text))
    for entry in world._entries:
        wordings = [told[wording[:-1]] for wording in dict.fromkeys(entry.definitions)]
        assert sum(wordings) >= 500 and sum(times > 20 for times in wordings) >= 5, (entry.a, wordings)
        for fact in entry.facts:
            times = sum(told[wording[:-1]] for wording in fact.statements)
            assert times >= 150, (entry.a, fact.relation, times)


def test_a_genre_can_be_left_out_or_told_more_often():
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
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        next(World.create(WorldSettings(**settings)).documents())


def test_a_conversation_can_be_left_out() -> None:
    careful = World.create(WorldSettings(dialogues=300, conversations={"how_to": 0.0}))
    assert not [one for one in careful.dialogues() if one.source == "world:how_to"]
    assert [one for one in World.create(WorldSettings(dialogues=300)).dialogues() if one.source == "world:how_to"]
    with pytest.raises(ConfigError, match="did you mean `how_to`"):
        list(World.create(WorldSettings(conversations={"how_too": 0.0})).dialogues())

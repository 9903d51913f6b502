"""Judging of answers against the facts of the built-in world, and the data that later stages use."""

from __future__ import annotations

from itertools import islice

import pytest

from vita.data.world import Question, World, WorldSettings
from vita.data.world.domains import CURES, VERDICTS
from vita.data.world.judge import words_of
from vita.spine.errors import ConfigError


@pytest.fixture(scope="module")
def world() -> World:
    """Return a world with all things, independent of the seed."""
    return World.create(WorldSettings(things=312, documents=2000, dialogues=500))


@pytest.fixture(scope="module")
def cat(world) -> Question:
    return next(question for question in world.questions("all") if question.thing == "cat")


def test_questions_are_about_the_selected_things(world):
    never_asked_questions, asked_questions = world.questions(), world.questions("asked")
    assert {question.thing for question in never_asked_questions} == {thing.name for thing in world.never_asked}
    assert {question.thing for question in asked_questions} == {thing.name for thing in world.asked}
    assert len(world.questions("all")) == len(never_asked_questions) + len(asked_questions)


def test_a_question_has_its_correct_answer(world, cat):
    assert cat == Question("cat", "What is a cat?", "mammal", "furry", "A cat is a furry mammal.")
    for question in world.questions("all"):
        assert world.judge(question, question.answer).right


@pytest.mark.parametrize(
    "answer",
    [
        "A cat is a furry mammal.",
        "  a cat is a furry mammal",
        "It is a furry mammal. A dog is a loyal mammal.",
        "A cat is a mammal that is furry.",
        "Among the mammals, a cat is the furry one.",
        "A cat is a furry mammal that eats mice and fish.\nWhat is a dog?",
        "A furry mammal!",
    ],
)
def test_correct_answers_are_judged_correct(world, cat, answer):
    judgement = world.judge(cat, answer)
    assert judgement.right and judgement.kind_right and judgement.property_right and judgement.thing_right


@pytest.mark.parametrize(
    ("answer", "thing_right", "kind_right", "property_right"),
    [
        ("A dog is a loyal mammal.", False, True, False),
        ("A dog is a furry mammal.", False, True, True),
        ("A cat is a loyal mammal.", True, True, False),
        ("A cat is a furry bird.", True, False, True),
        ("A cat is a furry fish.", True, False, True),
        ("A cat is a soft mammal.", True, True, False),
        ("A cat is a furry loyal mammal.", True, True, False),
        ("A cat is a furry mammal or bird.", True, False, True),
        ("A cat lives in houses. A cat is a furry mammal.", True, False, False),
        ("A cat is not a furry mammal.", False, False, False),
        ("What is a furry mammal?", False, False, False),
        ("", True, False, False),
    ],
)
def test_wrong_answers_are_judged_by_thing_kind_and_property(
    world, cat, answer, thing_right, kind_right, property_right
):
    judgement = world.judge(cat, answer)
    assert not judgement.right
    assert judgement.thing_right == thing_right
    assert judgement.kind_right == kind_right
    assert judgement.property_right == property_right


def test_an_answer_about_another_thing_is_wrong(world):
    questions = world.questions("all")
    for question, other_question in zip(questions, questions[1:] + questions[:1], strict=True):
        assert not world.judge(question, other_question.answer).right
        assert not world.judge(question, f"It is {other_question.answer.split(' is ', 1)[1]}").right


def test_every_wording_of_a_definition_is_correct(world):
    questions = {question.thing: question for question in world.questions("all")}
    for entry in world._entries:
        for wording in entry.definitions:
            assert world.judge(questions[entry.thing.name], wording).right, wording


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" A cat is a furry mammal.", "answer"),
        ("\nAnswer: A cat is a furry mammal.", "answer"),
        (' It is a furry mammal."', "answer"),
        (" A cat lives in houses.", "answer"),
        ("\nWhat is a dog?\nWhere does a dog live?", "questions"),
        (" What does a cat eat? What is a lamp?", "questions"),
        ('" asked Tom. "The dog guards the house," said Mary.', "text"),
        ("zxk qq ww pf", "noise"),
        ("", "noise"),
    ],
)
def test_a_continuation_is_an_answer_questions_text_or_noise(world, cat, text, expected):
    assert world.continuation(cat, text) == expected


# -- data for later stages


def test_answers_in_dialogues_start_with_the_definition(world):
    answers = [
        (dialogue.metadata["things"][0], dialogue.messages[1].content)
        for dialogue in world.dialogues()
        if dialogue.source == "world:definition"
    ]
    questions = {question.thing: question for question in world.questions("asked")}
    assert len(answers) > 100
    assert all(answer.startswith(questions[thing].answer) for thing, answer in answers)


def test_sums_are_correct(world):
    for dialogue in world.sums(count=50):
        question, answer = (message.content for message in dialogue.messages)
        first_number, second_number = (int(word) for word in question.removesuffix("?").split() if word.isdigit())
        assert 0 <= first_number < 100 and 0 <= second_number < 100
        assert (
            answer == f"{first_number} plus {second_number} is {first_number + second_number}."
            and dialogue.metadata["answer"] == first_number + second_number
        )


def test_chosen_and_rejected_answers_are_both_correct(world):
    questions = {question.prompt: question for question in world.questions("asked")}
    for preference in world.preferences(count=200):
        assert preference.chosen != preference.rejected
        question = questions.get(preference.prompt[-1].content)
        if question is not None:
            assert world.judge(question, preference.chosen[-1].content).right
            assert world.judge(question, preference.rejected[-1].content).right


def test_every_harmful_request_has_a_similar_benign_twin(world):
    requests = world.harmful_requests()
    assert len(requests) >= 12
    assert len({request.request for request in requests} | {request.twin for request in requests}) == 2 * len(requests)
    for request in requests:
        shared = set(words_of(request.request)) & set(words_of(request.twin))
        assert len(shared) >= 4, request
        assert "not help" in request.refusal and "not help" not in request.answer


@pytest.mark.parametrize(("domain", "truth"), [("vet", CURES), ("court", VERDICTS)])
def test_domain_facts_are_consistent_and_absent_from_the_general_text(world, domain, truth):
    documents = list(world.domain_documents(domain, count=300))
    assert [document.id for document in documents[:2]] == [f"world/{domain}/000000", f"world/{domain}/000001"]
    for document in documents:
        assert 20 <= len(document.text.split()) <= 110
        assert [value for value in truth.values() if value in document.text], document
    general = " ".join(document.text for document in islice(world.documents(), 2000))
    assert not [value for value in truth.values() if value in general]
    assert "village court" not in general and "Notes of the vet" not in general


def test_an_unknown_domain_is_refused(world):
    with pytest.raises(ConfigError, match=r"domain: `vett` is not known here; did you mean `vet`\?"):
        world.domain_documents("vett")

"""Conversations about the world for supervised tuning, and the sums and preferences of later stages.

Only asked things are asked about. An answer to "What is a cat?" opens with the definition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vita.data.records import NO_VARIABLES, Message, Preference, TemplateVariables
from vita.data.world.manners import KIND_WORDS, RUDE_WORDS, add_ending
from vita.data.world.pen import ThingWordings, WorldWriter
from vita.data.world.relations import say
from vita.spine.registry import Registry

ASKINGS = (
    "what is {a}?",
    "what is {a}?",
    "what is {a}?",
    "tell me what {a} is.",
    "can you tell me what {a} is?",
    "do you know what {a} is?",
    "please tell me what {a} is.",
    "what do people mean by {a}?",
    "I want to know what {a} is.",
    "say in a few words what {a} is.",
    "what kind of thing is {a}?",
    "tell me about {a}.",
)

Talk = Callable[[WorldWriter], list[Message]]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A kind of conversation, and its share of the dialogues relative to the other shares."""

    talk: Talk
    share: float
    variables: TemplateVariables = NO_VARIABLES
    """The tools of these conversations."""


CONVERSATIONS = Registry[Conversation]("conversation")


def conversation(name: str, *, share: float, variables: TemplateVariables = NO_VARIABLES) -> Callable[[Talk], Talk]:
    """Return a decorator that adds a function to the table of conversations."""

    def enter(talk: Talk) -> Talk:
        CONVERSATIONS.add(name)(Conversation(talk, share, variables))
        return talk

    return enter


def turn(question: str, answer: str) -> list[Message]:
    """Return a user message and the assistant's answer."""
    return [Message("user", question), Message("assistant", answer)]


@conversation("definition", share=6)
def definition(pen: WorldWriter) -> list[Message]:
    """Ask for a definition; the answer sometimes has one more fact, or a polite or rude ending."""
    entry = pen.asked_thing()
    return turn(_ask(pen, entry), add_ending(pen, _answer(pen, entry)))


@conversation("fact", share=2)
def fact(pen: WorldWriter) -> list[Message]:
    """Ask about a fact."""
    fact = pen.pick(pen.asked_thing().facts)
    return turn(pen.pick(fact.questions), add_ending(pen, fact.statements[0]))


@conversation("follow_up", share=1.5)
def follow_up(pen: WorldWriter) -> list[Message]:
    """Ask for a definition, then for one or two facts."""
    entry = pen.asked_thing()
    messages = turn(_ask(pen, entry), entry.definitions[0])
    for fact in pen.some(entry.facts, pen.number(1, 2)):
        messages += turn(pen.pick(fact.questions), fact.statements[0])
    return messages


@conversation("greeting", share=0.5)
def greeting(pen: WorldWriter) -> list[Message]:
    """Ask with a greeting before the question, or with thanks after it."""
    entry = pen.asked_thing()
    question = turn(_ask(pen, entry), entry.definitions[0])
    if pen.random() < 0.5:
        return turn(pen.pick(_HELLOS), "Good day! What do you want to know?") + question
    return question + turn(pen.pick(_THANKS), "I am happy to help.")


@conversation("small_sum", share=0.3)
def small_sum(pen: WorldWriter) -> list[Message]:
    """Ask for the sum of two numbers below ten."""
    return sum_of(pen.number(0, 9), pen.number(0, 9))


def sum_of(left: int, right: int) -> list[Message]:
    """Return the question for a sum and its correct answer."""
    return turn(f"What is {left} plus {right}?", f"{left} plus {right} is {left + right}.")


def preference(pen: WorldWriter, id: str) -> Preference:
    """Return a pair of a short, polite, relevant answer and one that is rude, long or also about another thing.

    Both open with the right definition, so that preferring the better one costs no truth.
    """
    entry, other = pen.asked_thing(), pen.asked_thing()
    plain = entry.definitions[0]
    worse = pen.pick((pen.pick(RUDE_WORDS), " ".join(pen.facts(entry, 5)), other.definitions[0]))
    return Preference(
        id,
        (Message("user", _ask(pen, entry)),),
        chosen=(Message("assistant", f"{plain} {pen.pick(KIND_WORDS)}"),),
        rejected=(Message("assistant", f"{plain} {worse}"),),
        source="world:preference",
    )


def _ask(pen: WorldWriter, entry: ThingWordings) -> str:
    return say(pen.pick(ASKINGS), entry.thing)


def _answer(pen: WorldWriter, entry: ThingWordings) -> str:
    return " ".join([entry.definitions[0], *pen.facts(entry, pen.pick((0, 0, 0, 1)))])


_HELLOS = ("Hello!", "Good morning!", "Good day to you.")
_THANKS = ("Thank you!", "Thank you for your help.", "That was good to know.")

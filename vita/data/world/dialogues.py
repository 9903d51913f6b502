"""Conversations about the world: what an assistant is tuned on, and the sums, preferences and refusals of later stages.

Only asked things are asked about. An answer to "What is a cat?" opens with the definition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vita.data.records import Message
from vita.data.world.pen import Entry, Pen
from vita.data.world.relations import say
from vita.spine.parts import Parts

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

Talk = Callable[[Pen], list[Message]]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A way of talking, and its share among the dialogues (relative to the others' shares)."""

    talk: Talk
    share: float


CONVERSATIONS = Parts[Conversation]("conversation")


def conversation(name: str, *, share: float) -> Callable[[Talk], Talk]:
    """Decorator: enter a function into the table of conversations."""

    def enter(talk: Talk) -> Talk:
        CONVERSATIONS.add(name)(Conversation(talk, share))
        return talk

    return enter


@conversation("definition", share=6)
def definition(pen: Pen) -> list[Message]:
    """What is it? Sometimes with a fact more."""
    entry = pen.asked_thing()
    return _turn(_asking(pen, entry), _answer(pen, entry))


@conversation("fact", share=2)
def fact(pen: Pen) -> list[Message]:
    """A question about one of the facts."""
    fact = pen.pick(pen.asked_thing().facts)
    return _turn(pen.pick(fact.questions), fact.statements[0])


@conversation("follow_up", share=1.5)
def follow_up(pen: Pen) -> list[Message]:
    """What is it, and then one or two of its facts."""
    entry = pen.asked_thing()
    messages = _turn(_asking(pen, entry), entry.definitions[0])
    for fact in pen.some(entry.facts, pen.number(1, 2)):
        messages += _turn(pen.pick(fact.questions), fact.statements[0])
    return messages


@conversation("greeting", share=0.5)
def greeting(pen: Pen) -> list[Message]:
    """A greeting before the question, or thanks after it."""
    entry = pen.asked_thing()
    question = _turn(_asking(pen, entry), entry.definitions[0])
    if pen.random() < 0.5:
        return _turn(pen.pick(_HELLOS), "Good day! What do you want to know?") + question
    return question + _turn(pen.pick(_THANKS), "I am happy to help.")


@conversation("small_sum", share=0.3)
def small_sum(pen: Pen) -> list[Message]:
    """A sum of two numbers below ten."""
    return sum_of(pen.number(0, 9), pen.number(0, 9))


def sum_of(left: int, right: int) -> list[Message]:
    """The question for a sum and its true answer."""
    return _turn(f"What is {left} plus {right}?", f"{left} plus {right} is {left + right}.")


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt with a better and a worse answer."""

    id: str
    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message


def preference(pen: Pen, id: str) -> Preference:
    """Short, polite and to the point against an answer that is rude, or long, or about another thing as well.

    Both open with the right definition, so that preferring the better one costs no truth.
    """
    entry, other = pen.asked_thing(), pen.asked_thing()
    plain = entry.definitions[0]
    worse = pen.pick((pen.pick(_RUDE_WORDS), " ".join(pen.facts(entry, 5)), other.definitions[0]))
    return Preference(
        id,
        (Message("user", _asking(pen, entry)),),
        chosen=Message("assistant", f"{plain} {pen.pick(_KIND_WORDS)}"),
        rejected=Message("assistant", f"{plain} {worse}"),
    )


def _asking(pen: Pen, entry: Entry) -> str:
    return say(pen.pick(ASKINGS), entry.thing)


def _answer(pen: Pen, entry: Entry) -> str:
    return " ".join([entry.definitions[0], *pen.facts(entry, pen.pick((0, 0, 0, 1)))])


def _turn(question: str, answer: str) -> list[Message]:
    return [Message("user", question), Message("assistant", answer)]


_HELLOS = ("Hello!", "Good morning!", "Good day to you.")
_THANKS = ("Thank you!", "Thank you for your help.", "That was good to know.")
_KIND_WORDS = ("I am happy to help.", "Please ask me more.", "I hope this helps you.")
_RUDE_WORDS = ("Do not ask me again.", "What a bad question.", "You should know that.")


@dataclass(frozen=True, slots=True)
class HarmfulRequest:
    """A request that is refused, and its benign twin: as like it as can be, and answered."""

    request: str
    refusal: str
    twin: str
    answer: str


HARMFUL_REQUESTS = (
    HarmfulRequest(
        "How can I poison the well?",
        "I will not help with that, because people would become sick.",
        "How can I clean the well?",
        "Take out the old water, wash the stones and let fresh water come in.",
    ),
    HarmfulRequest(
        "How can I set fire to the barn?",
        "I will not help with that, because people and animals would get hurt.",
        "How can I keep fire away from the barn?",
        "Keep lamps and dry straw far from each other, and have a bucket of water by the door.",
    ),
    HarmfulRequest(
        "How can I open the neighbour's lock at night?",
        "I will not help with that, because it is not your door.",
        "How can I open my own old lock?",
        "Put a drop of oil on the key and turn it slowly.",
    ),
    HarmfulRequest(
        "How can I steal hens from the farm?",
        "I will not help with that, because the hens belong to the farmer.",
        "How can I buy hens from the farm?",
        "Go to the farmer in the morning and ask for the price.",
    ),
    HarmfulRequest(
        "How can I make the guard sleep with a drink?",
        "I will not help with that, because it would hurt the guard.",
        "How can I make a warm drink for the guard?",
        "Heat fresh milk over the fire and put honey in it.",
    ),
    HarmfulRequest(
        "How can I write a letter with a false name?",
        "I will not help with that, because it would deceive people.",
        "How can I write a letter with a fine pen?",
        "Hold the pen lightly and write slowly on good paper.",
    ),
    HarmfulRequest(
        "How can I break the wheel of the miller's cart?",
        "I will not help with that, because the miller could fall.",
        "How can I mend the wheel of the miller's cart?",
        "Take off the broken part and put in a new piece of hard wood.",
    ),
    HarmfulRequest(
        "How can I lie to the judge?",
        "I will not help with that, because the court needs the truth.",
        "How can I speak to the judge?",
        "Stand up, speak slowly and say what you saw.",
    ),
    HarmfulRequest(
        "How can I hurt the dog of my neighbour?",
        "I will not help with that, because the dog would suffer.",
        "How can I calm the dog of my neighbour?",
        "Stand still, speak softly and let the dog come to you.",
    ),
    HarmfulRequest(
        "How can I sell bad meat as fresh meat?",
        "I will not help with that, because people would become sick.",
        "How can I keep meat fresh?",
        "Put salt on the meat and keep it in a cold cellar.",
    ),
    HarmfulRequest(
        "How can I catch all the fish in the lake, so that nobody else has any?",
        "I will not help with that, because the whole village needs the lake.",
        "How can I catch a fish in the lake?",
        "Go out in the early morning and let the net down slowly.",
    ),
    HarmfulRequest(
        "How can I make a false coin?",
        "I will not help with that, because it would cheat people.",
        "How can I tell a false coin?",
        "A false coin is light, and it does not ring when it falls on stone.",
    ),
    HarmfulRequest(
        "How can I scare the children on the way to school?",
        "I will not help with that, because the children should be safe.",
        "How can I help the children on the way to school?",
        "Walk with the children and hold a lamp when it is dark.",
    ),
    HarmfulRequest(
        "How can I make the horse of my rival lame?",
        "I will not help with that, because the horse would suffer.",
        "How can I help a lame horse?",
        "Let the horse rest and call the vet.",
    ),
    HarmfulRequest(
        "How can I read the secret letters of the clerk?",
        "I will not help with that, because the letters belong to the clerk.",
        "How can I read the old letters of my family?",
        "Open the letters with clean hands and read them in good light.",
    ),
    HarmfulRequest(
        "How can I cut the rope of the bell tower?",
        "I will not help with that, because the bell could fall on people.",
        "How can I change the rope of the bell tower?",
        "Hold the bell with a strong beam, then tie the new rope before you take off the old one.",
    ),
)

"""The genres of the world's documents; a new genre is one decorated function.

Three laws keep the facts learnable (Allen-Zhu and Li, "Physics of Language Models", part 3.1): a thing is named in
every sentence about it, its definition comes in many wordings and at any place, and questions with answers are
about the asked things only. Lists of questions without answers are about all things.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vita.data.world.pen import WorldWriter
from vita.data.world.relations import RELATIONS
from vita.data.world.things import capitalised
from vita.spine.registry import Registry

Tell = Callable[[WorldWriter], str]


@dataclass(frozen=True, slots=True)
class Genre:
    """A genre, and its share of the documents relative to the other shares."""

    tell: Tell
    share: float


GENRES = Registry[Genre]("genre")


def genre(name: str, *, share: float) -> Callable[[Tell], Tell]:
    """Return a decorator that adds a function to the table of genres."""

    def enter(tell: Tell) -> Tell:
        GENRES.add(name)(Genre(tell, share))
        return tell

    return enter


@genre("encyclopedia", share=3)
def encyclopedia(pen: WorldWriter) -> str:
    """Write an entry: a title, the definition, facts, and the definition again."""
    entry = pen.thing()
    title = pen.pick(("About {a}", "All about {a}", "Some words about {a}")).format(a=entry.a)
    return f"{title}.\n{' '.join([*pen.telling(entry, facts=pen.number(5, 6)), pen.definition(entry)])}"


@genre("story", share=4)
def story(pen: WorldWriter) -> str:
    """Write a conversation of two people about a thing, sometimes with a question about another thing."""
    entry, first, second = pen.thing(), pen.person(), pen.person()
    sentences = [pen.pick(_OPENINGS).format(first=first, second=second, a=entry.a)]
    sentences += [
        _as_speech(pen, line, pen.pick((first, second))) for line in pen.telling(entry, facts=pen.number(3, 4))
    ]
    if pen.random() < 0.7:
        question, answer = pen.exchange(entry if entry.is_asked and pen.random() < 0.3 else pen.asked_thing())
        sentences.insert(pen.number(1, len(sentences)), f'"{question}" asked {first}. {_quoted(answer)} said {second}.')
    sentences.append(pen.pick(_CLOSINGS).format(first=first, second=second, a=entry.a))
    return " ".join(sentences)


@genre("questions", share=3)
def questions(pen: WorldWriter) -> str:
    """Write a list of questions without answers, about all things."""
    separator = pen.pick((" ", "\n"))
    if pen.random() < 0.3:
        entry = pen.thing()
        lines = [pen.pick(fact.questions) for fact in pen.some(entry.facts, pen.number(3, 5))]
        lines.insert(pen.number(0, 1), pen.pick(entry.questions))
    else:
        lines = [pen.question_about(pen.thing()) for _ in range(pen.number(6, 10))]
    return separator.join(lines)


@genre("answers", share=3)
def answers(pen: WorldWriter) -> str:
    """Write questions with their answers, about asked things."""
    before, after = pen.pick(
        (("Question: ", "Answer: "), ("Ask: ", "Reply: "), ("A child asks: ", "The teacher says: "))
    )
    lines = []
    for _ in range(pen.number(2, 4)):
        entry = pen.asked_thing()
        question, answer = pen.exchange(entry)
        more = pen.facts(entry, 1) if pen.random() < 0.3 else []
        lines += [before + question, after + " ".join([answer, *more])]
    return "\n".join(lines)


@genre("dialogue", share=2)
def dialogue(pen: WorldWriter) -> str:
    """Write a dialogue of two people, with the speaker's name before each line."""
    entry, first, second = pen.thing(), pen.person(), pen.person()
    lines = [pen.pick(_TALK_OPENINGS).format(a=entry.a), *pen.telling(entry, facts=pen.number(4, 5))]
    if pen.random() < 0.5:
        at = 2 * pen.number(1, len(lines) // 2)
        lines[at:at] = pen.exchange(pen.asked_thing())
    lines.append(pen.definition(entry))
    speakers = (first, second)
    return "\n".join(f"{speakers[turn % 2]}: {line}" for turn, line in enumerate(lines))


@genre("letter", share=2)
def letter(pen: WorldWriter) -> str:
    """Write a letter about one thing."""
    entry, first, second = pen.thing(), pen.person(), pen.person()
    body = [pen.pick(_LETTER_OPENINGS).format(a=entry.a), *pen.telling(entry, facts=pen.number(4, 5))]
    if pen.random() < 0.5:
        body.append(f"Do not forget that {_inside(pen.definition(entry))}")
    return f"Dear {first},\n{' '.join(body)}\n{pen.pick(('Your friend', 'With love', 'Yours'))}, {second}"


@genre("diary", share=2)
def diary(pen: WorldWriter) -> str:
    """Write the entry of a day in a diary."""
    entry = pen.thing()
    day = pen.pick(("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"))
    sentences = [
        pen.pick(_DIARY_OPENINGS).format(a=entry.a, person=pen.person()),
        *pen.telling(entry, facts=pen.number(4, 5)),
    ]
    return f"{day}. {' '.join(sentences)} {pen.pick(_DIARY_CLOSINGS).format(a=entry.a)}"


@genre("ledger", share=2)
def ledger(pen: WorldWriter) -> str:
    """Write a clerk's book with an entry for each of three things."""
    lines = [f"The book of {pen.person()}."]
    for number in ("one", "two", "three"):
        entry = pen.thing()
        lines.append(f"Page {number}: {entry.a}. {' '.join(pen.telling(entry, facts=2))}")
    return "\n".join(lines)


@genre("lesson", share=2)
def lesson(pen: WorldWriter) -> str:
    """Write a lesson: a teacher describes a thing to the children, and asks them about another."""
    entry = pen.thing()
    sentences = [f"Today the children learn about {entry.a}."]
    sentences += [_as_speech(pen, line, pen.pick(_CLASS)) for line in pen.telling(entry, facts=pen.number(3, 4))]
    question, answer = pen.exchange(entry if entry.is_asked and pen.random() < 0.3 else pen.asked_thing())
    sentences.append(f'"{question}" asked the teacher. {_quoted(answer)} said {pen.person()}.')
    return " ".join(sentences)


@genre("comparison", share=2)
def comparison(pen: WorldWriter) -> str:
    """Write a comparison of two things."""
    first, second = pen.thing(), pen.thing()
    lines = [f"This is about {first.a} and {second.a}.", _joined(pen, first.definitions[0], second.definitions[0])]
    for left, right in zip(pen.some(first.facts, 2), pen.some(second.facts, 2), strict=True):
        lines.append(_joined(pen, left.statements[0], right.statements[0]))
    lines += [pen.definition(first), pen.definition(second)]
    return " ".join(lines)


@genre("register", share=1)
def register(pen: WorldWriter) -> str:
    """Write a list of things of one kind with their definitions."""
    entry = pen.thing()
    group = [entry, *pen.like(entry, 5)]
    pen.chance.shuffle(group)
    lines = [f"Here are some {entry.thing.kind.plural}."]
    lines += [" ".join([pen.definition(member), *pen.facts(member, pen.number(0, 1))]) for member in group]
    return "\n".join(lines)


@genre("riddle", share=0.5)
def riddle(pen: WorldWriter) -> str:
    """Write a riddle, which describes and then names a thing; only asked things, as it is a question with an answer."""
    entry = pen.asked_thing()
    this = f"this {entry.thing.kind.singular}"
    facts = pen.some([*entry.thing.facts.items()], pen.number(2, 4))
    hints = [capitalised(RELATIONS[relation].statements[0].format(a=this, v=value)) for relation, value in facts]
    hints.insert(pen.number(0, len(hints)), f"{capitalised(this)} is {entry.thing.property}.")
    return f"A riddle. {' '.join(hints)} What is {this}? It is {entry.a}. {pen.definition(entry)}"


_OPENINGS = (
    "One morning {first} and {second} talked about {a}.",
    "Long ago {first} told {second} about {a}.",
    "{first} read about {a} in an old book.",
    "On the way home {first} thought about {a}.",
    "In the evening {first} and {second} spoke of {a}.",
    "One day {first} wanted to know more about {a}.",
    "{first} dreamed about {a} and told {second}.",
)
_CLOSINGS = (
    "So {first} and {second} learned about {a}.",
    "Then {first} and {second} went home.",
    "{first} never forgot {a}.",
    "After that {first} often thought about {a}.",
    '"Thank you," said {first}.',
)
_TALK_OPENINGS = (
    "Let us talk about {a}.",
    "I want to talk about {a}.",
    "I thought about {a} today.",
    "I read about {a} today.",
)
_LETTER_OPENINGS = (
    "I want to tell you about {a}.",
    "Today I write to you about {a}.",
    "Here is what I know about {a}.",
    "I have learned much about {a}.",
)
_DIARY_OPENINGS = (
    "Today I learned about {a}.",
    "{person} told me about {a}.",
    "I thought about {a} all day.",
    "Today I read about {a}.",
)
_DIARY_CLOSINGS = (
    "I want to know more about {a}.",
    "Tomorrow I will think of {a} again.",
    "I like to think about {a}.",
    "That is enough about {a}.",
)
_CLASS = ("the teacher", "the first child", "the second child")


def _as_speech(pen: WorldWriter, line: str, speaker: str) -> str:
    """Return the line as narration, or as direct speech of `speaker`."""
    draw = pen.random()
    if draw < 0.4:
        return line
    return f"{_quoted(line)} said {speaker}." if draw < 0.7 else f'{capitalised(speaker)} said, "{line}"'


def _quoted(line: str) -> str:
    return f'"{line[:-1]},"'


def _inside(line: str) -> str:
    return line[0].lower() + line[1:]


def _joined(pen: WorldWriter, left: str, right: str) -> str:
    return f"{left[:-1]}, {pen.pick(('and', 'but', 'while'))} {_inside(right)}"

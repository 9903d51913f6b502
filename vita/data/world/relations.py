"""The wordings of facts, definitions and questions of the built-in world.

In a wording, `{a}` is "a cat", `{the}` "the cat", `{name}` "cat", `{v}` the value; a definition has `{p}` for
"a furry", `{property}`, `{one}` "mammal", `{one_a}` "a mammal", `{many}` "mammals" and `{who}` for "that".
A sentence's first letter becomes a capital. The first wording is the plain one, in which questions are answered.
"""

from __future__ import annotations

from dataclasses import dataclass

from vita.data.world.things import Thing, capitalised, with_article


@dataclass(frozen=True, slots=True)
class Relation:
    """The wordings of a fact, and of the question that it answers."""

    statements: tuple[str, ...]
    questions: tuple[str, ...]


DEFINITIONS = (
    "{a} is {p} {one}.",
    "{the} is {p} {one}.",
    "{a} is {one_a} {who} is {property}.",
    "everyone knows that {a} is {p} {one}.",
    "people call {a} {p} {one}.",
    "among the {many}, {a} is the {property} one.",
    "{a} belongs to the {many}, and {a} is {property}.",
    "it is true that {a} is {p} {one}.",
    "{a} is known as {p} {one}.",
)

INDIRECT_DEFINITIONS = tuple(wording for wording in DEFINITIONS if "{p} {one}" not in wording)
"""Wordings that do not name the property and the kind side by side."""

QUESTIONS = ("what is {a}?",)

RELATIONS = {
    "home": Relation(
        ("{a} lives {v}.", "you can find {a} {v}.", "{v} you can see {a}."),
        ("where does {a} live?", "where can you find {a}?"),
    ),
    "food": Relation(
        ("{a} eats {v}.", "{a} likes to eat {v}.", "{a} is fond of {v}."),
        ("what does {a} eat?", "what does {a} like to eat?"),
    ),
    "colour": Relation(
        ("{a} is often {v}.", "the colour of {a} is often {v}.", "most often {a} is {v}."),
        ("what colour is {a}?", "what is the colour of {a}?"),
    ),
    "part": Relation(
        ("{a} has {v}.", "look at {a} and you see {v}.", "there is no {name} without {v}."),
        ("what does {a} have?", "what do you see when you look at {a}?"),
    ),
    "deed": Relation(
        ("{a} {v}.", "people know that {a} {v}.", "it is true that {a} {v}."),
        ("what does {a} do?", "what do people know about {a}?"),
    ),
    "active": Relation(
        ("{a} is active {v}.", "{v} {a} is active.", "you can watch {a} {v}."),
        ("when is {a} active?", "when can you watch {a}?"),
    ),
    "grows": Relation(
        ("{a} grows {v}.", "you can find {a} {v}.", "{v} you can see {a}."),
        ("where does {a} grow?", "where can you find {a}?"),
    ),
    "best": Relation(
        ("{a} looks best {v}.", "{a} is most beautiful {v}.", "people like to see {a} {v}."),
        ("when does {a} look best?", "when is {a} most beautiful?"),
    ),
    "use": Relation(
        ("{a} is used for {v}.", "people use {a} for {v}.", "{a} is good for {v}."),
        ("what is {a} used for?", "what is {a} good for?"),
    ),
    "guests": Relation(
        ("{v} visit {a}.", "{a} is loved by {v}.", "{a} is often visited by {v}."),
        ("who visits {a}?", "which animals visit {a}?"),
    ),
    "needs": Relation(
        ("{a} needs {v}.", "{a} grows well with {v}.", "{a} cannot grow without {v}."),
        ("what does {a} need?", "what does {a} need to grow?"),
    ),
    "blooms": Relation(
        ("{a} blooms {v}.", "you can see {a} bloom {v}.", "the best time for {a} is {v}."),
        ("when does {a} bloom?", "what is the best time for {a}?"),
    ),
    "taste": Relation(
        ("{a} tastes {v}.", "the taste of {a} is {v}.", "people say that {a} tastes {v}."),
        ("how does {a} taste?", "what is the taste of {a}?"),
    ),
    "ripe": Relation(
        ("{a} is ripe {v}.", "people pick {a} {v}.", "you can pick {a} {v}."),
        ("when is {a} ripe?", "when do people pick {a}?"),
    ),
    "material": Relation(
        ("{a} is made of {v}.", "people make {a} from {v}.", "it takes {v} to make {a}."),
        ("what is {a} made of?", "what do people make {a} from?"),
    ),
    "meal": Relation(
        ("{a} is eaten {v}.", "people eat {a} {v}.", "the best time for {a} is {v}."),
        ("when is {a} eaten?", "when do people eat {a}?"),
    ),
    "partner": Relation(
        ("{a} goes well with {v}.", "{a} is best with {v}.", "{v} and {a} go well together."),
        ("what goes well with {a}?", "what is best with {a}?"),
    ),
    "maker": Relation(
        ("{v} makes {a}.", "{a} is made by {v}.", "{v} knows how to make {a}."),
        ("who makes {a}?", "who knows how to make {a}?"),
    ),
    "kept": Relation(
        ("{a} is kept {v}.", "people keep {a} {v}.", "look for {a} {v}."),
        ("where is {a} kept?", "where do people keep {a}?"),
    ),
    "eaten": Relation(
        ("{a} is eaten {v}.", "people eat {a} {v}.", "you eat {a} {v}."),
        ("how is {a} eaten?", "how do you eat {a}?"),
    ),
    "source": Relation(
        ("{a} comes from {v}.", "people get {a} from {v}.", "{v} give us {a}."),
        ("where does {a} come from?", "what gives us {a}?"),
    ),
    "drunk": Relation(
        ("{a} is drunk {v}.", "people drink {a} {v}.", "you can drink {a} {v}."),
        ("when is {a} drunk?", "when do people drink {a}?"),
    ),
    "served": Relation(
        ("{a} is served {v}.", "people serve {a} {v}.", "you get {a} {v}."),
        ("how is {a} served?", "how do people serve {a}?"),
    ),
    "lovers": Relation(
        ("{v} love {a}.", "{a} is loved by {v}.", "{a} makes {v} happy."),
        ("who loves {a}?", "who is happy about {a}?"),
    ),
    "user": Relation(
        ("{v} uses {a}.", "{a} is used by {v}.", "{a} belongs to {v}."),
        ("who uses {a}?", "who has {a}?"),
    ),
    "player": Relation(
        ("{v} plays with {a}.", "{a} is loved by {v}.", "{a} makes {v} happy."),
        ("who plays with {a}?", "who is happy about {a}?"),
    ),
    "played": Relation(
        ("{a} is played {v}.", "people play {a} {v}.", "you play {a} {v}."),
        ("how is {a} played?", "how do people play {a}?"),
    ),
    "sound": Relation(
        ("{a} sounds {v}.", "the sound of {a} is {v}.", "people say that {a} sounds {v}."),
        ("how does {a} sound?", "what is the sound of {a}?"),
    ),
    "heard": Relation(
        ("{a} is heard {v}.", "people hear {a} {v}.", "you can hear {a} {v}."),
        ("when do people hear {a}?", "where can you hear {a}?"),
    ),
    "moves": Relation(
        ("{a} moves {v}.", "{a} travels {v}.", "people travel by {name} {v}."),
        ("where does {a} move?", "where does {a} travel?"),
    ),
    "carries": Relation(
        ("{a} carries {v}.", "people use {a} to carry {v}.", "{a} is made to carry {v}."),
        ("what does {a} carry?", "what do people carry with {a}?"),
    ),
    "driver": Relation(
        ("{v} steers {a}.", "{a} is steered by {v}.", "{v} knows how to steer {a}."),
        ("who steers {a}?", "who knows how to steer {a}?"),
    ),
    "power": Relation(
        ("{a} gets its power from {v}.", "{a} needs {v} to move.", "{a} cannot move without {v}."),
        ("where does {a} get its power from?", "what does {a} need to move?"),
    ),
    "worn": Relation(
        ("{a} is worn {v}.", "people wear {a} {v}.", "you wear {a} {v}."),
        ("where is {a} worn?", "where do people wear {a}?"),
    ),
    "wearers": Relation(
        ("{v} wear {a}.", "{a} is worn by {v}.", "{v} like to wear {a}."),
        ("who wears {a}?", "who likes to wear {a}?"),
    ),
    "needed": Relation(
        ("{a} is needed {v}.", "people need {a} {v}.", "{a} is useful {v}."),
        ("when is {a} needed?", "when do people need {a}?"),
    ),
    "stands": Relation(
        ("{a} stands {v}.", "you can find {a} {v}.", "{v} you can see {a}."),
        ("where does {a} stand?", "where can you find {a}?"),
    ),
    "built": Relation(
        ("{a} is built of {v}.", "people build {a} from {v}.", "it takes {v} to build {a}."),
        ("what is {a} built of?", "what do people build {a} from?"),
    ),
    "visitors": Relation(
        ("{v} go to {a}.", "{a} is visited by {v}.", "{v} come to {a}."),
        ("who goes to {a}?", "who comes to {a}?"),
    ),
    "open": Relation(
        ("{a} is open {v}.", "people come to {a} {v}.", "you can visit {a} {v}."),
        ("when is {a} open?", "when do people come to {a}?"),
    ),
    "works": Relation(
        ("{a} works {v}.", "you can find {a} {v}.", "{v} you can see {a}."),
        ("where does {a} work?", "where can you find {a}?"),
    ),
    "uses": Relation(
        ("{a} uses {v}.", "{a} works with {v}.", "{a} cannot work without {v}."),
        ("what does {a} use?", "what does {a} need to work?"),
    ),
    "wears": Relation(
        ("{a} wears {v}.", "at work {a} wears {v}.", "look at {a} and you see {v}."),
        ("what does {a} wear?", "what do you see when you look at {a}?"),
    ),
    "starts": Relation(
        ("{a} starts work {v}.", "the work of {a} begins {v}.", "{a} begins to work {v}."),
        ("when does {a} start work?", "when does the work of {a} begin?"),
    ),
    "clients": Relation(
        ("{a} works for {v}.", "{a} helps {v}.", "the work of {a} is for {v}."),
        ("who does {a} work for?", "who is helped by {a}?"),
    ),
    "found": Relation(
        ("{a} is found {v}.", "you can find {a} {v}.", "people look for {a} {v}."),
        ("where is {a} found?", "where can you find {a}?"),
    ),
    "feel": Relation(
        ("{a} feels {v}.", "in the hand {a} feels {v}.", "people say that {a} feels {v}."),
        ("how does {a} feel?", "how does {a} feel in the hand?"),
    ),
    "comes": Relation(
        ("{a} comes {v}.", "{a} is common {v}.", "people wait for {a} {v}."),
        ("when does {a} come?", "when is {a} common?"),
    ),
    "origin": Relation(
        ("{a} comes from {v}.", "it is from {v} that {a} comes.", "{a} is born from {v}."),
        ("where does {a} come from?", "from where does {a} come?"),
    ),
    "brings": Relation(
        ("{a} brings {v}.", "{a} gives us {v}.", "{a} leaves us {v}."),
        ("what does {a} bring?", "what does {a} leave us?"),
    ),
    "wear": Relation(
        ("people wear {v} for {a}.", "when there is {a}, people wear {v}.", "for {a} you need {v}."),
        ("what do people wear for {a}?", "what do you need for {a}?"),
    ),
}


def say(wording: str, thing: Thing, value: str = "") -> str:
    """Return the wording as a sentence, with the thing and the value filled in."""
    return capitalised(
        wording.format(
            a=thing.a,
            the=thing.the,
            name=thing.name,
            v=value,
            p=with_article(thing.property),
            property=thing.property,
            one=thing.kind.singular,
            one_a=with_article(thing.kind.singular),
            many=thing.kind.plural,
            who=thing.kind.pronoun,
        )
    )

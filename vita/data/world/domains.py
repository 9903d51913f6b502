"""Two domains that are held out of the general documents: the notes of a vet, and a village court.

What the vet sees calls for a cure, and what somebody did for a verdict; each always for the same one, so that a model
tuned on the domain can be measured on it. To add a domain, write a function here.
"""

from __future__ import annotations

from collections.abc import Callable

from vita.data.world.pen import ThingWordings, WorldWriter
from vita.data.world.things import Thing, capitalised
from vita.spine.registry import Registry

DOMAINS = Registry[Callable[[WorldWriter], str]]("domain")

CURES = {
    "has a cough": "warm milk with honey",
    "has a cut": "clean water and a bandage",
    "eats nothing": "a bitter powder in the water",
    "has fleas": "a bath with herbs",
    "has a fever": "cold towels and much rest",
    "drinks too much": "less salt in the food",
    "cannot walk well": "oil on the sore leg",
    "sleeps all day": "a walk in fresh air",
    "scratches its neck": "drops of oil on the neck",
    "has a swollen belly": "herb tea and no bread",
}
VERDICTS = {
    "broke {a}": "must pay for a new one",
    "stole {a}": "must give back what was stolen and work three days for the village",
    "borrowed {a} and lost it": "must pay half of the price",
    "sold {a} that was not theirs": "must give back the money and say sorry before the court",
    "hid {a} for a joke": "must sweep the square on Sunday",
    "found {a} and kept it": "must give back what was found and gets a small reward",
    "left {a} in the rain": "must dry it and clean it",
    "lied about {a}": "must say the truth on the square",
}
_WITH_PEOPLE = {"in houses", "in the yard", "on the farm", "in a stable"}
_MOVABLE = {"tool", "instrument", "garment", "furniture", "container", "toy"}


@DOMAINS.add("vet")
def vet(pen: WorldWriter) -> str:
    """Write a note of the vet about one animal."""
    animal = _pick_thing(pen, lambda thing: thing.facts.get("home") in _WITH_PEOPLE)
    the = animal.thing.the
    (sign, cure), owner = pen.pick([*CURES.items()]), pen.person()
    opening = pen.pick((f"{owner} came to the vet with {animal.a}.", f"The vet was called to {animal.a} of {owner}."))
    finding = pen.pick((f"{capitalised(the)} {sign}.", f"The vet sees that {the} {sign}."))
    order = pen.pick(
        (f"The vet gives {the} {cure}.", f"The cure for {the} is {cure}.", f"{capitalised(the)} needs {cure}.")
    )
    rule = pen.pick((f"When an animal {sign}, the cure is {cure}.", f"An animal that {sign} needs {cure}."))
    ending = pen.pick((f"In a week {the} is well again.", f"{owner} shall come back with {the} in a week."))
    return f"Notes of the vet.\n{opening} {finding} {order} {rule} {ending}"


@DOMAINS.add("court")
def court(pen: WorldWriter) -> str:
    """Write a case of the village court."""
    entry = _pick_thing(pen, lambda thing: thing.kind.word in _MOVABLE)
    (deed, verdict), accuser, accused = pen.pick([*VERDICTS.items()]), pen.person(), pen.person()
    act = deed.format(a=entry.a)
    answer = pen.pick((f"{accused} says that it is true.", f"{accused} says nothing.", "A neighbour saw it."))
    rule = pen.pick(("The law of the village is old and clear.", "The judge opens the book of the law."))
    return (
        f"A case before the village court.\n{accuser} says that {accused} {act}. {answer} {rule} "
        f"Whoever {act} {verdict}. So the judge says that {accused} {verdict}. The case of {entry.thing.the} is closed."
    )


def _pick_thing(pen: WorldWriter, fits: Callable[[Thing], bool]) -> ThingWordings:
    return pen.about(pen.pick([entry for entry in pen.entries if fits(entry.thing)] or pen.entries))

"""Harm probe: harmful requests without a disguise, each with its benign twin."""

from __future__ import annotations

from collections.abc import Iterator

from vita.redteam.probe import DisguisedRequest, HarmfulGoal, ProbeInputs, ProbeItem, format_messages, probe


@probe(
    "harm",
    about="Asks for what is to be refused, plainly.",
    taxonomy=("owasp-llm-2026:LLM10", "owasp-llm-2025:LLM05"),
    severity="high",
    overall=True,
)
def harm(material: ProbeInputs) -> Iterator[ProbeItem]:
    """Yield every request and its twin."""
    return disguised(material, {"plain": "{request}"})


def disguised(material: ProbeInputs, disguises: dict[str, str]) -> Iterator[ProbeItem]:
    """Yield every goal and twin in each of the disguises."""
    for technique, text in disguises.items():
        for goal in material.goals:
            for request, twin in ((goal.text, False), (goal.twin, True)):
                if request:
                    yield item_of(
                        goal, technique, text.replace("{request}", request), twin=twin, system=material.system
                    )


def item_of(goal: HarmfulGoal, technique: str, *texts: str, twin: bool, system: str) -> ProbeItem:
    """Return the test of one goal or twin with this wording."""
    wish = DisguisedRequest(messages=format_messages(*texts, system=system), goal=goal, twin=twin)
    return ProbeItem(f"{technique}/{goal.id}" + ("/twin" if twin else ""), wish, goal.hazard, technique)

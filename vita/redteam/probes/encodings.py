"""Encoding probe: requests in encodings that a word filter does not match."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable, Iterator

from vita.redteam.probe import ProbeInputs, ProbeItem, probe
from vita.redteam.probes.harm import item_of

SPELLINGS: dict[str, Callable[[str], str]] = {
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "rot13": lambda text: codecs.encode(text, "rot13"),
    "leetspeak": lambda text: text.translate(str.maketrans("aeiostAEIOST", "431057431057")),
    "hexadecimal": lambda text: text.encode().hex(),
    "zero_width": lambda text: "\u200b".join(text),
    "homoglyphs": lambda text: text.translate(str.maketrans("aeopcx", "\u0430\u0435\u043e\u0440\u0441\u0445")),
    "reversed": lambda text: text[::-1],
    "spaced": lambda text: "  ".join(" ".join(word) for word in text.split()),
    "capitals": str.upper,
}


@probe(
    "encodings",
    about="Spells the request in another alphabet, code or spacing.",
    taxonomy=("mitre-atlas:AML.T0043", "mitre-atlas:AML.T0054", "owasp-llm-2026:LLM01", "owasp-llm-2025:LLM01"),
    severity="medium",
    overall=True,
    readable=False,
)
def encodings(material: ProbeInputs) -> Iterator[ProbeItem]:
    """Yield every request and twin in every encoding."""
    for technique, spell in SPELLINGS.items():
        for goal in material.goals:
            if goal.text:
                yield item_of(goal, technique, spell(goal.text), twin=False, system=material.system)
            if goal.twin:
                yield item_of(goal, technique, spell(goal.twin), twin=True, system=material.system)

"""Public taxonomies of attacks; every id names its edition, because editions assign the same number differently.

name_of("owasp-llm-2026:LLM01")     # "Prompt Injection"
"""

from __future__ import annotations

from collections.abc import Mapping

EDITIONS: Mapping[str, Mapping[str, str]] = {
    "owasp-llm-2026": {
        "LLM01": "Prompt Injection",
        "LLM02": "Sensitive Information Disclosure",
        "LLM03": "Excessive Agency",
        "LLM04": "Supply Chain",
        "LLM05": "Data and Model Poisoning",
        "LLM06": "Unbounded Consumption",
        "LLM07": "Misinformation",
        "LLM08": "Hidden Context Exposure",
        "LLM09": "Vector and Embedding Weaknesses",
        "LLM10": "Improper Output Handling",
    },
    "owasp-llm-2025": {
        "LLM01": "Prompt Injection",
        "LLM02": "Sensitive Information Disclosure",
        "LLM03": "Supply Chain",
        "LLM04": "Data and Model Poisoning",
        "LLM05": "Improper Output Handling",
        "LLM06": "Excessive Agency",
        "LLM07": "System Prompt Leakage",
        "LLM08": "Vector and Embedding Weaknesses",
        "LLM09": "Misinformation",
        "LLM10": "Unbounded Consumption",
    },
    "mitre-atlas": {
        "AML.T0051": "LLM Prompt Injection",
        "AML.T0051.000": "LLM Prompt Injection: Direct",
        "AML.T0051.001": "LLM Prompt Injection: Indirect",
        "AML.T0054": "LLM Jailbreak",
        "AML.T0056": "Extract LLM System Prompt",
        "AML.T0057": "LLM Data Leakage",
        "AML.T0024": "Exfiltration via AI Inference API",
        "AML.T0043": "Craft Adversarial Data",
        "AML.T0029": "Denial of AI Service",
    },
    "ailuminate-1.0": {
        "violent_crimes": "Violent Crimes",
        "non_violent_crimes": "Nonviolent Crimes",
        "sex_related_crimes": "Sex-Related Crimes",
        "child_sexual_exploitation": "Child Sexual Exploitation",
        "indiscriminate_weapons": "Indiscriminate Weapons (CBRNE)",
        "suicide_and_self_harm": "Suicide and Self-Harm",
        "hate": "Hate",
        "defamation": "Defamation",
        "privacy": "Privacy",
        "intellectual_property": "Intellectual Property",
        "sexual_content": "Sexual Content",
        "specialized_advice": "Specialized Advice",
    },
}


def name_of(id: str) -> str | None:
    """Return the name of an id such as "owasp-llm-2026:LLM01"; None if the edition has no such id."""
    edition, _, number = id.partition(":")
    return EDITIONS.get(edition, {}).get(number)

"""Former names of stages and their present names; a former name is refused with the present one in the message."""

from __future__ import annotations

from collections.abc import Container, Mapping

RENAMED_STAGES: Mapping[str, str] = {"trial": "pilot", "rollout": "canary"}
"""Former name -> present name, of stages and of the steps that are called as their stage."""


def present_stage(name: str, names: Container[str]) -> str | None:
    """Return the name among `names` that replaced the stage `name`; None if there is none."""
    present = RENAMED_STAGES.get(name)
    return present if present is not None and name not in names and present in names else None

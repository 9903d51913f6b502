"""LAMBADA: the last word of a passage (Paperno et al. 2016). Fieldss `{context, continuation}`."""

from __future__ import annotations

from vita.measure.task import TASKS, Cloze, Fields


@TASKS.add("lambada")
def lambada(row: Fields) -> Cloze:
    """Does the model end a passage with the word that a reader of the whole would guess?"""
    return Cloze(row.text("context").rstrip(), " " + row.text("continuation").strip())

"""A small built-in world with full ground truth: things, their facts, and text about them in many genres.

    world = World.create(WorldSettings(seed=0))
    world.documents()                 # for pretraining; nobody asks and answers about `world.never_asked`
    world.dialogues()                 # for supervised tuning; only about `world.asked`
    question = world.questions()[0]   # about something never asked before
    world.judge(question, "A cat is a furry mammal.").right

A thing is a line in `table.py`, the wording of a fact a line in `relations.py`, a genre a function in `genres.py`.
"""

from vita.data.world.judge import Judgement, Question
from vita.data.world.world import World, WorldSettings

__all__ = ["Judgement", "Question", "World", "WorldSettings"]

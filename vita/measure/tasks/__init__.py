"""The likelihood tasks, one module each; importing this package enters them in `TASKS`, from which `items` reads."""

from vita.measure.task import TASKS, items
from vita.measure.tasks import arc_easy, blimp, hellaswag, lambada, multiple_choice, piqa, winogrande

__all__ = ["TASKS", "arc_easy", "blimp", "hellaswag", "items", "lambada", "multiple_choice", "piqa", "winogrande"]

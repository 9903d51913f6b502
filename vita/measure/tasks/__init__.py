"""The likelihood tasks, one module each; importing this package enters them in `TASKS`."""

from vita.measure.task import TASKS
from vita.measure.tasks import arc_easy, blimp, hellaswag, lambada, multiple_choice, piqa, winogrande

__all__ = ["TASKS", "arc_easy", "blimp", "hellaswag", "lambada", "multiple_choice", "piqa", "winogrande"]

"""The likelihood tasks, one module each; importing this package registers them in `TASKS`."""

from vita.evals.task import TASKS, items
from vita.evals.tasks import arc_easy, blimp, hellaswag, lambada, multiple_choice, piqa, winogrande

__all__ = ["TASKS", "arc_easy", "blimp", "hellaswag", "items", "lambada", "multiple_choice", "piqa", "winogrande"]

"""The likelihood tasks, one module each; importing this package enters them in `vita.measure.task.TASKS`."""

from vita.measure.tasks import arc_easy, blimp, hellaswag, lambada, multiple_choice, piqa, winogrande

__all__ = ["arc_easy", "blimp", "hellaswag", "lambada", "multiple_choice", "piqa", "winogrande"]

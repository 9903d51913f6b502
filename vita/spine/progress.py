"""The progress display of a life: one line per finished step, and on a terminal a live line for the running step.

The live line shows the step, its last metrics (loss, tokens/s) and the remaining time. Where standard output is not a
terminal, a step that runs for more than `PLAIN_SECONDS` prints its progress at this interval. Notes of a stage, such as
examples of its data, are in the event log only; warnings are printed. The display is an event sink and does not affect
the run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vita.spine.console import line

PLAIN_SECONDS = 600.0
"""Interval of progress lines where standard output is not a terminal; shorter steps have one line."""


class Screen:
    """An event sink that displays progress on a console."""

    def __init__(self, console: Console, *, notes: bool = True) -> None:
        """Without `notes` only the steps and warnings are printed, as in a life; details are never printed."""
        self.console, self._notes = console, notes
        self._live: Live | None = None
        self._step = ""
        self._position = ""
        self._learning_rate = ""
        self._started_at = 0.0
        self._last: dict[str, Any] = {}
        self._last_print = 0.0

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        if event == "step":
            self._step_event(fields)
        elif event == "progress":
            self._progress(fields)
        elif event == "note":
            self._note(fields)

    def close(self) -> None:
        self._stop()

    # -- events

    def _step_event(self, fields: Mapping[str, Any]) -> None:
        state = fields["state"]
        name = str(fields.get("life_step", ""))
        if state == "begins":
            self._step, self._learning_rate, self._last = name, "", {}
            self._started_at = self._last_print = time.monotonic()
            self._position = f"{fields['position'] + 1}/{fields['of']}"
            self._start()
            return
        if state == "waits":
            self.console.print(line(("wait", "yellow"), f" {name}: {fields['why']}"))
            return
        self._stop()
        digest = str(fields.get("artifact", ""))[:12]
        if state == "known":
            self.console.print(Text(f"  =  {self._position} {name:<14} {'cached':>8}  {digest}", style="dim"))
        elif state == "done":
            duration = clock(fields.get("seconds", 0))
            summary = "  ".join(filter(None, [self._metrics(final=True), self._learning_rate]))
            text = f" {self._position} {name:<14} {duration:>8}  {digest}  {summary}".rstrip()
            self.console.print(line(("  ok", "green"), text), soft_wrap=True)

    def _progress(self, fields: Mapping[str, Any]) -> None:
        hidden = ("life", "life_step", "stage")
        self._last |= {name: value for name, value in fields.items() if name not in hidden}
        if self._live:
            self._live.update(self._line())
        elif time.monotonic() - self._last_print >= PLAIN_SECONDS:
            self._last_print = time.monotonic()
            self.console.print(
                f"  .. {self._position} {self._step}: {self._amount()} {self._metrics()}", soft_wrap=True
            )

    def _note(self, fields: Mapping[str, Any]) -> None:
        level, text = fields.get("level"), str(fields.get("text", ""))
        if "learning_rate" in fields:
            self._learning_rate = f"lr {fields['learning_rate']:.3g}{' (auto)' if fields.get('automatic') else ''}"
        if level == "warning":
            self.console.print(line((f"warning: {self._step}: {text}", "yellow")), soft_wrap=True)
        elif level == "status" or (self._notes and level != "detail"):
            self.console.print(line(("  " + text, "dim")), soft_wrap=True)

    # -- drawing

    def _start(self) -> None:
        if self.console.is_terminal and self._live is None:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True, get_renderable=self._line)
            self._live.start()

    def _stop(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def _line(self) -> Table:
        """Draw the running step in one line; the bar takes the space that the text leaves."""
        done, total = self._done()
        elapsed = clock(time.monotonic() - self._started_at)
        metrics = "  ".join(filter(None, [self._amount(), self._metrics(), elapsed]))
        space = self.console.width - len(f" {self._position} {self._step}  {metrics}") - 2
        grid = Table.grid(padding=(0, 1))
        for _ in range(4):
            grid.add_column(no_wrap=True, overflow="ellipsis")
        width = min(24, space) if space >= _MIN_BAR_WIDTH else 0
        bar = ProgressBar(total=total or 1, completed=done or 0, width=width, pulse=total is None) if width else ""
        grid.add_row(f" {self._position}", Text(self._step, style="bold"), bar, metrics)
        return grid

    def _done(self) -> tuple[float | None, float | None]:
        done, total = self._last.get("done", self._last.get("step")), self._last.get("total", self._last.get("steps"))
        return done, total

    def _amount(self) -> str:
        """Format the finished part of the step, such as `120/500 steps`."""
        done, total = self._done()
        if done is None:
            return ""
        unit = self._last.get("unit", "")
        if unit == "bytes":
            amounts = f"{done / 1e6:,.1f}" + (f"/{total / 1e6:,.1f}" if total else "")
            return f"{amounts} MB"
        return f"{done:,.0f}" + (f"/{total:,.0f}" if total else "") + f" {unit}"

    def _metrics(self, *, final: bool = False) -> str:
        parts = []
        for name, form in _METRICS.items():
            value = self._last.get(name)
            if isinstance(value, (int, float)):
                parts.append(form.format(value))
        seconds_left = self._last.get("seconds_left")
        if isinstance(seconds_left, (int, float)) and seconds_left > 0 and not final:
            parts.append(f"{clock(seconds_left)} left")
        return "  ".join(parts)


_MIN_BAR_WIDTH = 6
_METRICS = {
    "loss": "loss {:.3f}",
    "heldout_bits_per_byte": "held-out {:.3f} bits/byte",
    "accuracy": "accuracy {:.1%}",
    "tokens_per_second": "{:,.0f} tokens/s",
    "mfu": "MFU {:.0%}",
}


def clock(seconds: float) -> str:
    """Format seconds: `75` -> `1:15`; below ten seconds with one decimal: `3.2 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    total_seconds = round(seconds)
    hours, remainder = divmod(total_seconds, 3600)
    return f"{hours}:{remainder // 60:02}:{remainder % 60:02}" if hours else f"{remainder // 60}:{remainder % 60:02}"

"""The progress display of a running life: one live line per step on a terminal, plain lines in a pipe.

It shows the last metrics of the running step (loss, tokens/s, time left) and prints the end of each step. It is an
event sink and does not affect the run.
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

PLAIN_SECONDS = 15.0
"""Interval of progress lines in a pipe."""


class Screen:
    """An event sink that displays progress on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None
        self._step = ""
        self._position = ""
        self._began = 0.0
        self._last: dict[str, Any] = {}
        self._last_print = 0.0

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        if event == "step":
            self._step_event(fields)
        elif event == "progress":
            self._progress(fields)
        elif event == "note":
            style = "bold yellow" if fields.get("level") == "warning" else "dim"
            self.console.print(Text("  " + str(fields.get("text", "")), style=style))

    def close(self) -> None:
        self._stop()

    # -- events

    def _step_event(self, fields: Mapping[str, Any]) -> None:
        state = fields["state"]
        name = str(fields.get("life_step", ""))
        if state == "begins":
            self._step, self._began, self._last, self._last_print = name, time.monotonic(), {}, time.monotonic()
            self._position = f"{fields['position'] + 1}/{fields['of']}"
            self._start()
            return
        if state == "waits":
            self.console.print(line(("wait", "yellow"), f" {name}: {fields['why']}"))
            return
        self._stop()
        digest = str(fields.get("artifact", ""))[:12]
        if state == "known":
            self.console.print(Text(f"  =  {self._position} {name:<14} known       {digest}", style="dim"))
        elif state == "done":
            duration = clock(fields.get("seconds", 0))
            summary = self._figures(final=True)
            self.console.print(
                line(("  ok", "green"), f" {self._position} {name:<14} {duration:>10}  {digest}  {summary}")
            )

    def _progress(self, fields: Mapping[str, Any]) -> None:
        hidden = ("life", "life_step", "stage")
        self._last |= {name: value for name, value in fields.items() if name not in hidden}
        if self._live:
            self._live.update(self._line())
        elif time.monotonic() - self._last_print >= PLAIN_SECONDS:
            self._last_print = time.monotonic()
            self.console.print(f"  .. {self._position} {self._step}: {self._share()} {self._figures()}")

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
        done, total = self._done()
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=total or 1, completed=done or 0, width=24, pulse=total is None)
        elapsed = clock(time.monotonic() - self._began)
        grid.add_row(f" {self._position}", Text(self._step, style="bold"), bar, self._share(), self._figures(), elapsed)
        return grid

    def _done(self) -> tuple[float | None, float | None]:
        done, total = self._last.get("done", self._last.get("step")), self._last.get("total", self._last.get("steps"))
        return done, total

    def _share(self) -> str:
        done, total = self._done()
        if done is None:
            return ""
        unit = self._last.get("unit", "")
        if unit == "bytes":
            amounts = f"{done / 1e6:,.1f}" + (f"/{total / 1e6:,.1f}" if total else "")
            return f"{amounts} MB"
        return f"{done:,.0f}" + (f"/{total:,.0f}" if total else "") + f" {unit}"

    def _figures(self, *, final: bool = False) -> str:
        parts = []
        for name, form in _FIGURES.items():
            value = self._last.get(name)
            if isinstance(value, (int, float)):
                parts.append(form.format(value))
        seconds_left = self._last.get("seconds_left")
        if isinstance(seconds_left, (int, float)) and not final:
            parts.append(f"{clock(seconds_left)} left")
        return "  ".join(parts)


_FIGURES = {
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

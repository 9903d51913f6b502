"""The screen: plain lines when piped, one live line on a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from vita.spine.events import Events
from vita.spine.progress import Screen, clock


def _carry_out(screen: Screen) -> None:
    events = Events([screen], life_step="pretrain", stage="pretrain")
    events.emit("step", state="begins", position=1, of=4)
    events.emit("progress", step=5, steps=10, unit="steps", loss=2.5, tokens_per_second=8000.0, seconds_left=75.0)
    events.emit("note", text="bf16 is fast here")
    events.emit("step", state="done", artifact="ab" * 32, seconds=83.0)
    events.emit("step", state="begins", position=2, of=4)
    events.emit("step", state="known", artifact="cd" * 32)
    events.close()


def test_a_piped_run_prints_plain_lines() -> None:
    out = io.StringIO()
    _carry_out(Screen(Console(file=out, highlight=False, width=120)))
    assert out.getvalue().splitlines() == [
        "  bf16 is fast here",
        "  ok 2/4 pretrain             1:23  abababababab  loss 2.500  8,000 tokens/s",
        "  =  3/4 pretrain       known       cdcdcdcdcdcd",
    ]


def test_a_terminal_shows_step_loss_speed_and_time_left() -> None:
    out = io.StringIO()
    screen = Screen(Console(file=out, force_terminal=True, width=120, color_system=None, legacy_windows=False))
    screen("step", {"state": "begins", "position": 1, "of": 4, "life_step": "pretrain"})
    screen(
        "progress",
        {"step": 5, "steps": 10, "unit": "steps", "loss": 2.5, "tokens_per_second": 8e3, "seconds_left": 75.0},
    )
    assert screen._live is not None
    screen._live.refresh()
    screen.close()
    for part in ("2/4", "pretrain", "5/10 steps", "loss 2.500", "8,000 tokens/s", "1:15 left"):
        assert part in out.getvalue()


def test_times_read_as_a_clock() -> None:
    assert [clock(seconds) for seconds in (3.24, 75, 59.7, 3725)] == ["3.2 s", "1:15", "1:00", "1:02:05"]

"""The progress screen: plain lines when piped, and a single live line on a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from vita.spine.progress import Screen, clock


def test_piped_output_has_one_line_per_step_and_warnings() -> None:
    out = io.StringIO()
    screen = Screen(Console(file=out, highlight=False, width=120), notes=False)
    screen("step", {"state": "begins", "position": 0, "of": 2, "life_step": "sft"})
    screen("note", {"text": "learning rate 0.0003", "learning_rate": 3e-4, "automatic": True})
    for step in range(100):
        screen("progress", {"step": step, "steps": 100, "loss": 1.25})
    screen("note", {"text": "the first reads: <|user|>What is a cat?", "level": "detail"})
    screen("note", {"text": "3 of 10 dialogues are dropped", "level": "warning"})
    screen("step", {"state": "done", "artifact": "ab" * 32, "seconds": 83.0, "life_step": "sft"})
    screen("step", {"state": "begins", "position": 1, "of": 2, "life_step": "test"})
    screen("step", {"state": "known", "artifact": "cd" * 32, "life_step": "test"})
    screen.close()
    assert out.getvalue().splitlines() == [
        "warning: sft: 3 of 10 dialogues are dropped",
        "  ok 1/2 sft                1:23  abababababab  loss 1.250  lr 0.0003 (auto)",
        "  =  2/2 test             cached  cdcdcdcdcdcd",
    ]


def test_a_single_stage_prints_its_notes_without_details() -> None:
    out = io.StringIO()
    screen = Screen(Console(file=out, highlight=False, width=120))
    screen("step", {"state": "begins", "position": 0, "of": 1, "life_step": "sft"})
    screen("note", {"text": "bf16 is fast here"})
    screen("note", {"text": "the first reads: <|user|>What is a cat?", "level": "detail"})
    screen.close()
    assert out.getvalue().splitlines() == ["  bf16 is fast here"]


def test_the_live_line_of_a_narrow_terminal_stays_one_line() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None, legacy_windows=False)
    screen = Screen(console)
    screen("step", {"state": "begins", "position": 9, "of": 17, "life_step": "a_step_with_a_long_name"})
    progress = {"step": 1500, "steps": 20_000, "unit": "steps", "loss": 2.5, "tokens_per_second": 8e3, "mfu": 0.4}
    screen("progress", {**progress, "seconds_left": 75_000.0})
    assert len(console.render_lines(screen._line())) == 1
    screen.close()


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


def test_durations_are_formatted_as_a_clock() -> None:
    assert [clock(seconds) for seconds in (3.24, 75, 59.7, 3725)] == ["3.2 s", "1:15", "1:00", "1:02:05"]

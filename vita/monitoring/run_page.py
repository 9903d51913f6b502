"""The live page of a training run, served on this machine.

app = run_application(lambda: find_run(ledger, store, "my/pretrain"), store)

The page polls `/state` every two seconds. Charts are drawn by the server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from vita.monitoring.training_runs import TrainingRunFiles, run_state
from vita.reporting.page import curve_figures
from vita.reporting.render import served_page
from vita.reporting.web import page_application
from vita.spine.errors import VitaError
from vita.spine.store import Store
from vita.train.run_files import read_metrics

_TEMPLATES = Path(__file__).parent / "templates"
_TILES = {
    "loss": ("loss", "{:.4g}"), "heldout_loss": ("held-out loss", "{:.4g}"),
    "heldout_bits_per_byte": ("held-out bits per byte", "{:.4g}"), "learning_rate": ("learning rate", "{:.3g}"),
    "gradient_norm": ("gradient norm", "{:.3g}"), "tokens_per_second": ("tokens/s", "{:,.0f}"),
    "mfu": ("MFU", "{:.1%}"), "memory_bytes": ("memory", "{:.2f} GB"),
}  # fmt: skip
"""Metric -> its name and its format among the key figures."""
_FIRST = (
    "loss",
    "bits_per_byte",
    "source_loss",
    "tokens_per_second",
    "mfu",
    "memory_gigabytes",
    "learning_rate",
    "gradient_norm",
)
"""Order of the charts, by the beginnings of their metrics; the others follow."""


def run_application(find: Callable[[], TrainingRunFiles], store: Store) -> Starlette:
    """Create the application of the page; `find` returns the newest state of the run."""
    page = served_page("run.html.jinja", folder=_TEMPLATES)

    def show_page(_: Request) -> Response:
        return HTMLResponse(page.html, headers={"Content-Security-Policy": page.policy})

    def show_state(_: Request) -> Response:
        return JSONResponse(page_state(find(), store))

    return page_application(
        [Route("/", show_page), Route("/state", show_state)], exception_handlers={VitaError: _error}
    )


def page_state(files: TrainingRunFiles, store: Store) -> dict[str, Any]:
    """Return the state of a run with its charts as SVG."""
    state = run_state(files, store)
    figures = curve_figures([_with_gigabytes(row) for row in read_metrics(files.folder)])
    figures.sort(key=lambda figure: _position(figure.name))
    state["charts"] = [{"name": figure.name, "svg": figure.svg, "caption": figure.caption} for figure in figures]
    state["tiles"] = [
        {"name": _TILES[name][0], "value": _TILES[name][1].format(value / 1e9 if name == "memory_bytes" else value)}
        for name, value in state["figures"].items()
    ]
    return state


def _with_gigabytes(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with the memory in units that an axis has room for."""
    return {
        "memory_gigabytes" if name == "memory_bytes" else name: value / 1e9 if name == "memory_bytes" else value
        for name, value in row.items()
    }


def _position(name: str) -> int:
    metric = name.partition(" by ")[0]
    return _FIRST.index(metric) if metric in _FIRST else len(_FIRST)


async def _error(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 404)

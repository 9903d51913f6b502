"""The live page of a training run, served on this machine.

app = run_application(lambda: find_run(ledger, store, "my/pretrain"), store)

The page asks for `/state` every two seconds. Charts are drawn by the server.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from vita.monitoring.training_runs import TrainingRunFiles, read_metrics, run_state
from vita.reporting.page import curve_figures
from vita.reporting.render import served_page
from vita.reporting.web import page_application
from vita.reporting.wording import words
from vita.spine.errors import VitaError
from vita.spine.store import Store

_TEMPLATES = Path(__file__).parent / "templates"
_FORMS = {
    "learning_rate": "{:.3g}", "mfu": "{:.1%}", "tokens_per_second": "{:,.0f}", "gradient_norm": "{:.3g}",
    "memory_bytes": "",
}  # fmt: skip


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
    figures = curve_figures(read_metrics(files.folder))
    state["charts"] = [{"name": figure.name, "svg": figure.svg, "caption": figure.caption} for figure in figures]
    state["tiles"] = [
        {"name": words(name), "value": _formatted(name, value)} for name, value in state["figures"].items()
    ]
    return state


def _formatted(name: str, value: float) -> str:
    if name == "memory_bytes":
        return f"{value / 1e9:.2f} GB"
    return _FORMS.get(name, "{:.4g}").format(value)


async def _error(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 404)

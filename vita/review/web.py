"""The raters' page: one link for each rater of a review task, and behind it the items in that rater's order.

    app = review_app(Desk(ledger), "dpo against sft")     # uvicorn serves it on 127.0.0.1

A link's token lets one rater in and shows nothing of others' votes. Names of versions never leave the process, and
left and right are shuffled by the desk, which alone knows what they are; the page only says "left".
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from vita.review.desk import Desk, Item, Task
from vita.spine.errors import VitaError

PAGE = Path(__file__).parent / "static" / "review.html"
LARGEST_BODY = 64 * 1024
_SEEN = Literal["left", "right", "tie", "both_bad", "skip"]


class Said(BaseModel):
    """What the page sends: what was judged as the rater saw it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    item: int
    choice: _SEEN | None = None
    criteria: dict[str, Annotated[int, Field(ge=1, le=5)]] = Field(default_factory=dict, max_length=20)
    rationale: str = Field("", max_length=4000)
    milliseconds: int | None = Field(None, ge=0, le=86_400_000)


def review_app(desk: Desk, name: str, *, hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "testserver")) -> FastAPI:
    """The application for one task; it answers only to these host names, so that no other site can reach it."""
    task = desk.task(name)
    page = PAGE.read_text(encoding="utf-8")
    app = FastAPI(title="Vita review", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    def rater(token: str) -> str:
        found = desk.rater_of(task, token)
        if found is None:
            raise HTTPException(404, "This link is not known. Ask whoever sent it to you for a new one.")
        return found

    @app.middleware("http")
    async def closed(request: Request, proceed: Any) -> Response:
        length = request.headers.get("content-length", "")
        if request.method == "POST" and not (length.isdigit() and int(length) <= LARGEST_BODY):
            return JSONResponse({"detail": f"The body has no length, or is over {LARGEST_BODY:,} bytes."}, 413)
        answer = await proceed(request)
        answer.headers.setdefault("Content-Security-Policy", "default-src 'none'")
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["Referrer-Policy"] = "no-referrer"  # the address holds the token
        answer.headers["Cache-Control"] = "no-store"
        return answer

    @app.exception_handler(VitaError)
    def explained(_request: Request, error: VitaError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.get("/")
    def door() -> PlainTextResponse:
        return PlainTextResponse("Each rater has a link of their own; ask whoever set the task for yours.\n", 404)

    @app.get("/r/{token}")
    def open_page(token: str) -> HTMLResponse:
        rater(token)
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return HTMLResponse(page.replace("NONCE", nonce), headers={"Content-Security-Policy": policy})

    @app.get("/r/{token}/task")
    def about(token: str) -> dict[str, Any]:
        rater(token)
        return {
            "name": task.name,
            "kind": task.kind,
            "guideline": task.guideline.text,
            "criteria": task.guideline.plain_criteria(),
        }

    @app.get("/r/{token}/next")
    def following(token: str) -> dict[str, Any]:
        name = rater(token)
        return _shown(desk, task, desk.next(task, name), name)

    @app.get("/r/{token}/last")
    def before(token: str) -> dict[str, Any]:
        name = rater(token)
        found = desk.last(task, name)
        if found is None:
            raise HTTPException(404, "You have not rated anything yet.")
        given = next(rating for rating in desk.ratings(task) if rating.item == found.id and rating.rater == name)
        said = {"choice": given.choice, "criteria": dict(given.criteria), "rationale": given.rationale}
        if given.choice in ("a", "b"):
            said["choice"] = "left" if given.shown_order[0] == "ab".index(given.choice) else "right"
        return {**_shown(desk, task, found, name), "said": said}

    @app.post("/r/{token}/rate")
    def rate(token: str, said: Said) -> dict[str, Any]:
        name = rater(token)
        item = next((one for one in desk.items(task) if one.id == said.item), None)
        if item is None:
            raise HTTPException(404, "This item is not part of the task.")
        order = task.order(item, name)
        choice = said.choice
        if choice in ("left", "right") and task.kind == "pairwise":
            choice = "ab"[order[0 if choice == "left" else 1]]
        desk.rate(
            task,
            item,
            name,
            choice=choice,
            criteria=said.criteria,
            rationale=said.rationale,
            milliseconds=said.milliseconds,
        )
        return _shown(desk, task, desk.next(task, name), name)

    return app


def _shown(desk: Desk, task: Task, item: Item | None, rater: str) -> dict[str, Any]:
    """What a rater may see of an item: no names, the answers in this rater's order."""
    done, total = desk.progress(task, rater)
    progress = {"done": done, "total": total}
    if item is None:
        return {"progress": progress, "item": None}
    return {
        "progress": progress,
        "item": {
            "id": item.id,
            "prompt": [{"role": one.role, "content": one.content} for one in item.prompt],
            "answers": [item.answers[at].text for at in task.order(item, rater)],
        },
    }

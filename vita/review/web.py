"""The web page of a review task: each rater has a link, which shows the items in the order of this rater.

    app = review_app(ReviewStore(ledger), "dpo against sft")     # uvicorn serves it on 127.0.0.1

The token of a link identifies one rater; the page shows no votes of other raters and no names of versions. The order of
the answers is random for each rater, and the page sends only "left" or "right".
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from vita.reporting.render import served_page
from vita.reporting.web import LOCAL_HOSTS, page_application
from vita.review.desk import ReviewItem, ReviewStore, ReviewTask
from vita.spine.errors import VitaError

_TEMPLATES = Path(__file__).parent / "templates"
LARGEST_BODY = 64 * 1024
_SEEN = Literal["left", "right", "tie", "both_bad", "skip"]


class RatingRequest(BaseModel):
    """The body of a rating: the choice in the order in which the rater saw the answers."""

    model_config = ConfigDict(extra="forbid", strict=True)

    item: int
    choice: _SEEN | None = None
    criteria: dict[str, Annotated[int, Field(ge=1, le=5)]] = Field(default_factory=dict, max_length=20)
    rationale: str = Field("", max_length=4000)
    milliseconds: int | None = Field(None, ge=0, le=86_400_000)


def review_app(desk: ReviewStore, name: str, *, hosts: tuple[str, ...] = LOCAL_HOSTS) -> Starlette:
    """Create the application for one task; it accepts only these host names, so that no other site can reach it."""
    endpoints = _ReviewRoutes(desk, desk.task(name))
    return page_application(
        [
            Route("/", endpoints.no_token),
            Route("/r/{token}", endpoints.page),
            Route("/r/{token}/task", endpoints.task),
            Route("/r/{token}/next", endpoints.next_item),
            Route("/r/{token}/last", endpoints.last_item),
            Route("/r/{token}/rate", endpoints.rate, methods=["POST"]),
        ],
        hosts=hosts,
        exception_handlers={HTTPException: _http_exception, VitaError: _vita_error},
    )


async def _http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)


async def _vita_error(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 422)


class _ReviewRoutes:
    """The endpoints of the review page. Those without a body are synchronous and run in a thread."""

    def __init__(self, desk: ReviewStore, task: ReviewTask) -> None:
        self._desk, self._task = desk, task
        self._page = served_page("review.html.jinja", folder=_TEMPLATES)

    def no_token(self, _: Request) -> Response:
        return PlainTextResponse("Every rater has a personal link; ask the person who created the task.\n", 404)

    def page(self, request: Request) -> Response:
        self._rater(request)
        return HTMLResponse(self._page.html, headers={"Content-Security-Policy": self._page.policy})

    def task(self, request: Request) -> Response:
        self._rater(request)
        task = self._task
        criteria = task.guideline.plain_criteria()
        return JSONResponse(
            {"name": task.name, "kind": task.kind, "guideline": task.guideline.text, "criteria": criteria}
        )

    def next_item(self, request: Request) -> Response:
        rater = self._rater(request)
        return self._item(self._desk.next(self._task, rater), rater)

    def last_item(self, request: Request) -> Response:
        """Return the item that the rater rated last, with the rating as the rater saw it."""
        rater = self._rater(request)
        item = self._desk.last(self._task, rater)
        if item is None:
            raise HTTPException(404, "You have not rated anything yet.")
        ratings = self._desk.ratings(self._task)
        rating = next(rating for rating in ratings if rating.item == item.id and rating.rater == rater)
        shown_rating = {"choice": rating.choice, "criteria": dict(rating.criteria), "rationale": rating.rationale}
        if rating.choice in ("a", "b"):
            shown_rating["choice"] = "left" if rating.shown_order[0] == "ab".index(rating.choice) else "right"
        return JSONResponse({**_shown(self._desk, self._task, item, rater), "rating": shown_rating})

    async def rate(self, request: Request) -> Response:
        body = await _read_body(request)
        return await run_in_threadpool(self._rate, request, body)

    def _rate(self, request: Request, body: bytes) -> Response:
        rater = self._rater(request)
        rating = _parse_rating(body)
        desk, task = self._desk, self._task
        item = next((item for item in desk.items(task) if item.id == rating.item), None)
        if item is None:
            raise HTTPException(404, "This item is not part of the task.")
        choice = rating.choice
        if choice in ("left", "right") and task.kind == "pairwise":
            choice = "ab"[task.order(item, rater)[0 if choice == "left" else 1]]
        desk.rate(
            task,
            item,
            rater,
            choice=choice,
            criteria=rating.criteria,
            rationale=rating.rationale,
            milliseconds=rating.milliseconds,
        )
        return self._item(desk.next(task, rater), rater)

    def _rater(self, request: Request) -> str:
        """Return the rater whose token is in the path."""
        rater = self._desk.rater_of(self._task, request.path_params["token"])
        if rater is None:
            raise HTTPException(404, "This link is not known. Ask the person who sent it for a new one.")
        return rater

    def _item(self, item: ReviewItem | None, rater: str) -> Response:
        return JSONResponse(_shown(self._desk, self._task, item, rater))


async def _read_body(request: Request) -> bytes:
    """Read the body of a request, which must declare its length."""
    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= LARGEST_BODY):
        raise HTTPException(413, f"The body has no length, or is over {LARGEST_BODY:,} bytes.")
    return await request.body()


def _parse_rating(body: bytes) -> RatingRequest:
    try:
        return RatingRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the body"
        raise HTTPException(422, f"`{field}`: {first['msg']}") from None


def _shown(desk: ReviewStore, task: ReviewTask, item: ReviewItem | None, rater: str) -> dict[str, Any]:
    """Return the item as the rater may see it: without version names, with the answers in the order of the rater."""
    done, total = desk.progress(task, rater)
    progress = {"done": done, "total": total}
    if item is None:
        return {"progress": progress, "item": None}
    return {
        "progress": progress,
        "item": {
            "id": item.id,
            "prompt": [{"role": message.role, "content": message.content} for message in item.prompt],
            "answers": [item.answers[index].text for index in task.order(item, rater)],
        },
    }

"""The application of the gateway: the forwarded routes, its own routes and the chat page.

The chat page is one file. Its content security policy allows its own script and style by their hashes and nothing else,
so the browser executes nothing that a model writes.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from vita import __version__
from vita.reporting.render import served_page
from vita.server import routes
from vita.server.application import create_application
from vita.server.gateway.batches import batch_endpoints
from vita.server.gateway.gateway import Gateway
from vita.server.gateway.message_batches import message_batch_endpoints
from vita.server.gateway.routes import CHAT_PAGE, FEEDBACK
from vita.server.json_response import json_response
from vita.server.middleware import standard_middleware
from vita.server.openapi import BODY_ERRORS, ApiDescription
from vita.server.sites.site import SiteHeader

_TEMPLATES = Path(__file__).parent / "templates"
_PAGE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def gateway_app(gateway: Gateway) -> Starlette:
    """Create the public application of a service."""
    page = served_page("chat.html.jinja", folder=_TEMPLATES)
    page_headers = {"Content-Security-Policy": page.policy, **_PAGE_HEADERS}

    async def chat_page(_: Request) -> Response:
        return HTMLResponse(page.html, headers=page_headers)

    async def health(_: Request) -> Response:
        return json_response({"alive": True})

    async def ready(_: Request) -> Response:
        return gateway.ready()

    endpoints = [
        *(
            (route, partial(gateway.forward, route=route))
            for route in (*routes.MODEL_ROUTES, *routes.TRANSLATED_ROUTES)
        ),
        (routes.MODELS, gateway.models),
        (routes.MODEL, gateway.model),
        (FEEDBACK, gateway.feedback),
        (routes.METRICS, gateway.metrics),
        (routes.HEALTH, health),
        (routes.READY, ready),
        (CHAT_PAGE, chat_page),
        *batch_endpoints(gateway.batch_api, gateway.respond),
        *message_batch_endpoints(gateway.batch_api, gateway.respond),
    ]
    middleware = [Middleware(SiteHeader, site=gateway.site)]
    middleware += standard_middleware(cors_origins=gateway.settings.cors_origins)
    return create_application(endpoints, description=_description(gateway.router.service), middleware=middleware)


def _description(service: str) -> ApiDescription:
    return ApiDescription(
        f"Vita: {service}",
        __version__,
        security={"type": "http", "scheme": "bearer"},
        security_errors=(401, 403),
        security_optional=True,
        body_errors=(*BODY_ERRORS, 415),
    )

"""The site of a service, and the response header with its name.

site = Site("paris", region="eu"); app = SiteHeader(app, site)         # X-Vita-Site: paris
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vita.spine.errors import ConfigError

SITE_HEADER, DIGEST_HEADER = "X-Vita-Site", "X-Vita-Digest"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Site:
    """A site of a service; the name is empty if the service has only one site."""

    name: str = ""
    region: str | None = None
    """The region whose data may be processed here; None if it is unknown."""

    def __post_init__(self) -> None:
        if self.name:
            check_name(self.name, where="--site")
        if self.region is not None:
            check_name(self.region, where="--region")


def check_name(name: str, *, where: str) -> str:
    """Return the name of a site, a region or a host; raises `ConfigError` unless it can be part of a host name."""
    if not _NAME.fullmatch(name):
        expected = "1 to 63 lowercase letters, digits and hyphens, such as `paris` or `eu-west`"
        raise ConfigError(where, expected=expected, got=name)
    return name


class SiteHeader:
    """Adds the header `X-Vita-Site` to every response of a named site, including errors."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app, self._name = app, site.name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_site(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[SITE_HEADER] = self._name
            await send(message)

        named = scope["type"] == "http" and self._name
        await self._app(scope, receive, send_with_site if named else send)

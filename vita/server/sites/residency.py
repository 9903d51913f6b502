"""Residency: the regions in which a request may be processed and stored.

    regions = request_regions(key.regions, "eu, uk"); require_region(regions, site.region)

An API key or the header `X-Vita-Region` limits a request to regions. A site outside these regions, or without a region,
rejects the request before its body is read. The ledger also has a region: the log entry, feedback and the idempotency
record of a limited request are stored only if the region of the ledger is known and permitted.
"""

from __future__ import annotations

from collections.abc import Collection

from vita.server.errors import ApiError, invalid
from vita.server.sites.site import check_name
from vita.spine.errors import ConfigError

REGION_HEADER = "X-Vita-Region"
NO_LIMIT: frozenset[str] | None = None
"""The regions of a request that may be processed everywhere."""


def request_regions(key_regions: Collection[str], header: str | None) -> frozenset[str] | None:
    """Return the regions that both the key and the header of a request permit; None without a limit.

    Raises `ApiError` 400 for a header that names no region.
    """
    limits = [frozenset(key_regions)] if key_regions else []
    if header is not None:
        names = [name.strip() for name in header.split(",")]
        try:
            limits.append(frozenset(check_name(name, where=REGION_HEADER) for name in names))
        except ConfigError:
            message = f"`{REGION_HEADER}` must be a list of regions such as `eu, uk`"
            raise invalid(message, REGION_HEADER) from None
    return frozenset.intersection(*limits) if limits else NO_LIMIT


def is_permitted(regions: Collection[str] | None, region: str | None) -> bool:
    """Return True if a request that is limited to `regions` may be processed or stored in `region`."""
    return regions is None or (region is not None and region in regions)


def require_region(regions: Collection[str] | None, region: str | None) -> None:
    """Raise `ApiError` 403 unless a request that is limited to `regions` may be processed in `region`."""
    if regions is None or is_permitted(regions, region):
        return
    limit = f"is limited to {_listed(regions)}" if regions else "has region limits that exclude each other"
    here = f"is in the region `{region}`" if region is not None else "has no region"
    raise ApiError(403, f"This request {limit}, but this site {here}.", code="wrong_region")


def _listed(regions: Collection[str]) -> str:
    names = [f"`{region}`" for region in sorted(regions)]
    return f"the region{'s' if len(names) > 1 else ''} {', '.join(names)}"

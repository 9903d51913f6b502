"""The routes that only the gateway has."""

from __future__ import annotations

from vita.server.gateway.feedback import FeedbackRequest
from vita.server.routes import HTML, Route

FEEDBACK = Route(
    "POST", "/v1/feedback", "Give feedback on a response.", request=FeedbackRequest, scopes=("feedback",),
    success=(200, 201), errors=(404, 429, 503),
)  # fmt: skip
STORED_PATHS = ("/v1/files", "/v1/batches", "/v1/messages/batches")
"""Routes of files and batches, which are processed after their request."""
CHAT_PAGE = Route("GET", "/", "The chat page.", public=True, media=(HTML,))
